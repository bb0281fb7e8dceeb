"""The memory curve: roles and peaks, manifests that plan, and the words around it."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.benchmark import memory
from jobs.benchmark.checkpoint import make_checkpoint
from jobs.benchmark.media import TINY
from jobs.benchmark.memory import Curve, PlanMemory, ScanMemory
from jobs.benchmark.processes import Peaks, role_of, sample, watched
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from nsfwscan.runs.plan import shard_count

pytestmark = pytest.mark.long

MIB = 2**20


def test_roles_by_command_line() -> None:
    """The driver, Ray's workers, decode children, and what else Ray starts."""
    assert role_of(True, ["python", "scan.py"]) == "driver"
    assert role_of(False, ["ray::MapWorker(MapBatches(_Fused))"]) == "worker"
    assert role_of(False, ["python", "-P", "-m", "nsfwscan.images.sandbox.worker", "7"]) == "decode"
    assert role_of(False, ["/ray/core/src/ray/raylet/raylet", "--x"]) == "ray"
    assert role_of(False, []) == "ray"


def test_peaks_are_of_one_look() -> None:
    """Sums are of processes that were there at once; peaks of roles may be of different looks."""
    peaks = Peaks()
    peaks.see([("driver", 10), ("worker", 5), ("worker", 6)])
    peaks.see([("driver", 12), ("worker", 8)])
    assert (peaks.total, peaks.looks) == (21, 2)
    assert peaks.summed == {"driver": 12, "worker": 11}
    assert peaks.largest == {"driver": 12, "worker": 8}


def test_this_process_is_seen() -> None:
    """A tree that is only this process has its memory; one that is gone has none."""
    with watched(os.getpid()) as peaks:
        held = bytearray(os.urandom(64 * MIB))
        assert dict(sample(os.getpid()))["driver"] > len(held)
    assert peaks.looks >= 1
    assert sample(2**22 + 1) == []


def test_a_manifest_plans(tmp_path: Path) -> None:
    """Every row of the manifest is a distinct object, in no order, and becomes part of the plan."""
    manifest = tmp_path / "manifest.parquet"
    memory.write_manifest(manifest, 5_000)
    uris = pq.read_table(manifest)["uri"].to_pylist()
    assert len(set(uris)) == 5_000
    assert uris != sorted(uris)
    planned = apart(memory.plan_memory, manifest)
    assert planned.objects == 5_000
    assert planned.shards == shard_count(5_000, 256)
    assert planned.peak > 20 * MIB


def test_growth_leaves_ray_itself_out() -> None:
    """What counts is the driver, the workers and their children, at the last two numbers of objects."""
    scans = [
        ScanMemory(n, 1.0, 0, {"driver": d * MIB, "worker": 200 * MIB, "decode": 100 * MIB, "ray": r * MIB}, {}, 0, 0)
        for n, d, r in ((1_000, 50, 1), (10_000, 100, 1), (100_000, 140, 999))
    ]
    curve = Curve(tuple(scans), (PlanMemory(1_000_000, 3.0, 900 * MIB, 4_000),))
    assert curve.growth() == pytest.approx(1.1)
    text = memory.as_markdown(curve)
    assert "| 100,000 | 440 MiB | 140 MiB | 200 MiB | 100 MiB | 999 MiB |" in text
    assert "The scan of 100,000 took 1.10 times what that of 10,000 took" in text
    assert "Missing: the plan of 10,000,000 objects" in text and "Missing: the scan" not in text
    rows = [line for line in text.splitlines() if line.startswith("| objects scanned") or "100,000" in line]
    assert rows[0].count("|") == rows[1].count("|")
    assert Curve((scans[0],), ()).growth() is None


def test_a_shorter_curve_can_be_asked_for() -> None:
    """`--images` bounds the scans, and a hundred times as much the plans."""
    assert memory.up_to(None) == ([1_000, 10_000, 100_000], [1_000_000, 10_000_000])
    assert memory.up_to(10_000) == ([1_000, 10_000], [1_000_000])


@pytest.mark.ray
@pytest.mark.full
def test_a_scan_is_watched(tmp_path: Path) -> None:
    """Driver, workers and decode children of a real scan all have memory, and nothing is spilled."""
    free = apart(make_checkpoint, tmp_path, "free")
    workload = Workload(tmp_path, TINY, (), free, free, cores=1, seconds=1.0)
    curve = memory.measure_memory(workload, lambda _: None, objects=(64,), planned=(2_000,))
    [scan], [plan] = curve.scans, curve.plans
    assert min(scan.summed[role] for role in ("driver", "worker", "decode", "ray")) > 5 * MIB
    assert scan.total >= max(scan.summed.values())
    assert scan.spilled == 0
    assert plan.objects == 2_000
