"""Attempts at one run, with made-up rows: what each is credited with, and what a commit leaves, once or twice."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, ModelError, SourceError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.layout import Fleet, Layout, Node
from nsfwscan.execution.pipeline import Job
from nsfwscan.runs.attempts import Attempt
from nsfwscan.runs.plan import Plan, Shard
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult
from nsfwscan.runs.verify import verify
from nsfwscan.storage.store import Store
from nsfwscan.workflows import effort
from nsfwscan.workflows.cost import Prices
from nsfwscan.workflows.scan import Engine
from tests.runs.rows import engine, files, scanned, staged_row

SMALL_SHARDS = {"engine": {"shard_rows": 4}}


class PowerCut(BaseException):
    """Ends a process at once; no code of ours catches it."""


def cut_after(count: int) -> Engine:
    """An engine that loses power after so many shards."""

    def run_shards(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        yield from engine()(job, shards[:count], deadline)
        raise PowerCut

    return run_shards


def refuses(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    """An engine that must not be asked."""
    raise AssertionError(f"asked for {len(shards)} shards")


def test_a_committed_run(tmp_path: Path) -> None:
    """`run.json` says who, what and when, names every data file, and adds up; staging is empty; `_SUCCESS` is there."""
    result = scanned(files(tmp_path / "media", 10), tmp_path / "out", **SMALL_SHARDS)
    folder = Path(result.uri)
    record = json.loads((folder / "run.json").read_text())
    assert record == result.record.as_json()
    assert (result.exit_code, result.already_committed, record["reason"]) == (0, False, None)
    assert (folder / "_SUCCESS").read_bytes() == b""
    counts = {"listed": 10, "distinct": 10, "repeated": 0, "shards": 3, "actions": {"new": 10}, "truth": None}
    assert record["plan"] == {"listed_at": record["plan"]["listed_at"], **counts}
    assert record["plan"]["listed_at"] < record["committed_at"]
    assert record["previous_runs"] == [] and not any(record["changes"].values())
    assert (record["parent"], set(record["reuse_keys"])) == (None, {"scoring", "decoding", "filtering"})
    assert record["balance"]["listed"] == record["balance"]["scored"] == record["summary"]["rows"] == 10
    assert record["model"]["identity"].startswith("open-nsfw@")
    assert record["policy"]["identity"].startswith("open-nsfw@")
    assert [name for name in record["libraries"] if not record["libraries"][name]] == []
    on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    named = {file["path"]: (file["bytes"], file["sha256"]) for file in record["files"]}
    assert named.keys() == on_disk - {"run.json", "_SUCCESS"}
    assert {path.split("/")[0] for path in named} == {"report", "listing", "drift", "plan.json", "summary.html"}
    for path, recorded in named.items():
        data = (folder / path).read_bytes()
        assert recorded == (len(data), hashlib.sha256(data).hexdigest())
    assert not (tmp_path / "out" / "staging").exists() or not any((tmp_path / "out" / "staging").rglob("*"))


def test_time_and_rate_are_those_of_all_attempts(tmp_path: Path) -> None:
    """What an earlier attempt scanned counts with its time, and does not make this one look fast."""
    media, out = files(tmp_path / "media", 40), tmp_path / "out"
    with pytest.raises(PowerCut):
        scanned(media, out, run_shards=cut_after(9), **SMALL_SHARDS)
    [note] = (out / "staging" / "made" / "attempts").iterdir()
    before = Attempt.model_validate_json(note.read_bytes())
    assert before.scanned == 36 and before.scan_s > 0
    note.write_text(before.model_copy(update={"scan_s": 3600.0, "listing_s": 60.0}).model_dump_json())
    record = scanned(media, out, **SMALL_SHARDS).record
    assert record.plan.shards - record.timings.resumed_shards == 1
    assert record.timings.attempts == 2 and record.timings.scan_s > 3600 and record.timings.listing_s > 60
    assert record.images_per_s == pytest.approx(40 / record.timings.scan_s, abs=0.01)
    assert not (out / "staging").exists() or not any((out / "staging").rglob("*"))


def test_an_attempt_that_is_killed_has_left_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is written during the work, so that SIGKILL loses little of it; a note that is none is passed over."""
    monkeypatch.setattr(effort, "_NOTED_EVERY_S", 0.0)
    media, out = files(tmp_path / "media", 40), tmp_path / "out"
    with monkeypatch.context() as killed:
        killed.setattr(effort.Effort, "noted", lambda self: nullcontext())
        with pytest.raises(PowerCut):
            scanned(media, out, run_shards=cut_after(9), **SMALL_SHARDS)
    notes = out / "staging" / "made" / "attempts"
    [note] = notes.iterdir()
    assert Attempt.model_validate_json(note.read_bytes()).scanned >= 32
    (notes / f"{'0' * 32}.json").write_text('{"scan_s": -1}')
    assert scanned(media, out, **SMALL_SHARDS).record.timings.attempts == 2


def test_the_cost_is_that_of_all_attempts(tmp_path: Path) -> None:
    """Each on its own machines, for its own time; of different machines there is no rate."""
    store = Store.at(str(tmp_path), StorageConfig())
    store.write("alive.json", b"{}")  # as while a run is held
    small, large = (Fleet((Node(cpus=cpus),), Layout("fused", 1)) for cpus in (4.0, 8.0))

    def work(earlier: effort.Effort) -> None:
        with earlier.noted():
            earlier.scanned(10)
            raise PowerCut

    with pytest.raises(PowerCut):
        work(effort.Effort(store, [small]))
    [note] = (tmp_path / "attempts").iterdir()
    hour = Attempt.model_validate_json(note.read_bytes()).model_copy(update={"listing_s": 0.0, "scan_s": 3600.0})
    note.write_text(hour.model_dump_json())
    plan = SimpleNamespace(distinct=20, carried=0, listed=20, bytes=0)
    found = effort.Effort(store, [large]).as_record(["/media"], cast(Plan, plan), 1, Prices.load())
    assert found["cost"]["core_hours"] == pytest.approx(4, abs=0.01) and found["cost"]["objects"] == 20
    assert found["cost"]["amount"] == pytest.approx(4 * Prices.load().vcpu_hour, rel=0.01)
    assert found["timings"]["attempts"] == 2 and found["images_per_s"] is None
    assert found["machine"]["nodes"][0]["cpus"] == 8


def test_an_attempt_that_only_commits(tmp_path: Path) -> None:
    """Where every shard was done before, nothing is asked of the engine, and the rate is that of the earlier ones."""
    media, out = files(tmp_path / "media", 8), tmp_path / "out"
    with pytest.raises(PowerCut):
        scanned(media, out, run_shards=cut_after(2), **SMALL_SHARDS)
    record = scanned(media, out, run_shards=refuses, **SMALL_SHARDS).record
    assert record.images_per_s == pytest.approx(8 / record.timings.scan_s, abs=0.01)
    assert (record.timings.attempts, record.timings.resumed_shards) == (2, 2)


@pytest.mark.parametrize("lost", [["_SUCCESS"], ["_SUCCESS", "run.json"]])
def test_a_second_commit_is_harmless(tmp_path: Path, lost: list[str]) -> None:
    """A committer that died between its last writes, or a second one beside it, changes no row and loses no file."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"

    def kept(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        yield from engine()(job, shards, deadline)
        shutil.copytree(job.run.staging.uri, tmp_path / "kept")

    first = scanned(media, out, run_shards=kept, **SMALL_SHARDS)
    (tmp_path / "kept" / "alive.json").unlink()
    (out / "staging").mkdir(exist_ok=True)
    (tmp_path / "kept").rename(out / "staging" / "made")
    folder = Path(first.uri)
    before = (folder / "run.json").read_bytes()
    for name in lost:
        (folder / name).unlink()
    second = scanned(media, out, run_shards=refuses, **SMALL_SHARDS)
    assert (folder / "_SUCCESS").exists()
    pages = [{f.path: f for f in result.record.files} for result in (first, second)]
    if "run.json" in lost:  # another attempt has other timings
        assert [page.pop("summary.html").path for page in pages] == ["summary.html"] * 2
    assert pages[0] == pages[1]
    assert list(verify(Run(Store.at(str(out), StorageConfig()), "made"))) == []
    assert ((folder / "run.json").read_bytes() == before) == ("run.json" not in lost)
    assert all((folder / file.path).is_file() for file in second.record.files)
    assert second.record.as_json() == json.loads((folder / "run.json").read_text())


def test_a_commit_that_was_cut_off_at_its_very_end(tmp_path: Path) -> None:
    """With the record written and the staged parts gone, nothing is done again: the report is opened to readers."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"
    first = scanned(media, out, **SMALL_SHARDS)
    whole = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (Path(first.uri) / "_SUCCESS").unlink()
    second = scanned(media, out, run_shards=refuses, **SMALL_SHARDS)
    assert second.already_committed and second.record == first.record
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == whole


def test_where_it_runs_is_no_other_setting(tmp_path: Path) -> None:
    """Resuming with another reading concurrency, error rate or number of cores is the same run."""
    media, out = files(tmp_path / "media", 10), tmp_path / "out"
    with pytest.raises(PowerCut):
        scanned(media, out, run_shards=cut_after(1), **SMALL_SHARDS)
    result = scanned(
        media, out, engine={"num_cpus": 1, "shard_rows": 9}, report={"max_error_rate": 1}, read={"timeout_s": 5}
    )
    assert result.record.plan.shards == 3


def test_a_broken_set_up_begins_nothing(tmp_path: Path) -> None:
    """A missing source or model, or a bad run id, is found before anything of a run is written."""
    media, out = files(tmp_path / "media", 1), tmp_path / "out"
    with pytest.raises(ModelError):
        scanned(media, out, model={"uri": "/absent"})
    with pytest.raises(ConfigError):
        scanned(media, out, run_id="../elsewhere")
    with pytest.raises(SourceError, match="no such file or directory"):
        scanned(tmp_path / "absent", out)
    with pytest.raises(SourceError, match="the sources list no object"):
        scanned(media, out, source={"uris": [str(media)], "include": ["*.png"]})
    assert not out.exists() or {path.name for path in out.rglob("*")} <= {"staging", "runs"}


def test_the_error_rate_decides_the_exit_code(tmp_path: Path) -> None:
    """Over the rate a run is committed all the same, with exit code 4 and the reason; at the rate it is fine."""

    def row(uri: str) -> dict[str, Any]:
        return staged_row(uri, **({"status": "timeout"} if uri.endswith("0.jpg") else {}))

    media = files(tmp_path / "media", 10)
    fine = scanned(media, tmp_path / "out", row, run_id="fine", report={"max_error_rate": 0.1})
    bad = scanned(media, tmp_path / "out", row, run_id="bad", report={"max_error_rate": 0.09})
    assert (fine.exit_code, fine.record.reason) == (0, None)
    assert bad.exit_code == bad.record.exit_code == 4
    assert bad.record.reason == "1 images could not be read: 10.0%, over --max-error-rate 9.0%"
    assert Path(bad.uri, "_SUCCESS").exists()


def test_a_store_within_the_source_is_not_scanned(tmp_path: Path) -> None:
    """Reports that lie among the media are no media, however often a scan is run."""
    media = files(tmp_path / "media", 5)
    for run_id in ("one", "two"):
        assert scanned(media, media / "reports", run_id=run_id).record.plan.listed == 5
