"""Verdicts set down by a test, as lines of a verdict file."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def id_of(name: str) -> str:
    """A UUID for a name."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name))


def sha256_of(content: str) -> str:
    """Return the digest of a content, which a test calls by a name."""
    return hashlib.sha256(content.encode()).hexdigest()


def line(name: str, content: str, verdict: str, **values: Any) -> Line:
    """A verdict of one reviewer on a content, with all keys; `name` makes its id."""
    usual = {
        "uri": f"/media/{content}.jpg",
        "sha256": sha256_of(content),
        **dict.fromkeys(("run_id", "model", "policy", "category", "reason", "supersedes"), ""),
        "kind": "review",
        "reviewer": "ann",
        "decided_at": "2026-11-20T10:00:00Z",
        "seconds": 3.2,
        "opened": False,
        "zoomed": False,
        "probability": None,
    }
    return {"id": id_of(name), "verdict": verdict, **usual, **values}


def file(path: Path, lines: Iterable[Line]) -> str:
    """A verdict file."""
    path.write_text("".join(json.dumps(one) + "\n" for one in lines))
    return str(path)
