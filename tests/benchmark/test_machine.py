"""The machine is named."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.benchmark.machine import busy, cores_here, cpu_flags, describe_machine, in_words


def test_flags_are_those_that_matter(tmp_path: Path) -> None:
    """Only flags that decide how fast matrices are multiplied, whole words, in a fixed order."""
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : X\nflags : fpu avx512_bf16 avx2 amx_bf16x\n")
    assert cpu_flags(cpuinfo) == ["avx2", "avx512_bf16"]
    assert cpu_flags(tmp_path / "absent") == []


def test_this_machine_has_a_name() -> None:
    """Cores, memory, versions and the date of this machine, in JSON and in words."""
    machine = describe_machine()
    assert machine["cores"] == cores_here() == len(os.sched_getaffinity(0))
    assert machine["memory_bytes"] > 2**28
    assert {"ray", "torch", "transformers", "pillow"} <= set(machine["versions"])
    assert f"{machine['cores']} cores of" in in_words(machine)


def test_a_busy_machine_is_said_to_be_busy() -> None:
    """Figures that were taken beside other work say so; an idle machine has no warning."""
    assert busy({"busy_before": 0.05}) == ""
    assert "85% of its cores" in busy({"busy_before": 0.85})
