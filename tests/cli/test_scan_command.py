"""`nsfwscan scan`: what it prints, which exit code it ends with, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import nsfwscan
import nsfwscan.execution.choose
from nsfwscan.errors import BalanceError
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from tests.cli.commands import call, unstamped, without_ray
from tests.runs.rows import begun, engine, scanned, staged_row

# scans


def test_a_scan_is_described(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The result goes to standard output, the progress to standard error; the same again says that it was done."""
    without_ray(monkeypatch)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 0
    assert done.stdout.startswith("committed: run r\n\n  4 listed = 4 scored")
    assert "Open it in DuckDB:" in done.stdout
    assert [line.split()[0] for line in unstamped(capfd.readouterr().err)] == [
        "model",
        "listed",
        "scanned",
        "committing",
    ]
    again = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert (again.exit_code, again.stdout.splitlines()[0]) == (0, "already committed: run r")


def test_a_scan_as_json(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One object on standard output, however the scan ends; all else is on standard error."""
    without_ray(monkeypatch)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--json")
    told = json.loads(done.stdout)
    assert (done.exit_code, told["exit_code"], told["state"], told["run_id"]) == (0, 0, "committed", "r")
    assert told["balance"]["listed"] == told["objects"] == 4 and told["already_committed"] is False
    assert [Path(file).is_file() for file in told["report_files"]] == [True]
    assert (told["changes"], told["decisions"]) == (None, {"allow": 4})
    again = json.loads(call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--json").stdout)
    assert again == {**told, "already_committed": True}
    without_ray(monkeypatch, lost=1)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "s", "--json", "--full")
    assert done.exit_code == 3 and json.loads(done.stdout)["exit_code"] == 3
    assert "was never finished" in json.loads(done.stdout)["error"] and "was never finished" in capfd.readouterr().err
    done = call("scan", media, "--out", tmp_path / "out", "--json", "--explain")
    assert done.exit_code == 2 and "--explain prints a table" in json.loads(done.stdout)["error"]


def test_over_the_error_rate_is_exit_4(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed report with too many unreadable images is exit code 4, the first time and again."""
    without_ray(monkeypatch, lambda uri: staged_row(uri, status="ok" if uri.endswith("0000.jpg") else "timeout"))
    for head in ("committed", "already committed"):
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
        assert done.exit_code == 4
        reason = "3 images could not be read: 75.0%, over --max-error-rate 5.0%"
        assert done.stdout.splitlines()[0] == f"{head}: run r — {reason}"


def test_nothing_scored_is_exit_5(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A night in which no object has a score is exit code 5, unless a source may be without images."""
    without_ray(monkeypatch, lambda uri: staged_row(uri, status="unsupported", error="looks like a ZIP archive"))
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 5
    reason = "nothing could be scored: 4 of 4 objects: looks like a ZIP archive"
    assert done.stdout.splitlines()[0] == f"committed: run r — {reason}"
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "s", "--max-unsupported-rate", "1")
    assert done.exit_code == 0


def test_a_report_with_a_hole_is_exit_3(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A report that does not balance is exit code 3 and not committed; its run is listed as failed."""
    without_ray(monkeypatch, lost=1)
    done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "nsfwscan: shard 00000-0000 (4 objects) was never finished" in capfd.readouterr().err
    line = call("runs", tmp_path / "out").stdout
    assert line.startswith("r  failed     ") and "0 of 4 objects done  did not balance; see failure.json" in line


def test_a_run_that_is_alive_is_exit_1(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A second scan of a run that is at work is refused, with who is at it."""
    without_ray(monkeypatch)
    run, _ = begun(tmp_path / "out", ["/a"], run_id="r")
    with run.lease():
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r")
    assert done.exit_code == 1
    assert "run r is alive: process" in capfd.readouterr().err


def test_out_of_time_is_exit_1_and_resumes(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A scan whose deadline has come stops with exit code 1 and says how to resume; `--resume last` does."""

    def slow(job: Job, shards: Sequence[Shard], deadline: Deadline, **_: object) -> Iterator[ShardResult]:
        yield from engine()(job, shards[:0], deadline)
        deadline.check()
        patch.setattr(Deadline, "left_s", lambda self: 0.0)  # an hour goes by
        deadline.check()

    with monkeypatch.context() as patch:
        patch.setattr(nsfwscan.execution.choose, "choose_executor", slow)
        done = call("scan", media, "--out", tmp_path / "out", "--run-id", "r", "--deadline", "1h")
    said = unstamped(capfd.readouterr().err)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said[-2].startswith("nsfwscan: the deadline (") and said[-2].endswith(") has come")
    assert said[-1].strip() == "0 of 4 objects are done; --run-id r or --resume last goes on from there"
    without_ray(monkeypatch)
    done = call("scan", media, "--out", tmp_path / "out", "--resume", "last")
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "committed: run r")
    assert "resuming run r" in capfd.readouterr().err


def test_an_unfinished_run_is_told_of(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A plain command says, before its work, which run over the same sources waits to be resumed."""
    without_ray(monkeypatch)
    with pytest.raises(BalanceError):
        scanned(media, tmp_path / "out", run_id="left", run_shards=lambda job, shards, deadline: ())
    assert call("scan", media, "--out", tmp_path / "out", "--run-id", "new").exit_code == 0
    assert unstamped(capfd.readouterr().err)[0] == (
        "run left over the same sources is failed: 0 of 4 objects done; "
        "--run-id left (the newest: --resume last) goes on with it"
    )
