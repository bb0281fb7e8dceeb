"""Two scans on one store at the same time harm neither: of one run one commits, of two runs both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import RunConflict
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.plan import Shard, ShardReader
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.runs.staging import ShardResult, stage_part
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import ScanResult
from tests.cli.commands import unstamped
from tests.runs.rows import engine, files, scanned, staged, staged_row

pytestmark = pytest.mark.long

SMALL: dict[str, Any] = {"engine": {"shard_rows": 4}}


def store(out: Path) -> Store:
    return Store.at(str(out), StorageConfig())


def rows_of(folder: Path) -> list[str]:
    """Return the URIs of a committed report."""
    record = json.loads((folder / "run.json").read_text())
    parts = [file["path"] for file in record["files"] if file["path"].startswith("report/")]
    return sorted(uri for part in parts for uri in pq.read_table(folder / part)["uri"].to_pylist())


def assert_whole(out: Path, run_ids: set[str], listed: int) -> None:
    """The runs are committed with a row for each object, nothing is wrong with them, and nothing is left of them."""
    found = runs_of(store(out))
    assert {run.run_id: run.state() for run in found} == dict.fromkeys(run_ids, "committed")
    for run in found:
        assert list(verify(run)) == []
        uris = rows_of(Path(run.folder.uri))
        assert len(uris) == len(set(uris)) == listed
    assert store(out).names("staging") == []


def at_once(*scans: Any) -> list[Any]:
    """Return what each of several calls gave or raised, begun at the same moment."""
    together, outcomes = threading.Barrier(len(scans)), [None] * len(scans)

    def call(number: int) -> None:
        together.wait(30)
        try:
            outcomes[number] = scans[number]()
        except Exception as error:  # noqa: BLE001  # it is the outcome
            outcomes[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(scans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def by_itself(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    """Made-up rows, decided by a policy that no other scan uses at the same time."""
    read, decide = ShardReader(job.run.folder), Decider(job.policy)
    for shard in shards:
        yield stage_part(job.run.staging, shard, staged(map(staged_row, read(shard)["uri"].to_pylist())), decide)


def test_several_runs_at_once(tmp_path: Path) -> None:
    """Scans with different ids, each with its own settings, go their ways, over the same media or not."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"
    outcomes = at_once(
        *(
            partial(scanned, media, out, run_id=f"run-{n}", run_shards=by_itself, policy=policy, **SMALL)
            for n, policy in enumerate(["binary", "five-class", None])
        )
    )
    assert [type(outcome) for outcome in outcomes] == [ScanResult] * 3, outcomes
    assert_whole(out, {"run-0", "run-1", "run-2"}, 10)
    assert [outcome.record.policy.identity.split("@")[0] for outcome in outcomes] == [
        "binary",
        "five-class",
        "open-nsfw",
    ]


def test_one_run_twice_at_once(tmp_path: Path) -> None:
    """Scans of one run id: one does the work, the other is refused while it lasts, or finds it done; never both."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"
    worked: list[str] = []

    def slow(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for result in engine()(job, shards, deadline):
            worked.append(result.shard)
            time.sleep(0.05)
            yield result

    outcomes = at_once(*[lambda: scanned(media, out, run_id="r", run_shards=slow, **SMALL)] * 4)
    committed = [outcome for outcome in outcomes if isinstance(outcome, ScanResult) and not outcome.already_committed]
    refused = [outcome for outcome in outcomes if isinstance(outcome, RunConflict)]
    done_before = [outcome for outcome in outcomes if isinstance(outcome, ScanResult) and outcome.already_committed]
    assert (len(committed), len(refused) + len(done_before)) == (1, 3), outcomes
    assert len(worked) == len(set(worked)) == 3
    assert_whole(out, {"r"}, 10)


@pytest.mark.parametrize("late", ["at the record", "at the page"])
def test_two_committers_of_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str) -> None:
    """A process that slept so long that another took its run over, and committed it, yields to what was committed."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"
    name, verb = {"at the record": ("run.json", "create"), "at the page": ("summary.html", "write")}[late]
    really, others = getattr(Store, verb), []

    def asleep(self: Store, path: str, data: bytes, **how: bool) -> None:
        if path == name and not others:
            others.append(None)  # the other one does not sleep
            Run(store(out), "made").staging.delete("alive.json")
            others.append(scanned(media, out, lambda uri: staged_row(uri, nsfw_score=0.9), **SMALL))
        really(self, path, data, **how)

    monkeypatch.setattr(Store, verb, asleep)
    first = scanned(media, out, **SMALL)
    other = others[1]
    assert first.record == other.record
    assert first.record.as_json() == json.loads((Path(first.uri) / "run.json").read_text())
    assert list(verify(Run(store(out), "made"))) == []
    assert rows_of(Path(first.uri)) == sorted(str(path) for path in media.iterdir())


# --- with the command itself ----------------------------------------------------------------------------------------


def command(*arguments: str | Path) -> subprocess.Popen[str]:
    """A scan in a process of its own, on a Ray of its own."""
    words = [sys.executable, "-m", "nsfwscan", "scan", *map(str, arguments), "--num-cpus", "1"]
    environment = {**os.environ, "RAY_ADDRESS": ""}
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_commands_at_once(demo: tuple[Path, list[DemoObject]], tmp_path: Path) -> None:
    """Three real scans on one store, two of them of one run: that run is committed once, the other one is, too."""
    out = tmp_path / "out"
    media = demo[0] / "neutral"
    count = sum(object_.path.startswith("neutral/") for object_ in demo[1])
    scans = [
        command(media, "--out", out, "--run-id", run_id, "--max-error-rate", "1")
        for run_id in ("same", "same", "other")
    ]
    told = [scan.communicate(timeout=240) for scan in scans]
    codes = [scan.returncode for scan in scans]
    assert codes[2] == 0 and sorted(codes[:2]) in ([0, 0], [0, 1]), told
    heads = sorted(words[0].splitlines()[0] if words[0] else unstamped(words[1])[-1] for words in told[:2])
    assert heads[0] == "committed: run same" or heads[1] == "committed: run same", heads
    [loser] = [head for head in heads if head != "committed: run same"]
    assert loser.startswith(
        ("already committed: run same", "nsfwscan: run same is alive", "nsfwscan: run same was begun by another")
    ), heads
    assert told[2][0].splitlines()[0] == "committed: run other"
    assert_whole(out, {"same", "other"}, count)
