"""Measure `nsfwscan policy replay`: rows a second on one core (figures `replay.*`).

The report is made up: a million rows of five scores, written as a commit writes them. A replay reads them back from
disk. The time is the CPU time of this process, in the best of several repetitions.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.benchmark.figures import Figure, figure
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from nsfwscan.config import ReportConfig, ScanConfig, StorageConfig
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy, load_policy, parse_policy
from nsfwscan.runs.commit import Report
from nsfwscan.runs.gathering import ROW_SCHEMA
from nsfwscan.runs.plan import Plan, PlanAction
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import to_parquet
from nsfwscan.runs.writing import decided
from nsfwscan.schema import as_schema
from nsfwscan.storage.store import Store, to_json
from nsfwscan.workflows.finalize import record_of
from nsfwscan.workflows.replay import replay

_ROWS, _PARTS = 1_000_000, 4
_NO_DUPLICATES = {
    **dict.fromkeys(("copies", "contents", "clusters", "clustered", "reused"), 0),
    "looked_for_all": False,
}
_FIVE = ("drawings", "hentai", "neutral", "porn", "sexy")


def measure_replay(workload: Workload) -> list[Figure]:
    """Measure the rows a second of a preset, of a policy with overrides by URI, and of one that samples all rows."""
    rates = apart(replay_rates, min(_ROWS, (workload.most_images or _ROWS) * 100), workload.repetitions)
    note = f"made-up rows in {_PARTS} parts, one thread, CPU time"
    return [
        figure(f"replay.{name}", f"policy replay, {words}", [rates[name]], "rows/s", note)
        for name, words in (("preset", "a preset"), ("places", "two overrides"), ("sample", "a sample of all rows"))
    ]


def replay_rates(rows: int, repetitions: int) -> dict[str, float]:
    """Return the best rate of each policy, in rows a second."""
    policies = {"preset": load_policy("five-class"), "places": _with_places(), "sample": _with_sample()}
    with tempfile.TemporaryDirectory(prefix="nsfwscan-bench-") as folder:
        run = _made_up(folder, rows)
        return {name: max(_rate(run, policy, rows) for _ in range(repetitions)) for name, policy in policies.items()}


def _rate(run: Run, policy: Policy, rows: int) -> float:
    began = time.process_time()
    replay(run, policy)
    return rows / (time.process_time() - began)


def _rules() -> dict[str, Any]:
    preset = load_policy("five-class").model_dump(mode="json", exclude_defaults=True)
    return {**preset, "name": "made-up"}


def _with_places() -> Policy:
    rule = load_policy("five-class").rules[-1].name
    changes = [{"source": f"s3://media/{i}/", "rules": {rule: {"severity": 4}}} for i in (3, 5)]
    return parse_policy({**_rules(), "overrides": changes})


def _with_sample() -> Policy:
    rules = _rules()
    spot = {"name": "spot", "when": "true", "sample": 0.001, "decision": "review", "queue": "quality"}
    return parse_policy({**rules, "rules": [spot, *rules["rules"]]})


def _made_up(folder: str, rows: int) -> Run:
    """Write a run with a made-up report of `rows` rows: only the parts that a replay reads."""
    run = Run.named(Store.at(folder, StorageConfig()), "made-up")
    decider, random, files = Decider(load_policy("five-class")), np.random.default_rng(0), []
    for number in range(_PARTS):
        count = rows // _PARTS
        scores = random.dirichlet([0.3] * len(_FIVE), count).astype(np.float32)
        columns = {f"score_{name}": scores[:, i] for i, name in enumerate(_FIVE)}
        nsfw = scores[:, [1, 3, 4]].sum(axis=1).clip(0, 1)
        uris = [f"s3://media/{number * 2 + i % 2}/{os.urandom(8).hex()}.jpg" for i in range(count)]
        given = {"uri": uris, "status": ["ok"] * count, "nsfw_score": nsfw, "confidence": scores.max(axis=1), **columns}
        table = decided(as_schema(pa.table(given), ROW_SCHEMA), decider, "made-up")
        path = f"report/part-{number:05d}.parquet"
        data = to_parquet(table)
        run.folder.write(path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        files.append(FileRecord(path=path, rows=count, bytes=len(data), sha256=sha256))
    run.folder.write("run.json", to_json(_record(run, rows, files).as_json()))
    return run


def _record(run: Run, rows: int, files: list[FileRecord]) -> RunRecord:
    """Return a record in which only the files and the number of rows are real."""
    plan = Plan(rows, 0, {PlanAction.NEW: rows}, (), (), "2026-11-26T00:00:00.000+00:00")
    return record_of(
        run,
        "scan",
        None,
        plan,
        Report(duplicates=_NO_DUPLICATES, known={"runs": [], "contents": 0, "released": 0}, files=files),
        load_policy("five-class"),
        ReportConfig(),
        config=ScanConfig.of({"source": {"uris": []}, "out": run.store.uri}).public(),
        model={"identity": "made-up", "name": "made-up", "uri": "", "sha256": "", "labels": {}},
        auxiliary_models=[],
        reuse_keys={"scoring": "", "decoding": "", "filtering": ""},
        banks=[],
        timings={"resumed_shards": 0},
        images_per_s=None,
        machine=None,
        cost=None,
    )
