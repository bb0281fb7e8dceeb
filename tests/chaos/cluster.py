"""A Ray of two nodes on this machine that outlives its drivers, and loses its second node when it is told to.

In: how many CPUs and GPUs each node says it has, and what its workers find in their environment. Out: `TwoNodes`: an
address, the processes, their deaths. Goes wrong: a Ray that does not come up is a `RuntimeError` with the end of its
output.

The nodes are children of a process of their own (`python -m tests.chaos.cluster`), to which their orphans fall too: so
nothing that anyone started there is lost sight of, and nothing is left when it ends, as it does with this process.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

_PR_SET_CHILD_SUBREAPER = 36
_FRUGAL: dict[str, Any] = {
    "object_store_memory": 100 * 2**20,
    "include_dashboard": False,
    "include_log_monitor": False,
    "no_monitor": True,
}

Resources = Mapping[str, int]
"""`num_cpus` and `num_gpus`."""


def descendants(root: int) -> dict[int, str]:
    """Return the living processes below one, and their command lines."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(folder.name)] = int(parent)
    found, last = set[int](), {root}
    while last:
        last = {pid for pid, parent in parents.items() if parent in last} - found
        found |= last
    lines: dict[int, str] = {}
    for pid in found:
        with suppress(OSError):
            lines[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return lines


class TwoNodes:
    """Cluster, seen from outside. It takes its time to start: `ready` waits for it.

    Attributes:
        environment: that of its workers; a driver needs it to talk to them.
    """

    def __init__(self, head: Resources, second: Resources, environment: Mapping[str, str]) -> None:
        self._second = second
        self._folder = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: Ray's sockets lie below it
        self.environment = {
            **environment,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_TMPDIR": str(self._folder),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        with (self._folder / "out.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
                | self.environment
                # A dead node is missed after 3 s instead of 30.
                | {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._raylet = 0
        self._ask(head)
        self._ask(second)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        for pid in descendants(self._process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ready(self) -> str:
        """Return the address of the head, once both nodes are there."""
        address: str = self._answer()["address"]
        self._raylet = self._answer()["raylet"]
        return address

    def processes(self, word: str) -> list[int]:
        """Those with a word in their command line, the oldest first."""
        return sorted(pid for pid, line in descendants(self._process.pid).items() if word in line)

    def lose_second(self) -> int:
        """Kill the second node's raylet, and so the node. Return the pid."""
        os.kill(self._raylet, signal.SIGKILL)
        return self._raylet

    def add_second(self) -> None:
        """Another node in the place of the one that was lost."""
        self._ask(self._second)
        self._raylet = self._answer()["raylet"]

    def _ask(self, node: Resources) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the answer will tell
            print(json.dumps(node), file=self._process.stdin, flush=True)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"Ray did not start:\n{(self._folder / 'out.log').read_text()[-4000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Add a node for each line of standard input, in the place of those that died, until it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what Ray prints must not come between
    from ray.cluster_utils import Cluster

    cluster = Cluster(shutdown_at_exit=False)
    try:
        for line in sys.stdin:
            for dead in [node for node in cluster.worker_nodes if node.dead_processes()]:
                cluster.remove_node(dead, allow_graceful=False)
            node = cluster.add_node(**_FRUGAL, **json.loads(line))
            [raylet] = node.all_processes["raylet"]
            print(json.dumps({"address": cluster.address, "raylet": raylet.process.pid}), file=answers, flush=True)
    finally:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
