"""Our own scan: in steady state, and from a cold start.

In: a `Workload` and a model. Out: figures `scan.*`. The steady state is that of `timing.steady`, over the shards as
they come; nothing is left out of the work, results are staged and the report is committed. A cold start is the command
`nsfwscan scan` in a new process: Python, imports and the model are all in it, and Ray where it is used; files lie in
the page cache.
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
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.layout import Fleet, Layout
from nsfwscan.execution.pipeline import Job
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from nsfwscan.workflows.scan import run_scan

_SHARDS = 40
"""About as many as a measured scan has, so that the steady part is not two or three results."""
_SHARD_ROWS = (8, 256)
"""At least a batch on a CPU; at most what a scan has of itself."""
_TEN = 10
_ON_RAY = "the same, though so few images are scanned without Ray unless told otherwise"
_COLD_LIMIT_S = 300.0
_POLL_S = 0.01


@dataclass(frozen=True)
class Course:
    """How a scan went."""

    layout: Layout
    arrivals: tuple[Arrival, ...]
    """When each shard was staged, seconds after the call, and its rows."""
    total_s: float
    rows: int
    settled: int
    """Scored, or settled by a filter."""


def measure_scan(
    workload: Workload,
    model: str,
    key: str,
    label: str,
    expected: float,
    store: tuple[Path, int] | None = None,
    sections: dict[str, Any] | None = None,
    shards: int = _SHARDS,
) -> list[Figure]:
    """The steady state of one scan, and its rate over all, start and commit included.

    Args:
        model: what `--model` takes.
        expected: images a second, about: how large a store it takes.
        store: a media store and how many objects are in it; unset: one that lasts for the time to measure.
        sections: further ones of the configuration.
        shards: about as many as the store is cut into.
    """
    media, images = store or workload.store_for(expected)
    shard_rows = shard_rows_for(images, shards)
    course = apart(scan_once, media, model, workload.cores, shard_rows, sections or {})
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
    return [first, overall]


def shard_rows_for(images: int, shards: int = _SHARDS) -> int:
    """Rows of a shard, a multiple of 8, so that there are enough shards to see a steady state in."""
    least, most = _SHARD_ROWS
    return min(most, max(least, images // shards // least * least))


def measure_cold_start(workload: Workload) -> list[Figure]:
    """Ten images, from the command to the first staged row and to the end."""
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
    """Seconds from starting the command to the first staged part, and to its end.

    Args:
        on_ray: even so few images, as more of them would be.

    Raises:
        NsfwscanError: the scan failed, or took minutes; with its last words.
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
                    process.send_signal(signal.SIGTERM)  # in the background a command may ignore SIGINT
                process.wait()
        if process.returncode != 0 or first_s is None:
            words = " ".join(log.read_text(errors="replace").split())
            raise NsfwscanError(f"a scan of ten images failed: {words[-500:]}")
        return first_s, time.perf_counter() - began


def _watch(process: subprocess.Popen[bytes], staging: Path, began: float) -> float | None:
    """Seconds until the first part is staged; returns when the process has ended."""
    first_s = None
    while process.poll() is None:
        now = time.perf_counter() - began
        if now > _COLD_LIMIT_S:
            return None
        if first_s is None and any(staging.glob("*/*.parquet")):
            first_s = now
        time.sleep(_POLL_S)
    return first_s


def scan_once(media: Path, model: str, cores: int, shard_rows: int, sections: dict[str, Any]) -> Course:
    """One scan in this process, on a local Ray of its own; its report is thrown away."""
    from nsfwscan.execution.ray_data import run_shards

    out = tempfile.mkdtemp(prefix="nsfwscan-bench-")
    began = time.perf_counter()
    arrivals: list[Arrival] = []
    fleets: list[Fleet] = []

    def timed(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        for result in run_shards(job, shards, deadline, began=fleets.append):
            arrivals.append((time.perf_counter() - began, result.rows))
            yield result

    try:
        result = run_scan(_config(media, out, model, cores, shard_rows, sections), "bench", timed, Silent())
        total_s = time.perf_counter() - began
    finally:
        shutil.rmtree(out, ignore_errors=True)
    balance = result.record.balance
    settled = balance.scored + balance.filtered
    return Course(fleets[0].layout, tuple(arrivals), total_s, balance.listed, settled)


def _config(media: Path, out: str, model: str, cores: int, shard_rows: int, sections: dict[str, Any]) -> ScanConfig:
    given = {"source": {"uris": [str(media)]}, "out": out, "model": {"uri": model}}
    return ScanConfig.of({**given, **sections, "engine": {"num_cpus": cores, "shard_rows": shard_rows}})


def _link(pictures: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for picture in pictures:
        with suppress(FileExistsError):
            (folder / picture.name).hardlink_to(picture)
