"""Explain a scan without running it: machines, actors and their sizes, hours and money.

This lists no source, reads no object, writes nothing to the store and starts no Ray; it asks a running cluster for its
nodes. Figures that need more than that stay unknown. A model, policy, cluster or store that cannot be reached raises
`NsfwscanError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import ScanConfig
from nsfwscan.errors import SourceError, StoreError
from nsfwscan.execution.choose import is_inline
from nsfwscan.execution.gpu_decoding import refuse_undecodable
from nsfwscan.execution.layout import (
    Fleet,
    Layout,
    Needs,
    Node,
    NodeAllocation,
    actors_worth,
    choose_layout,
    choose_places,
    inline_layout,
    local_store_bytes,
    node_bytes,
    object_store_bytes,
)
from nsfwscan.execution.machine import this_machine
from nsfwscan.execution.pipeline import needs_of, reuse_keys
from nsfwscan.execution.ray_session import check_reachable
from nsfwscan.images.provenance.trust import with_trust
from nsfwscan.location import Location
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.models.registry import hardware_on, resolve_auxiliary
from nsfwscan.models.spec import AuxiliaryModels, Hardware, ModelSpec
from nsfwscan.policy.rules import load_policy
from nsfwscan.runs.plan import PlanAction, shard_count
from nsfwscan.runs.record.figures import MediaRecord
from nsfwscan.runs.record.run import RunRecord, recorded_config
from nsfwscan.runs.run import runs_of
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.objects import open_file
from nsfwscan.storage.store import Store
from nsfwscan.workflows.cost import Estimate, Prices, Rate, benchmarked, estimate, measured
from nsfwscan.workflows.pin import Pinned
from nsfwscan.workflows.start_notes import start_notes

_LOOKED_AT = 50
"""Number of newest committed runs among which one over the same sources is searched."""
_MANY_SHARDS = 1_000_000
"""Number of shards if the true one is unknown: enough for every actor."""


@dataclass(frozen=True)
class Expected:
    """Actors and memory expected on a group of alike nodes."""

    place: NodeAllocation
    count: int
    cpu_actor_bytes: int
    model_actor_bytes: int
    memory_bytes: int
    """Memory of all actors of one node, with Ray's own processes and the driver."""


@dataclass(frozen=True)
class Explanation:
    """A scan's models, machines, sizes and cost, as far as they are known before it runs.

    Attributes:
        model: identity, geometry and backend.
        auxiliary_models: the models beside it.
        hardware: device, precision, batch size and threads of the model.
        dtype_is_sure: False if the workers' processors decide on the precision.
        cluster: the address; None for a Ray that the scan would start here.
        fleet: machines, and the number of actors of each kind on them.
        expected: actors and memory by kind of machine.
        shard_rows: objects in a shard.
        shard_bytes: bytes of a shard's pixels.
        in_flight_bytes: bytes that all object stores together hold at once.
        decode_bytes: limit on the memory of an actor's decode process.
        objects: number of objects to scan; None if only listing would tell.
        objects_from: source of that number, or the reason why there is none.
        media: what the newest run over the same sources looked at, by kind of media; empty if unknown.
        estimate: cost of these objects; None without a measured rate that fits or without a number of objects.
        why_no_estimate: the reason why `estimate` is None.
        per_million: cost of a million objects; None without a rate that fits, or if too few objects were measured.
        notes: what is odd in the policy or in lists of patterns: which of the two, and a sentence.
    """

    model: ModelSpec
    auxiliary_models: AuxiliaryModels
    hardware: Hardware
    dtype_is_sure: bool
    cluster: str | None
    fleet: Fleet
    expected: tuple[Expected, ...]
    shard_rows: int
    shard_bytes: int
    in_flight_bytes: int
    decode_bytes: int
    objects: int | None
    objects_from: str
    media: dict[str, MediaRecord]
    estimate: Estimate | None
    why_no_estimate: str | None
    per_million: Estimate | None
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def layout(self) -> Layout:
        """Kinds, numbers and sizes of the actors."""
        return self.fleet.layout


def explain_scan(config: ScanConfig) -> Explanation:
    """Return what a scan with this configuration would do.

    Raises:
        NsfwscanError: the model, the cluster or the report store cannot be reached, or a table cannot be read.
    """
    prices = Prices.load(config.cost.prices, config.storage)
    sources = tuple(Location.of(uri).absolute().uri for uri in config.source.uris)
    config = config.model_copy(update={"source": config.source.model_copy(update={"uris": sources})})
    config = config.model_copy(update={"decode": with_trust(config.decode, config.storage)})
    store = Store.at(config.out, config.store_options())
    pinned, config = Pinned.for_scan(store, config)
    spec, auxiliary_models = pinned.resolve_model(config.model, config.storage), resolve_auxiliary(config)
    refuse_undecodable(config, spec, auxiliary_models)
    needs = needs_of(config, spec, auxiliary_models)
    cluster = config.engine.cluster
    nodes = _nodes(config, cluster, needs)
    objects, objects_from = _count(config, store)
    last = _last_over(config, store)
    shards = _MANY_SHARDS if objects is None else shard_count(objects, config.engine.shard_rows)
    if objects is not None and not cluster:
        shards = actors_worth(shards, objects)
    layout, places = choose_layout(nodes, shards, needs), choose_places(nodes, needs)
    expected = _expected(places, needs)
    if objects is not None and is_inline(config.engine, objects):
        nodes = (this_machine(config.engine.num_cpus),)
        layout = inline_layout(nodes[0], shard_count(objects, config.engine.shard_rows), objects, needs)
        places = [NodeAllocation(nodes[0], layout.cpu_actors)]
        own = layout.cpu_actors * needs.actor_bytes(with_model=True)
        expected = (Expected(places[0], 1, own, own, own),)
    has_gpu = spec.backend == "torch" and any(node.gpus >= 1 for node in nodes)
    device: Literal["cuda", "cpu"] = "cuda" if has_gpu else "cpu"
    hardware = hardware_on(device, spec, config.model, threads=layout.threads)
    rate = _rate(config, spec, auxiliary_models, store, nodes)
    found, why = _estimate(objects, rate, nodes, config, prices)
    million = estimate(1_000_000, rate, nodes, sources, prices) if rate and rate.steady else None
    return Explanation(
        spec,
        auxiliary_models,
        hardware,
        dtype_is_sure=cluster is None or device == "cuda" or spec.backend == "onnx" or config.model.dtype != "auto",
        cluster=cluster,
        fleet=Fleet(nodes, layout),
        expected=expected,
        shard_rows=config.engine.shard_rows,
        shard_bytes=needs.shard_bytes,
        in_flight_bytes=object_store_bytes(places, needs),
        decode_bytes=config.decode.max_memory_bytes,
        objects=objects,
        objects_from=objects_from,
        media=(last.media or {}) if last else {},
        estimate=found,
        why_no_estimate=why,
        per_million=million,
        notes=tuple(_notes(config, pinned, spec, auxiliary_models)),
    )


def _notes(config: ScanConfig, pinned: Pinned, spec: ModelSpec, beside: AuxiliaryModels) -> Iterator[tuple[str, str]]:
    """Return what a scan would say of what it is given as it begins."""
    policy = pinned.load_policy(config.policy, config.storage) if config.policy else load_policy(spec.policy)
    shadows = [load_policy(name, config.storage) for name in config.shadow_policies]
    return start_notes(config, policy, shadows, spec, beside)


def _nodes(config: ScanConfig, cluster: str | None, needs: Needs) -> tuple[Node, ...]:
    """Return the cluster's nodes, or this machine as a Ray started here would see it."""
    if cluster is not None:
        from nsfwscan.execution.ray_data import cluster_nodes

        check_reachable(config.engine.cluster)
        return cluster_nodes(config.engine)
    here = this_machine(config.engine.num_cpus)
    store = local_store_bytes(here, needs)
    left = None if here.memory_bytes is None else max(0, here.memory_bytes - store)
    return (replace(here, memory_bytes=left, object_store_bytes=store),)


def _expected(places: Sequence[NodeAllocation], needs: Needs) -> tuple[Expected, ...]:
    alike: dict[tuple[object, ...], list[NodeAllocation]] = {}
    for place in places:
        alike.setdefault((place.node.kind, place.cpu_actors, place.model_actors), []).append(place)
    return tuple(
        Expected(
            group[0],
            len(group),
            needs.actor_bytes(with_model=group[0].fused, split=not group[0].fused),
            needs.actor_bytes(with_model=True, split=True),
            node_bytes(group[0], needs),
        )
        for group in alike.values()
    )


def _count(config: ScanConfig, store: Store) -> tuple[int | None, str]:
    """Return the number of objects to scan, if it is known without listing; and its source, or why it is unknown."""
    counted = _in_manifests(config)
    how = "by the manifest's row count"
    if counted is None:
        counted, how = _listed_last(config, store)
    limit = config.source.limit
    if limit is not None and (counted is None or limit < counted):
        return limit, "at most, by --limit"
    if counted is None:
        return None, "only listing tells, which --explain does not do"
    filtered = " (before --include and --exclude)" if config.source.include or config.source.exclude else ""
    return counted, how + filtered


def _in_manifests(config: ScanConfig) -> int | None:
    """Return the number of rows in the sources if all of them are Parquet manifests, else None."""
    rows = 0
    for uri in config.source.uris:
        if not uri.lower().endswith(".parquet"):
            return None
        try:
            with open_file(Location.of(uri), config.storage) as file:
                rows += pq.read_metadata(file).num_rows
        except pa.ArrowInvalid as error:
            raise SourceError(f"{uri} cannot be read as a manifest: {error}") from None
        except STORE_ERRORS as error:
            raise SourceError(str(setup_error(error, f"cannot read the manifest {uri}"))) from None
    return rows


def _listed_last(config: ScanConfig, store: Store) -> tuple[int | None, str]:
    """Return the number of objects that the newest committed run over the same sources with the same filters listed."""
    record = _last_over(config, store)
    if record is None:
        return None, ""
    plan = record.plan
    read = plan.distinct - plan.actions.get(PlanAction.CARRIED, 0)
    return plan.distinct, f"listed by run {record.run_id}, which read {read:,} of them"


def _last_over(config: ScanConfig, store: Store) -> RunRecord | None:
    """Return the record of the newest committed run over the same sources with the same filters."""
    ours = recorded_config(config).source
    for run in reversed([run for run in runs_of(store) if run.is_committed_or_broken()][-_LOOKED_AT:]):
        try:
            record = run.record()
        except StoreError:  # an older run may tell
            continue
        theirs = record.config.source
        filters = (theirs.uris, theirs.include, theirs.exclude)
        if filters == (ours.uris, ours.include, ours.exclude) and theirs.limit is None:
            return record
    return None


def _rate(
    config: ScanConfig, spec: ModelSpec, auxiliary_models: AuxiliaryModels, store: Store, nodes: Sequence[Node]
) -> Rate | None:
    if config.cost.rates is not None:
        return benchmarked(config.cost.rates, embedded=spec.uri == EMBEDDED, storage=config.storage)
    return measured(store, reuse_keys(config, spec, auxiliary_models), nodes)


def _estimate(
    objects: int | None, rate: Rate | None, nodes: Sequence[Node], config: ScanConfig, prices: Prices
) -> tuple[Estimate | None, str | None]:
    """Return the estimate, or the reason why there is none."""
    if rate is None:
        return None, (
            "nothing was measured: no committed run in this store has this model and preprocessing, on machines like "
            "these; --rates FILE takes a benchmark's"
        )
    found = estimate(objects or 1, rate, nodes, config.source.uris, prices)
    if found is None:
        return None, "the benchmark ran with GPUs and these machines have none, or the other way round"
    return (None, "how many objects there are is not known") if objects is None else (found, None)
