"""Measure the commit of a night: rows a second, CPU seconds, and how many of these other cores could not take over.

The rows are made up. The scan is nsfwscan's own; only its engine reads no objects. It stops when it is about to commit,
and each measurement resumes it in a process of its own; the clock runs from the line `committing` until the run is
committed. Of a night on which nothing changed, all rows are carried over from a committed first night. The first night
of other stores is measured itself: all of its rows are new.

What the thread that commits does itself, no other core takes over; the rest is divided among the cores there are. By
that the time of a store of any size on any machine is reckoned (`Commit.reckoned_s`). What threads wait for each other
and for the memory is not in it.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.benchmark.memory import peak_rss_bytes, write_manifest
from jobs.benchmark.timing import apart
from nsfwscan.config import ScanConfig
from nsfwscan.errors import NsfwscanError, Status
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job, finish
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard, ShardReader
from nsfwscan.runs.staging import ShardResult, to_arrow
from nsfwscan.schema import SIGNALS
from nsfwscan.workflows.scan import run_scan

ROWS = 1_000_000
NIGHTS = {"carried": 0.02, "new": 0.0, "new, all compared": 1.0}
"""Kinds of nights, with the share of objects whose PDQ hash is good enough to look for near-duplicates. Rows that are
carried over have been compared before."""
_UNREADABLE, _NEW_BYTES, _SIGNED, _NEAR = 0.01, 0.95, 0.1, 0.1
"""Shares of objects: damaged; with bytes that are no copy of another's; with signals; that look nearly like another."""
_RUN = "measured"
_FLIPPED = 8
"""Bits by which near-duplicates differ."""
_LARGE, _CORES = 10**8, 16
"""Rows of a large store, and cores of the machine that commits it, for which the time is reckoned."""
_STEPS = {
    "Gatherer.listed": "read the listing",
    "Gatherer.gather": "gather rows",
    "PreviousReports.rows": "read earlier reports",
    "Spool.write": "spool",
    "find_duplicates": "find duplicates",
    "Duplicates.rows": "settle duplicates",
    "Duplicates.settled": "settle duplicates",
    "Decider.choose": "decide",
    "Decider.__call__": "decide",
    "Facts.causes": "compare with earlier rows",
    "compared": "compare with earlier rows",
    "select_false_positives": "select false positives",
    "write_part": "write",
    "Balance.add": "read back and balance",
    "Summary.add": "count",
    "Cascade.add": "count",
    "Night.add": "count",
    "_Commit._count": "count",
    "_Commit._count_work": "count",
    "commit_record": "summary page and record",
}
"""Functions, and the step that their time counts for; time of other steps within it is subtracted."""
_REST = "the rest"


@dataclass(frozen=True)
class Commit:
    """Time and memory of one commit."""

    wall_s: float
    cpu_s: float
    """CPU seconds of all threads of the process."""
    alone_s: float
    """CPU seconds of the thread that commits: all that is done by it alone, and its share of what others help with."""
    peak: int
    """Peak memory of the process, in bytes."""

    def reckoned_s(self, times: float, cores: int) -> float:
        """Return the seconds that a commit of so many times the rows takes on so many cores (Amdahl, 1967)."""
        return times * (self.alone_s + (self.cpu_s - self.alone_s) / cores)


@dataclass(frozen=True)
class Step:
    """CPU seconds of a step: of the thread that commits, and of the threads that it starts."""

    alone_s: float
    others_s: float


@dataclass(frozen=True)
class NightFigures:
    """Figures of all commits of one kind of night."""

    night: str
    commits: tuple[Commit, ...]
    steps: dict[str, Step]
    """From one more commit with profiling, the longest first; without what Arrow and DuckDB do in threads of theirs."""


@dataclass(frozen=True)
class CommitFigures:
    """Figures of all kinds of nights of so many rows."""

    rows: int
    nights: tuple[NightFigures, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        return asdict(self)


def measure_commit(work: Path, rows: int, repetitions: int, say: Callable[[str], None]) -> CommitFigures:
    """Measure the commit of `rows` rows on each of `NIGHTS`. The stores stay in `work` for the next time.

    Raises:
        NsfwscanError: a store cannot be made; or a night without changes would read an object.
    """
    manifest = work / f"manifest-{rows}.parquet"
    if not manifest.exists():
        apart(write_manifest, manifest, rows)
    found = []
    for night in NIGHTS:
        store = work / f"night-{night.replace(', ', '-').replace(' ', '-')}-{rows}"
        if not store.exists():
            say(f"{night}: making {rows:,} rows")
            unfinished = store.with_suffix(".partial")
            shutil.rmtree(unfinished, ignore_errors=True)
            apart(_prepare, manifest, unfinished, night)
            unfinished.rename(store)
        commits = []
        for _ in range(repetitions):
            commits.append(apart(_commit, manifest, store)[0])
            last = commits[-1]
            rate, parts = rows / last.wall_s, f"{last.cpu_s:.1f} s of CPU, {last.alone_s:.1f} of one thread"
            say(f"  {night}: {rate:,.0f} rows/s, {parts}")
        say(f"{night}: once more, profiled")
        found.append(NightFigures(night, tuple(commits), apart(_commit, manifest, store, profiled=True)[1]))
    return CommitFigures(rows, tuple(found))


def as_markdown(found: CommitFigures) -> str:
    """Render a table for a page."""
    lines = [
        f"| {found.rows:,} rows | rows/s | seconds | CPU seconds | of one thread | peak of the process "
        f"| {_LARGE:,} rows on {_CORES} cores |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for one in found.nights:
        wall, cpu, alone = (
            median(getattr(commit, n) for commit in one.commits) for n in ("wall_s", "cpu_s", "alone_s")
        )
        peak = max(commit.peak for commit in one.commits) / 1e6
        large = median(commit.reckoned_s(_LARGE / found.rows, _CORES) for commit in one.commits) / 60
        rates = f"{found.rows / wall:,.0f} | {wall:.1f} | {cpu:.1f} | {alone:.1f}"
        lines.append(f"| {one.night} | {rates} | {peak:,.0f} MB | {large:.1f} min |")
    lines += [
        "",
        f"Medians of {len(found.nights[0].commits)}. CPU seconds by step, of one further commit each, profiled:",
    ]
    lines += ["of the thread that commits + of those that it starts."]
    for one in found.nights:
        steps = "; ".join(f"{name} {step.alone_s:.1f} + {step.others_s:.1f}" for name, step in one.steps.items())
        lines += ["", f"- {one.night}: {steps}."]
    return "\n".join(lines)


@dataclass
class _OfThread:
    """Steps of one thread.

    Attributes:
        since: its CPU seconds when time was counted last.
        within: the steps that it is in, the innermost last.
    """

    since: float
    within: list[str] = field(default_factory=list)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def count(self) -> None:
        """Count the time since for the step that the thread is in."""
        now = time.thread_time()
        self.seconds[self.within[-1] if self.within else _REST] += now - self.since
        self.since = now


class _Steps:
    """CPU seconds of steps, counted as the interpreter enters and leaves their functions in this thread and in those
    that start later."""

    def __init__(self) -> None:
        self._threads: list[_OfThread] = []
        self._here = threading.local()

    def begin(self) -> None:
        """Start the count."""
        self._of_this_thread(time.thread_time())
        threading.setprofile(self._seen)
        sys.setprofile(self._seen)

    def _of_this_thread(self, since: float = 0.0) -> _OfThread:
        if not hasattr(self._here, "steps"):
            self._here.steps = _OfThread(since)
            self._threads.append(self._here.steps)
        found: _OfThread = self._here.steps
        return found

    def _seen(self, frame: FrameType, event: str, arg: object) -> None:
        step = _STEPS.get(frame.f_code.co_qualname)
        if step is None or event not in ("call", "return"):
            return
        thread = self._of_this_thread()
        thread.count()
        if event == "call":
            thread.within.append(step)
        elif thread.within:
            thread.within.pop()

    def end(self) -> dict[str, Step]:
        """Stop the count, and return the steps, the longest first."""
        sys.setprofile(None)
        threading.setprofile(None)
        first, *others = self._threads
        first.count()
        names = {name for thread in self._threads for name in list(thread.seconds)}
        found = {name: Step(first.seconds[name], sum(one.seconds[name] for one in others)) for name in names}
        return dict(sorted(found.items(), key=lambda step: -step[1].alone_s - step[1].others_s))


@dataclass
class _Clock(Silent):
    """A progress that starts a clock when the scan commits."""

    steps: _Steps | None
    began: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3), init=False)

    def say(self, line: str) -> None:
        """Start at the line `committing`."""
        if line == "committing":
            self.began = _now()
            if self.steps is not None:
                self.steps.begin()


def _now() -> NDArray[np.float64]:
    """Return wall clock, CPU time and CPU time of this thread, in seconds."""
    return np.array([time.perf_counter(), time.process_time(), time.thread_time()])


class _Planned(Exception):
    """Raised to stop a scan before its commit."""


class _Stop(Silent):
    def say(self, line: str) -> None:
        """Raise `_Planned` at the line `committing`."""
        if line == "committing":
            raise _Planned


def _prepare(manifest: Path, store: Path, night: str) -> None:
    """Bring a run, `measured`, to where it commits."""
    made_up = partial(_made_up, NIGHTS[night])
    if night == "carried":
        run_scan(_config(manifest, store), "first", made_up, Silent())
    with suppress(_Planned):
        run_scan(_config(manifest, store), _RUN, _refuse if night == "carried" else made_up, _Stop())
    if night != "carried":  # the commit deletes what was staged
        shutil.copytree(store / "staging" / _RUN, store / "kept", copy_function=os.link)


def _commit(manifest: Path, store: Path, *, profiled: bool = False) -> tuple[Commit, dict[str, Step]]:
    """Commit the run, then undo that commit."""
    clock = _Clock(_Steps() if profiled else None)
    try:
        run_scan(_config(manifest, store), _RUN, _refuse, clock)
        wall, cpu, alone = (_now() - clock.began).tolist()
        steps = clock.steps.end() if clock.steps is not None else {}
    finally:
        for path in (store / "runs" / _RUN).iterdir():
            if path.is_dir() and path.name != "listing":
                shutil.rmtree(path)
            elif path.name not in ("listing", "plan.json"):
                path.unlink()
        if (store / "kept").exists():
            shutil.copytree(store / "kept", store / "staging" / _RUN, copy_function=_linked, dirs_exist_ok=True)
    return Commit(wall, cpu, alone, peak_rss_bytes()), steps


def _linked(source: str, target: str) -> None:
    with suppress(FileExistsError):
        os.link(source, target)


def _config(manifest: Path, store: Path) -> ScanConfig:
    return ScanConfig.of({"source": {"uris": [str(manifest)]}, "out": str(store), "model": {"uri": EMBEDDED}})


def _refuse(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    raise NsfwscanError(f"{len(shards)} shards were to be read, although nothing has changed")


def _made_up(trusted: float, job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    """Stage made-up rows: an engine that reads no object. Those of a listing file are made at once, and nobody asks
    what the policy flags among them."""
    read, model = ShardReader(job.run.folder), job.spec.identity
    for file, group in groupby(sorted(shards, key=lambda one: one.name), lambda one: one.file):
        some = list(group)
        listed = read.together(some).combine_chunks()
        rows, start = finish(_rows(listed, np.random.default_rng(file), model, trusted)).combine_chunks(), 0
        for shard in some:
            job.run.staging.write(shard.part, to_arrow(rows.slice(start, shard.rows)))
            start += shard.rows
            yield ShardResult(shard.name, shard.rows, 0, 0)


def _rows(listed: pa.Table, random: np.random.Generator, model: str, trusted: float) -> pa.Table:
    """Return made-up rows of listed objects, as `finish` takes them; of so many the PDQ hash is `trusted`."""
    count = listed.num_rows
    read = random.random(count) >= _UNREADABLE
    # A copy has the bytes of the object before it in the listing.
    source = np.maximum.accumulate(np.where(random.random(count) < _NEW_BYTES, np.arange(count), 0))
    score = (random.beta(0.15, 3.0, count).astype(np.float32))[source]
    label = np.where(score > 0.5, "nsfw", "neutral")
    signed = random.random(count) < _SIGNED
    signals = [[{"name": "software.photoshop", "value": 1.0}] if one else None for one in signed]

    def hashes(size: int) -> NDArray[np.uint8]:
        return random.integers(0, 256, (count, size), np.uint8)

    def digits(drawn: NDArray[np.uint8]) -> list[str]:
        return [bytes(row).hex() for row in drawn[source]]

    looks = hashes(32)
    near = np.flatnonzero(random.random(count) < _NEAR)
    looks[near] = looks[near - 1]
    looks[near, 0] ^= 2**_FLIPPED - 1

    def where_read(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=~read)

    columns = {
        "sha256": pa.array(digits(hashes(32))),
        "md5": pa.array(digits(hashes(16))),
        "pdq": where_read(np.array(digits(looks)), pa.string()),
        "pdq_quality": where_read(np.where(random.random(count) < trusted, 90, 40)[source], pa.int32()),
        "format": where_read(["JPEG"] * count, pa.string()),
        "width": where_read(random.integers(200, 4000, count)[source], pa.int64()),
        "height": where_read(random.integers(200, 4000, count)[source], pa.int64()),
        "frames": where_read(np.ones(count, np.int64), pa.int64()),
        "status": pa.array(np.where(read, Status.OK, Status.DECODE_ERROR).tolist(), pa.string()),
        "error": pa.array(["image file is truncated (12 bytes not processed)"] * count, pa.string(), mask=read),
        "model": where_read([model] * count, pa.string()),
        "label": where_read(label, pa.string()),
        "confidence": where_read(np.maximum(score, 1 - score), pa.float32()),
        "nsfw_score": where_read(score, pa.float32()),
        "score_neutral": where_read(1 - score, pa.float32()),
        "score_nsfw": where_read(score, pa.float32()),
        "signals": pa.array(signals, SIGNALS, mask=~read),
    }
    for name, values in columns.items():
        listed = listed.append_column(name, values)
    return listed
