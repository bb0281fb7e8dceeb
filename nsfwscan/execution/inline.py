"""Run the whole pipeline in this process, without Ray, in as many threads as there are work, cores and memory for.

A thread does what an actor of Ray does: it has a decode child and a model of its own, and takes one shard after the
other. Reading, digests and models leave Python's lock alone, so threads use the cores nearly as well as processes do,
and nothing is imported twice. The caller's own thread only waits, so that a deadline and a signal find it free.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from queue import Empty, SimpleQueue

from nsfwscan.banks.matcher import BankSet
from nsfwscan.execution.deadline import NEVER, Deadline
from nsfwscan.execution.layout import Layout, inline_layout
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import Job, WholeChain, needs_of
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult
from nsfwscan.storage.threads import Call, Threads

_LEAVE_S = 10.0
"""A read from a store that does not answer takes minutes to end: nobody waits longer for it than this."""
_LOOK_S = 1.0

_Ended = SimpleQueue[Call[ShardResult]]


def run_inline(
    job: Job, shards: Iterable[Shard], deadline: Deadline = NEVER, layout: Layout | None = None
) -> Iterator[ShardResult]:
    """Run shards in this process, and yield their results as they end. Where this ends early, threads end with the file
    or the batch in hand.

    Args:
        layout: number of threads, and of those of each model; unset: chosen for this machine.

    Raises:
        DeadlineReached: the deadline has come; shards in hand are given up.
        NsfwscanError: a shard cannot be read, scored or staged.
    """
    shards = list(shards)
    layout = layout or _layout(job, shards)
    deadline.check()
    chains, ended = _Chains(job, layout), _Ended()
    threads = Threads(layout.cpu_actors, "shard")
    calls = [threads.submit(partial(_run, chains, shard, ended)) for shard in shards]
    try:
        for _ in calls:
            yield _next(ended, deadline).result()
    finally:
        chains.give_up()
        for call in calls:
            call.cancel()
        threads.close(_LEAVE_S)


def _layout(job: Job, shards: Sequence[Shard]) -> Layout:
    needs, rows = needs_of(job.config, job.spec, job.auxiliary_models), sum(shard.rows for shard in shards)
    return inline_layout(this_machine(job.config.engine.num_cpus), len(shards), rows, needs)


def _run(chains: _Chains, shard: Shard, ended: _Ended, call: Call[ShardResult]) -> ShardResult:
    try:
        return chains.run(shard)
    finally:
        ended.put(call)


def _next(ended: _Ended, deadline: Deadline) -> Call[ShardResult]:
    """Return the next call that has ended; check the deadline before, and while none does."""
    while True:
        deadline.check()
        try:
            return ended.get(timeout=_LOOK_S)
        except Empty:
            continue


class _GivenUp(Exception):
    """Nobody waits for the shard any more."""


class _Chains:
    """A chain for each thread, which builds it with its first shard."""

    def __init__(self, job: Job, layout: Layout) -> None:
        self._job, self._layout = job, layout
        self._search = BankSet(job.banks, job.config.storage).search if layout.cpu_actors > 1 else None
        self._is_given_up = threading.Event()
        self._own = threading.local()

    def run(self, shard: Shard) -> ShardResult:
        """Run a shard in this thread."""
        self._moved()
        if not hasattr(self._own, "chain"):
            self._own.chain = self._built()
        found: ShardResult = self._own.chain(shard)
        return found

    def give_up(self) -> None:
        """Let the threads end soon."""
        self._is_given_up.set()

    def _built(self) -> WholeChain:
        actors, threads = self._layout.cpu_actors, self._layout.threads
        return WholeChain(self._job, actors=actors, threads=threads, search=self._search, moved=self._moved)

    def _moved(self) -> None:
        if self._is_given_up.is_set():
            raise _GivenUp
