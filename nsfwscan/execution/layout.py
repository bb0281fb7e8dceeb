"""Decide which actors run on which node, for a laptop, a GPU host and a cluster.

The layout follows from the nodes, as Ray or the operating system describes them, and from the needs of the model and
its shards. This is pure arithmetic: it starts nothing, asks nothing and raises nothing. An actor never spans nodes, so
each node is computed by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

MIB = 2**20

_ACTOR_BYTES = 256 * MIB
"""Memory of a worker without a model: 125 MiB for Python, Arrow and Ray, 25 MiB for a decode process, two chunks of
encoded bytes (64 MiB), and some room. Measured (proportional set size); one image may grow its decode process far
beyond this."""
_RUNTIME_BYTES = {"torch": 350 * MIB, "onnx": 180 * MIB}
"""Memory of a model beside its weights: libraries and one batch's activations. Measured with ViT-B/16, open_nsfw."""
_SHARDS_HELD = 3
"""Copies of a shard's pixels in an actor at once: its chunks, their concatenation, and the block that it hands on."""
_COPIES = 2
"""Copies of further views: as they are decoded, and one after the other for the model or the next actor."""
_DRIVER_BYTES = 1024 * MIB
"""Memory of Ray's own processes and the driver, kept free on every node, since any node may run the driver. Measured
on a local Ray: 870 MiB."""
_REST_CPUS = 0.2
"""CPUs of each node left for the staging actor and Ray's tasks: actors that hold every CPU can hang a job
(ray#44687)."""
SIDE_CPUS = 0.1
"""CPUs reserved for an actor that mostly waits: a model actor for its GPU, the staging actor for the store."""
_MOST_THREADS = 8
"""Threads beyond this number do not make one image's forward pass faster."""
_BLOCKS_A_CPU_ACTOR, _BLOCKS_A_MODEL_ACTOR = 2, 6
"""Blocks in flight. Of a CPU actor: one in the making, one that waits for a model. Of a model actor: one in its hands,
two whose second looks are decoded elsewhere, one in its queue, two that leave it."""
BLOCKS_AT_ONCE, BLOCKS_WAITING = 3, 1
"""Blocks that a model actor has begun, and those in its queue."""
_ROWS_AN_ACTOR = 32
"""Objects of a small scan for which one more actor on the same machine is worth its start: 3.5 s of CPU time (ViT-B/16,
Ray 2.60), in which the others would have scored as many."""
_READERS_A_CLOSER = 4
"""CPU actors for each actor that decodes second looks, on the same cores: a second look costs as much as a first one,
but few objects get one."""
_LEAST_STORE_BYTES, _STORE_SHARE = 512 * MIB, 0.3


@dataclass(frozen=True)
class Node:
    """A machine that can run actors."""

    cpus: float
    gpus: float = 0.0
    gpu: str | None = None
    """Model of its GPUs, as Ray names it: `A10G`, `H100`, `GeForce-RTX-4090`."""
    memory_bytes: int | None = None
    """Memory for actors and driver, without the object store; None: unknown."""
    object_store_bytes: int | None = None
    cpu: str | None = None
    """Name of its processor; None: unknown."""

    @property
    def kind(self) -> tuple[float, float, str | None, str | None]:
        """Key by which machines are alike: number of CPUs and GPUs, GPU model, processor."""
        return self.cpus, self.gpus, self.gpu, self.cpu


@dataclass(frozen=True)
class Needs:
    """Memory that a model and its shards need."""

    backend: Literal["torch", "onnx"] = "torch"
    weights_bytes: int = 0
    shard_bytes: int = 0
    """Pixels of a full shard of photographs: rows times the bytes of its geometries."""
    chunk_bytes: int = 0
    """Pixels of a chunk of it, which is decoded at once."""
    views: int = 1
    """Views of an object at most: a shard may be of animations alone."""
    left_bytes: int = 0
    """Files of a full shard that are left to a GPU, at most."""

    @property
    def largest_shard_bytes(self) -> int:
        """Pixels of a full shard in which every object has as many views as it may have; or its files, left to a GPU,
        which have none."""
        return max(self.shard_bytes * self.views, self.left_bytes)

    def actor_bytes(self, *, with_model: bool, split: bool = False) -> int:
        """Return the memory of one actor in bytes.

        Args:
            split: pixels travel between actors, a whole shard at a time, and others decode second looks; a CPU actor
                has its share of their memory. An actor that does everything itself scores pixels before they are more
                than a shard of photographs has, give or take a chunk.
        """
        model = _RUNTIME_BYTES[self.backend] + self.weights_bytes if with_model else 0
        further = (self.views - 1) * (self.shard_bytes if split else self.chunk_bytes)
        closer = _ACTOR_BYTES // _READERS_A_CLOSER if split and not with_model else 0
        held = max(_SHARDS_HELD * self.shard_bytes + _COPIES * further, _SHARDS_HELD * self.left_bytes)
        return _ACTOR_BYTES + closer + held + model


@dataclass(frozen=True)
class Layout:
    """Kinds, numbers and sizes of a run's actors."""

    kind: Literal["fused", "split", "inline"]
    """`fused`: each CPU actor runs the whole pipeline. `split`: CPU actors feed model actors. `inline`: no Ray."""
    cpu_actors: int
    model_actors: int = 0
    gpus_per_model_actor: float = 1.0
    cpus_per_actor: float = 0.9
    """CPUs reserved per CPU actor so that Ray never over-packs a node."""
    threads: int = 1
    """Threads of the model, in each actor that has one."""

    @property
    def closer_actors(self) -> int:
        """Return the number of actors that read and decode for second looks, where the model has actors of its own."""
        return -(-self.cpu_actors // _READERS_A_CLOSER) if self.model_actors else 0


@dataclass(frozen=True)
class NodeAllocation:
    """Actors planned for a node."""

    node: Node
    cpu_actors: int
    model_actors: int = 0
    fused: bool = True
    """True if the CPU actors run the model, too."""
    short_of_memory: bool = False
    """True if more actors would have a core, but no memory."""


def choose_places(nodes: Sequence[Node], needs: Needs) -> list[NodeAllocation]:
    """Return the actors that each node has room for: model actors on its GPUs, and CPU actors, at most one per core.

    The embedded ONNX model is so light that cores serve it better than a GPU's queue. On a node with GPUs, one core for
    each GPU and one more stay free: they feed the model, stage, and run Ray.
    """
    split = needs.backend == "torch" and any(node.gpus >= 1 for node in nodes)
    places = [_place(node, needs, split) for node in nodes]
    if places and not any(place.cpu_actors for place in places):  # no node fits an actor: run one anyway
        best = max(range(len(places)), key=lambda i: places[i].node.cpus)
        places[best] = replace(places[best], cpu_actors=1)
    return places


def _place(node: Node, needs: Needs, split: bool) -> NodeAllocation:
    models = int(node.gpus) if split else 0
    cores = int(node.cpus) - (models + 1 if models else 0)
    fits = cores
    if node.memory_bytes is not None:
        # A model on a GPU keeps its weights there, but loads them through the host's memory.
        free = node.memory_bytes - _DRIVER_BYTES - models * needs.actor_bytes(with_model=True, split=True)
        fits = max(1, free // needs.actor_bytes(with_model=not split, split=split))
    return NodeAllocation(node, max(0, min(cores, fits)), models, fused=not split, short_of_memory=fits < cores)


def choose_layout(nodes: Sequence[Node], shards: int, needs: Needs | None = None) -> Layout:
    """Return the layout for a cluster, or for one machine.

    Args:
        nodes: all nodes that may run actors.
        shards: number of shards to run; more actors would idle.
        needs: memory that the model and its shards need.
    """
    places = choose_places(nodes or [Node(1)], needs or Needs())
    room = sum(place.cpu_actors for place in places)
    actors, models = min(room, shards), min(sum(place.model_actors for place in places), shards)
    used = [place for place in places if place.cpu_actors]
    asked = min(max(0.1, (p.node.cpus - _REST_CPUS - SIDE_CPUS * p.model_actors) / p.cpu_actors) for p in used)
    if models:
        return Layout("split", max(1, actors), models, cpus_per_actor=_rounded(asked))
    cores = [int(place.node.cpus) for place in used]
    threads = min(sum(cores) // max(1, actors), *cores, _MOST_THREADS)
    return Layout("fused", max(1, actors), cpus_per_actor=_rounded(asked), threads=max(1, threads))


def inline_layout(here: Node, shards: int, rows: int, needs: Needs) -> Layout:
    """Return the layout without Ray: threads of one process do what CPU actors would. Where a GPU scores, there is one
    of them, since its model fills the GPU."""
    split = needs.backend == "torch" and here.gpus >= 1
    room = 1 if split else max(1, _place(here, needs, split).cpu_actors)
    threads = max(1, min(room, actors_worth(shards, rows)))
    return Layout("inline", threads, threads=max(1, int(here.cpus) // threads))


def actors_worth(shards: int, rows: int) -> int:
    """Return for how many actors, at most, there is work on one machine."""
    return min(shards, max(1, rows // _ROWS_AN_ACTOR))


def _rounded(cpus: float) -> float:
    """Round down to ten-thousandths of a CPU, the unit in which Ray counts."""
    return int(cpus * 10_000 + 1e-6) / 10_000


def object_store_bytes(places: Sequence[NodeAllocation], needs: Needs) -> int:
    """Return the bytes that the blocks in flight take of all object stores together: 0 without model actors, since
    only the names of shards travel then."""
    models = sum(place.model_actors for place in places)
    if not models:
        return 0
    actors = sum(place.cpu_actors for place in places)
    return (_BLOCKS_A_CPU_ACTOR * actors + _BLOCKS_A_MODEL_ACTOR * models) * needs.largest_shard_bytes


def local_store_bytes(node: Node, needs: Needs) -> int:
    """Return the object store's size in bytes for a Ray on this machine alone: the blocks in flight and a quarter more,
    within `_STORE_SHARE` of the memory, and at least `_LEAST_STORE_BYTES`."""
    wanted = object_store_bytes(choose_places([node], needs), needs) * 5 // 4
    most = int((node.memory_bytes or 0) * _STORE_SHARE)
    return max(_LEAST_STORE_BYTES, min(wanted, most))


def node_bytes(place: NodeAllocation, needs: Needs) -> int:
    """Return the memory of a node's planned actors, the driver and Ray's own processes in bytes."""
    models = place.model_actors * needs.actor_bytes(with_model=True, split=True)
    return _DRIVER_BYTES + models + place.cpu_actors * needs.actor_bytes(with_model=place.fused, split=not place.fused)


@dataclass(frozen=True)
class Fleet:
    """Machines of a run, and the layout of its actors on them."""

    nodes: tuple[Node, ...]
    layout: Layout

    def as_json(self) -> dict[str, Any]:
        """Return the `machine` section of `run.json`: alike nodes are one entry with a count and their least memory."""
        alike = Counter(node.kind for node in self.nodes)
        memory = {kind: [n.memory_bytes for n in self.nodes if n.kind == kind] for kind in alike}
        return {
            "nodes": [
                {"count": count, "cpus": cpus, "gpus": gpus, "gpu": gpu, "cpu": cpu, "memory_bytes": _least(memory[k])}
                for k, count in alike.items()
                for cpus, gpus, gpu, cpu in [k]
            ],
            "layout": asdict(self.layout),
        }


def _least(values: Sequence[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
