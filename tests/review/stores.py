"""Committed runs of rows that a test sets down, decisions, clusters and all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.store import Store, to_json
from tests.runs.rows import policy_of, record_of

_RULES = [
    {"name": "borderline", "when": "true", "decision": "review", "queue": "adult"},
    {"name": "other", "when": "true", "decision": "allow"},
]
POLICY = policy_of(rules=_RULES, queues=["empty"])


def row(uri: str, **values: Any) -> dict[str, Any]:
    """A row for the queue `adult`."""
    usual = {"decision": "review", "rule": "made", "queue": "adult", "severity": 2, "shield": "blur", "status": "ok"}
    return {"uri": uri, "object_id": hashlib.sha256(uri.encode()).hexdigest()[:32], **usual, **values}


def committed(
    out: Path | str,
    rows: Iterable[Mapping[str, Any]],
    run_id: str = "tonight",
    *,
    day: int = 20,
    kind: str = "scan",
    storage: StorageConfig | None = None,
    part_rows: int = 3,
    policy: Mapping[str, Any] = POLICY,
    embeddings: pa.Table | None = None,
) -> Run:
    """A committed run of these rows, in several parts, and of embeddings; a later `day` is a later run."""
    run = Run(Store.at(str(out), storage or StorageConfig()), run_id)
    table, files = pa.Table.from_pylist([dict(r) for r in rows], schema=REPORT_SCHEMA), []
    parts = [
        ("report", number, table.slice(start, part_rows))
        for number, start in enumerate(range(0, table.num_rows, part_rows))
    ]
    for folder, number, part in [*parts, *([] if embeddings is None else [("embeddings", 0, embeddings)])]:
        buffer = io.BytesIO()
        pq.write_table(part, buffer)
        path = f"{folder}/part-{number}.parquet"
        run.folder.write(path, buffer.getvalue())
        data = buffer.getvalue()
        files.append(
            {"path": path, "rows": part.num_rows, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        )
    at = f"2026-11-{day:02}T02:00:00.000+00:00"
    record = record_of(run_id, kind=kind, committed_at=at, policy=policy, files=files)
    run.folder.write("run.json", to_json({**record, "plan": {**record["plan"], "listed_at": at}}))
    run.folder.write("_SUCCESS", b"")
    return run
