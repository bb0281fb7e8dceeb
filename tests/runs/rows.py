"""Rows, runs and scans made up for the tests of the report, with the project's own schemas, plan and staging.

A scan made up here lists, plans, stages and commits as any other; only what the model says is set down by the test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import load_policy
from nsfwscan.reports.progress import Progress, Silent
from nsfwscan.runs.balance import Balance
from nsfwscan.runs.commit import Report, write_report
from nsfwscan.runs.effects import Cascade, Costs
from nsfwscan.runs.gathering import ROW_SCHEMA
from nsfwscan.runs.plan import Known, Plan, Shard, ShardReader, make_plan
from nsfwscan.runs.previous import PreviousReports
from nsfwscan.runs.record.fields import RECORD_VERSION
from nsfwscan.runs.record.reading import read_record
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult, stage_part
from nsfwscan.runs.summary import Summary
from nsfwscan.runs.writing import decided
from nsfwscan.schema import LISTING_SCHEMA, STAGED_SCHEMA, as_schema
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.scan import Engine, ScanResult, run_scan

Row = Mapping[str, Any]
ILLEGAL_MATCH: Row = {
    "match_bank": "b",
    "match_id": "1",
    "match_kind": "illegal",
    "match_hash": "sha256",
    "match_distance": 0,
}
"""What is known of an object with the bytes of an entry of an illegal bank."""


@cache
def decider() -> Decider:
    """Return the policy of the embedded model: block at 0.8, review at 0.2; one for all tests, since it takes time to bind."""
    return Decider(load_policy("open-nsfw"))


def staged_row(uri: str, **values: Any) -> dict[str, Any]:
    """A staged row: scored with `nsfw_score` (0.1 unless given), or errored where a status or a null score is given."""
    score = values.pop("nsfw_score", None if values.get("status", "ok") != "ok" else 0.1)
    scored: dict[str, Any] = {"accounted_as": "errored"}
    if score is not None:
        scored = {
            "accounted_as": "scored",
            "model": "made@0",
            "label": "nsfw" if score > 0.5 else "neutral",
            "confidence": max(score, 1 - score),
            "nsfw_score": score,
            "score_neutral": 1 - score,
            "score_nsfw": score,
        }
    row = {
        "uri": uri,
        "size": 1000,
        "object_id": hashlib.sha256(uri.encode()).hexdigest()[:32],
        "format": "JPEG" if score is not None else None,
        "status": "ok",
        **scored,
        **values,
    }
    if row["status"] != "ok":
        row = {"error": f"made to be {row['status']}", **row}
    return row


def staged(rows: Iterable[Row]) -> pa.Table:
    """Staged rows as a table."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=STAGED_SCHEMA)


def report(rows: Iterable[Row], run_id: str = "made") -> pa.Table:
    """Staged rows, decided."""
    return decided(as_schema(staged(rows), ROW_SCHEMA), decider(), run_id)


def begun(out: Path | str, uris: Sequence[str], *, shard_rows: int = 1000, run_id: str = "made") -> tuple[Run, Plan]:
    """A run whose plan is written: the URIs, in shards."""
    run = Run.named(Store.at(str(out), StorageConfig()), run_id)
    listing = pa.Table.from_pylist([{"uri": uri, "size": 1000} for uri in uris], schema=LISTING_SCHEMA)
    plan = make_plan([listing], [], Known(), run.folder, shard_rows)
    run.save_plan(plan, {})
    return run, plan


def finished(run: Run, shards: Iterable[Shard], row: Callable[[str], Row] = staged_row) -> list[ShardResult]:
    """Stage shards, with a row for each URI."""
    read = ShardReader(run.folder)
    return [
        stage_part(run.staging, shard, staged(map(row, read(shard)["uri"].to_pylist())), decider()) for shard in shards
    ]


def reported(
    run: Run, plan: Plan, *, save_images: bool = False, previous: PreviousReports | None = None, **sections: Any
) -> Report:
    """Return the report of a run whose shards are staged."""
    given = {"source": {"uris": ["/media"]}, "out": run.store.uri, "report": {"save_images": save_images}, **sections}
    config = ScanConfig.load(None, given)
    return write_report(run, plan, previous or PreviousReports((), ()), decider(), config)


def engine(row: Callable[[str], Row] = staged_row) -> Engine:
    """An engine that reads no object and asks no model, but sets down a row for each URI."""

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for shard in shards:
            yield from finished(job.run, [shard], row)

    return run_shards


def scanned(
    media: Path | str,
    out: Path | str,
    row: Callable[[str], Row] = staged_row,
    *,
    run_id: str | None = "made",
    resume: bool = False,
    progress: Progress | None = None,
    run_shards: Engine | None = None,
    **sections: Any,
) -> ScanResult:
    """A scan of the files under `media` into the store `out`, with made-up rows."""
    config = ScanConfig.load(None, {"source": {"uris": [str(media)]}, "out": str(out), **sections})
    return run_scan(config, run_id, run_shards or engine(row), progress or Silent(), resume=resume)


def record_of(run_id: str, **over: Any) -> dict[str, Any]:
    """Return the content of a `run.json` of a run over nothing."""
    at = "2026-11-20T02:00:00.000+00:00"
    nothing = {"listed": 0, "distinct": 0, "repeated": 0, "shards": 0, "actions": {}, "truth": None}
    same = {"copies": 0, "contents": 0, "clusters": 0, "clustered": 0, "looked_for_all": True, "reused": 0}
    return {
        "record_version": RECORD_VERSION,
        "run_id": run_id,
        "kind": "scan",
        "parent": None,
        "chain": {"after": [], "passed_over": []},
        "store": "/out",
        "store_endpoint": None,
        "exit_code": 0,
        "reason": None,
        "committed_at": at,
        "nsfwscan": "1.0.0",
        "python": "3.12.3",
        "libraries": {},
        "config": ScanConfig.of({"source": {"uris": ["/media"]}, "out": "/out"}).public(),
        "model": {"identity": "made@0", "name": "made", "uri": "/made", "sha256": "0" * 64, "labels": {}},
        "auxiliary_models": [],
        "reuse_keys": {"scoring": "", "decoding": "", "filtering": ""},
        "policy": policy_of(),
        "plan": {"listed_at": at, **nothing},
        "previous_runs": [],
        "changes": {"deleted": 0, "newly_flagged": 0, "cleared": 0},
        "known_illegal": {"runs": [], "contents": 0, "released": 0},
        "balance": Balance().as_dict(),
        "duplicates": same,
        "model_times": {},
        "cascade": Cascade().as_dict(Costs()),
        "banks": [],
        "timings": {"listing_s": 0.0, "scan_s": 0.0, "commit_s": 0.0, "resumed_shards": 0},
        "images_per_s": None,
        "machine": None,
        "cost": None,
        "summary": Summary().as_dict(),
        "sandbox": {},
        "warnings": [],
        "shadow_policies": [],
        "files": [],
        **over,
    }


def policy_of(**over: Any) -> dict[str, Any]:
    """A policy without rules, as `run.json` has it."""
    empty = {"description": "", "thresholds": {}, "regions": {}, "queues": [], "rules": [], "overrides": []}
    return {"identity": "made@0", "name": "made", "version": "1", "otherwise": {"decision": "allow"}, **empty, **over}


def as_record(content: Mapping[str, Any]) -> RunRecord:
    """Return the content of a `run.json`, read."""
    return read_record(to_json(content), "run.json", content["run_id"])


def altered(record: RunRecord, **over: Any) -> RunRecord:
    """A record with other sections."""
    return as_record({**record.as_json(), **over})


def is_of_schema(table: pa.Table, schema: pa.Schema) -> bool:
    """Return whether the table has the schema's columns, documentation and all; Arrow names the inside of a map differently
    once it was in Parquet."""
    same = table.schema == schema and table.schema.metadata == schema.metadata
    return same and [field.metadata for field in table.schema] == [field.metadata for field in schema]


def files(folder: Path, count: int) -> Path:
    """A folder of small files that are no images."""
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i:04}.jpg").write_bytes(b"%d" % i)
    return folder
