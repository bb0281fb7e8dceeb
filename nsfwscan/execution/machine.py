"""Measure this machine without Ray and without torch: CPUs and free memory within the container's limits, and GPUs.

The figures come from the operating system's files and from `nvidia-smi`, and form a `Node` as Ray would describe it. A
figure that cannot be read stays unknown; nothing is raised.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from nsfwscan.execution.layout import Node

_CGROUP = Path("/sys/fs/cgroup")
_PROC = Path("/proc")
_ASK_S = 20.0
_GPU_NAME = re.compile(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)")
"""Finds the model in NVIDIA's name of a GPU, as Ray 2.60 does: `NVIDIA A100-SXM4-40GB` is an `A100`."""


def this_machine(num_cpus: int | None = None) -> Node:
    """Return the CPUs, GPUs and free memory of this machine, or of the container that this process is in; `num_cpus` is
    what a local Ray gets, unset: all that this process may use."""
    gpus = _gpus()
    memory = _free_memory(_PROC, _CGROUP)
    kind = gpu_kind(gpus[0]) if gpus else None
    return Node(num_cpus or usable_cpus(), float(len(gpus)), kind, memory, cpu=_cpu_name(_PROC))


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """Return the number of CPUs that this process may run on, or the container's quota, rounded down, if that is less.
    Ray counts in the same way, but ignores the affinity."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return affinity if quota is None else max(1, min(affinity, int(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """Return the container's CPU quota in CPUs; None if there is none. Tries control groups version 2, then 1."""
    words = (_text(cgroup / "cpu.max") or "").split()
    if not words:
        words = [_text(cgroup / f"cpu/cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
    if not all(word.isdigit() and int(word) for word in words):  # `max`, or -1
        return None
    return int(words[0]) / int(words[1])


def _free_memory(proc: Path, cgroup: Path) -> int | None:
    """Return the bytes that new processes may take: the machine's, or the container's if that is less."""
    found = re.search(r"MemAvailable:\s+(\d+) kB", _text(proc / "meminfo") or "")
    free = [int(found[1]) * 1024] if found else []
    for folder, limit, used, idle in (
        (cgroup, "memory.max", "memory.current", "inactive_file"),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, taken = _text(folder / limit) or "", _text(folder / used) or ""
        if most.isdigit() and taken.isdigit():
            cached = re.search(rf"^{idle} (\d+)$", _text(folder / "memory.stat") or "", re.MULTILINE)
            free.append(max(0, int(most) - int(taken) + int(cached[1] if cached else 0)))
    return min(free, default=None)


def _gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "NoDevFiles", "-1") or shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        shown = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=_ASK_S).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    names = [line.strip() for line in shown.splitlines() if line.strip()]
    return names if visible is None else names[: len(visible.split(","))]


def gpu_kind(name: str) -> str:
    """Return a GPU's model as Ray names it, e.g. `H100` for `NVIDIA H100 80GB HBM3`."""
    found = _GPU_NAME.match(name)
    if found and len(found[1]) > 1:
        return found[1].replace(" ", "-")
    return name.removeprefix("NVIDIA ").strip().replace(" ", "-")


def _cpu_name(proc: Path) -> str | None:
    """Return the processor's name with its family and model numbers, since a hypervisor's name alone says nothing."""
    text = _text(proc / "cpuinfo") or ""
    found = dict(reversed(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, re.MULTILINE)))
    if "model name" not in found:
        return platform.processor() or platform.machine() or None
    numbers = [f"{key} {found[key]}" for key in ("cpu family", "model") if key in found]
    return f"{found['model name']} ({', '.join(numbers)})" if numbers else found["model name"]


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
