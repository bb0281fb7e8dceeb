"""Measure nsfwscan's own scan in steady state (figures `KEY.steady`, `KEY.overall`, `KEY.beside`) and from a cold start
(`cold.*`).

The steady state is that of `timing.steady`, over the shards as they arrive. The scan does all its work: it stages
results and commits the report. What it takes beside the time that all images would take at the steady rate is its
start, its tail and its commit. A cold start is the command `nsfwscan scan` in a new process: it includes Python,
imports and the model, and Ray where a scan uses it; the files are in the page cache.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmark.figures import SECONDS, Figure, figure, missing
from jobs.benchmark.timing import Arrival, apart, steady, steady_rate
from jobs.benchmark.workload import Workload
from nsfwscan.config import ScanConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.execution.choose import choose_executor
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.layout import Fleet, Layout
from nsfwscan.execution.pipeline import Job
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from nsfwscan.workflows.scan import run_scan

_SHARDS = 40
"""Approximate number of shards in a measured scan, so that the steady part has more than two or three results."""
_SHARD_ROWS = (8, 256)
"""Least and most: a batch on a CPU, and a scan's default."""
_TEN = 10
_ON_RAY = "the same, though so few images are scanned without Ray unless told otherwise"
_COLD_LIMIT_S = 300.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Course:
    """Times and counts of a scan."""

    layout: Layout
    arrivals: tuple[Arrival, ...]
    """(Seconds from the call until a shard was staged, its rows)."""
    total_s: float
    rows: int
    settled: int
    """Rows that were scored, or settled by a filter."""


def measure_scan(
    workload: Workload,
    model: str,
    key: str,
    label: str,
    expected: float,
    store: tuple[Path, int] | None = None,
    sections: dict[str, Any] | None = None,
    shards: int = _SHARDS,
    *,
    on_ray: bool = True,
) -> list[Figure]:
    """Measure one scan: its steady state, its overall rate with start and commit, and what these take.

    Args:
        model: a value of `--model`.
        key: prefix of the figures' keys.
        expected: approximate images a second, which determines the size of the store.
        store: a media store and its number of objects; unset: one that lasts for the time to measure.
        sections: further sections of the configuration.
        shards: approximate number of shards of the store.
        on_ray: on a local Ray, however few images there are; else in one process, however many.

    Raises:
        NsfwscanError: an image was neither scored nor settled by a filter.
    """
    media, images = store or workload.store_for(expected)
    shard_rows = shard_rows_for(images, shards)
    engine = {"num_cpus": workload.cores, "shard_rows": shard_rows, "inline_rows": 0 if on_ray else images}
    course = apart(scan_once, media, model, {**(sections or {}), "engine": engine})
    if course.settled != images:
        raise NsfwscanError(f"only {course.settled} of {images} generated images were scored: something is wrong here")
    actors = course.layout.cpu_actors + course.layout.model_actors
    shown = len(steady(course.arrivals, actors))
    note = (
        f"{images:,} images in shards of {shard_rows}, {actors} actors ({course.layout.kind}); {shown} of "
        f"{len(course.arrivals)} shards are the steady part"
    )
    rate = steady_rate(course.arrivals, actors)
    first = (
        figure(f"{key}.steady", f"{label}, steady state", [rate], note=note)
        if rate is not None
        else missing(f"{key}.steady", f"{label}, steady state", f"too few results in {images} images")
    )
    overall = figure(
        f"{key}.overall", f"{label}, from start to commit", [images / course.total_s], note=f"{course.total_s:.1f} s"
    )
    label = f"{label}, start, tail and commit"
    beside = (
        figure(f"{key}.beside", label, [course.total_s - images / rate], SECONDS, "beside the time at the steady rate")
        if rate is not None
        else missing(f"{key}.beside", label, "without a steady state")
    )
    return [first, overall, beside]


def shard_rows_for(images: int, shards: int = _SHARDS) -> int:
    """Return the rows of a shard, a multiple of 8, such that there are enough shards for a steady state."""
    least, most = _SHARD_ROWS
    return min(most, max(least, images // shards // least * least))


def measure_cold_start(workload: Workload) -> list[Figure]:
    """Measure scans of ten images, from the command to the first staged row and to the end."""
    media = workload.work / "ten"
    _link(workload.pictures[:_TEN], media)
    runs = [cold_scan(media, workload.model, workload.cores) for _ in range(workload.repetitions)]
    embedded = [cold_scan(media, EMBEDDED, workload.cores) for _ in range(workload.repetitions)]
    on_ray = [cold_scan(media, workload.model, workload.cores, on_ray=True) for _ in range(workload.repetitions)]
    note = f"`nsfwscan scan` of {_TEN} images, a new process; the page cache is warm"
    return [
        figure("cold.first", "cold start to the first row", [first for first, _ in runs], SECONDS, note),
        figure("cold.ten", "ten images in all", [total for _, total in runs], SECONDS, note),
        figure("cold.embedded", f"ten images in all, {EMBEDDED}", [total for _, total in embedded], SECONDS, note),
        figure("cold.ray", "cold start to the first row, on Ray", [first for first, _ in on_ray], SECONDS, _ON_RAY),
    ]


def cold_scan(media: Path, model: Path | str, cores: int, *, on_ray: bool = False) -> tuple[float, float]:
    """Return the seconds from the command's start to the first staged part, and to the command's end.

    Args:
        on_ray: scan on Ray; a scan of so few images does not use it by default.

    Raises:
        NsfwscanError: the scan failed, or took longer than `_COLD_LIMIT_S`; the message ends with its last output.
    """
    with tempfile.TemporaryDirectory(prefix="nsfwscan-bench-") as out:
        config = Path(out, "config.yaml")
        config.write_text("engine: {inline_rows: 0}" if on_ray else "{}")
        command = [sys.executable, "-m", "nsfwscan", "scan", str(media), "--out", out, "--model", str(model)]
        command += ["--config", str(config)]
        log = Path(out, "log")
        with log.open("wb") as said:
            began = time.perf_counter()
            process = subprocess.Popen([*command, "--num-cpus", str(cores)], stdout=said, stderr=said)
            try:
                first_s = _watch(process, Path(out, "staging"), began)
            finally:
                with suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)  # a command in the background may ignore SIGINT
                process.wait()
        if process.returncode != 0 or first_s is None:
            words = " ".join(log.read_text(errors="replace").split())
            raise NsfwscanError(f"a scan of ten images failed: {words[-500:]}")
        return first_s, time.perf_counter() - began


def _watch(process: subprocess.Popen[bytes], staging: Path, began: float) -> float | None:
    """Wait for the process to end. Return the seconds to the first staged part; None without one, or past the limit."""
    first_s = None
    while process.poll() is None:
        now = time.perf_counter() - began
        if now > _COLD_LIMIT_S:
            return None
        if first_s is None and any(staging.glob("*/*.arrow")):
            first_s = now
        time.sleep(_POLL_S)
    return first_s


def scan_once(media: Path, model: str, sections: dict[str, Any]) -> Course:
    """Scan once from this process, and delete the report.

    Args:
        sections: of the configuration.
    """
    out = tempfile.mkdtemp(prefix="nsfwscan-bench-")
    began = time.perf_counter()
    arrivals: list[Arrival] = []
    fleets: list[Fleet] = []

    def timed(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for result in choose_executor(job, shards, deadline, began=fleets.append):
            arrivals.append((time.perf_counter() - began, result.rows))
            yield result

    try:
        given = {"source": {"uris": [str(media)]}, "out": out, "model": {"uri": model}}
        result = run_scan(ScanConfig.of({**given, **sections}), "bench", timed, Silent())
        total_s = time.perf_counter() - began
    finally:
        shutil.rmtree(out, ignore_errors=True)
    balance = result.record.balance
    settled = balance.scored + balance.filtered
    return Course(fleets[0].layout, tuple(arrivals), total_s, balance.listed, settled)


def _link(pictures: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for picture in pictures:
        with suppress(FileExistsError):
            (folder / picture.name).hardlink_to(picture)
