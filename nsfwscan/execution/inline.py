"""Run the whole pipeline in this process, without Ray, in as many threads as there are work, cores and memory for.

A thread does what an actor of Ray does: it has a decode child and a model of its own, and takes one shard after the
other. Reading, digests and models leave Python's lock alone, so threads use the cores nearly as well as processes do,
and nothing is imported twice.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue

from nsfwscan.banks.matcher import BankSet
from nsfwscan.execution.deadline import NEVER, Deadline
from nsfwscan.execution.layout import Layout, inline_layout
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import Job, WholeChain, needs_of
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult


def run_inline(
    job: Job, shards: Iterable[Shard], deadline: Deadline = NEVER, layout: Layout | None = None
) -> Iterator[ShardResult]:
    """Run shards in this process, and yield their results as they end.

    Args:
        layout: number of threads, and of those of each model; unset: chosen for this machine.

    Raises:
        DeadlineReached: the deadline has come before a shard was begun.
        NsfwscanError: a shard cannot be read, scored or staged.
    """
    shards = list(shards)
    layout = layout or _layout(job, shards)
    threads = _Threads(job, layout, deadline)
    return map(threads.run, shards) if layout.cpu_actors == 1 else threads.run_all(shards)


def _layout(job: Job, shards: Sequence[Shard]) -> Layout:
    needs, rows = needs_of(job.config, job.spec, job.auxiliary_models), sum(shard.rows for shard in shards)
    return inline_layout(this_machine(job.config.engine.num_cpus), len(shards), rows, needs)


class _GivenUp(Exception):
    """Nobody waits for the shard any more."""


class _Threads:
    """Threads that run shards, each by a chain of its own, which it builds with its first shard."""

    def __init__(self, job: Job, layout: Layout, deadline: Deadline) -> None:
        self._job, self._layout, self._deadline = job, layout, deadline
        self._search = BankSet(job.banks, job.config.storage).search if layout.cpu_actors > 1 else None
        self._is_given_up = threading.Event()
        self._idle: SimpleQueue[WholeChain | None] = SimpleQueue()
        for _ in range(layout.cpu_actors):
            self._idle.put(None)

    def run(self, shard: Shard) -> ShardResult:
        """Run a shard in this thread."""
        self._moved()
        self._deadline.check()
        chain = self._idle.get()
        try:
            chain = chain or self._chain()
            return chain(shard)
        finally:
            self._idle.put(chain)

    def run_all(self, shards: Sequence[Shard]) -> Iterator[ShardResult]:
        """Run all shards, and yield results as they come. Where this ends early, threads end with the file in hand."""
        with ThreadPoolExecutor(self._layout.cpu_actors, thread_name_prefix="shard") as threads:
            try:
                for done in as_completed([threads.submit(self.run, shard) for shard in shards]):
                    yield done.result()
            finally:
                self._is_given_up.set()
                threads.shutdown(wait=False, cancel_futures=True)

    def _chain(self) -> WholeChain:
        actors, threads = self._layout.cpu_actors, self._layout.threads
        return WholeChain(self._job, actors=actors, threads=threads, search=self._search, moved=self._moved)

    def _moved(self) -> None:
        if self._is_given_up.is_set():
            raise _GivenUp
