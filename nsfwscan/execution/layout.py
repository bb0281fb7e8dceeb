"""Which actors run on which machine: sizes for a laptop, a GPU host and a cluster, from what each node has.

In: the nodes, as Ray or the operating system tells of them, and what the model and its shards take. Out: a `Layout`.
Pure arithmetic: it starts and asks nothing, and nothing goes wrong. An actor never spans nodes, so every node is
reckoned by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

MIB = 2**20

_ACTOR_BYTES = 256 * MIB
"""A worker without a model: 125 MiB of Python, Arrow and Ray, 25 MiB of a decode process, two chunks of encoded bytes
(64 MiB), and some room. Measured (proportional set size); an image may take its decode process far beyond."""
_RUNTIME_BYTES = {"torch": 350 * MIB, "onnx": 180 * MIB}
"""What a model takes beside its weights: libraries and one batch's activations. Measured with ViT-B/16, open_nsfw."""
_SHARDS_HELD = 3
"""Shards' pixels in an actor at once: its chunks, their concatenation, and the block that is handed on."""
_DRIVER_BYTES = 1024 * MIB
"""Ray's own processes and the driver: kept free on every node, since any of them may have the driver. Measured on a
local Ray: 870 MiB."""
_REST_CPUS = 0.2
"""Of each node: for the staging actor and Ray's tasks; actors that hold every CPU can hang a job (ray#44687)."""
SIDE_CPUS = 0.1
"""Of what mostly waits: a model actor for its GPU, the staging actor for the store."""
_MOST_THREADS = 8
"""More threads than this do not make one image's forward pass faster."""
_BLOCKS_A_CPU_ACTOR, _BLOCKS_A_MODEL_ACTOR = 2, 4
"""In flight: one that is made and one that waits for a model; two in the model's queue, two that leave it."""
_LEAST_STORE_BYTES, _STORE_SHARE = 512 * MIB, 0.3


@dataclass(frozen=True)
class Node:
    """A machine, as far as actors are concerned."""

    cpus: float
    gpus: float = 0.0
    gpu: str | None = None
    """Kind of its GPUs, as Ray names them: `A10G`, `H100`, `GeForce-RTX-4090`."""
    memory_bytes: int | None = None
    """For actors and driver, beside the object store; None where it is not known."""
    object_store_bytes: int | None = None
    cpu: str | None = None
    """Name of its processor, where it is known."""

    @property
    def kind(self) -> tuple[float, float, str | None, str | None]:
        """What makes two machines alike: how many CPUs and GPUs, and which."""
        return self.cpus, self.gpus, self.gpu, self.cpu


@dataclass(frozen=True)
class Needs:
    """What a model and its shards take."""

    backend: Literal["torch", "onnx"] = "torch"
    weights_bytes: int = 0
    shard_bytes: int = 0
    """Pixels of a full shard: rows times the geometry's bytes."""

    def actor_bytes(self, *, with_model: bool) -> int:
        """Memory of one CPU actor."""
        model = _RUNTIME_BYTES[self.backend] + self.weights_bytes if with_model else 0
        return _ACTOR_BYTES + _SHARDS_HELD * self.shard_bytes + model


@dataclass(frozen=True)
class Layout:
    """Which actors run, and how many."""

    kind: Literal["fused", "split", "inline"]
    """`fused`: the whole pipeline in each CPU actor. `split`: CPU actors feed model actors. `inline`: no Ray at all."""
    cpu_actors: int
    model_actors: int = 0
    gpus_per_model_actor: float = 1.0
    cpus_per_actor: float = 0.9
    """What a CPU actor asks of Ray: as much as lets no node take more of them than are meant for it."""
    threads: int = 1
    """Of the model, in each actor that has one."""


@dataclass(frozen=True)
class NodeAllocation:
    """The actors meant for a node."""

    node: Node
    cpu_actors: int
    model_actors: int = 0
    fused: bool = True
    """The CPU actors have the model, too."""
    short_of_memory: bool = False
    """More actors would have a core, but no memory."""


def choose_places(nodes: Sequence[Node], needs: Needs) -> list[NodeAllocation]:
    """The actors that each node has room for: model actors on GPUs where there are some, one actor a core where not.

    The embedded ONNX model is so light that cores serve it better than a GPU's queue. On a node with GPUs, a core for
    each and one more are left free: they feed the model, stage, and run Ray.
    """
    split = needs.backend == "torch" and any(node.gpus >= 1 for node in nodes)
    places = [_place(node, needs, split) for node in nodes]
    if places and not any(place.cpu_actors for place in places):  # too small for any actor: one has to do
        best = max(range(len(places)), key=lambda i: places[i].node.cpus)
        places[best] = replace(places[best], cpu_actors=1)
    return places


def _place(node: Node, needs: Needs, split: bool) -> NodeAllocation:
    models = int(node.gpus) if split else 0
    cores = int(node.cpus) - (models + 1 if models else 0)
    fits = cores
    if node.memory_bytes is not None:
        # A model on a GPU keeps its weights there, but passes them through the host's memory.
        free = node.memory_bytes - _DRIVER_BYTES - models * needs.actor_bytes(with_model=True)
        fits = max(1, free // needs.actor_bytes(with_model=not split))
    return NodeAllocation(node, max(0, min(cores, fits)), models, fused=not split, short_of_memory=fits < cores)


def choose_layout(nodes: Sequence[Node], shards: int, needs: Needs | None = None) -> Layout:
    """Sizes for a cluster, or for one machine.

    Args:
        nodes: all that may run actors.
        shards: how many there are to run; more actors would idle.
        needs: of the model and its shards.
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


def _rounded(cpus: float) -> float:
    """Down, to the ten-thousandths that Ray reckons with."""
    return int(cpus * 10_000 + 1e-6) / 10_000


def object_store_bytes(places: Sequence[NodeAllocation], needs: Needs) -> int:
    """What the blocks in flight take of all object stores together; only names travel where nothing is split."""
    models = sum(place.model_actors for place in places)
    if not models:
        return 0
    actors = sum(place.cpu_actors for place in places)
    return (_BLOCKS_A_CPU_ACTOR * actors + _BLOCKS_A_MODEL_ACTOR * models) * needs.shard_bytes


def local_store_bytes(node: Node, needs: Needs) -> int:
    """The object store of a Ray on this machine alone: what is in flight and a quarter more, if memory has it."""
    wanted = object_store_bytes(choose_places([node], needs), needs) * 5 // 4
    most = int((node.memory_bytes or 0) * _STORE_SHARE)
    return max(_LEAST_STORE_BYTES, min(wanted, most))


def node_bytes(place: NodeAllocation, needs: Needs) -> int:
    """Memory that the actors meant for a node take, the driver's and Ray's own with it."""
    models = place.model_actors * needs.actor_bytes(with_model=True)
    return _DRIVER_BYTES + models + place.cpu_actors * needs.actor_bytes(with_model=place.fused)


@dataclass(frozen=True)
class Fleet:
    """The machines that a run has, and what it makes of them."""

    nodes: tuple[Node, ...]
    layout: Layout

    def as_json(self) -> dict[str, Any]:
        """As it stands in `run.json`: alike nodes are one entry with a count, and the least memory among them."""
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
