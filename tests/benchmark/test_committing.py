"""The benchmark of the commit commits the same rows again and again, and says where the time went."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jobs.benchmark import committing
from jobs.benchmark.committing import Commit, as_markdown, measure_commit


@pytest.mark.full
def test_commits_of_each_kind_of_night_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each repetition resumes the same planned night, and leaves the store ready for the next."""
    said: list[str] = []
    found = measure_commit(tmp_path, 3000, 2, said.append)
    assert [one.night for one in found.nights] == list(committing.NIGHTS)
    for one in found.nights:
        assert len(one.commits) == 2
        assert all(0 < commit.alone_s < commit.cpu_s and commit.peak > 10**8 for commit in one.commits)
        assert {"gather rows", "find duplicates", "decide", "write"} < one.steps.keys()
        assert one.steps["find duplicates"].alone_s > 0 == one.steps["find duplicates"].others_s
        assert one.steps["write"].others_s > 0
    assert "read earlier reports" in found.nights[0].steps
    text = as_markdown(found)
    assert (
        "| 3,000 rows |" in text
        and text.count(" min |") == 3
        and "Medians of 2" in text
        and text.count("new, all compared") == 2
    )
    for night in ("carried", "new", "new-all-compared"):
        run = tmp_path / f"night-{night}-3000" / "runs" / "measured"
        assert sorted(path.name for path in run.iterdir()) == ["listing", "plan.json"]
    assert said[0] == "carried: making 3,000 rows"
    monkeypatch.setattr(committing, "_prepare", None)  # the stores are kept
    assert measure_commit(tmp_path, 3000, 1, said.append).rows == 3000


def test_a_large_store_is_reckoned() -> None:
    """Of a commit of which one thread does 2 s of 10 s, sixteen cores leave 2.5 s; of fifty times the rows, fifty times
    that."""
    commit = Commit(wall_s=6.0, cpu_s=10.0, alone_s=2.0, peak=0)
    assert commit.reckoned_s(1, 16) == 2.5 and commit.reckoned_s(50, 16) == 125


def test_steps_of_all_threads_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step counts for the thread that does it, without the time of a step within it, and without that of threads that
    it waits for."""
    monkeypatch.setattr(committing, "_STEPS", {"outer": "outer", "inner": "inner"})
    steps = committing._Steps()
    steps.begin()
    with ThreadPoolExecutor(1) as threads:
        outer(threads)
    found = steps.end()
    assert found.keys() == {"the rest", "outer", "inner"}
    assert 0.02 <= found["outer"].alone_s < 0.04 and found["outer"].others_s == 0
    assert 0.04 <= found["inner"].alone_s < 0.06 and 0.04 <= found["inner"].others_s < 0.06


def outer(threads: ThreadPoolExecutor) -> None:
    threads.submit(inner).result()
    work()
    inner()


def inner() -> None:
    work()
    work()


def work() -> None:
    """Take 20 ms of this thread's CPU time."""
    began = time.thread_time()
    while time.thread_time() - began < 0.02:
        pass
