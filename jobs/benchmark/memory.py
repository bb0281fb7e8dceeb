"""Measure memory over the number of objects: scans of a thousand to a hundred thousand, plans of up to ten million.

A `Curve` holds the peaks of driver, workers and decode children for each number of objects, bytes in the object store,
spilled bytes, and the peak of a process that plans a long manifest. This part takes long.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.benchmark.media import TINY, make_pictures, make_store
from jobs.benchmark.processes import ROLES, Peaks, watched
from jobs.benchmark.timing import apart, measuring_pool
from jobs.benchmark.workload import Workload
from nsfwscan.config import EngineConfig, ScanConfig, SourceConfig, StorageConfig
from nsfwscan.execution.deadline import Deadline
from nsfwscan.execution.pipeline import Job
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.plan import Known, Shard, make_plan
from nsfwscan.runs.staging import ShardResult
from nsfwscan.sources.listing import list_sources
from nsfwscan.storage.store import Store
from nsfwscan.workflows.scan import run_scan

OBJECTS = (1_000, 10_000, 100_000)
PLANNED = (1_000_000, 10_000_000)
FLAT = 1.2
"""Target: the peak with a hundred thousand objects is at most this multiple of the peak with ten thousand."""
_DISTINCT = 200
_MANIFEST_ROWS = 100_000
_STRIDE = 7_919
"""A prime step through the names, so that the order of a manifest's rows is far from that of their names."""


@dataclass(frozen=True)
class ScanMemory:
    """Time and memory (bytes) of one scan."""

    objects: int
    seconds: float
    total: int
    summed: dict[str, int]
    largest: dict[str, int]
    stored: int
    """Most bytes in the object store at once."""
    spilled: int
    """Total bytes that the object store wrote to disk."""


@dataclass(frozen=True)
class PlanMemory:
    """Time and memory of the plan of one manifest."""

    objects: int
    seconds: float
    peak: int
    """Peak memory of the whole process, in bytes, imports included."""
    shards: int


@dataclass(frozen=True)
class Curve:
    """Memory over the number of objects."""

    scans: tuple[ScanMemory, ...]
    plans: tuple[PlanMemory, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the curve as JSON types."""
        return {**asdict(self), "growth": self.growth()}

    def growth(self) -> float | None:
        """Return the last scan's peak of driver, workers and decode children, as a multiple of the scan before it."""
        if len(self.scans) < 2:
            return None
        before, last = (_ours(scan) for scan in self.scans[-2:])
        return last / before if before else None


def up_to(most: int | None) -> tuple[list[int], list[int]]:
    """Return the numbers of objects to scan and to plan: `OBJECTS` and `PLANNED`, without scans of more than `most`
    objects and plans of more than a hundred times as many."""
    if most is None:
        return list(OBJECTS), list(PLANNED)
    return [n for n in OBJECTS if n <= most], [n for n in PLANNED if n <= 100 * most]


def measure_memory(
    workload: Workload, say: Callable[[str], None], objects: Sequence[int], planned: Sequence[int]
) -> Curve:
    """Scan and plan ever more objects, and sample the memory of the processes."""
    pictures = make_pictures(workload.work, TINY, min([_DISTINCT, *objects]))
    scans = []
    for number in objects:
        say(f"scanning {number:,} small objects")
        scans.append(scan_memory(make_store(workload.work, pictures, number), workload, number))
        say(f"  peak {scans[-1].total / 2**20:,.0f} MiB in all, {scans[-1].seconds:.0f} s")
    plans = []
    for number in planned:
        say(f"planning {number:,} objects")
        manifest = workload.work / f"manifest-{number}.parquet"
        if not manifest.exists():
            apart(write_manifest, manifest, number)
        plans.append(apart(plan_memory, manifest))
        say(f"  peak {plans[-1].peak / 2**20:,.0f} MiB, {plans[-1].seconds:.0f} s")
    return Curve(tuple(scans), tuple(plans))


def as_markdown(curve: Curve) -> str:
    """Render tables for a page."""
    names = {"driver": "driver", "worker": "Ray's workers", "decode": "decode children", "ray": "Ray itself"}
    head = " | ".join(names[role] for role in ROLES)
    lines = [
        f"| objects scanned | driver, workers, children | {head} | largest worker | object store | spilled | seconds |",
        "|---:" * (len(ROLES) + 6) + "|",
        *(
            f"| {scan.objects:,} | {_mib(_ours(scan))} | {' | '.join(_mib(scan.summed.get(r, 0)) for r in ROLES)} | "
            f"{_mib(scan.largest.get('worker', 0))} | {_mib(scan.stored)} | {_mib(scan.spilled)} | {scan.seconds:.0f} |"
            for scan in curve.scans
        ),
        "",
        "| objects planned | peak of the process | shards | seconds |",
        "|---:|---:|---:|---:|",
        *(f"| {p.objects:,} | {_mib(p.peak)} | {p.shards:,} | {p.seconds:.0f} |" for p in curve.plans),
    ]
    if (growth := curve.growth()) is not None:
        before, last = (f"{scan.objects:,}" for scan in curve.scans[-2:])
        lines += ["", f"The scan of {last} took {growth:.2f} times what that of {before} took; {FLAT} is the bar."]
    for name, wanted, found in (("scan", OBJECTS, curve.scans), ("plan", PLANNED, curve.plans)):
        absent = [f"{n:,}" for n in wanted if n not in {one.objects for one in found}]
        if absent:
            lines += ["", f"Missing: the {name} of {' and of '.join(absent)} objects was not asked for in this run."]
    return "\n".join(lines)


def _ours(scan: ScanMemory) -> int:
    return sum(scan.summed.get(role, 0) for role in ("driver", "worker", "decode"))


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def scan_memory(media: Path, workload: Workload, objects: int) -> ScanMemory:
    """Scan in a process of its own, and sample its memory from this one."""
    with measuring_pool(1) as pool:
        root = pool.submit(os.getpid).result()
        with watched(root) as peaks:
            began = time.perf_counter()
            stored, spilled = pool.submit(_scan, media, str(workload.free), workload.cores).result()
            seconds = time.perf_counter() - began
    return _taken(peaks, objects, seconds, stored, spilled)


def _taken(peaks: Peaks, objects: int, seconds: float, stored: int, spilled: int) -> ScanMemory:
    summed = {str(role): size for role, size in peaks.summed.items()}
    largest = {str(role): size for role, size in peaks.largest.items()}
    return ScanMemory(objects, seconds, peaks.total, summed, largest, stored, spilled)


def _scan(media: Path, model: str, cores: int) -> tuple[int, int]:
    """Scan, and return the most bytes in Ray's object store at once, and the spilled bytes."""
    from nsfwscan.execution.ray_data import run_shards

    out = tempfile.mkdtemp(prefix="nsfwscan-bench-")
    most = [0, 0]

    def observed(job: Job, shards: Sequence[Shard], deadline: Deadline) -> Iterator[ShardResult]:
        done = threading.Event()
        looking = threading.Thread(target=_watch_store, args=(most, done), daemon=True)
        try:
            for result in run_shards(job, shards, deadline):
                if not looking.ident:  # Ray runs now
                    looking.start()
                yield result
        finally:
            done.set()

    sections = {"source": {"uris": [str(media)]}, "out": out, "model": {"uri": model}, "engine": {"num_cpus": cores}}
    try:
        run_scan(ScanConfig.of(sections), "bench", observed, Silent())
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return most[0], most[1]


def _watch_store(most: list[int], done: threading.Event) -> None:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address
    from ray.exceptions import RayError

    while not done.wait(0.5):
        try:
            state = get_state_from_address(ray.get_runtime_context().gcs_address)  # type: ignore[no-untyped-call]
            stats = get_memory_info_reply(state).store_stats  # type: ignore[no-untyped-call]
        except (RayError, RuntimeError, OSError, AssertionError):  # Ray is ending
            return
        most[0] = max(most[0], stats.object_store_bytes_used)
        most[1] = max(most[1], stats.spilled_bytes_total)


def write_manifest(path: Path, objects: int) -> None:
    """Write a manifest of that many objects of a store that does not exist, not in order of their names."""
    unfinished = path.with_suffix(".partial")
    schema = pa.schema([("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())])
    with pq.ParquetWriter(unfinished, schema) as writer:
        for start in range(0, objects, _MANIFEST_ROWS):
            numbers = [i * _STRIDE % objects for i in range(start, min(objects, start + _MANIFEST_ROWS))]
            uris = [
                f"s3://media-of-users/2026/{n % 365:03d}/{n * 2654435761 % 2**32:08x}-{n:010d}.jpg" for n in numbers
            ]
            etags = [f"{n * 40503 % 2**64:032x}" for n in numbers]
            sizes = [20_000 + n % 1_000_000 for n in numbers]
            writer.write_table(pa.table([uris, sizes, etags], schema=schema))
    unfinished.rename(path)


def plan_memory(manifest: Path) -> PlanMemory:
    """List and plan a manifest in this process, as a scan does, and return its time and peak memory."""
    with tempfile.TemporaryDirectory(prefix="nsfwscan-bench-") as folder:
        began = time.perf_counter()
        tables = list_sources(SourceConfig(uris=(str(manifest),)), StorageConfig())
        run = Store.at(folder, StorageConfig())
        plan = make_plan(tables, [], Known(), run, EngineConfig().shard_rows)
        return PlanMemory(plan.distinct, time.perf_counter() - began, peak_rss_bytes(), len(plan.shards))


def peak_rss_bytes() -> int:
    """Return the peak memory of this process since its start; `ru_maxrss` may include its parent's.

    Raises:
        OSError: the system does not report it.
    """
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    if found is None:
        raise OSError("this system does not tell a process its peak of memory (VmHWM in /proc/self/status)")
    return int(found[1]) * 1024
