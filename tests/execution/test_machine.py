"""What a machine has is found out as Ray finds it, within the limits of a container, without Ray and torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nsfwscan.execution import machine
from nsfwscan.execution.machine import gpu_kind, this_machine, usable_cpus

HERE = len(os.sched_getaffinity(0))
MEMINFO = "MemTotal:  16000000 kB\nMemFree: 100 kB\nMemAvailable:   12000000 kB\n"
FREE = 12_000_000 * 1024


def files(root: Path, contents: dict[str, str]) -> Path:
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, HERE),
        ({"cpu.max": "max 100000"}, HERE),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "9999900000 100000"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, HERE),
        ({"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    ],
)
def test_cpus_of_a_container(tmp_path: Path, contents: dict[str, str], expected: int) -> None:
    """A container's quota limits the CPUs, in both versions of control groups; at least one is left."""
    assert usable_cpus(files(tmp_path, contents)) == expected


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, FREE),
        ({"memory.max": "max", "memory.current": "5000"}, FREE),
        ({"memory.max": "4000000000", "memory.current": "1000000000"}, 3_000_000_000),
        (
            {"memory.max": "4000000000", "memory.current": "1000000000", "memory.stat": "anon 1\ninactive_file 250"},
            3_000_000_250,
        ),
        ({"memory/memory.limit_in_bytes": "2000", "memory/memory.usage_in_bytes": "2500"}, 0),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096), "memory/memory.usage_in_bytes": "1"}, FREE),
    ],
)
def test_memory_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, str], expected: int
) -> None:
    """Free memory is the machine's, or the container's where that is less; cached files count as free."""
    monkeypatch.setattr(machine, "_CGROUP", files(tmp_path / "cgroup", contents))
    monkeypatch.setattr(machine, "_PROC", files(tmp_path / "proc", {"meminfo": MEMINFO}))
    assert this_machine().memory_bytes == expected


def test_nothing_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without these files (another operating system) memory is not known, and the rest is still there."""
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "_PROC", tmp_path)
    found = this_machine()
    assert (found.cpus, found.memory_bytes) == (HERE, None)
    assert this_machine(7).cpus == 7


NAMES = [
    "NVIDIA A100-SXM4-40GB",
    "NVIDIA A10G",
    "NVIDIA H100 80GB HBM3",
    "NVIDIA H200",
    "NVIDIA L4",
    "NVIDIA L40S",
    "Tesla T4",
    "Tesla V100-SXM2-16GB",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "NVIDIA GeForce RTX 4090",
]


@pytest.mark.parametrize("name", NAMES)
def test_gpus_are_called_as_ray_calls_them(name: str) -> None:
    """A run on a cluster and a plan on this machine mean the same GPU by the same name."""
    from ray._private.accelerators.nvidia_gpu import NvidiaGPUAcceleratorManager

    assert gpu_kind(name) == NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type(name)


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver's tool that shows two GPUs."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA A10G'\necho 'NVIDIA A10G'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("visible", "gpus"), [(None, 2), ("0", 1), ("0,1", 2), ("", 0), ("-1", 0)])
def test_gpus(two_gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, gpus: int) -> None:
    """GPUs are those of the driver which CUDA_VISIBLE_DEVICES leaves."""
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = this_machine()
    assert (found.gpus, found.gpu) == (gpus, "A10G" if gpus else None)


def test_a_driver_that_fails_has_no_gpu(two_gpus: None, tmp_path: Path) -> None:
    """A tool without its driver is no GPU."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    assert this_machine().gpus == 0


def test_it_is_cheap() -> None:
    """Looking at the machine loads neither torch nor Ray."""
    script = "from nsfwscan.execution.machine import this_machine; this_machine(); import sys; print({'ray', 'torch'} & {*sys.modules})"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"
