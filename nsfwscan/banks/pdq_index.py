"""Search PDQ hashes, uint8 [n, 32], within a distance in bits, exactly: no entry is missed.

A hash is cut into pieces. Each piece has a table of the entries by the value of their piece. A hash is looked up there
as it is, and with one or two bits of the piece flipped, and compared in full with what is found. Two hashes that no
table brings together differ in each piece by one bit more than are flipped there, at least. The sum of these numbers
over all pieces is more than the distance, so no entry within it is missed (Norouzi, Punjani and Fleet, 2012; pieces of
which different numbers of bits are flipped: Qin et al., 2018). `IndexBinaryMultiHash` of FAISS does the same with equal
pieces and hash maps; among ten million hashes it takes several times as long, and five times the memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import combinations, pairwise
from math import comb
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 32
LARGE = 100_000
"""Number of hashes above which an index is so large that a node keeps one, and not one per worker."""
_BITS = HASH_BYTES * 8
_WORD = 64
_LEAST_BITS = 6
_OF_A_CANDIDATE = 3.0
"""Time to compare an entry that a table has, as a multiple of that of a lookup in the table, as measured."""
_LOOKUPS = 2**14
"""Lookups in a table at a time: their intermediate results fit a core's cache."""
_CANDIDATES = 2**20
"""Entries that are compared at a time, since very many may be near each other."""
_SHARED_FROM = 2**17
"""Lookups from which a search is divided among threads."""

Hashes = NDArray[np.uint8]
_Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Found:
    """Results of a search.

    Attributes:
        limits: int64 [m + 1]; the results for hash `i` lie from `limits[i]` to `limits[i + 1]`.
        distances: int32 [k], bits.
        entries: int64 [k], positions among the indexed hashes, in no order.
    """

    limits: NDArray[np.int64]
    distances: NDArray[np.int32]
    entries: NDArray[np.int64]


@dataclass(frozen=True)
class _Piece:
    """Consecutive bits of a hash, and how many of them a lookup flips at most."""

    first: int
    bits: int
    flips: int

    def of(self, words: _Words) -> _Words:
        """Return the values of this piece of hashes, uint64 [n, 4]."""
        word, shift = divmod(self.first, _WORD)
        found = words[:, word] >> np.uint64(shift)
        if shift + self.bits > _WORD:
            found |= words[:, word + 1] << np.uint64(_WORD - shift)
        return found & np.uint64((1 << self.bits) - 1)

    @property
    def lookups(self) -> int:
        """Number of lookups for one hash."""
        return sum(comb(self.bits, flips) for flips in range(self.flips + 1))

    def flipped(self) -> NDArray[np.int64]:
        """Return all ways to flip bits of the piece, int64 [lookups]."""
        flips = (places for n in range(self.flips + 1) for places in combinations(range(self.bits), n))
        return np.array([sum(1 << place for place in places) for places in flips], np.int64)


@cache
def _pieces(entries: int, distance: int) -> tuple[_Piece, ...]:
    """Return the cheapest cut of hashes: `number` pieces, the first `more` of them with one flip more."""
    widest = max(_LEAST_BITS, entries.bit_length())  # a table then takes at most twice the memory of its entries
    widths = range(_LEAST_BITS, widest + 1)

    @cache
    def cost(bits: int, flips: int) -> float:
        lookups = _Piece(0, bits, min(flips, bits)).lookups
        return lookups * (1 + _OF_A_CANDIDATE * entries / float(1 << bits))

    best, found = np.inf, (0, 0, 0, 0, 0)
    for number in range(1, distance + 2):
        flips, more = divmod(distance + 1 - number, number)
        for wide in widths if more else (0,):
            for narrow in widths:
                total = more * cost(wide, flips + 1) * bool(more) + (number - more) * cost(narrow, flips)
                if more * wide + (number - more) * narrow <= _BITS and total < best:
                    best, found = total, (number, flips, more, wide, narrow)
    number, flips, more, wide, narrow = found
    bits = [wide] * more + [narrow] * (number - more)
    starts = np.cumsum([0, *bits]).tolist()
    return tuple(_Piece(starts[i], n, min(n, flips + (i < more))) for i, n in enumerate(bits))


class _Table:
    """Entries by the value of one piece: those of value `v` lie from `starts[v]` to `starts[v + 1]`.

    Attributes:
        starts: uint32 [2 ** bits + 1].
        entries: uint32 [n].
    """

    def __init__(self, piece: _Piece, starts: NDArray[np.uint32], entries: NDArray[np.uint32]) -> None:
        self.piece, self.starts, self.entries = piece, starts, entries
        self._flipped = piece.flipped()

    @classmethod
    def over(cls, piece: _Piece, words: _Words) -> Self:
        """Return the table of hashes."""
        values = piece.of(words)
        starts = np.zeros((1 << piece.bits) + 1, np.uint32)
        np.cumsum(np.bincount(values.astype(np.int64), minlength=1 << piece.bits), out=starts[1:])
        values <<= np.uint64(32)
        values |= np.arange(len(values), dtype=np.uint64)
        values.sort()
        return cls(piece, starts, values.astype(np.uint32))

    def candidates(self, words: _Words) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield positions among hashes, uint64 [m, 4], with entries that may be near them, int64 [k] both."""
        step = max(1, _LOOKUPS // len(self._flipped))
        for start in range(0, len(words), step):
            values = self.piece.of(words[start : start + step]).astype(np.int64)
            places = (values[:, None] ^ self._flipped).ravel()
            starts = self.starts.take(places)
            counts = self.starts.take(places + 1) - starts
            hits = np.flatnonzero(counts)
            starts, counts = starts[hits].astype(np.int64), counts[hits].astype(np.int64)
            ends = np.cumsum(counts)
            cuts = np.searchsorted(ends, np.arange(0, ends[-1] if len(ends) else 0, _CANDIDATES)).tolist()
            for low, high in pairwise([*cuts, len(hits)]):
                number = counts[low:high]
                before = np.cumsum(number) - number
                run = np.repeat(starts[low:high] - before, number)
                run += np.arange(len(run))
                asked: NDArray[np.int64] = np.repeat(start + hits[low:high] // len(self._flipped), number)
                yield asked, self.entries.take(run).astype(np.int64)


class NearIndex:
    """An index that finds all hashes up to the distance that it was built for."""

    threads: ClassVar[int] = os.cpu_count() or 1

    def __init__(self, words: _Words, tables: list[_Table], distance: int) -> None:
        self._words, self._tables, self._distance = words, tables, distance

    @classmethod
    def over(cls, hashes: Hashes, distance: int) -> Self:
        """Return an index over hashes, uint8 [n, 32], for distances up to this one, 0 to 256 bits."""
        words = _words(hashes)
        return cls(words, [_Table.over(piece, words) for piece in _pieces(len(words), distance)], distance)

    @classmethod
    def read(cls, path: Path, distance: int) -> Self:
        """Read the index that `write` wrote. Raises ValueError where the file is damaged, or is for other distances."""
        with path.open("rb") as file:
            try:
                words = np.load(file)
                pieces = _pieces(len(words), distance)
                tables = [_Table(piece, np.load(file), np.load(file)) for piece in pieces]
            except EOFError as error:
                raise ValueError(f"{path} was cut off") from error
        if any(
            len(table.starts) != (1 << table.piece.bits) + 1 or len(table.entries) != len(words) for table in tables
        ):
            raise ValueError(f"{path} is an index of another kind")
        return cls(words, tables, distance)

    def write(self, path: Path) -> None:
        """Write it to a file; reading that is much quicker than building."""
        with path.open("wb") as file:
            np.save(file, self._words)
            for table in self._tables:
                np.save(file, table.starts)
                np.save(file, table.entries)

    @property
    def size(self) -> int:
        """Number of hashes."""
        return len(self._words)

    def search(self, hashes: Hashes, distance: int | None = None) -> Found:
        """Return all entries within `distance` bits of each hash, uint8 [m, 32]: at most the distance that the index
        was built for, which is the default."""
        within = self._distance if distance is None else distance
        if within > self._distance:
            raise ValueError(f"an index for {self._distance} bits cannot tell what is within {within}")
        words = _words(hashes)
        parts = min(self.threads, len(words)) if len(words) * self._lookups > _SHARED_FROM else 1
        with ThreadPoolExecutor(parts, thread_name_prefix="near") as threads:
            found = list(threads.map(lambda some: self._within(some, within), np.array_split(words, parts)))
        counts, distances, entries = (np.concatenate(column) for column in zip(*found, strict=True))
        return Found(np.concatenate([[0], counts.cumsum()]), distances, entries)

    @property
    def _lookups(self) -> int:
        return sum(table.piece.lookups for table in self._tables)

    def _within(self, words: _Words, distance: int) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Return how many entries are near each hash, and their distances and positions, those of one hash together."""
        nothing = np.empty(0, np.int64)
        found = [(nothing, nothing, nothing)]
        for number, table in enumerate(self._tables):
            for asked, candidates in table.candidates(words):
                differ = self._words.take(candidates, axis=0)
                differ ^= words.take(asked, axis=0)
                bits = np.bitwise_count(differ)
                near = np.flatnonzero(bits[:, 0] + bits[:, 1] <= distance)  # most are not
                if len(near):
                    bits, differ = bits[near].sum(1, dtype=np.int64), differ[near]
                    kept = bits <= distance
                    for earlier in self._tables[:number]:  # what they find, too, is known
                        kept &= np.bitwise_count(earlier.piece.of(differ)) > earlier.piece.flips
                    found.append((asked[near[kept]], bits[kept], candidates[near[kept]]))
        asked, bits, entries = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(asked, kind="stable")
        return np.bincount(asked, minlength=len(words)), bits[order].astype(np.int32), entries[order]


def _words(hashes: Hashes) -> _Words:
    return np.ascontiguousarray(hashes).view(np.uint64).reshape(-1, _BITS // _WORD)


def index_bytes(hashes: int, distance: int = 31) -> int:
    """Return the memory of an index over so many hashes, for a plan of what runs where."""
    return hashes * HASH_BYTES + sum(4 * (1 << piece.bits) + 4 * hashes for piece in _pieces(hashes, distance))


def search_on(threads: int) -> None:
    """Let searches use so many threads of this process; a worker with one core uses one."""
    NearIndex.threads = threads
