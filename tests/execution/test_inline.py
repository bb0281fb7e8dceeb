"""Scans in this process, in several threads: the same rows as in one, and an orderly end whatever happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image

from nsfwscan.banks.bank import Bank
from nsfwscan.banks.pdq_index import LARGE, NearIndex
from nsfwscan.config import ScanConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import DeadlineReached, StoreError
from nsfwscan.execution.deadline import NEVER, Deadline
from nsfwscan.execution.inline import _Chains, run_inline
from nsfwscan.execution.layout import Layout, Needs, Node, inline_layout
from nsfwscan.execution.pipeline import Job
from nsfwscan.images.pdq import pdq_of
from nsfwscan.models.spec import Classifier
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from nsfwscan.workflows.scan import ScanResult, run_scan

Demo = tuple[Path, list[DemoObject]]
_OWN = {"scanned_at", "cost"}
"""Columns that differ from scan to scan."""


def _scan(media: Path, out: Path, threads: int, deadline: Deadline = NEVER, **sections: Any) -> ScanResult:
    """Scan in shards of four objects, in so many threads."""

    def engine(job: Job, shards: Sequence[Shard], _: Deadline) -> Iterator[ShardResult]:
        return run_inline(job, shards, deadline, Layout("inline", threads, threads=1))

    given = {"source": {"uris": [str(media)]}, "out": str(out), "engine": {"shard_rows": 4}, **sections}
    return run_scan(ScanConfig.of(given), "night", engine, Silent())


def _rows(result: ScanResult) -> list[dict[str, Any]]:
    rows = result.to_arrow().to_pylist()
    return sorted(({k: v for k, v in row.items() if k not in _OWN} for row in rows), key=lambda row: str(row["uri"]))


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("shard")]


def test_threads_make_the_same_rows(demo: Demo, tmp_path: Path) -> None:
    """Three threads report of each object what one does, and none of them stays."""
    one, three = (_scan(demo[0], tmp_path / str(threads), threads) for threads in (1, 3))
    assert _rows(one) == _rows(three)
    assert len(_rows(three)) == len(demo[1])
    assert not _threads()


def test_threads_share_the_index_of_a_large_bank(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a bank knows is matched in each thread as in one; its index, which takes much memory, is opened once."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    looks, _ = pdq_of(Image.open(demo[0] / "neutral/coffee.png").convert("RGB"))
    others = np.random.default_rng(0).integers(0, 256, (LARGE + 1, 32), np.uint8)
    bank = tmp_path / "bank.txt"
    bank.write_text("".join(f"{row.tobytes().hex()}\n" for row in others) + looks)
    opened: list[str] = []
    near = Bank.near

    def noted(bank: Bank) -> NearIndex:
        opened.append(bank.spec.name)
        return near(bank)

    monkeypatch.setattr(Bank, "near", noted)
    banks = {"large": {"uri": str(bank), "hash": "pdq"}}
    photographs = demo[0] / "neutral"
    one = _rows(_scan(photographs, tmp_path / "1", 1, banks=banks))
    opened.clear()
    assert one == _rows(_scan(photographs, tmp_path / "3", 3, banks=banks))
    assert any(row["match_kind"] for row in one)
    assert opened == ["large"]


def test_a_deadline_stops_all_threads(demo: Demo, tmp_path: Path) -> None:
    """No shard is begun after the deadline; what was staged is kept, and the run goes on with the rest."""
    passed = Deadline(datetime.now(UTC) - timedelta(seconds=1))
    photographs = demo[0] / "neutral"
    with pytest.raises(DeadlineReached):
        _scan(photographs, tmp_path, 3, passed)
    assert not _threads()
    assert len(_rows(_scan(photographs, tmp_path, 3))) == sum(o.path.startswith("neutral/") for o in demo[1])


def test_a_failure_in_one_thread_ends_the_run(demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that takes no part stops the run with its own words, and the other threads do not finish the night."""
    staged: list[str] = []

    def full(*given: Any) -> ShardResult:
        staged.append(given[1].name)
        raise StoreError("the store is full")

    monkeypatch.setattr("nsfwscan.execution.pipeline.stage_part", full)
    with pytest.raises(StoreError, match="the store is full"):
        _scan(demo[0], tmp_path, 2)
    assert len(staged) <= 2
    assert not _threads()


def test_nobody_waits_for_the_rest(demo: Demo, tmp_path: Path) -> None:
    """Whoever takes no more results waits for the files in hand alone, not for whole shards."""
    taken: list[ShardResult] = []

    def engine(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        results = run_inline(job, shards, deadline, Layout("inline", 2, threads=1))
        taken.append(next(iter(results)))
        began = time.monotonic()
        results.close()  # type: ignore[attr-defined]
        assert time.monotonic() - began < 20
        assert not _threads()
        raise KeyboardInterrupt

    given = {"source": {"uris": [str(demo[0])]}, "out": str(tmp_path), "engine": {"shard_rows": 4}}
    with pytest.raises(KeyboardInterrupt):
        run_scan(ScanConfig.of(given), "night", engine, Silent())
    assert len(taken) == 1
    assert len(_rows(_scan(demo[0], tmp_path, 2))) == len(demo[1])


class _When(Deadline):
    """A deadline that comes when something has happened."""

    happened: ClassVar[threading.Event]

    def check(self) -> None:
        """Raise DeadlineReached if it has."""
        if self.happened.is_set():
            raise DeadlineReached("it has happened")


@pytest.fixture
def deadline(monkeypatch: pytest.MonkeyPatch) -> _When:
    monkeypatch.setattr(_When, "happened", threading.Event(), raising=False)
    monkeypatch.setattr("nsfwscan.execution.inline._LOOK_S", 0.01)
    return _When()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_deadline_waits_for_no_more_than_a_batch(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline: _When, threads: int
) -> None:
    """Shards that are being scored when the deadline comes are given up, however many objects they still have."""
    batches: list[int] = []
    given_up, give_up = threading.Event(), _Chains.give_up

    def stream(model: Classifier, waiting: Iterable[Any]) -> Iterator[Any]:
        for pixels in waiting:
            batches.append(len(pixels))
            deadline.happened.set()
            given_up.wait(60)
            yield model(pixels)

    monkeypatch.setattr(Classifier, "stream", stream)
    monkeypatch.setattr(_Chains, "give_up", lambda chains: (give_up(chains), given_up.set()))
    with pytest.raises(DeadlineReached):
        _scan(demo[0], tmp_path, threads, deadline, engine={"shard_rows": 40}, model={"batch_size": 1})
    assert len(batches) <= threads
    assert not _threads()


@pytest.mark.parametrize("threads", [1, 2])
def test_nobody_waits_for_a_store_that_does_not_answer(
    demo: Demo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deadline: _When, threads: int
) -> None:
    """Reads that hang when the deadline comes are left behind: they end minutes later, or never."""
    answers = threading.Event()

    def fetch(*_: Any, **__: Any) -> Any:
        deadline.happened.set()
        answers.wait(60)
        raise StoreError("too late")

    monkeypatch.setattr("nsfwscan.stages.read.fetch", fetch)
    monkeypatch.setattr("nsfwscan.execution.inline._LEAVE_S", 0.1)
    try:
        began = time.monotonic()
        with pytest.raises(DeadlineReached):
            _scan(demo[0], tmp_path, threads, deadline)
        assert time.monotonic() - began < 30
        assert all(thread.daemon for thread in threading.enumerate() if thread.name in ("shard", "ahead", "read"))
    finally:
        answers.set()


@pytest.mark.parametrize(
    ("here", "shards", "rows", "threads", "of_each"),
    [
        (Node(2), 0, 0, 1, 2),
        (Node(2), 1, 10, 1, 2),
        (Node(2), 6, 63, 1, 2),
        (Node(2), 6, 64, 2, 1),
        (Node(16), 10, 320, 10, 1),
        (Node(16), 10, 64, 2, 8),
        (Node(2, memory_bytes=2 * 2**30), 9, 900, 1, 2),
        (Node(16, gpus=1, gpu="H100"), 9, 900, 1, 16),
    ],
)
def test_as_many_threads_as_there_is_work_for(here: Node, shards: int, rows: int, threads: int, of_each: int) -> None:
    """A thread for each 32 objects, as far as cores and memory go, and all cores for their models; a GPU has one."""
    layout = inline_layout(here, shards, rows, Needs("torch", weights_bytes=350 * 2**20))
    assert (layout.kind, layout.cpu_actors, layout.threads) == ("inline", threads, of_each)
