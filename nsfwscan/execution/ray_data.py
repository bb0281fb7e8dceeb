"""Run the pipeline's stages on Ray Data: actor pools, resources, one block per shard.

In this package, only this module and `ray_session.py`, which starts or joins Ray, import ray.

Results come as shards finish, in any order. An `NsfwscanError` in a worker comes back as itself. Ray retries lost
workers and nodes; every other error stops the run (`max_errored_blocks` stays 0, since any other value would also
swallow a full disk or a broken GPU). Ray's retries have no limit, so a watchdog stops a run that no longer moves, or in
which a shard kills every worker that takes it, and names the shards.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, astuple, fields
from functools import cached_property, partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nsfwscan.banks.matcher import BankSet
from nsfwscan.banks.pdq_index import Found, Hashes, search_on
from nsfwscan.config import EngineConfig
from nsfwscan.errors import NsfwscanError, Stalled, StoreError
from nsfwscan.execution.collecting import collect_rarely
from nsfwscan.execution.deadline import NEVER, Deadline
from nsfwscan.execution.gpu_decoding import refuse_without_gpus
from nsfwscan.execution.layout import (
    BLOCKS_AT_ONCE,
    BLOCKS_WAITING,
    SIDE_CPUS,
    Fleet,
    Layout,
    Needs,
    Node,
    actors_worth,
    choose_layout,
    local_store_bytes,
)
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import CpuChain, Job, ModelChain, Stager, WholeChain, needs_of
from nsfwscan.execution.pulse import Pulse
from nsfwscan.execution.ray_session import few_actors, ray_session
from nsfwscan.execution.second_look import SecondLook
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.staging import ShardResult

if TYPE_CHECKING:
    import ray.data

_LEAVE_S = 10.0
_LOOK_S = 2.0
_TELL_S = 1.0
_START_S = 300.0
"""Extra patience until a worker begins the first shard: nodes start, container images are pulled, libraries load."""
_NAMED_SHARDS = 10
_MOST_RETRIES = 3
"""Of a second look whose actor dies; then the run stops."""


class _Actor:
    """Base of all actors. An actor builds its chain with the first block, since Ray reports an error in a
    constructor only as text, but one in a call as itself."""

    def __init__(self, job: Job, layout: Layout, pulse: Any, indexes: Mapping[str, Any]) -> None:
        collect_rarely()
        search_on(1)
        self._job, self._layout, self._pulse, self._indexes = job, layout, pulse, indexes
        self._worker, self._told_s = f"process {os.getpid()} on {socket.gethostname()}", 0.0

    @cached_property
    def _read(self) -> CpuChain:
        readers = self._layout.cpu_actors + self._layout.closer_actors
        return CpuChain(self._job, readers, self._search if self._indexes else None, self._moved)

    @cached_property
    def _stage(self) -> Stager:
        return Stager(self._job)

    def _search(self, bank: int, hashes: Hashes) -> Found:
        """Ask this node's index; on a node that joined later, ask another node's."""
        here = ray.get_runtime_context().get_node_id()
        index = self._indexes.get(here) or random.choice(list(self._indexes.values()))
        found: Found = ray.get(index.search.remote(bank, hashes))
        return found

    def _begin(self, shard: Shard) -> None:
        self._pulse.begin.remote(shard.name, self._worker)

    def _moved(self) -> None:
        if time.monotonic() - self._told_s > _TELL_S:
            self._told_s = time.monotonic()
            self._pulse.move.remote()

    def _finish(self, shard: Shard, result: ShardResult) -> pa.Table:
        self._pulse.finish.remote(shard.name)
        return pa.Table.from_pylist([asdict(result)])


class _Fused(_Actor):
    """An actor that runs the whole pipeline."""

    @cached_property
    def _chain(self) -> WholeChain:
        search, actors = self._search if self._indexes else None, self._layout.cpu_actors
        return WholeChain(self._job, actors=actors, threads=self._layout.threads, search=search, moved=self._moved)

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, _ = _without_shard(block)
        self._begin(shard)
        return self._finish(shard, self._chain(shard))


class _Cpu(_Actor):
    """An actor that runs the CPU chain. The shard travels on beside its rows, or alone if it is staged already."""

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, _ = _without_shard(block)
        self._begin(shard)
        if self._stage.found(shard):
            return block
        return _with_shard(self._read(shard), shard)


class _Closer(_Actor):
    """An actor that reads and decodes objects for their second looks, so that no GPU waits for it."""

    def again(self, listing: pa.Table) -> pa.Table:
        """Return the rows with pixels."""
        return self._read.again(listing)


class _Model(_Actor):
    """An actor that runs the model chain on the worker's device, one block at a time: while second looks of one are
    decoded elsewhere, it scores another.

    Args:
        closer: handles of `_Closer` actors.
    """

    def __init__(self, job: Job, layout: Layout, pulse: Any, indexes: Mapping[str, Any], closer: Sequence[Any]) -> None:
        super().__init__(job, layout, pulse, indexes)
        self._closer, self._turn = closer, threading.Lock()

    @cached_property
    def _look(self) -> SecondLook:
        return SecondLook(self._job.config.views, self._again)

    @cached_property
    def _score(self) -> ModelChain:
        layout = self._layout
        return ModelChain(self._job, threads=layout.threads, actors=layout.model_actors, moved=self._moved)

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, rows = _without_shard(block)
        self._begin(shard)
        return block if rows is None else _with_shard(self._look(self._scored(rows)), shard)

    def _scored(self, rows: pa.Table) -> pa.Table:
        with self._turn:
            return self._score(rows)

    def _again(self, listing: pa.Table) -> pa.Table:
        """Spread the objects over the actors: each of several videos takes seconds."""
        first = random.randrange(len(self._closer))
        turns = [self._closer[(first + row) % len(self._closer)] for row in range(listing.num_rows)]
        asked = [actor.again.remote(listing.slice(row, 1)) for row, actor in enumerate(turns)]
        try:
            return self._scored(pa.concat_tables(ray.get(asked)))
        except ray.exceptions.RayError as error:
            raise _own_error(error) from error


class _Stage(_Actor):
    """An actor that writes parts, apart from the model, so that a GPU does not wait for the store."""

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, rows = _without_shard(block)
        result = self._stage.found(shard) if rows is None else self._stage(shard, rows)
        if result is None:
            raise StoreError(f"the staged part of shard {shard.name} vanished from {self._job.run.staging.uri}")
        return self._finish(shard, result)


class _NodeIndex:
    """An actor that holds the indexes of large banks, one per node: a worker has no room for its own."""

    def __init__(self, job: Job, threads: int) -> None:
        self._banks = BankSet(job.banks, job.config.storage)
        self._threads = threads

    def search(self, bank: int, hashes: Hashes) -> Found:
        search_on(self._threads)
        return self._banks.search(bank, hashes)


_SHARD_COLUMNS = [f"shard_{field.name}" for field in fields(Shard)]


def _with_shard(rows: pa.Table, shard: Shard) -> pa.Table:
    """Return one row that holds the shard's rows as a list, without a copy: Ray cuts large blocks and gathers small
    ones, but leaves a row whole."""
    whole = rows.to_struct_array().combine_chunks()
    inside = pa.LargeListArray.from_arrays(pa.array([0, len(whole)], pa.int64()), whole)
    named = [pa.array([value]) for value in astuple(shard)]
    return pa.table([*named, inside], [*_SHARD_COLUMNS, "rows"])


def _without_shard(block: pa.Table) -> tuple[Shard, pa.Table | None]:
    """Return the shard, and its rows if the block has them."""
    [named] = block.select(_SHARD_COLUMNS).to_pylist()
    rows = pa.Table.from_struct_array(block["rows"].chunk(0).flatten()) if "rows" in block.column_names else None
    return Shard(*named.values()), rows


def run_shards(
    job: Job,
    shards: Sequence[Shard],
    deadline: Deadline = NEVER,
    *,
    verbose: bool = False,
    layout: Layout | None = None,
    began: Callable[[Fleet], None] = lambda fleet: None,
) -> Iterator[ShardResult]:
    """Run shards on Ray, in the given order as far as workers are free.

    Args:
        layout: actors and their sizes; unset: chosen from the cluster's nodes.
        began: called with the machines and their layout before the first shard.

    Raises:
        DeadlineReached: the deadline has come; this does not wait for the workers.
        Stalled: no worker moves any more, or a shard kills every worker that takes it.
        NsfwscanError: a worker failed; its own NsfwscanError is raised unchanged.
    """
    needs = needs_of(job.config, job.spec, job.auxiliary_models)
    with _session(job.config.engine, needs, verbose=verbose):
        _set_context(verbose)
        nodes = _nodes()
        rows, alone = sum(shard.rows for shard in shards), not job.config.engine.cluster and len(nodes) == 1
        layout = layout or choose_layout(nodes, actors_worth(len(shards), rows) if alone else len(shards), needs)
        fleet = Fleet(nodes, layout)
        refuse_without_gpus(job.config, fleet)
        began(fleet)
        pulse: Any = ray.remote(num_cpus=0, max_restarts=-1)(Pulse).remote()
        named = [dict(zip(_SHARD_COLUMNS, astuple(shard), strict=True)) for shard in shards]
        names = ray.data.from_items(named, override_num_blocks=len(named))
        indexes = _indexes(job)
        closer = _closer(job, layout, pulse, indexes)
        dataset = _on_ray(names, job, layout, pulse, indexes, closer)
        blocks: Iterator[Any] = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
        watchdog = _Watchdog(pulse, job.config.engine, {shard.name: shard for shard in shards})
        try:
            with few_actors(pulse) if alone else nullcontext():
                for block in _watched(blocks, watchdog, deadline):
                    yield from (ShardResult(**row) for row in block.to_pylist())
        except ray.exceptions.RayError as error:
            raise _own_error(error) from error
        finally:
            for actor in (pulse, *indexes.values(), *closer):
                ray.kill(actor)


def _watched(blocks: Iterator[Any], watchdog: _Watchdog, deadline: Deadline) -> Iterator[Any]:
    """Yield the blocks as they come; check deadline and watchdog between them, and while none comes."""
    came: queue.Queue[Any] = queue.Queue(maxsize=1)
    execution = _Execution()
    # Waiting for Ray cannot be interrupted, so a daemon thread waits.
    waiting = threading.Thread(target=_hand_over, args=(blocks, came, execution), daemon=True, name="blocks")
    waiting.start()
    try:
        while True:
            deadline.check()
            watchdog.look()
            try:
                block = came.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if isinstance(block, BaseException):
                raise block
            if block is None:
                waiting.join()
                return
            yield block
    except BaseException:  # the caller takes no more blocks
        execution.give_up()
        waiting.join(_LEAVE_S)  # Ray Data must end before Ray is shut down, or it starts another Ray
        raise


def _hand_over(blocks: Iterator[Any], to: queue.Queue[Any], execution: _Execution) -> None:
    def put(item: Any) -> None:
        while not execution.given_up:
            try:
                to.put(item, timeout=_LOOK_S)
                return
            except queue.Full:
                continue

    _EXECUTION.set(execution)
    try:
        for block in blocks:
            put(block)
            if execution.given_up:
                return
        put(None)
    except BaseException as error:  # noqa: BLE001  # `_watched` raises it
        put(error)


class _Execution:
    """An execution of Ray Data that can be given up while it runs."""

    def __init__(self) -> None:
        self.given_up = False
        self._executor: Any = None
        self._lock = threading.Lock()

    def begin(self, executor: Any) -> None:
        """Register the executor. Raise RuntimeError if the execution was given up before it began.

        However the execution ends, its actors are killed. Ray Data would only release them: they would finish their
        task, or hang, and those of a failed execution would keep their CPUs as long as its traceback is kept.
        """
        with self._lock:
            if self.given_up:
                raise RuntimeError("given up")
            executor.shutdown = partial(_shut_down_by_force, executor.shutdown)
            self._executor = executor

    def give_up(self) -> None:
        """Stop the execution at once."""
        with self._lock:
            self.given_up = True
            executor = self._executor
        if executor is not None:
            executor.shutdown()


def _shut_down_by_force(shut_down: Callable[..., None], force: bool = True, exception: Exception | None = None) -> None:
    shut_down(force=True, exception=exception)


_EXECUTION: ContextVar[_Execution] = ContextVar("execution")
"""Execution whose blocks this thread asks for."""


class _Begins:
    """A callback that registers the executor. Ray Data makes one per execution, in the thread that asks for blocks."""

    def __init__(self) -> None:
        self._execution = _EXECUTION.get(_Execution())

    def before_execution_starts(self, executor: object) -> None:
        """Register the executor."""
        self._execution.begin(executor)

    def on_execution_step(self, executor: object) -> None:
        """Do nothing."""

    def after_execution_succeeds(self, executor: object) -> None:
        """Do nothing."""

    def after_execution_fails(self, executor: object, error: Exception) -> None:
        """Do nothing."""


class _Watchdog:
    """Stops a run that no longer moves: Ray restarts dead workers and their tasks without limit."""

    def __init__(self, pulse: Any, config: EngineConfig, shards: Mapping[str, Shard]) -> None:
        self._pulse, self._config, self._shards = pulse, config, shards
        self._asked = pulse.look.remote()

    def look(self) -> None:
        """Raise Stalled with the shards in hand if the run no longer moves; do not wait for the progress actor."""
        answered, _ = ray.wait([self._asked], timeout=0)
        if not answered:
            return
        try:
            still_s, is_under_way, begun, workers = ray.get(self._asked)
        except ray.exceptions.RayError:  # the actor restarts, or Ray is in trouble that the blocks will report
            return
        finally:
            self._asked = self._pulse.look.remote()
        deadly = [name for name, times in begun.items() if times > self._config.max_attempts]
        if deadly:
            raise Stalled(
                f"{len(deadly)} shards were begun {self._config.max_attempts} times and never finished: something in "
                f"them kills its worker.{self._name(deadly, workers)}"
            )
        if still_s > self._config.stall_timeout_s + (0 if is_under_way else _START_S):
            raise Stalled(
                f"no worker has moved for {still_s:,.0f} s (engine.stall_timeout_s); in hand:"
                f"{self._name(list(begun), workers) or ' nothing'}"
            )

    def _name(self, names: list[str], workers: Mapping[str, str]) -> str:
        lines = [
            f"\n  shard {name}: row group {self._shards[name].group} of {self._shards[name].listing}, last with "
            f"{workers[name]}"
            for name in names[:_NAMED_SHARDS]
        ]
        return "".join(lines) + ("\n  …" if len(names) > _NAMED_SHARDS else "")


def _indexes(job: Job) -> dict[str, Any]:
    """Start an actor with the indexes of large banks on each node, and return them by node; none without such banks."""
    if not any(bank.is_large for bank in job.banks):
        return {}
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_NodeIndex)
    found: dict[str, Any] = {}
    for node in _alive():
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        found[node["NodeID"]] = actor.options(scheduling_strategy=here).remote(
            job, int(node["Resources"].get("CPU", 1))
        )
    return found


def _closer(job: Job, layout: Layout, pulse: Any, indexes: Mapping[str, Any]) -> list[Any]:
    """Start the actors that decode second looks on the nodes by turns; none where CPU actors have the model, or nothing
    is looked at again. They share the CPU actors' cores, and are idle most of the time."""
    if not job.config.views.looks_again:
        return []
    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=_MOST_RETRIES)(_Closer)
    spread = actor.options(scheduling_strategy="SPREAD")
    return [spread.remote(job, layout, pulse, indexes) for _ in range(layout.closer_actors)]


def _on_ray(
    names: ray.data.Dataset,
    job: Job,
    layout: Layout,
    pulse: Any,
    indexes: Mapping[str, Any],
    closer: Sequence[Any],
) -> ray.data.Dataset:
    from ray.data import ActorPoolStrategy

    common = job, layout, pulse, indexes
    blockwise: dict[str, Any] = {
        "batch_size": 1,  # a block is one row; with GPUs, Ray refuses to pass whole blocks
        "batch_format": "pyarrow",
        "fn_constructor_args": common,
    }
    cpu_pool: dict[str, Any] = {
        "compute": ActorPoolStrategy(size=layout.cpu_actors),
        "num_cpus": layout.cpus_per_actor,
        **blockwise,
    }
    if layout.kind == "fused":
        return names.map_batches(_Fused, **cpu_pool)
    model_pool: dict[str, Any] = {
        "compute": ActorPoolStrategy(
            size=layout.model_actors,
            max_concurrent_calls_per_actor=BLOCKS_AT_ONCE,
            max_tasks_in_flight_per_actor=BLOCKS_AT_ONCE + BLOCKS_WAITING,
            enable_true_multi_threading=True,
        ),
        "num_cpus": SIDE_CPUS,
        "num_gpus": layout.gpus_per_model_actor,
        **blockwise,
        "fn_constructor_args": (*common, closer),
    }
    pixels = names.map_batches(_Cpu, **cpu_pool)
    scored = pixels.map_batches(_Model, **model_pool)
    return scored.map_batches(_Stage, compute=ActorPoolStrategy(size=1), num_cpus=SIDE_CPUS, **blockwise)


def _session(config: EngineConfig, needs: Needs, *, verbose: bool) -> AbstractContextManager[None]:
    """Connect to Ray as configured; a local Ray gets an object store of the size that the scan needs."""
    here = this_machine(config.num_cpus)
    return ray_session(
        config.cluster,
        verbose=verbose,
        num_cpus=int(here.cpus),
        store_bytes=local_store_bytes(here, needs),
        meanwhile=partial(import_module, "ray.data"),
    )


def _alive() -> Iterator[dict[str, Any]]:
    """Yield the cluster's nodes that may run actors, as Ray describes them."""
    for node in ray.nodes():  # type: ignore[no-untyped-call]
        if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU")):
            yield node


def _nodes() -> tuple[Node, ...]:
    """Return the cluster's nodes that may run actors."""
    here, host = this_machine(), socket.gethostname()
    found: list[Node] = []
    for node in _alive():
        has = node["Resources"]
        gpu = next((name.partition(":")[2] for name in has if name.startswith("accelerator_type:")), None)
        cpu = here.cpu if node["NodeManagerHostname"] == host else None
        memory = [int(has[name]) if name in has else None for name in ("memory", "object_store_memory")]
        found.append(Node(has.get("CPU", 0.0), has.get("GPU", 0.0), gpu, memory[0], memory[1], cpu))
    return tuple(found)


def cluster_nodes(config: EngineConfig) -> tuple[Node, ...]:
    """Return the nodes that a scan would run on. Raise NsfwscanError if the cluster cannot be reached."""
    with _session(config, Needs(), verbose=False):
        return _nodes()


def _set_context(verbose: bool) -> None:
    from ray.data import DataContext

    context = DataContext.get_current()
    context.raise_original_map_exception = True  # our exception instead of Ray's wrapper around its text
    callbacks: list[Any] = context.custom_execution_callback_classes
    if _Begins not in callbacks:
        callbacks.append(_Begins)
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    if not verbose:
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _own_error(error: BaseException) -> Exception:
    """Return our exception that a worker raised, without Ray's wrappers; else a NsfwscanError that names the cause."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, NsfwscanError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    cause = getattr(error, "cause", None) or error
    return NsfwscanError(
        f"a worker failed: {type(cause).__name__}: {str(cause).strip().splitlines()[-1]} (--verbose shows all)"
    )


def describe_cluster(config: EngineConfig, needs: Needs) -> str:
    """Return in words what a scan would run on. Raise NsfwscanError if the cluster cannot be reached."""
    nodes = cluster_nodes(config)
    layout = choose_layout(nodes, 1_000_000, needs)
    where = config.cluster or "a local Ray"
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    models = f", {layout.model_actors} model actors" if layout.kind == "split" else ", the model in each"
    sizes = f"{len(nodes)} nodes, {cpus:g} CPUs, {gpus:g} GPUs"
    return f"{where}: {sizes}; would use {layout.cpu_actors} CPU actors{models}"
