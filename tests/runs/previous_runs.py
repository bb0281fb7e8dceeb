"""Committed runs made up as a night finds them, and the policy that judges their rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.runs.changes import CHANGES_SCHEMA
from nsfwscan.runs.previous import PreviousRun
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.reuse import ReusePolicy
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import to_parquet
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.store import Store
from tests.runs.rows import as_record, record_of

REUSE_POLICY = ReusePolicy(scoring="s", decoding="d", filtering="f", max_bytes=1000, max_pixels=10_000)
_LIMITS = {"max_bytes": 1000, "max_pixels": 10_000}


def made_with(scoring: str = "s", decoding: str = "d", *, timeout_s: float = 20.0, **limits: int) -> RunRecord:
    """Return the record of a run of such a model and such limits."""
    limits = _LIMITS | limits
    decode = {"max_pixels": limits["max_pixels"], "timeout_s": timeout_s, "max_memory_bytes": 2**31}
    sections = {"read": {"max_bytes": limits["max_bytes"]}, "decode": decode}
    made = ScanConfig.of({"source": {"uris": ["/media"]}, "out": "/out", **sections})
    keys = {"scoring": scoring, "decoding": decoding, "filtering": ""}
    return as_record(record_of("1", config=made.public(), reuse_keys=keys))


MADE_WITH = made_with()


def run_in(folder: Path, run_id: str) -> Run:
    return Run(Store.at(str(folder), StorageConfig()), run_id)


def entry(path: str, data: bytes, **span: str) -> FileRecord:
    """As a record names a file."""
    return FileRecord(path=path, rows=None, bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), **span)


def base_of(
    run: Run, rows: Sequence[Mapping[str, Any]], cuts: Iterable[int], gone: Iterable[str] = (), *, spans: bool = False
) -> PreviousRun:
    """A committed report of rows that are cut into parts, in the order of their URIs, before these positions; with the
    spans of its parts in the record, or without, as there were none before."""
    ordered = sorted(({**row, "run_id": run.run_id} for row in rows), key=lambda row: str(row["uri"]))
    table = pa.Table.from_pylist(ordered, schema=REPORT_SCHEMA)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(ordered)}), len(ordered)]
    parts = [table.slice(a, b - a).sort_by([("nsfw_score", "ascending")]) for a, b in pairwise(edges) if a < b]
    absent = [{"change": "deleted", "uri": uri} for uri in sorted(gone)]
    other = [{"change": "newly_flagged", "uri": row["uri"]} for row in ordered[:1]]
    changes = pa.Table.from_pylist(absent + other, schema=CHANGES_SCHEMA)
    files = []
    for kind, tables in (("report", parts), ("changes", [changes])):
        for number, part in enumerate(tables):
            data = to_parquet(part)
            path = f"{kind}/part-{number:05d}-{hashlib.sha256(data).hexdigest()}.parquet"
            run.folder.write(path, data)
            span = pc.min_max(part["uri"]).as_py()
            files.append(entry(path, data, **({"first": span["min"], "last": span["max"]} if spans else {})))
    return PreviousRun(run, MADE_WITH.model_copy(update={"files": tuple(files)}))


def made(uris: Iterable[str], **values: Any) -> list[dict[str, Any]]:
    return [{"uri": uri, "status": "ok", "nsfw_score": 0.5, **values} for uri in uris]
