"""Know that a scan on Ray still moves.

A module of its own, since the process that holds the actor imports the module of its class: without Ray Data and the
pipeline it is there two seconds sooner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence


class Pulse:
    """Progress actor read by the watchdog; workers report fire-and-forget."""

    def __init__(self) -> None:
        self._moved_at = time.monotonic()
        self._is_under_way = False
        self._begun: dict[str, int] = {}
        self._workers: dict[str, str] = {}
        self._nodes: dict[str, str] = {}

    def begin(self, shard: str, worker: str) -> None:
        """Note that a worker has a shard in hand."""
        self._begun[shard] = self._begun.get(shard, 0) + 1
        self._workers[shard] = worker
        self._is_under_way = True
        self._moved_at = time.monotonic()

    def move(self) -> None:
        """Note that something was done."""
        self._moved_at = time.monotonic()

    def finish(self, shard: str) -> None:
        """Note that a shard is staged."""
        self._begun.pop(shard, None)
        self._workers.pop(shard, None)
        self._moved_at = time.monotonic()

    def look(self) -> tuple[float, bool, dict[str, int], dict[str, str]]:
        """Return the seconds since the last report; whether any shard was begun; how often each unfinished shard was
        begun; and the worker that last began it."""
        return time.monotonic() - self._moved_at, self._is_under_way, self._begun, self._workers

    def update_actor_location(self, worker: str, node: str) -> None:
        """Note the node of one of Ray Data's workers, in place of an actor of Ray Data's own."""
        self._nodes[worker] = node

    def get_actor_locations(self, workers: Sequence[str]) -> dict[str, str | None]:
        """Return the nodes of these workers."""
        return {worker: self._nodes.get(worker) for worker in workers}
