"""Sample the memory of a tree of processes while they work, by role: driver, Ray's workers, decode children, Ray.

A process counts with its PSS where the system reports it (shared pages count once in a sum), else with its RSS. If a
process ends between two samples, only the earlier sample counts.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

import psutil

Role = Literal["driver", "worker", "decode", "ray"]
ROLES: tuple[Role, ...] = ("driver", "worker", "decode", "ray")

_EVERY_S = 0.5


@dataclass
class Peaks:
    """Peaks over all samples, in bytes."""

    total: int = 0
    summed: dict[Role, int] = field(default_factory=dict)
    """Peak of the sum over all processes of a role."""
    largest: dict[Role, int] = field(default_factory=dict)
    """Peak of a single process of a role."""
    looks: int = 0

    def see(self, seen: list[tuple[Role, int]]) -> None:
        """Count one sample of all processes."""
        by_role: dict[Role, list[int]] = defaultdict(list)
        for role, size in seen:
            by_role[role].append(size)
        for role, sizes in by_role.items():
            self.summed[role] = max(self.summed.get(role, 0), sum(sizes))
            self.largest[role] = max(self.largest.get(role, 0), *sizes)
        self.total = max(self.total, sum(size for _, size in seen))
        self.looks += 1


@contextmanager
def watched(root: int) -> Iterator[Peaks]:
    """Sample a process and its descendants until the block ends; update the yielded peaks meanwhile."""
    peaks, done = Peaks(), threading.Event()

    def look() -> None:
        while not done.is_set():
            peaks.see(sample(root))
            done.wait(_EVERY_S)

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()


def sample(root: int) -> list[tuple[Role, int]]:
    """Return the current role and bytes of each process of a tree."""
    found: list[tuple[Role, int]] = []
    try:
        process = psutil.Process(root)
        tree = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for one in tree:
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
            found.append((role_of(one.pid == root, one.cmdline()), _bytes_of(one)))
    return found


def role_of(is_root: bool, command: list[str]) -> Role:
    """Return a process's role by its command line; Ray's workers name themselves `ray::…`."""
    if is_root:
        return "driver"
    if "nsfwscan.images.sandbox.worker" in command:
        return "decode"
    return "worker" if command and command[0].startswith("ray::") else "ray"


def _bytes_of(process: psutil.Process) -> int:
    with suppress(AttributeError, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return int(process.memory_info().rss)
