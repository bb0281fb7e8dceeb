"""List the committed runs of a store in one file, `runs.parquet`: a row for each, pruned ones too.

It repeats what the runs' records say, so that a question about a store needs no JSON. A scan goes by it only to find
the nights that it is compared with (`drift.py`), whose records it then reads. A commit and a prune write it anew, as
one file that is replaced whole, from the file that is there and the records of the runs that it lacks; then they look
again, so that of two that write at once none loses a run. Where it is absent or of another version, all records are
read. A run that is killed before it writes the file is in it from the next commit on.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.chain import Link
from nsfwscan.runs.finding import Finding, damaged, note, tampered
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.schema import SCHEMA_VERSION, TIMESTAMP
from nsfwscan.storage.store import Store, from_parquet

CATALOGUE = "runs.parquet"
_AT_ONCE = 16
_TRIES = 5
_FILE = pa.struct([("folder", pa.string()), ("path", pa.string()), ("rows", pa.int64())])
_COUNT = pa.struct([("name", pa.string()), ("objects", pa.int64())])
_WORDS, _COUNTS, _FILES = (pa.list_(pa.field("element", kind)) for kind in (pa.string(), _COUNT, _FILE))  # as Parquet
SCHEMA = pa.schema(
    [
        ("run_id", pa.string()),
        ("kind", pa.string()),
        ("status", pa.string()),
        ("committed_at", TIMESTAMP),
        ("listed_at", TIMESTAMP),
        ("sha256", pa.string()),
        ("parent", pa.string()),
        ("previous_runs", _WORDS),
        ("sources", _WORDS),
        ("report", pa.string()),
        ("exit_code", pa.int32()),
        ("reason", pa.string()),
        ("objects", pa.int64()),
        ("flagged", pa.int64()),
        ("unreadable", pa.int64()),
        ("escalations", pa.int64()),
        ("decisions", _COUNTS),
        ("accounted_as", _COUNTS),
        ("changes", _COUNTS),
        ("model", pa.string()),
        ("policy", pa.string()),
        ("banks", _WORDS),
        ("nsfwscan", pa.string()),
        ("record_version", pa.int32()),
        ("pruned_at", TIMESTAMP),
        ("pruned_by", pa.string()),
        ("files", _FILES),
    ],
    {"nsfwscan.schema_version": SCHEMA_VERSION},
)
"""`status` is `committed` or `pruned`; `sha256` that of `run.json`; `files` has the Parquet files, with their paths
within the store, of a run that is not pruned. Times are UTC."""


def catalogue(store: Store) -> pa.Table:
    """Return the committed runs of a store as `SCHEMA`, the oldest first; write nothing. Raises StoreError."""
    return _built(store, _read(store))


def write_catalogue(store: Store, *, anew: bool = False) -> None:
    """Write `runs.parquet` where it is not what it should be. Raises StoreError.

    Args:
        anew: read all records, since a run that is in it may have changed.
    """
    there = _read(store)
    table = _built(store, None if anew else there)
    for _ in range(_TRIES):
        if there is not None and there.equals(table):
            return
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd")
        store.write(CATALOGUE, sink.getvalue())
        there = _read(store)  # who wrote at the same time may have replaced ours
        table = _built(store, there)


def check_catalogue(store: Store, links: Mapping[str, Link]) -> Iterator[Finding]:
    """Yield in what the file differs from the records of a store; nothing where it is absent."""
    there = _read(store)
    if there is None:
        return
    named = dict(zip(there["run_id"].to_pylist(), there["sha256"].to_pylist(), strict=True))
    for run_id, sha256 in named.items():
        if run_id not in links:
            yield damaged(f"run {run_id} is gone: {CATALOGUE} names it, with the SHA-256 {sha256}")
        elif links[run_id].error is None and links[run_id].sha256 != sha256:  # a broken record is told of anyhow
            yield tampered(f"run {run_id} has another run.json than {CATALOGUE} says")
    if lacking := sorted(run_id for run_id, link in links.items() if link.error is None and run_id not in named):
        yield note(f"{CATALOGUE} lacks {', '.join(lacking)}; the next commit adds what is lacking")


def _read(store: Store) -> pa.Table | None:
    """Return the file's content; None where it is absent, broken or of another version."""
    try:
        found = from_parquet(store.read(CATALOGUE))
    except (FileNotFoundError, pa.ArrowException):
        return None
    return found if found.schema.equals(SCHEMA, check_metadata=True) else None


def _built(store: Store, there: pa.Table | None) -> pa.Table:
    known = {} if there is None else {row["run_id"]: row for row in there.to_pylist()}
    runs = runs_of(store)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        new = threads.map(_row, (run for run in runs if run.run_id not in known))
        rows = [*(known[run.run_id] for run in runs if run.run_id in known), *(row for row in new if row is not None)]
    rows.sort(key=lambda row: (row["committed_at"], row["run_id"]))
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _row(run: Run) -> dict[str, Any] | None:
    """Return the row of a run; None where it is not committed, or broken."""
    try:
        record, sha256, pruned = run.record(), run.digest(), run.pruned()
        if pruned is None and not run.is_committed():
            return None
    except (BrokenRecord, FileNotFoundError):
        return None
    summary = record.summary
    gone = (
        {"status": "committed"}
        if pruned is None
        else {"status": "pruned", "pruned_at": _time(pruned.pruned_at), "pruned_by": pruned.by}
    )
    return {
        "run_id": record.run_id,
        "kind": record.kind,
        "committed_at": _time(record.committed_at),
        "listed_at": _time(record.plan.listed_at),
        "sha256": sha256,
        "parent": record.parent and record.parent.run_id,
        "previous_runs": list(record.previous_runs),
        "sources": list(record.config.source.uris),
        "report": "delta" if record.is_delta else "snapshot",
        **{name: getattr(record, name) for name in ("exit_code", "reason", "nsfwscan", "record_version")},
        "objects": summary.rows,
        "flagged": summary.flagged,
        "unreadable": summary.unreadable,
        "escalations": record.rows_in("escalations"),
        "decisions": _counts(summary.decision),
        "accounted_as": _counts({k: n for k, n in record.balance.model_dump().items() if k != "listed"}),
        "changes": _counts({k: n for k, n in record.changes.model_dump(exclude={"causes"}).items() if n is not None}),
        "model": record.model.identity,
        "policy": record.policy.identity,
        "banks": [bank.identity for bank in record.banks],
        "files": [] if pruned is not None else _files(record),
        **gone,
    }


def _files(record: RunRecord) -> list[dict[str, Any]]:
    at = f"runs/{record.run_id}"
    parquet = (file for file in record.files if file.path.endswith(".parquet"))
    return [{"folder": f.path.partition("/")[0], "path": f"{at}/{f.path}", "rows": f.rows} for f in parquet]


def _counts(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    return [{"name": name, "objects": n} for name, n in counts.items()]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None)
