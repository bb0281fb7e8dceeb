"""The pipeline's stages on Ray Data: actor pools, resources, one block a shard. The only importer of ray.

In: a `Job` and shards. Out: a `ShardResult` for each, as they finish, in any order. An exception of ours in a worker
comes back as itself. Ray retries lost workers and nodes; everything else stops the run (`max_errored_blocks` stays 0,
since anything else would also swallow a full disk or a broken GPU).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa
import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext

from nsfwscan.config import EngineConfig
from nsfwscan.errors import SetupError
from nsfwscan.pipeline import CpuChain, Job, ModelChain, Stager
from nsfwscan.report.staging import ShardResult
from nsfwscan.sources.plan import Shard

_ACTOR_CPUS = 0.9
"""Of one core: an actor each, with a rest for Ray's own tasks (actors that hold every CPU can hang a job)."""
_SIDE_CPUS = 0.1
"""Of what mostly waits: a GPU, or the store."""
_KNOCK_S = 10.0
_LOCAL_OBJECT_STORE_BYTES = 512 * 2**20


@dataclass(frozen=True)
class Layout:
    """Which actors run, and how many."""

    kind: Literal["fused", "split"]
    """`fused`: the whole pipeline in each CPU actor. `split`: CPU actors feed model actors."""
    cpu_actors: int
    model_actors: int = 0
    gpus_per_model_actor: float = 1.0


def choose_layout(resources: dict[str, float], shards: int, backend: str = "torch") -> Layout:
    """Sizes for a cluster: model actors on its GPUs where it has some, one actor a core where not.

    Args:
        resources: what `ray.cluster_resources()` says.
        shards: how many there are to run; more actors would idle.
        backend: of the model; the embedded ONNX model is so light that cores serve it better than a GPU's queue.
    """
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if gpus and backend == "torch":
        return Layout("split", max(1, min(cpus - gpus - 1, shards)), min(gpus, shards))
    return Layout("fused", max(1, min(cpus, shards)))


class _Actor:
    """What all actors share: they build their part with the first block, since Ray reports an error in a constructor
    only as text, and one in a call as itself."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @cached_property
    def _read(self) -> CpuChain:
        return CpuChain(self._job)

    @cached_property
    def _stage(self) -> Stager:
        return Stager(self._job)


class _Fused(_Actor):
    """The whole pipeline in one actor, one thread."""

    @cached_property
    def _score(self) -> ModelChain:
        return ModelChain(self._job, threads=1)

    def __call__(self, block: pa.Table) -> pa.Table:
        (shard,) = _shards(block)
        return _result(self._stage(shard, self._score(self._read(shard))))


class _Cpu(_Actor):
    """The CPU chain; the shard's name travels beside its rows."""

    def __call__(self, block: pa.Table) -> pa.Table:
        (shard,) = _shards(block)
        return _with_shard(self._read(shard), shard)


class _Model(_Actor):
    """The model chain, on whatever device the worker has."""

    @cached_property
    def _score(self) -> ModelChain:
        return ModelChain(self._job, threads=max(1, (os.cpu_count() or 1) // 2))

    def __call__(self, block: pa.Table) -> pa.Table:
        shard, rows = _without_shard(block)
        return _with_shard(self._score(rows), shard)


class _Stage(_Actor):
    """Writes parts; beside the model, so that a GPU does not wait for the store."""

    def __call__(self, block: pa.Table) -> pa.Table:
        return _result(self._stage(*_without_shard(block)))


_SHARD_COLUMNS = ["shard_file", "shard_group", "shard_rows"]


def _shards(block: pa.Table) -> list[Shard]:
    return [Shard(**row) for row in block.to_pylist()]


def _with_shard(rows: pa.Table, shard: Shard) -> pa.Table:
    for name, value in zip(_SHARD_COLUMNS, (shard.file, shard.group, shard.rows), strict=True):
        rows = rows.append_column(name, pa.array([value] * rows.num_rows, pa.int32()))
    return rows


def _without_shard(block: pa.Table) -> tuple[Shard, pa.Table]:
    first = block.select(_SHARD_COLUMNS).slice(0, 1).to_pylist()[0]
    return Shard(*(first[name] for name in _SHARD_COLUMNS)), block.drop_columns(_SHARD_COLUMNS)


def _result(result: ShardResult) -> pa.Table:
    return pa.Table.from_pylist([asdict(result)])


def check_reachable(config: EngineConfig) -> None:
    """Knocks at the cluster's address, if there is one: Ray itself would try for ten minutes.

    Raises:
        SetupError: nobody answers there.
    """
    address = config.address or os.environ.get("RAY_ADDRESS") or ""
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():  # `auto`, `local`, or no address at all
        return
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise SetupError(f"cannot reach Ray at {address}: {error}; is the head up, and is this its address?") from None


@contextmanager
def ray_session(config: EngineConfig, *, verbose: bool) -> Iterator[None]:
    """A connection to the cluster of the address or the environment, or a local Ray that ends with it.

    Raises:
        SetupError: the cluster cannot be reached.
    """
    check_reachable(config)
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": verbose, "logging_level": logging.INFO if verbose else logging.ERROR}
    address = config.address or os.environ.get("RAY_ADDRESS")
    if not address:
        options |= {
            "num_cpus": config.num_cpus,
            "include_dashboard": False,
            "object_store_memory": _LOCAL_OBJECT_STORE_BYTES,
        }
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SetupError(f"cannot reach Ray at {address or 'a local address'}: {str(error).splitlines()[0]}") from error
    try:
        yield
    finally:
        ray.shutdown()


def run_shards(
    job: Job, shards: Sequence[Shard], *, verbose: bool = False, layout: Layout | None = None
) -> Iterator[ShardResult]:
    """Runs shards on Ray, in the order given as far as workers are free.

    Args:
        layout: actors and their sizes; unset: chosen from what the cluster has.

    Raises:
        SetupError: whatever stops a worker, as the worker raised it.
    """
    with ray_session(job.config.engine, verbose=verbose):
        _set_context(verbose)
        layout = layout or choose_layout(_resources(), len(shards), job.spec.backend)
        names = ray.data.from_items([asdict(shard) for shard in shards], override_num_blocks=len(shards))
        try:
            blocks: Iterator[Any] = iter(
                _on_ray(names, job, layout).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
            )
            for block in blocks:
                yield from (ShardResult(**row) for row in block.to_pylist())
        except ray.exceptions.RayError as error:
            raise _own_error(error) from error


def _on_ray(names: ray.data.Dataset, job: Job, layout: Layout) -> ray.data.Dataset:
    blockwise: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow", "fn_constructor_args": (job,)}
    cpu_pool: dict[str, Any] = {
        "compute": ActorPoolStrategy(size=layout.cpu_actors),
        "num_cpus": _ACTOR_CPUS,
        **blockwise,
    }
    if layout.kind == "fused":
        return names.map_batches(_Fused, **cpu_pool)
    model_pool = ActorPoolStrategy(size=layout.model_actors)
    pixels = names.map_batches(_Cpu, **cpu_pool)
    scored = pixels.map_batches(
        _Model, compute=model_pool, num_cpus=_SIDE_CPUS, num_gpus=layout.gpus_per_model_actor, **blockwise
    )
    return scored.map_batches(_Stage, compute=ActorPoolStrategy(size=1), num_cpus=_SIDE_CPUS, **blockwise)


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _set_context(verbose: bool) -> None:
    context = DataContext.get_current()
    context.raise_original_map_exception = True  # ours, instead of Ray's wrapper around its text
    context.enable_progress_bars = verbose
    context.enable_operator_progress_bars = verbose
    context.print_on_execution_start = verbose
    if not verbose:
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)


def _own_error(error: BaseException) -> Exception:
    """The exception that a worker raised, freed of what Ray wraps around it; in words where it was Ray's own."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SetupError):
            return seen
        seen = getattr(seen, "cause", None) or seen.__cause__
    cause = getattr(error, "cause", None) or error
    return SetupError(
        f"a worker failed: {type(cause).__name__}: {str(cause).strip().splitlines()[-1]} (--verbose shows all)"
    )


def describe_cluster(config: EngineConfig, backend: str) -> str:
    """What a scan would run on, in words. Raises SetupError where it cannot be reached."""
    with ray_session(config, verbose=False):
        resources = _resources()
        layout = choose_layout(resources, 1_000_000, backend)
        where = config.address or os.environ.get("RAY_ADDRESS") or "a local Ray"
        nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
        sizes = f"{nodes} nodes, {resources.get('CPU', 0):g} CPUs, {resources.get('GPU', 0):g} GPUs"
        models = f", {layout.model_actors} model actors" if layout.kind == "split" else ", the model in each"
        return f"{where}: {sizes}; would use {layout.cpu_actors} CPU actors{models}"
