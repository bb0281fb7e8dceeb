"""Going on with a run that nobody finished: which one it is, what is said of it, and when it is refused."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, DeadlineReached, RunConflict, Stalled, StoreError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import Engine, ScanResult
from tests.runs.rows import engine, files, scanned

SMALL: dict[str, Any] = {"engine": {"shard_rows": 4}}


class Killed(BaseException):
    """Ends a process at once."""


class Listening(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)


def cut_after(count: int, error: BaseException | None = None) -> Engine:
    """An engine that stops after so many shards."""

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        yield from engine()(job, shards[:count], deadline)
        raise error or Killed

    return run_shards


def cut(media: Path, out: Path, run_id: str, done: int = 1, **sections: Any) -> None:
    """A run that is killed when so many of its shards are done."""
    with pytest.raises(Killed):
        scanned(media, out, run_id=run_id, run_shards=cut_after(done), **{**SMALL, **sections})


def resume(media: Path, out: Path, progress: Silent | None = None, **sections: Any) -> ScanResult:
    """`--resume last`"""
    return scanned(media, out, run_id=None, resume=True, progress=progress, **{**SMALL, **sections})


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Ten objects: three shards of four."""
    return files(tmp_path / "media", 10)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


# --- which run ------------------------------------------------------------------------------------------------------


def test_nothing_unfinished_is_a_new_run(media: Path, out: Path) -> None:
    """The same command every night: with nothing to go on with, `--resume last` begins a run named by the time."""
    first = resume(media, out)
    assert re.fullmatch(r"\d{8}T\d{6}Z", first.run_id) and not first.already_committed
    while Run.named(Store.at(str(out), StorageConfig()), None).run_id == first.run_id:
        time.sleep(0.05)
    second = resume(media, out)
    assert second.run_id > first.run_id


def test_the_newest_unfinished_run_goes_on(media: Path, out: Path) -> None:
    """Of several, the newest id; what it staged is not done again, and the others stay as they are."""
    cut(media, out, "20261121", 1)
    cut(media, out, "20261123", 2)
    cut(media, out, "20261122", 0)
    scanned(media, out, run_id="20261124")
    listening = Listening()
    result = resume(media, out, listening)
    assert (result.run_id, result.record.timings.resumed_shards) == ("20261123", 2)
    assert listening.said[0] == "resuming run 20261123"
    assert not [said for said in listening.said if "over the same sources" in said]
    assert [resume(media, out).run_id for _ in range(2)] == ["20261122", "20261121"]


def test_other_sources_are_not_gone_on_with(media: Path, out: Path, tmp_path: Path) -> None:
    """An unfinished run of another folder, of one more, or of a part, is not what was asked for."""
    other = files(tmp_path / "other", 3)
    cut(other, out, "other")
    cut(media, out, "both", source={"uris": [str(media), str(other)]})
    cut(media, out, "part", 0, source={"uris": [str(media / "0001.jpg")]})
    result = resume(media, out)
    assert result.run_id not in ("other", "both", "part") and result.record.balance.listed == 10


def test_a_source_is_the_same_from_anywhere(media: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is the same source however it is written, and from whatever folder."""
    cut(media, out, "r")
    monkeypatch.chdir(media.parent)
    assert resume(Path("media"), out).run_id == "r"
    cut(media, out, "s")
    monkeypatch.chdir(media)
    assert scanned("../media/.", out, run_id=None, resume=True, **SMALL).run_id == "s"


def test_a_run_id_and_the_last_are_two_runs(media: Path, out: Path) -> None:
    """Both at once is wrong usage, and nothing is begun."""
    with pytest.raises(ConfigError, match="--run-id and --resume last name two runs") as caught:
        scanned(media, out, run_id="r", resume=True)
    assert caught.value.exit_code == 2 and not out.exists()


# --- when it is refused ---------------------------------------------------------------------------------------------


def test_a_run_that_is_alive_is_not_resumed(media: Path, out: Path) -> None:
    """The last run is at work elsewhere: `--resume last` is refused and takes no other one."""
    cut(media, out, "20261121")
    cut(media, out, "20261122")
    run = Run(Store.at(str(out), StorageConfig()), "20261122")
    with run.lease(), pytest.raises(RunConflict, match=rf"run 20261122 is alive: process {os.getpid()}"):
        resume(media, out)
    assert resume(media, out).run_id == "20261122"


def test_other_settings_are_not_mixed(media: Path, out: Path) -> None:
    """The last run was begun with another policy: refused with what differs, and it stays as it was."""
    cut(media, out, "r", policy="binary")
    before = sorted(path.name for path in (out / "staging" / "r").iterdir())
    with pytest.raises(
        RunConflict, match=r"run r was begun with other settings.*\n  policy was 'binary@\w+', is 'open-nsfw@\w+'"
    ):
        resume(media, out)
    assert sorted(path.name for path in (out / "staging" / "r").iterdir()) == before
    assert resume(media, out, policy="binary").run_id == "r"


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_plain_command_tells_of_unfinished_runs(media: Path, out: Path, tmp_path: Path) -> None:
    """A new run says which others over the same sources nobody finished, how far they came, and how to go on."""
    cut(media, out, "20261121", 2)
    cut(media, out, "20261122", 0)
    cut(files(tmp_path / "other", 3), out, "other")
    scanned(media, out, run_id="done")
    listening = Listening()
    assert scanned(media, out, run_id="new", progress=listening).run_id == "new"
    assert [said for said in listening.said if "over the same sources" in said] == [
        "run 20261122 over the same sources is unfinished: 0 of 10 objects done; "
        "--run-id 20261122 (the newest: --resume last) goes on with it",
        "run 20261121 over the same sources is unfinished: 6 of 10 objects done; "
        "--run-id 20261121 (the newest: --resume last) goes on with it",
    ]
    listening = Listening()
    assert scanned(media, out, run_id="20261122", progress=listening, **SMALL).run_id == "20261122"
    assert [said.split()[1] for said in listening.said if "over the same sources" in said] == ["20261121"]


def test_a_run_that_is_at_work_is_told_as_such(media: Path, out: Path) -> None:
    """A run that another process is at is not called unfinished."""
    cut(media, out, "r")
    listening = Listening()
    with Run(Store.at(str(out), StorageConfig()), "r").lease():
        scanned(media, out, run_id="new", progress=listening)
    told = "run r over the same sources is running: 4 of 10 objects done"
    assert [said for said in listening.said if "over the same sources" in said] == [told]


# --- out of time ----------------------------------------------------------------------------------------------------


def taking_an_hour(patch: pytest.MonkeyPatch, shards_before: int) -> Engine:
    """An engine that takes an hour after so many shards."""

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        assert 3500 < (deadline.left_s() or 0) <= 3600
        for number, shard in enumerate(shards, 1):
            deadline.check()
            yield from engine()(job, [shard], deadline)
            if number == shards_before:
                patch.setattr(Deadline, "left_s", lambda self: -1.0)

    return run_shards


def test_a_deadline_leaves_a_run_that_resumes(media: Path, out: Path) -> None:
    """When the time is up the run stops, says how far it came and how to go on; what is done is not done again."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(DeadlineReached) as caught:
        scanned(
            media, out, run_id="r", run_shards=taking_an_hour(patch, 1), engine={"shard_rows": 4, "deadline": "60m"}
        )
    assert re.fullmatch(
        r"the deadline \(.*\) has come\n4 of 10 objects are done; --run-id r or --resume last goes on from there",
        str(caught.value),
    )
    assert caught.value.exit_code == 1
    result = resume(media, out)
    assert (result.run_id, result.record.timings.resumed_shards) == ("r", 1)
    assert sum(pq.read_metadata(path).num_rows for path in result.report_files) == 10


def test_a_deadline_while_listing(media: Path, out: Path) -> None:
    """Before there is a plan there is nothing to go on from, and that is what is said."""
    with pytest.raises(DeadlineReached, match=r"has come\nit was still listing: the same command begins anew"):
        scanned(media, out, run_id="r", engine={"deadline": "0s"})
    assert not (out / "runs" / "r" / "plan.json").exists()
    assert scanned(media, out, run_id="r").record.balance.listed == 10


def test_a_deadline_does_not_stop_a_commit(media: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once all is scanned, the report is written, late or not."""
    late = taking_an_hour(monkeypatch, 3)
    result = scanned(media, out, run_shards=late, engine={"shard_rows": 4, "deadline": "1h"})
    assert result.exit_code == 0 and (Path(result.uri) / "_SUCCESS").exists()


def test_a_deadline_is_no_other_setting(media: Path, out: Path) -> None:
    """A run may be resumed with another deadline, or none."""
    cut(media, out, "r", engine={"shard_rows": 4, "deadline": "1h"})
    assert resume(media, out, engine={"deadline": "2h"}).run_id == "r"


def test_a_stalled_run_says_how_to_go_on(media: Path, out: Path) -> None:
    """So does a run that the watchdog stopped."""
    with pytest.raises(Stalled, match=r"nothing moves\n6 of 10 objects are done; --run-id r or --resume last"):
        scanned(media, out, run_id="r", run_shards=cut_after(2, Stalled("nothing moves")), **SMALL)
    assert resume(media, out).run_id == "r"


def test_a_store_that_is_moved_meanwhile_stops_the_run_at_once(media: Path, tmp_path: Path) -> None:
    """At the next shard, and not at the commit, with the way to go on: nothing that was staged is lost."""
    out, away, begun = tmp_path / "out", tmp_path / "away", list[str]()

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for number, shard in enumerate(shards):
            begun.append(shard.name)
            if number == 1:
                out.rename(away)
            yield from engine()(job, [shard], deadline)

    with pytest.raises(StoreError, match=r"moved or deleted while the run was at work.*go on with --run-id r"):
        scanned(media, out, run_id="r", run_shards=run_shards, **SMALL)
    assert len(begun) == 2
    assert not out.exists()  # so that it can be moved back
    away.rename(out)
    assert (unfinished := Run(Store.at(str(out), StorageConfig()), "r").begun()) and unfinished.done == 4
    assert resume(media, out).record.balance.listed == 10


def test_a_store_that_fails_meanwhile_says_how_to_go_on(media: Path, tmp_path: Path) -> None:
    """A disk that became read-only or full stops the run with the cause, what is done, and the way to resume."""
    failing = cut_after(1, StoreError("cannot write x: Read-only file system"))
    said = r"cannot write x: Read-only file system\n4 of 10 objects are done; --run-id r or --resume last goes on"
    with pytest.raises(StoreError, match=said):
        scanned(media, tmp_path / "out", run_id="r", run_shards=failing, **SMALL)


def test_a_new_plan_takes_no_rows_of_one_that_is_gone(media: Path, tmp_path: Path) -> None:
    """Where somebody deleted a run's folder, and not its staging, the run begins anew with nothing done."""
    out = tmp_path / "out"
    cut(media, out, "r", done=2)
    shutil.rmtree(out / "runs" / "r")
    (media / "0000.jpg").unlink()
    handed: list[str] = []

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        handed.extend(shard.name for shard in shards)
        yield from engine()(job, shards, deadline)

    balance = scanned(media, out, run_id="r", run_shards=run_shards, **SMALL).record.balance
    assert balance.listed == 9 and len(handed) == 3
