"""The page to read first: the stages that an object goes through, in order.

    list ─► plan ─► [ read ► digest ► decode ] ─► [ classify ] ─► finish ─► stage ─► commit
                      on CPU actors                on GPU actors; fused with the CPU chain where there is no GPU

In: a `Job` (everything that decides a row) and a shard. Out: the shard's part in staging. The same lists run on Ray
(`engine.py`) and inline (`run_inline`), without Ray.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import ScanConfig, digest_of
from nsfwscan.deadline import NEVER, Deadline
from nsfwscan.layout import Needs
from nsfwscan.machine import usable_cpus
from nsfwscan.models.registry import weights_bytes
from nsfwscan.models.spec import ModelSpec
from nsfwscan.pacing import UNPACED, Pace
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy
from nsfwscan.report.runs import Run
from nsfwscan.report.staging import ShardResult, describe_part, read_part, stage_part
from nsfwscan.schema import STAGED_SCHEMA, Accounted, as_schema
from nsfwscan.sources.plan import Shard, ShardReader
from nsfwscan.stages.base import Stage, fresh, run, run_overlapped
from nsfwscan.stages.classify import Classify
from nsfwscan.stages.decode import Decode
from nsfwscan.stages.fingerprint import Digest
from nsfwscan.stages.read import Read

_CHUNK_BYTES = 32 * 2**20
PIXELS_VERSION = 1
"""Raised whenever the same file gives other pixels than before: scores made of the old ones are stale."""


@dataclass(frozen=True)
class Job:
    """What every worker must know to turn a shard into rows."""

    config: ScanConfig
    spec: ModelSpec
    policy: Policy
    run: Run


def cpu_stages(config: ScanConfig, spec: ModelSpec, pace: Pace = UNPACED) -> list[Stage]:
    """From a listing to pixels; exact identities before any decoding."""
    return [
        Read(config.read, config.storage, pace),
        Digest(),
        Decode(config.decode, spec.geometry),
    ]


def model_stages(config: ScanConfig, spec: ModelSpec, *, threads: int) -> list[Stage]:
    """From pixels to scores."""
    return [
        Classify(spec, config.model, config.storage, threads=threads),
    ]


def fingerprints(config: ScanConfig, spec: ModelSpec) -> dict[str, str]:
    """What stands behind a row, for the nights to come: `scoring` (model, labels, preprocessing, precision) behind a
    score, `decoding` behind what could not be decoded. A row made with others is stale."""
    scoring = {
        "weights": spec.digest,
        "categories": [str(c) for c in spec.categories],
        "geometry": asdict(spec.geometry),
        "normalisation": asdict(spec.normalisation),
        "dtype": config.model.dtype,
        "pixels": [PIXELS_VERSION, "fast" if config.decode.reduces else "exact"],
    }
    return {"scoring": digest_of(scoring), "decoding": digest_of([PIXELS_VERSION, config.decode.plugins])}


def needs_of(config: ScanConfig, spec: ModelSpec) -> Needs:
    """What the model and its shards take, for the choice of actors."""
    return Needs(spec.backend, weights_bytes(spec, config.storage), config.engine.shard_rows * spec.geometry.nbytes)


def finish(table: pa.Table) -> pa.Table:
    """Gives each row its id, its place in the balance and its time, and the columns of `STAGED_SCHEMA` in order."""
    scored = pc.is_valid(table["nsfw_score"])
    rows = table.num_rows
    columns = {
        "object_id": pa.array([hashlib.sha256(uri.encode()).hexdigest()[:32] for uri in table["uri"].to_pylist()]),
        "accounted_as": pc.if_else(scored, str(Accounted.SCORED), str(Accounted.ERRORED)),
        "scanned_at": pa.array([datetime.now(UTC)] * rows, STAGED_SCHEMA.field("scanned_at").type),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return as_schema(table, STAGED_SCHEMA)


class CpuChain:
    """Reads a shard's listing and runs the CPU stages; reading is one chunk ahead of decoding.

    Args:
        actors: how many of these share the requests that the media store may be asked.
    """

    def __init__(self, job: Job, actors: int = 1) -> None:
        most = job.config.read.max_requests_per_s
        self._read_shard = ShardReader(job.run.folder)
        self._stages = opened(cpu_stages(job.config, job.spec, Pace(most / actors if most else None)))

    def __call__(self, shard: Shard, moved: Callable[[], None] = lambda: None) -> pa.Table:
        """The shard's rows with pixels; `moved` is called now and then, as long as there is progress."""
        return run_overlapped(self._stages, fresh(self._read_shard(shard)), _CHUNK_BYTES, moved)


class ModelChain:
    """Runs the model stages."""

    def __init__(self, job: Job, *, threads: int) -> None:
        self._stages = opened(model_stages(job.config, job.spec, threads=threads))

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows with scores, finished."""
        return finish(run(self._stages, table))


class Stager:
    """Writes finished shards to staging."""

    def __init__(self, job: Job) -> None:
        self._staging = job.run.staging
        self._decide = Decider(job.policy)

    def found(self, shard: Shard) -> ShardResult | None:
        """The result of a shard that is staged already: a task that Ray runs again reads and scores nothing again."""
        try:
            return describe_part(shard, read_part(self._staging, shard), self._decide)
        except FileNotFoundError:
            return None

    def __call__(self, shard: Shard, table: pa.Table) -> ShardResult:
        """The shard's part is in staging when this returns."""
        return stage_part(self._staging, shard, table, self._decide)


def opened(stages: Sequence[Stage]) -> Sequence[Stage]:
    """The stages, each with what is heavy in it built."""
    for stage in stages:
        stage.open()
    return stages


def run_inline(job: Job, shards: Iterable[Shard], deadline: Deadline = NEVER) -> Iterator[ShardResult]:
    """The whole pipeline in this process, shard by shard, without Ray."""
    threads = job.config.engine.num_cpus or usable_cpus()
    read, score, stage = CpuChain(job), ModelChain(job, threads=threads), Stager(job)
    for shard in shards:
        deadline.check()
        yield stage(shard, score(read(shard)))
