"""Choose where a scan's shards run: few objects in this process, more on Ray, by the same stages.

Starting Ray takes longer than scanning a few images. With a cluster's address, everything runs on the cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from nsfwscan.config import EngineConfig
from nsfwscan.execution.deadline import NEVER, Deadline
from nsfwscan.execution.inline import run_inline
from nsfwscan.execution.layout import Fleet, inline_layout
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import Job, needs_of
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
    """Run shards in this process or on Ray; arguments and errors are those of `ray_data.run_shards`."""
    rows = sum(shard.rows for shard in shards)
    if is_inline(job.config.engine, rows):
        here = this_machine(job.config.engine.num_cpus)
        needs = needs_of(job.config, job.spec, job.auxiliary_models)
        layout = inline_layout(here, len(shards), rows, needs)
        began(Fleet((here,), layout))
        return run_inline(job, shards, deadline, layout)
    from nsfwscan.execution.ray_data import run_shards

    return run_shards(job, shards, deadline, verbose=verbose, began=began)


def is_inline(config: EngineConfig, rows: int) -> bool:
    """Return whether this process scans that many objects itself."""
    return config.cluster is None and rows <= config.inline_rows
