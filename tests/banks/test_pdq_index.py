"""The search for near hashes is exact: by brute force, at its edges, however hashes are cut, and from a file."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.banks import pdq_index
from nsfwscan.banks.pdq_index import HASH_BYTES, Hashes, NearIndex, _Piece, index_bytes, search_on


def deep(entries: int, distance: int) -> tuple[_Piece, ...]:
    """A cut as for millions: pieces of which two bits are flipped, and one of which one is."""
    pieces = -(-(distance + 1) // 3)
    return tuple(_Piece(16 * i, 16, 2 if i or distance % 3 == 2 else 1) for i in range(pieces))


Cut = Callable[[int, int], tuple[_Piece, ...]]
own: Cut = pdq_index._pieces
"""The cut that an index chooses for so many hashes: here, few."""
CUTS = pytest.mark.parametrize("cut", [own, deep], ids=["own", "deep"])


def indexed(cut: Cut, hashes: Hashes, distance: int) -> NearIndex:
    """An index over hashes that are cut so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pdq_index, "_pieces", cut)
        return NearIndex.over(hashes, distance)


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


@CUTS
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), distance=st.sampled_from([0, 1, 15, 30, 31, 45]), asked=st.integers(0, 31))
def test_nothing_within_the_distance_is_missed(cut: Cut, seed: int, distance: int, asked: int) -> None:
    """Hashes at any distance from 0 to 40 bits of the ones looked for, their bits flipped anywhere: as brute force."""
    random = np.random.default_rng(seed)
    queries = random.integers(0, 256, (8, HASH_BYTES), dtype=np.uint8)
    near = [bits_off(queries[i % 8], random.permutation(256)[: random.integers(0, 41)].tolist()) for i in range(60)]
    hashes = np.concatenate([near, random.integers(0, 256, (40, HASH_BYTES), dtype=np.uint8)])
    index = indexed(cut, hashes, distance)
    assert searched(index, queries) == brute(hashes, queries, distance)
    assert searched(index, queries, min(asked, distance)) == brute(hashes, queries, min(asked, distance))


@pytest.mark.parametrize("distance", [31, 15])
@CUTS
def test_the_edge_is_inclusive_wherever_the_bits_are(cut: Cut, distance: int) -> None:
    """The last bit that counts is found and the next is not: all in one piece of the index, spread evenly over all, and
    anything between."""
    base = np.random.default_rng(1).integers(0, 256, HASH_BYTES, dtype=np.uint8)
    pieces, length = len(cut(1, distance)), cut(1, distance)[0].bits
    spread = [piece * length + rank for rank in range(length) for piece in range(pieces)]
    others = sorted(set(range(256)).difference(spread))
    orders = [list(range(256)), list(range(255, -1, -1)), spread + others, [(i * 23) % 256 for i in range(256)]]
    for order in orders:
        for off, there in ((distance, 1), (distance + 1, 0)):
            hashes = bits_off(base, order[:off])[None]
            found = searched(indexed(cut, hashes, distance), base[None])
            assert len(found[0]) == there


@pytest.mark.parametrize("entries", [0, 1, 63, 64, 1000, 100_000, 10_000_000])
@pytest.mark.parametrize("distance", [0, 1, 15, 31, 64, 256])
def test_a_cut_brings_all_near_hashes_together(entries: int, distance: int) -> None:
    """Hashes that no table brings together are further apart than the distance, since no two pieces share a bit."""
    pieces = own(entries, distance)
    places = [place for piece in pieces for place in range(piece.first, piece.first + piece.bits)]
    assert len(set(places)) == len(places) and set(places) <= set(range(256))
    whole = any(piece.flips == piece.bits for piece in pieces)  # whose table gives all entries
    assert whole or sum(piece.flips + 1 for piece in pieces) > distance
    for piece in pieces[:1]:
        words = np.random.default_rng(0).integers(0, 2**64, (5, 4), np.uint64)
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, piece.first : piece.first + piece.bits]
        assert (piece.of(words) == bits.astype(np.uint64) @ (1 << np.arange(piece.bits, dtype=np.uint64))).all()


def test_an_index_is_the_same_from_its_file(tmp_path: Path) -> None:
    """Written and read, it finds what it found; a file that was cut off, or is of another distance, is refused."""
    random = np.random.default_rng(2)
    hashes = random.integers(0, 256, (500, HASH_BYTES), dtype=np.uint8)
    queries = np.stack([bits_off(h, random.permutation(256)[:29].tolist()) for h in hashes[:50]])
    index = NearIndex.over(hashes, 31)
    index.write(tmp_path / "index")
    again = NearIndex.read(tmp_path / "index", 31)
    assert again.size == 500
    assert searched(again, queries) == searched(index, queries) == brute(hashes, queries, 31)
    with pytest.raises(ValueError, match="is an index of another kind"):
        NearIndex.read(tmp_path / "index", 15)
    whole = (tmp_path / "index").read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut off|reshape|array"):
            NearIndex.read(tmp_path / "cut", 31)


@pytest.mark.parametrize("asked", [1, 2, 63, 130])
def test_threads_find_the_same_in_the_same_order(monkeypatch: pytest.MonkeyPatch, asked: int) -> None:
    """A search that is shared among threads gives what one thread finds, query by query."""
    random = np.random.default_rng(3)
    queries = random.integers(0, 256, (asked, HASH_BYTES), dtype=np.uint8)
    near = [bits_off(queries[i % asked], random.permutation(256)[:20].tolist()) for i in range(300)]
    index = NearIndex.over(np.array(near), 31)
    monkeypatch.setattr(NearIndex, "threads", 1)  # so that it is as it was, afterwards
    monkeypatch.setattr(pdq_index, "_SHARED_FROM", 0)
    found = []
    for threads in (1, 2, 3):
        search_on(threads)
        found.append(searched(index, queries))
    assert found[0] == found[1] == found[2] == brute(np.array(near), queries, 31)


def test_a_flood_is_compared_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where thousands are near each other, memory holds a part of what is compared, and each is found once."""
    monkeypatch.setattr(pdq_index, "_CANDIDATES", 64)
    random = np.random.default_rng(4)
    base = random.integers(0, 256, (2, HASH_BYTES), dtype=np.uint8)
    hashes = np.array([bits_off(base[i % 2], random.permutation(256)[: i % 20].tolist()) for i in range(800)])
    assert searched(NearIndex.over(hashes, 31), base) == brute(hashes, base, 31)


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
    """The estimate grows, and stays under 1.5 GB for ten million."""
    sizes = [index_bytes(n) for n in (0, 1000, 100_000, 1_000_000, 10_000_000)]
    assert sizes == sorted(sizes) and sizes[0] < 10_000 and sizes[-1] < 1.5e9
