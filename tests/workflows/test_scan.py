"""The story of one scan: resumed, left alone, refused, not committed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from nsfwscan.config import ScanConfig, merge
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import BalanceError, NsfwscanError, RunConflict, SourceError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import ScanResult, run_scan

Demo = tuple[Path, list[DemoObject]]


def config(media: Path | str, out: Path, **sections: Any) -> ScanConfig:
    few = {"engine": {"shard_rows": 4}}
    return ScanConfig.load(None, merge({"source": {"uris": [str(media)]}, "out": str(out), **few}, sections))


@pytest.fixture(scope="module")
def drawings(demo: Demo) -> Demo:
    """The drawings of the demo store, which are three shards."""
    return demo[0] / "drawings", [one for one in demo[1] if one.path.startswith("drawings/")]


class Counting:
    """Runs shards inline and remembers which; dies before shard number `dies_at`."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.ran: list[str] = []
        self._dies_at = dies_at

    def __call__(self, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for result in run_inline(job, islice(shards, self._dies_at), deadline):
            self.ran.append(result.shard)
            yield result
        if self._dies_at is not None:
            raise NsfwscanError("the power failed")


def scan(settings: ScanConfig, engine: Any = run_inline) -> ScanResult:
    return run_scan(settings, "r", engine, Silent())


def test_resume(drawings: Demo, tmp_path: Path) -> None:
    """The same run id goes on where it stopped: no finished shard is run again, and the report is whole."""
    settings = config(drawings[0], tmp_path)
    first, second = Counting(dies_at=2), Counting()
    with pytest.raises(NsfwscanError, match="power failed"):
        scan(settings, first)
    run = Run(Store.at(str(tmp_path), settings.storage), "r")
    assert run.state() == "unfinished"
    result = scan(settings, second)
    assert len(first.ran) == 2 and second.ran and not set(first.ran) & set(second.ran)
    assert result.record.balance.listed == len(drawings[1])
    assert result.record.timings.resumed_shards == 2
    assert run.state() == "committed"


def test_resume_keeps_the_first_listing(tmp_path: Path) -> None:
    """A resumed run scans what was planned, whatever has come into the store since."""
    media = tmp_path / "media"
    media.mkdir()
    (media / "a").write_bytes(b"no image")
    settings = config(media, tmp_path / "out")
    with pytest.raises(NsfwscanError):
        scan(settings, Counting(dies_at=0))
    (media / "b").write_bytes(b"new")
    assert scan(settings).record.balance.listed == 1


def test_committed_run_is_left_alone(demo: Demo, tmp_path: Path) -> None:
    """A committed run is said to be so, with its own exit code; nothing is read or written."""
    settings = config(demo[0] / "broken", tmp_path, report={"max_error_rate": 0.01})
    first = scan(settings)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    again = run_scan(settings, "r", Counting(dies_at=0), Silent())
    assert again.already_committed and (first.exit_code, again.exit_code) == (4, 4)
    assert "could not be read" in first.record.reason
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}


_OTHERWISE: list[tuple[dict[str, Any], list[str]]] = [
    ({"decode": {"max_pixels": 1000}}, [r"decode.max_pixels was 100000000, is 1000"]),
    (
        {"policy": "binary", "previous": {"reuse": False}},
        [r"policy was 'open-nsfw@\w+', is 'binary@\w+'", r"previous.reuse was True, is False"],
    ),
    ({"model": {"labels": {"x": "porn"}}}, [r"model.labels was {}, is {'x': 'porn'}"]),
    ({"report": {"mode": "delta"}}, [r"report.mode was 'snapshot', is 'delta'"]),
    (
        {"source": {"limit": 3, "truth": "none"}},
        [r"source.limit was None, is 3", r"source.truth was 'path', is 'none'"],
    ),
]


def test_other_settings_are_refused(drawings: Demo, tmp_path: Path) -> None:
    """Resuming with other settings is refused with exactly what differs; the old settings still go on."""
    with pytest.raises(NsfwscanError):
        scan(config(drawings[0], tmp_path), Counting(dies_at=1))
    for change, differs in _OTHERWISE:
        with pytest.raises(RunConflict) as caught:
            scan(config(drawings[0], tmp_path, **change))
        head, *lines = str(caught.value).splitlines()
        assert head == "run r was begun with other settings; use those, or a new --run-id:", change
        assert re.fullmatch("\n".join(f"  {line}" for line in differs), "\n".join(lines)), change
    assert scan(config(drawings[0], tmp_path)).record.timings.resumed_shards == 1


def test_lost_part_is_not_committed(drawings: Demo, tmp_path: Path) -> None:
    """A shard whose part vanished before the commit: exit code 3 with the reason on file; the next start heals it."""

    def lose_one(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        yield from run_inline(job, shards, deadline)
        (tmp_path / "staging" / "r" / shards[0].part).unlink()

    settings, folder = config(drawings[0], tmp_path), tmp_path / "runs" / "r"
    with pytest.raises(BalanceError, match="never finished"):
        scan(settings, lose_one)
    failure = json.loads((folder / "failure.json").read_text())
    assert failure["exit_code"] == 3 and "never finished" in failure["reason"]
    assert not (folder / "run.json").exists() and not (folder / "_SUCCESS").exists()
    counting = Counting()
    assert scan(settings, counting).record.balance.listed == len(drawings[1])
    assert len(counting.ran) == 1 and not (folder / "failure.json").exists()


def test_wrong_source_leaves_nothing(tmp_path: Path) -> None:
    """A source that does not exist stops before anything starts, and leaves no run behind."""
    with pytest.raises(SourceError, match="no such file or directory"):
        scan(config("/no/such/media", tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_overlapping_sources_count_once(tmp_path: Path) -> None:
    """An object that two sources list has one row, and is counted as repeated."""
    inner = tmp_path / "media" / "inner"
    inner.mkdir(parents=True)
    for path in (inner / "a", inner / "b", inner.parent / "c"):
        path.write_bytes(b"no image")
    source = {"uris": [str(inner.parent), str(inner)]}
    record = scan(config(inner, tmp_path / "out", source=source)).record
    assert (record.plan.distinct, record.plan.repeated) == (3, 2)
    assert record.balance.listed == 3


def test_record_names_what_stood_behind_the_rows(drawings: Demo, tmp_path: Path) -> None:
    """run.json names model, policy, versions and every file with its digest, and holds no storage secrets."""
    storage = {"options": {"key": "AKIA-SECRET", "secret": "hush"}}
    record = scan(config(drawings[0], tmp_path, storage=storage)).record
    assert record.as_json() == json.loads((tmp_path / "runs" / "r" / "run.json").read_text())
    assert record.model.sha256.startswith(record.model.identity.split("@")[1])
    assert record.policy.rules and record.libraries["pyarrow"] and record.config.source.uris
    assert record.rows_in("report") == len(drawings[1])
    assert "hush" not in json.dumps(record.as_json()) and "AKIA" not in json.dumps(record.as_json())
