"""Stages that an object passes, in order: the page to read first.

    list ─► plan ─► [ read ► digest ► match ► decode ► match ► filter ] ─► [ classify ► detect ] ─► stage ─► commit
                                  on CPU actors                       on GPU actors; without GPUs, in the CPU actors

What scored high passes them once more (`second_look.py`). A `Job` holds everything that decides a row. Each shard ends
as a part in staging. The same lists of stages run on Ray (`ray_data.py`) and in this process, without Ray
(`inline.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.bank import BankSpec
from nsfwscan.banks.matcher import BankSet, Search
from nsfwscan.config import ModelConfig, ScanConfig, digest_of
from nsfwscan.execution.layout import Needs
from nsfwscan.execution.second_look import SecondLook
from nsfwscan.images.formats.containers import videos_are_decoded
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.images.left_to_gpu import MOST_BYTES
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.trust import trust_list
from nsfwscan.images.screenshots import WEIGHTS as SCREENSHOT_WEIGHTS
from nsfwscan.models.registry import PICTURE as PICTURE_GEOMETRY
from nsfwscan.models.registry import reader_of_pictures, weights_bytes
from nsfwscan.models.spec import ALONE, AuxiliaryModels, ModelSpec, pixel_columns
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy
from nsfwscan.runs.calibrations import Calibration
from nsfwscan.runs.plan import Shard, ShardReader
from nsfwscan.runs.poison import SharedPoison
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import ShardResult, describe_part, read_part, stage_part
from nsfwscan.schema import STAGED_SCHEMA, Accounted, as_schema
from nsfwscan.sources.reach import Links
from nsfwscan.stages.base import CHUNK_ROWS, Stage, fresh, overlapped, run, run_overlapped
from nsfwscan.stages.classify import Classify, Detect
from nsfwscan.stages.decode import Decode, Poison
from nsfwscan.stages.filters import Heuristics, Prefilter
from nsfwscan.stages.fingerprint import Digest
from nsfwscan.stages.finish_on_gpu import FinishOnGpu
from nsfwscan.stages.judging import JudgeText
from nsfwscan.stages.match import MatchDigests, MatchHashes
from nsfwscan.stages.read import Read
from nsfwscan.stages.reading import PICTURE, Again, KeepText, ReadPictures
from nsfwscan.storage.rate_limit import UNPACED, Pace
from nsfwscan.texts.rules import TextRules

Moved = Callable[[], None]
"""Called now and then, as long as there is progress."""

_CHUNK_BYTES = 32 * 2**20
_ROW_BYTES = 8192
"""Of a row beside its pixels, at most."""
_READING_BYTES = 400 * 2**20
"""Of what reads text in pictures: libraries, activations, a decoding process, and some pictures. Measured."""
PIXELS_VERSION = 5
"""Increase this whenever the same file yields other pixels than before: scores of the old pixels are then stale."""


@dataclass(frozen=True)
class Job:
    """Everything that a worker must know to turn a shard into rows."""

    config: ScanConfig
    spec: ModelSpec
    policy: Policy
    run: Run
    banks: tuple[BankSpec, ...] = ()
    auxiliary_models: AuxiliaryModels = ALONE
    known: pa.Table | None = None
    """Contents that the store knows to be illegal, in the form of `BankSet`; they are not decoded again."""
    calibration: Calibration | None = None
    """Of the model in the store, where there is one."""


def cpu_stages(
    config: ScanConfig,
    spec: ModelSpec,
    pace: Pace = UNPACED,
    banks: BankSet | None = None,
    auxiliary_models: AuxiliaryModels = ALONE,
    poison: Poison | None = None,
    moved: Moved = lambda: None,
) -> list[Stage]:
    """Return the stages from a listing to pixels. Exact hashes are matched before any decoding; known contents reach no
    model, and clearly benign images no expensive one.

    Args:
        moved: called now and then, as long as there is progress.
    """
    columns = pixel_columns(spec, auxiliary_models)
    return [
        read_stage(config, pace),
        Digest(),
        *([MatchDigests(banks)] if banks else []),
        decode_stage(config, columns, poison, leaves=config.decode.mode == "gpu", moved=moved),
        *([MatchHashes(banks)] if banks else []),
        *_filters(config, spec, auxiliary_models, columns),
    ]


def read_stage(config: ScanConfig, pace: Pace = UNPACED) -> Read:
    """Return the stage that reads objects, and follows links where they may lead."""
    golden = [] if config.golden.uri is None else [config.golden.uri]
    links = Links.of(config.source, golden)
    return Read(config.read, config.storage, pace, check=links.check)


def decode_stage(
    config: ScanConfig,
    columns: dict[Geometry, str],
    poison: Poison | None = None,
    *,
    leaves: bool = False,
    moved: Moved = lambda: None,
) -> Decode:
    """Return the stage that decodes everything, or leaves ordinary JPEGs to a GPU."""
    trust = trust_list(config.decode, config.storage)
    return Decode(config.decode, columns, poison, config.views, trust, leaves=leaves, moved=moved)


def _filters(
    config: ScanConfig, spec: ModelSpec, auxiliary_models: AuxiliaryModels, columns: dict[Geometry, str]
) -> Iterator[Stage]:
    light = auxiliary_models.prefilter
    if light is not None:
        column = columns[light.geometry]
        keeps = any(model.geometry == light.geometry for model in (spec, *auxiliary_models.detectors))
        yield Heuristics(config.cascade, columns[spec.geometry])
        yield Prefilter(light, config.cascade, config.storage, threads=1, column=column, keeps=keeps)


def model_stages(
    config: ScanConfig,
    spec: ModelSpec,
    *,
    threads: int,
    auxiliary_models: AuxiliaryModels = ALONE,
    again: Again | None = None,
    moved: Moved = lambda: None,
) -> list[Stage]:
    """Return the stages from pixels to scores; all models share one decoding.

    Args:
        again: reads pictures again, for the detectors that take them; unset: `pictures_again` of the configuration.
        moved: called now and then, as long as there is progress.
    """
    columns = pixel_columns(spec, auxiliary_models)
    common: dict[str, Any] = {"threads": threads, "worst": config.views.worst, "moved": moved}
    stages: list[Stage] = []
    if config.decode.mode == "gpu":
        stages.append(FinishOnGpu(columns, decode_stage(config, columns)))
    stages.append(Classify(spec, config.model, config.storage, column=columns[spec.geometry], **common))
    for one in auxiliary_models.detectors:
        detector = config.detectors[one.name]
        if one.takes == "picture":
            again = again or pictures_again(config, read_stage(config))
            reader = reader_of_pictures(one, auxiliary_models.text or TextRules(), threads)
            stages.append(ReadPictures(one, detector, reader, again, column=columns[spec.geometry]))
        elif one.takes == "text":
            stages.append(JudgeText(one, detector, config.storage, threads=threads))
        else:
            stages.append(Detect(one, detector, config.storage, column=columns[one.geometry], **common))
    return stages


def pictures_again(config: ScanConfig, read: Read, moved: Moved = lambda: None) -> Again:
    """Return the stages that read objects again, as pictures that people could read.

    Args:
        moved: called now and then, as long as there is progress.
    """
    known = dict.fromkeys(("provenance", "screenshots", "c2pa"), False)
    decode = config.decode.model_copy(update={"mode": "exact", "pdq": "off", **known})
    views = config.views.model_copy(update={"tiles": False})
    return Again([read, Digest(), Decode(decode, {PICTURE_GEOMETRY: PICTURE}, views=views)], moved)


def reuse_keys(config: ScanConfig, spec: ModelSpec, auxiliary_models: AuxiliaryModels = ALONE) -> dict[str, str]:
    """Return the digests by which later runs tell whether a row can be reused; a row made with others is stale.

    `scoring` (models, labels, preprocessing, precision) covers scores, `decoding` covers failures to decode, and
    `filtering` covers rows that a filter settled. The settings of views are compared row by row (`ReusePolicy`).
    """
    how = "fast" if config.decode.reduces else "exact"
    pixels = [PIXELS_VERSION, "gpu" if config.decode.mode == "gpu" else how]
    scoring = {**_behind(spec, config.model), "pixels": pixels}
    if config.decode.screenshots:  # else as digests were before there was such a setting
        scoring["screenshots"] = hashlib.sha256(SCREENSHOT_WEIGHTS.read_bytes()).hexdigest()
    if config.decode.c2pa:
        scoring["c2pa"] = config.decode.c2pa_trust_sha256
    if auxiliary_models.detectors:
        scoring["detectors"] = [
            {
                "name": one.name,
                "labels": one.labels,
                "gate": config.detectors[one.name].model_dump(include={"when", "shadow"}),
                **({"abstain": config.detectors[one.name].abstain} if config.detectors[one.name].abstain else {}),
                **({"text": config.text.keep} if one.takes == "picture" else {}),
                **_behind(one, config.detectors[one.name]),
            }
            for one in auxiliary_models.detectors
        ]
    light, rules = auxiliary_models.prefilter, config.cascade
    filtering: list[Any] = [rules.threshold, rules.icon_pixels, rules.audit_sample, rules.seed, pixels]
    return {
        "scoring": digest_of(scoring),
        "decoding": digest_of(
            [PIXELS_VERSION, FORMATS, config.decode.plugins, *(["video"] if videos_are_decoded() else [])]
        ),
        "filtering": digest_of(None if light is None else [*filtering, _behind(light, rules.prefilter)]),
    }


def _behind(spec: ModelSpec, config: ModelConfig) -> dict[str, Any]:
    return {
        "weights": spec.digest,
        "categories": [str(c) for c in spec.categories],
        "geometry": asdict(spec.geometry),
        "normalisation": asdict(spec.normalisation),
        "dtype": config.dtype,
    }


def needs_of(config: ScanConfig, spec: ModelSpec, auxiliary_models: AuxiliaryModels = ALONE) -> Needs:
    """Return the memory that the models and their shards need, for the choice of actors."""
    models = (spec, *auxiliary_models.all)
    backend: Literal["torch", "onnx"] = "torch" if any(model.backend == "torch" for model in models) else "onnx"
    pixels = sum(geometry.nbytes for geometry in pixel_columns(spec, auxiliary_models))
    weights = sum(weights_bytes(model, config.storage) for model in models)
    weights += _READING_BYTES if any(model.takes == "picture" for model in models) else 0
    rows = config.engine.shard_rows
    left = rows * MOST_BYTES if config.decode.mode == "gpu" else 0
    return Needs(backend, weights, rows * pixels, min(rows, CHUNK_ROWS) * pixels, config.views.most, left)


def finish(table: pa.Table) -> pa.Table:
    """Add each row's id, place in the balance and time, and return the columns of `STAGED_SCHEMA` in order."""
    ids = pa.array([hashlib.sha256(uri.encode()).hexdigest()[:32] for uri in table["uri"].to_pylist()])
    now = pa.array([datetime.now(UTC)] * table.num_rows, STAGED_SCHEMA.field("scanned_at").type)
    accounted = _accounted(as_schema(table, _SETTLING))
    for name, values in (("object_id", ids), ("accounted_as", accounted), ("scanned_at", now)):
        table = table.append_column(name, values)
    return as_schema(table, STAGED_SCHEMA)


_SETTLING = pa.schema([STAGED_SCHEMA.field(name) for name in ("nsfw_score", "match_kind", "filtered_by")])


def _accounted(table: pa.Table) -> pa.ChunkedArray:
    """Return each row's place in the balance: scored if it has a score, else matched, filtered or errored."""
    scored, matched, filtered = (pc.is_valid(table[name]) for name in _SETTLING.names)
    unscored = pc.if_else(filtered, str(Accounted.FILTERED), str(Accounted.ERRORED))
    return pc.if_else(scored, str(Accounted.SCORED), pc.if_else(matched, str(Accounted.MATCHED), unscored))


class CpuChain:
    """CPU stages over a shard's listing; reading is one chunk ahead of decoding.

    Args:
        actors: number of chains that share the limit on requests to the media store.
        search: function that searches for similar hashes; unset: the chain has its own indexes.
        moved: called now and then, as long as there is progress.
    """

    def __init__(self, job: Job, actors: int = 1, search: Search | None = None, moved: Moved = lambda: None) -> None:
        self._moved = moved
        self._read_shard = ShardReader(job.run.folder)
        is_asked = job.banks or (job.known is not None and job.known.num_rows)
        banks = BankSet(job.banks, job.config.storage, search, known=job.known) if is_asked else None
        pace = _pace(job, actors)
        poison = SharedPoison(job.run.staging, job.config.decode)
        stages = cpu_stages(job.config, job.spec, pace, banks, job.auxiliary_models, poison, moved)
        self._stages = opened(stages)

    def __call__(self, shard: Shard) -> pa.Table:
        """Return the shard's rows with pixels."""
        return pa.concat_tables(self.chunks(shard))

    def chunks(self, shard: Shard) -> Iterator[pa.Table]:
        """Yield the same piece by piece."""
        return overlapped(self._stages, fresh(self._read_shard(shard)), _CHUNK_BYTES, self._moved)

    def again(self, listing: pa.Table) -> pa.Table:
        """Return a few rows with pixels, for their second look."""
        return run_overlapped(self._stages, fresh(listing), _CHUNK_BYTES, self._moved)


def _pace(job: Job, actors: int) -> Pace:
    """Return the pace of one of some actors; where pictures are read again, half of it is for that."""
    most = job.config.read.max_requests_per_s
    return Pace(most / actors / (1 if job.auxiliary_models.text is None else 2) if most else None)


class ModelChain:
    """Model stages.

    Args:
        actors: number of chains that share the limit on requests to the media store.
        moved: called now and then, as long as there is progress.
    """

    def __init__(self, job: Job, *, threads: int, actors: int = 1, moved: Moved = lambda: None) -> None:
        pixels = sum(geometry.nbytes for geometry in pixel_columns(job.spec, job.auxiliary_models))
        self._most_bytes = job.config.engine.shard_rows * (pixels + _ROW_BYTES)
        config, beside = job.config, job.auxiliary_models
        again = pictures_again(config, read_stage(config, _pace(job, actors)), moved)
        stages = model_stages(config, job.spec, threads=threads, auxiliary_models=beside, again=again, moved=moved)
        self._stages = opened([*stages, *([KeepText(beside.text)] if beside.text is not None else [])])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the rows with scores, in the columns of `STAGED_SCHEMA`."""
        return finish(run(self._stages, table))

    def together(self, chunks: Iterable[pa.Table]) -> pa.Table:
        """Return the rows of a shard with scores. Its pixels are scored at once, but no more of them than a shard of
        photographs has: animations have several times as many."""
        done: list[pa.Table] = []
        held: list[pa.Table] = []
        for chunk in chunks:
            held.append(chunk)
            if sum(one.nbytes for one in held) > self._most_bytes:
                done.append(self(pa.concat_tables(held)))
                held = []
        return pa.concat_tables([*done, self(pa.concat_tables(held))] if held else done)


class Stager:
    """A writer of finished shards to staging."""

    def __init__(self, job: Job) -> None:
        self._staging = job.run.staging
        self._decide, self._calibration = Decider(job.policy), job.calibration

    def found(self, shard: Shard) -> ShardResult | None:
        """Return the result of a shard that is staged already, else None: a task that Ray runs again then neither reads
        nor scores the shard again."""
        try:
            return describe_part(shard, read_part(self._staging, shard), self._decide, self._calibration)
        except FileNotFoundError:
            return None

    def __call__(self, shard: Shard, table: pa.Table) -> ShardResult:
        """Write the shard's part to staging, and return its result."""
        return stage_part(self._staging, shard, table, self._decide, self._calibration)


def opened(stages: Sequence[Stage]) -> Sequence[Stage]:
    """Open the stages, which builds their heavy parts, and return them."""
    for stage in stages:
        stage.open()
    return stages


class WholeChain:
    """All stages over a shard, from its listing to its staged part, for one thread at a time.

    Args:
        actors: number of chains that share the limit on requests to the media store.
        threads: of each model.
        search: function that searches for similar hashes; unset: the chain has its own indexes.
        moved: called now and then, as long as there is progress.
    """

    def __init__(self, job: Job, *, actors: int, threads: int, search: Search | None, moved: Moved) -> None:
        self._read = CpuChain(job, actors, search, moved)
        self._score = ModelChain(job, threads=threads, actors=actors, moved=moved)
        self._look = SecondLook(job.config.views, lambda listing: self._score(self._read.again(listing)))
        self._stage = Stager(job)

    def __call__(self, shard: Shard) -> ShardResult:
        """Stage the shard, and return its result; the one that it has, where it is staged already."""
        found = self._stage.found(shard)
        return found or self._stage(shard, self._look(self._score.together(self._read.chunks(shard))))
