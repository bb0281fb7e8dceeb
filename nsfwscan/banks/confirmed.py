"""Banks that people make from their own verdicts: JSON lines beside the reports, one entry a line with its provenance.

An entry says who confirmed it, when and why, by which verdicts, and who retracted it; a retracted entry stays there,
disabled, as history. Such a file is a bank as any other, but never one of kind `illegal`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nsfwscan.errors import BrokenRecord

FOLDER = "banks"
MARK = b'{"confirmed_by": '
"""What each line begins with."""

Entry = dict[str, Any]


def path_of(name: str) -> str:
    """Return the path of a bank in a report store."""
    return f"{FOLDER}/{name}.jsonl"


def parsed(data: bytes, where: str) -> list[Entry]:
    """Return the entries of a file. Raises BrokenRecord for what is no such bank."""
    lines = data.splitlines()
    try:
        entries = [json.loads(line) for line in lines]
    except ValueError:
        entries = []
    if len(entries) < len(lines) or not all(line.startswith(MARK) for line in lines):
        raise BrokenRecord(where, "is no bank that `nsfwscan banks` wrote", "take another name, or put it back")
    return entries


def written(entries: Iterable[Entry]) -> bytes:
    """Return the file of some entries."""
    return "".join(json.dumps(entry) + "\n" for entry in entries).encode()


def confirmed(
    entries: Sequence[Entry], contents: Iterable[Mapping[str, Any]], by: str, at: str, reason: str, kind: str
) -> list[Entry]:
    """Return the entries with those of more contents; a content that is there, and not retracted, is not added again.

    Args:
        contents: each with `sha256`, `md5`, `pdq`, `category`, and `ids` of the verdicts on it.
    """
    active = {entry["sha256"] for entry in entries if "retracted_by" not in entry}
    found = list(entries)
    for content in contents:
        if content["sha256"] in active:
            continue
        hashes = {name: content[name] for name in ("sha256", "md5", "pdq") if content[name]}
        tags = [content["category"].replace(" ", "-")] if content["category"] else []
        about = {"confirmed_by": by, "confirmed_at": at, "confirmed_for": reason, "confirmed_as": kind}
        entry_id = f"{content['sha256'][:16]}-{sum(e['sha256'] == content['sha256'] for e in entries) + 1}"
        found.append({**about, "id": entry_id, **hashes, "tags": tags, "from": list(content["ids"])})
    return found


def taken_back(entries: Sequence[Entry], content: Mapping[str, Any]) -> bool:
    """Return whether an entry of a content was retracted, and nobody gave a verdict on it since it was confirmed."""
    return any("retracted_by" in one and set(content["ids"]) <= set(one["from"]) for one in entries)


def retracted(entries: Sequence[Entry], sha256s: Iterable[str], by: str, at: str, reason: str) -> list[Entry]:
    """Return the entries with those of some contents disabled."""
    gone, mark = set(sha256s), {"disabled": True, "retracted_by": by, "retracted_at": at, "retracted_for": reason}
    return [{**e, **mark} if e["sha256"] in gone and "retracted_by" not in e else e for e in entries]
