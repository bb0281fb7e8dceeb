"""Measure the commit of a night without changes: rows a second, and CPU seconds by step.

The store holds one committed night of made-up rows. The scan is nsfwscan's own; only its engine makes up rows and
reads no objects. A second scan of the same manifest stops when it has planned to carry over all rows. Each measurement
resumes it in a process of its own; the clock runs from the line `committing` until the run is committed.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.benchmark.memory import peak_rss_bytes, write_manifest
from jobs.benchmark.timing import apart
from nsfwscan.config import ScanConfig
from nsfwscan.errors import NsfwscanError, Status
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job, finish
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.policy.decide import Decider
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard, ShardReader
from nsfwscan.runs.staging import ShardResult, stage_part
from nsfwscan.schema import SIGNALS
from nsfwscan.workflows.scan import run_scan

ROWS = 1_000_000
_SHARD_ROWS = 1000
_UNREADABLE, _NEW_BYTES, _SIGNED, _TRUSTED = 0.01, 0.95, 0.1, 0.02
"""Shares of objects: damaged; with bytes that are no copy of another's; with signals; with a PDQ hash good enough to
look for near-duplicates. The first night compares each of the last kind with all others, which would take hours for a
million; the second night compares none, whatever their number."""
_STEPS = {
    "read_carried": "read the listing",
    "PreviousReports.rows": "read earlier reports",
    "_Commit.gather": "gather rows",
    "find_duplicates": "find duplicates",
    "Duplicates.rows": "find duplicates",
    "Duplicates.settled": "find duplicates",
    "Decider.choose": "decide",
    "Decider.__call__": "decide",
    "Facts.causes": "compare with earlier rows",
    "compared": "compare with earlier rows",
    "select_false_positives": "select false positives",
    "to_parquet": "write",
    "Balance.add": "read back and balance",
    "Summary.add": "count",
    "Cascade.add": "count",
    "commit_record": "summary page and record",
}
"""Functions, and the step that their time counts for; time of other steps within it is subtracted."""


@dataclass(frozen=True)
class Commit:
    """Time and memory of one commit."""

    wall_s: float
    cpu_s: float
    """CPU seconds of all threads of the process."""
    peak: int
    """Peak memory of the process, in bytes."""


@dataclass(frozen=True)
class CommitFigures:
    """Figures of all commits of one store."""

    rows: int
    commits: tuple[Commit, ...]
    steps: dict[str, float]
    """CPU seconds of each step, from one more commit with profiling."""

    def as_json(self) -> dict[str, Any]:
        """Return the figures as JSON types."""
        return asdict(self)


def measure_commit(work: Path, rows: int, repetitions: int, say: Callable[[str], None]) -> CommitFigures:
    """Measure the commit of `rows` carried rows. The store stays in `work` for the next time.

    Raises:
        NsfwscanError: the store cannot be made; or a night without changes would read an object.
    """
    manifest, store = work / f"manifest-{rows}.parquet", work / f"committed-{rows}"
    if not manifest.exists():
        apart(write_manifest, manifest, rows)
    if not store.exists():
        say(f"committing a first night of {rows:,} rows")
        unfinished = store.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        apart(_prepare, manifest, unfinished)
        unfinished.rename(store)
    commits = []
    for _ in range(repetitions):
        commits.append(apart(_commit, manifest, store)[0])
        say(f"  {rows / commits[-1].wall_s:,.0f} rows/s, {commits[-1].cpu_s:.1f} s of CPU")
    say("once more, profiled")
    return CommitFigures(rows, tuple(commits), apart(_commit, manifest, store, profiled=True)[1])


def as_markdown(found: CommitFigures) -> str:
    """Render a table for a page."""
    wall, cpu = (median(getattr(one, name) for one in found.commits) for name in ("wall_s", "cpu_s"))
    steps = "; ".join(f"{name} {seconds:.1f}" for name, seconds in found.steps.items())
    return "\n".join(
        [
            "| rows, all carried | rows/s | seconds | CPU seconds | rows for a CPU second | peak of the process |",
            "|---:|---:|---:|---:|---:|---:|",
            f"| {found.rows:,} | {found.rows / wall:,.0f} | {wall:.1f} | {cpu:.1f} | {found.rows / cpu:,.0f} | "
            f"{max(one.peak for one in found.commits) / 1e6:,.0f} MB |",
            "",
            f"Medians of {len(found.commits)}. CPU seconds by step, of one further commit that was profiled: {steps}.",
        ]
    )


class _Steps:
    """CPU seconds of this thread's steps, counted as the interpreter enters and leaves their functions."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._within = ["the rest"]
        self._since = 0.0

    def begin(self) -> None:
        """Start the count."""
        self._since = time.process_time()
        sys.setprofile(self._seen)

    def _seen(self, frame: FrameType, event: str, arg: object) -> None:
        step = _STEPS.get(frame.f_code.co_qualname)
        if step is None or event not in ("call", "return"):
            return
        now = time.process_time()
        self.seconds[self._within[-1]] += now - self._since
        self._since = now
        if event == "call":
            self._within.append(step)
        elif len(self._within) > 1:
            self._within.pop()

    def end(self) -> dict[str, float]:
        """Stop the count, and return the seconds of each step, the longest first."""
        sys.setprofile(None)
        self.seconds[self._within[-1]] += time.process_time() - self._since
        return dict(sorted(self.seconds.items(), key=lambda step: -step[1]))


@dataclass
class _Clock(Silent):
    """A progress that starts a clock when the scan commits."""

    steps: _Steps | None
    began: tuple[float, float] = field(default=(0.0, 0.0), init=False)

    def say(self, line: str) -> None:
        """Start at the line `committing`; `began` is (wall clock, CPU time) in seconds."""
        if line == "committing":
            self.began = time.perf_counter(), time.process_time()
            if self.steps is not None:
                self.steps.begin()


class _Planned(Exception):
    """Raised to stop a scan before its commit."""


class _Stop(Silent):
    def say(self, line: str) -> None:
        """Raise `_Planned` at the line `committing`."""
        if line == "committing":
            raise _Planned


def _prepare(manifest: Path, store: Path) -> None:
    """Commit the first night, and plan the second."""
    run_scan(_config(manifest, store), "first", _made_up, Silent())
    with suppress(_Planned):
        run_scan(_config(manifest, store), "second", _refuse, _Stop())


def _commit(manifest: Path, store: Path, *, profiled: bool = False) -> tuple[Commit, dict[str, float]]:
    """Commit the second night, then undo that commit."""
    clock = _Clock(_Steps() if profiled else None)
    try:
        run_scan(_config(manifest, store), "second", _refuse, clock)
        wall, cpu = time.perf_counter() - clock.began[0], time.process_time() - clock.began[1]
        steps = clock.steps.end() if clock.steps is not None else {}
    finally:
        for path in (store / "runs" / "second").iterdir():
            if path.is_dir() and path.name != "listing":
                shutil.rmtree(path)
            elif path.name not in ("listing", "plan.json"):
                path.unlink()
    return Commit(wall, cpu, peak_rss_bytes()), steps


def _config(manifest: Path, store: Path) -> ScanConfig:
    source, engine = {"uris": [str(manifest)]}, {"shard_rows": _SHARD_ROWS}
    return ScanConfig.of({"source": source, "out": str(store), "model": {"uri": EMBEDDED}, "engine": engine})


def _refuse(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    raise NsfwscanError(f"{len(shards)} shards were to be read, although nothing has changed")


def _made_up(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
    """Stage made-up rows: an engine that reads no object."""
    decider, read, model = Decider(job.policy), ShardReader(job.run.folder), job.spec.identity
    for shard in sorted(shards, key=lambda one: one.name):
        rows = _rows(read(shard), np.random.default_rng([shard.file, shard.group]), model)
        yield stage_part(job.run.staging, shard, finish(rows), decider)


def _rows(listed: pa.Table, random: np.random.Generator, model: str) -> pa.Table:
    """Return made-up rows of listed objects, as `finish` takes them."""
    count = listed.num_rows
    read = random.random(count) >= _UNREADABLE
    # A copy has the bytes of the object before it in the listing.
    source = np.maximum.accumulate(np.where(random.random(count) < _NEW_BYTES, np.arange(count), 0))
    score = (random.beta(0.15, 3.0, count).astype(np.float32))[source]
    label = np.where(score > 0.5, "nsfw", "neutral")
    signed = random.random(count) < _SIGNED
    signals = [[{"name": "software.photoshop", "value": 1.0}] if one else None for one in signed]

    def digests(size: int) -> list[str]:
        drawn = [bytes(row).hex() for row in random.integers(0, 256, (count, size), np.uint8)]
        return [drawn[place] for place in source]

    def where_read(values: Any, kind: pa.DataType) -> pa.Array:
        return pa.array(values, kind, mask=~read)

    columns = {
        "sha256": pa.array(digests(32)),
        "md5": pa.array(digests(16)),
        "pdq": where_read(np.array(digests(32)), pa.string()),
        "pdq_quality": where_read(np.where(random.random(count) < _TRUSTED, 90, 40)[source], pa.int32()),
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
