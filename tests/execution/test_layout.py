"""The sizes that are chosen fit what each node has: cores, GPUs, memory, object store."""

from __future__ import annotations

import math

import pytest

from nsfwscan.execution.layout import (
    Fleet,
    Layout,
    Needs,
    Node,
    NodeAllocation,
    actors_worth,
    choose_layout,
    choose_places,
    local_store_bytes,
    node_bytes,
    object_store_bytes,
)

GIB = 2**30
SHARD = 256 * 224 * 224 * 3
VIT = Needs("torch", 343_233_204, SHARD)
"""ViT-B/16 in float32."""
OPEN_NSFW = Needs("onnx", 24 * 2**20, SHARD)
LAPTOP = Node(8, memory_bytes=6 * GIB)
GPU_HOST = Node(16, 1, "A10G", memory_bytes=50 * GIB)
BIG = Node(64, memory_bytes=200 * GIB)


def sizes(layout: Layout) -> tuple[str, int, int, int]:
    return layout.kind, layout.cpu_actors, layout.model_actors, layout.threads


@pytest.mark.parametrize(
    ("nodes", "shards", "needs", "expected"),
    [
        pytest.param([Node(2)], 100, VIT, ("fused", 2, 0, 1), id="two cores"),
        pytest.param([Node(4, memory_bytes=8 * GIB)], 100, VIT, ("fused", 4, 0, 1), id="laptop, 4 cores"),
        pytest.param([LAPTOP], 100, VIT, ("fused", 4, 0, 2), id="memory for 4 of 8 cores, two threads each"),
        pytest.param([Node(8, memory_bytes=4 * GIB)], 100, VIT, ("fused", 2, 0, 4), id="memory for 2 of 8 cores"),
        pytest.param([LAPTOP], 100, OPEN_NSFW, ("fused", 8, 0, 1), id="laptop, a light model"),
        pytest.param([Node(8, memory_bytes=GIB)], 100, VIT, ("fused", 1, 0, 8), id="hardly any memory"),
        pytest.param([Node(64)], 3, VIT, ("fused", 3, 0, 8), id="three shards"),
        pytest.param([Node(0.5)], 1, VIT, ("fused", 1, 0, 1), id="half a core"),
        pytest.param([GPU_HOST], 100, VIT, ("split", 14, 1, 1), id="16 cores and a GPU"),
        pytest.param([GPU_HOST], 100, OPEN_NSFW, ("fused", 16, 0, 1), id="a GPU that a light model does not need"),
        pytest.param([Node(2, 1)], 100, VIT, ("split", 1, 1, 1), id="2 cores and a GPU"),
        pytest.param([Node(4, 4)], 100, VIT, ("split", 1, 4, 1), id="fewer cores than GPUs need"),
        pytest.param([Node(256, 8)], 4, VIT, ("split", 4, 4, 1), id="four shards, eight GPUs"),
        pytest.param([BIG] * 4, 10_000, VIT, ("fused", 256, 0, 1), id="a cluster of cores"),
        pytest.param([BIG] * 4 + [GPU_HOST] * 2, 10_000, VIT, ("split", 284, 2, 1), id="cores and GPUs"),
        pytest.param([Node(0), BIG], 10_000, VIT, ("fused", 64, 0, 1), id="a head without cores"),
        pytest.param([], 10, VIT, ("fused", 1, 0, 1), id="nothing that is known"),
    ],
)
def test_sizes(nodes: list[Node], shards: int, needs: Needs, expected: tuple[str, int, int, int]) -> None:
    """Model actors go where GPUs are, decoding where cores are; no more actors than memory or shards are for."""
    assert sizes(choose_layout(nodes, shards, needs)) == expected


@pytest.mark.parametrize(
    "nodes",
    [[Node(n)] for n in (1, 2, 4, 10, 16, 64, 192)]
    + [[Node(8, memory_bytes=m * GIB)] for m in (3, 4, 6, 10)]
    + [[Node(n, 1, "T4", 60 * GIB)] for n in (2, 4, 16, 48)]
    + [[Node(96, 8, "A100", 900 * GIB)]],
    ids=lambda nodes: f"{nodes[0].cpus}-{nodes[0].gpus:g}-{(nodes[0].memory_bytes or 0) // GIB}",
)
def test_what_is_asked_of_ray_fits_exactly(nodes: list[Node]) -> None:
    """On a node, Ray finds room for as many actors as are meant for it, with the model's and the staging actor beside
    them, and for no more: memory is not reckoned by Ray, so cores have to limit it."""
    [place] = choose_places(nodes, VIT)
    layout = choose_layout(nodes, 10_000, VIT)
    taken = place.cpu_actors * layout.cpus_per_actor + 0.1 * place.model_actors
    assert taken + 0.1 <= place.node.cpus
    assert taken + layout.cpus_per_actor > place.node.cpus - 0.2


def test_a_small_scan_starts_no_actor_that_it_has_no_work_for() -> None:
    """Ten pictures in two shards are scored sooner by one actor with all threads than by two that start at once."""
    assert [actors_worth(*given) for given in [(2, 10), (2, 63), (7, 160), (9, 300), (3, 700)]] == [1, 1, 5, 9, 3]
    few = choose_layout([Node(2)], actors_worth(2, 10), VIT)
    assert (few.cpu_actors, few.threads) == (1, 2)


def test_second_looks_have_actors_beside_the_model_alone() -> None:
    """Where the model has actors of its own, a further one decodes second looks for four that decode first ones."""
    assert choose_layout([GPU_HOST], 10_000, VIT).closer_actors == 4  # of 14
    assert choose_layout([BIG], 10_000, VIT).closer_actors == 0


def test_alike_nodes_take_alike_shares() -> None:
    """On a cluster of alike nodes, none can take the actors of another, whatever order Ray places them in."""
    layout = choose_layout([BIG] * 3, 10_000, VIT)
    assert math.floor(64 / layout.cpus_per_actor) == 64 == layout.cpu_actors // 3


def test_mixed_nodes_have_room_for_all() -> None:
    """Where nodes differ, each has room for at least what is meant for it: no actor waits for a place for ever."""
    nodes = [BIG, GPU_HOST, LAPTOP, Node(2)]
    layout = choose_layout(nodes, 10_000, VIT)
    for place in choose_places(nodes, VIT):
        room = (place.node.cpus - 0.1 - 0.1 * place.model_actors) / layout.cpus_per_actor
        assert room >= place.cpu_actors


def test_memory_holds_the_actors() -> None:
    """What is meant for a node takes no more than its memory, and says where memory was the limit."""
    for node in (LAPTOP, GPU_HOST, BIG, Node(16, 1, "T4", 8 * GIB), Node(32, memory_bytes=16 * GIB)):
        [place] = choose_places([node], VIT)
        assert node_bytes(place, VIT) <= (node.memory_bytes or 0)
        assert place.short_of_memory == (place.cpu_actors < node.cpus - (2 if node.gpus else 0))


def test_nodes_of_a_split_cluster_hold_no_model() -> None:
    """Where GPUs have the model, a node without one needs memory for decoding alone."""
    tight = Node(8, memory_bytes=4 * GIB)
    alone, beside = choose_places([tight], VIT)[0], choose_places([tight, GPU_HOST], VIT)[0]
    assert (alone.cpu_actors, beside.cpu_actors) == (2, 7)


def test_animations_alone_have_room() -> None:
    """A shard of nothing but animations has eight times the pixels: actors and blocks in flight are reckoned so. Where
    one actor does everything, it has no more than a chunk of them beyond a shard of photographs."""
    needs = Needs("torch", 343_233_204, SHARD, SHARD // 4, 8)
    for split, further in ((False, 7 * SHARD // 4), (True, 7 * SHARD)):
        both = [one.actor_bytes(with_model=True, split=split) for one in (VIT, needs)]
        assert both[1] - both[0] == 2 * further
    for node in (LAPTOP, GPU_HOST, BIG):
        [place] = choose_places([node], needs)
        assert node_bytes(place, needs) <= (node.memory_bytes or 0)
        assert object_store_bytes([place], needs) == 8 * object_store_bytes([place], VIT)


def test_the_object_store_holds_what_is_in_flight() -> None:
    """Blocks of pixels travel only to model actors; a local Ray's store grows with them, and leaves memory for work."""
    assert object_store_bytes(choose_places([BIG], VIT), VIT) == 0
    assert object_store_bytes(choose_places([GPU_HOST], VIT), VIT) == (2 * 14 + 6) * SHARD
    assert local_store_bytes(Node(2), VIT) == 512 * 2**20
    assert local_store_bytes(GPU_HOST, VIT) == (2 * 14 + 6) * SHARD * 5 // 4
    small = Node(16, 1, memory_bytes=4 * GIB)
    large = Needs("torch", 0, 1000 * 512 * 512 * 3)
    assert local_store_bytes(small, large) == int(0.3 * 4 * GIB)


def test_what_is_recorded() -> None:
    """`run.json` has alike machines as one entry, with the least memory that one of them had, and the layout."""
    nodes = (Node(4, memory_bytes=5), Node(4, memory_bytes=3), Node(8, 1, "T4"))
    layout = Layout("split", 6, 1)
    recorded = Fleet(nodes, layout).as_json()
    assert recorded["nodes"] == [
        {"count": 2, "cpus": 4, "gpus": 0.0, "gpu": None, "cpu": None, "memory_bytes": 3},
        {"count": 1, "cpus": 8, "gpus": 1, "gpu": "T4", "cpu": None, "memory_bytes": None},
    ]
    assert Layout(**recorded["layout"]) == layout


def test_places_follow_the_nodes() -> None:
    """One place for each node, in their order."""
    nodes = [Node(2)] * 3
    assert choose_places(nodes, VIT) == [NodeAllocation(Node(2), 2)] * 3
