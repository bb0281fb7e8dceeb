"""Where a scan's shards run: in this process where that is sooner, on Ray everywhere else.

In: a job and shards. Out: a `ShardResult` for each. Starting Ray takes longer than scanning a few images, so those are
scanned here, by the same stages; with a cluster's address, everything runs there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nsfwscan.config import EngineConfig
from nsfwscan.execution.deadline import NEVER, Deadline
from nsfwscan.execution.layout import Fleet, Layout
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import Job, run_inline
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult


def choose_executor(
    job: Job,
    shards: Sequence[Shard],
    deadline: Deadline = NEVER,
    *,
    verbose: bool = False,
    began: Callable[[Fleet], None] = lambda fleet: None,
) -> Iterator[ShardResult]:
    """Runs shards here or on Ray; arguments and errors are those of `engine.run_shards`."""
    if is_inline(job.config.engine, sum(shard.rows for shard in shards)):
        here = this_machine(job.config.engine.num_cpus)
        began(Fleet((here,), Layout("inline", 1, threads=int(here.cpus))))
        return run_inline(job, shards, deadline)
    from nsfwscan.execution.ray_data import run_shards

    return run_shards(job, shards, deadline, verbose=verbose, began=began)


def is_inline(config: EngineConfig, rows: int) -> bool:
    """Whether that many objects are scanned in this process."""
    return config.cluster is None and rows <= config.inline_rows
