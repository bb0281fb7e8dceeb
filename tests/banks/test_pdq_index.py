"""The search for near hashes is exact: by brute force, at its edges, with and without the index, and from a file."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.banks.pdq_index import HASH_BYTES, Hashes, NearIndex, index_bytes, search_on

FLAT, INDEXED = 10**9, 0


def bits_off(hash_: Hashes, places: list[int]) -> Hashes:
    """A hash with these bits flipped."""
    bits = np.unpackbits(hash_)
    bits[places] ^= 1
    return np.packbits(bits)


def brute(hashes: Hashes, queries: Hashes, distance: int) -> list[set[tuple[int, int]]]:
    """(entry, distance) of all that is near each query, pair by pair."""
    apart = np.unpackbits(hashes[None] ^ queries[:, None], axis=2).sum(axis=2)
    return [{(int(i), int(row[i])) for i in np.flatnonzero(row <= distance)} for row in apart]


def searched(index: NearIndex, queries: Hashes, distance: int | None = None) -> list[set[tuple[int, int]]]:
    found = index.search(queries, distance)
    pairs = list(zip(found.entries.tolist(), found.distances.tolist(), strict=True))
    limits = found.limits.tolist()
    assert len(pairs) == limits[-1]
    return [set(pairs[a:b]) for a, b in pairwise(limits)]


@pytest.mark.parametrize("flat_up_to", [FLAT, INDEXED])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), distance=st.sampled_from([0, 1, 15, 30, 31]), asked=st.integers(0, 31))
def test_nothing_within_the_distance_is_missed(flat_up_to: int, seed: int, distance: int, asked: int) -> None:
    """Hashes at any distance from 0 to 40 bits of the ones looked for, their bits flipped anywhere: as brute force."""
    random = np.random.default_rng(seed)
    queries = random.integers(0, 256, (8, HASH_BYTES), dtype=np.uint8)
    near = [bits_off(queries[i % 8], random.permutation(256)[: random.integers(0, 41)].tolist()) for i in range(60)]
    hashes = np.concatenate([near, random.integers(0, 256, (40, HASH_BYTES), dtype=np.uint8)])
    index = NearIndex.over(hashes, distance, flat_up_to=flat_up_to)
    assert searched(index, queries) == brute(hashes, queries, distance)
    assert searched(index, queries, min(asked, distance)) == brute(hashes, queries, min(asked, distance))


@pytest.mark.parametrize(("distance", "pieces"), [(31, 11), (15, 8)])
@pytest.mark.parametrize("flat_up_to", [FLAT, INDEXED])
def test_the_edge_is_inclusive_wherever_the_bits_are(flat_up_to: int, distance: int, pieces: int) -> None:
    """The last bit that counts is found and the next is not: all in one piece of the index, spread evenly over all, and
    anything between."""
    base = np.random.default_rng(1).integers(0, 256, HASH_BYTES, dtype=np.uint8)
    length = 256 // pieces
    spread = [piece * length + rank for rank in range(length) for piece in range(pieces)]
    orders = [list(range(256)), list(range(255, -1, -1)), spread, [(i * 23) % 256 for i in range(256)]]
    for order in orders:
        for off, there in ((distance, 1), (distance + 1, 0)):
            hashes = bits_off(base, order[:off])[None]
            found = searched(NearIndex.over(hashes, distance, flat_up_to=flat_up_to), base[None])
            assert len(found[0]) == there


@pytest.mark.parametrize("flat_up_to", [FLAT, INDEXED])
def test_an_index_is_the_same_from_its_file(flat_up_to: int, tmp_path: Path) -> None:
    """Written and read, it finds what it found."""
    random = np.random.default_rng(2)
    hashes = random.integers(0, 256, (500, HASH_BYTES), dtype=np.uint8)
    queries = np.stack([bits_off(h, random.permutation(256)[:29].tolist()) for h in hashes[:50]])
    index = NearIndex.over(hashes, 31, flat_up_to=flat_up_to)
    index.write(tmp_path / "index")
    again = NearIndex.read(tmp_path / "index", 31)
    assert again.size == 500
    assert searched(again, queries) == searched(index, queries) == brute(hashes, queries, 31)


@pytest.mark.parametrize("asked", [1, 2, 63, 130])
def test_threads_find_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    """A search that is shared among threads gives what one thread finds, query by query."""
    random = np.random.default_rng(3)
    queries = random.integers(0, 256, (asked, HASH_BYTES), dtype=np.uint8)
    near = [bits_off(queries[i % asked], random.permutation(256)[:20].tolist()) for i in range(300)]
    index = NearIndex.over(np.array(near), 31, flat_up_to=INDEXED)
    monkeypatch.setattr("nsfwscan.banks.pdq_index.FLAT_UP_TO", 0)
    found = []
    for threads in (1, 2, 3):
        search_on(threads)
        found.append(searched(index, queries))
    assert found[0] == found[1] == found[2] == brute(np.array(near), queries, 31)


def test_nothing_is_near_in_an_empty_index() -> None:
    """Nothing indexed, nothing asked, or neither."""
    nothing, some = np.zeros((0, HASH_BYTES), np.uint8), np.zeros((3, HASH_BYTES), np.uint8)
    assert searched(NearIndex.over(nothing, 31), some) == [set(), set(), set()]
    assert searched(NearIndex.over(some, 31), nothing) == []
    assert searched(NearIndex.over(nothing, 31), nothing) == []


def test_an_index_says_how_far_it_reaches() -> None:
    """Asked for more than it was built for, it does not answer with a part."""
    with pytest.raises(ValueError, match="an index for 8 bits cannot tell what is within 9"):
        NearIndex.over(np.zeros((1, HASH_BYTES), np.uint8), 8).search(np.zeros((1, HASH_BYTES), np.uint8), 9)


def test_more_hashes_take_more_memory() -> None:
    """The estimate grows, and stays under 10 GB for ten million."""
    sizes = [index_bytes(n) for n in (0, 1000, 100_000, 100_001, 1_000_000, 10_000_000)]
    assert sizes == sorted(sizes) and sizes[0] == 0 and sizes[-1] < 10e9
