"""Search PDQ hashes, uint8 [n, 32], within a distance in bits, exactly: no entry is missed. Uses FAISS."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

HASH_BYTES = 32
FLAT_UP_TO = 100_000
"""Number of hashes up to which comparing with all is fast enough without an index, which takes memory."""
_HASHES, _BITS, _FLIPS = 11, 23, 2
"""Index for more: a hash is cut into 11 pieces of 23 bits, each looked up with up to 2 bits flipped. Two hashes
within 32 bits differ by at most 2 in at least one piece (11 pieces with 3 each would be 33), so none is missed."""
_REACHES = 32
_SHORT_HASHES, _SHORT_BITS, _SHORT_FLIPS, _SHORT_REACHES = 8, 32, 1, 15
"""Index for short distances: of 8 pieces of 32 bits, two hashes within 15 bits differ by at most one bit in one
piece at least. Ten times as fast: 32,000 lookups a second on two cores, among one or two million."""
_QUERIES = 1024
"""Hashes per lookup; bounds the number of results where very many hashes are near each other."""
_SHARED_FROM = 100
"""Number of hashes above which FAISS itself divides a search of the large index among its threads."""
_ADDED = 2**18
"""Hashes added at a time, since FAISS copies its input."""
_BYTES_A_HASH, _BYTES_A_BUCKET = 130, 66
"""Memory of the large index: for each hash, and for each filled bucket of one of its 11 tables."""

Hashes = NDArray[np.uint8]


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


class NearIndex:
    """An index that finds all hashes up to the distance that it was built for."""

    def __init__(self, index: Any, distance: int) -> None:
        self._index = index
        self._distance = distance

    @classmethod
    def over(cls, hashes: Hashes, distance: int, *, flat_up_to: int = FLAT_UP_TO) -> Self:
        """Return an index over hashes, uint8 [n, 32], for distances up to this one, 0 to 256 bits."""
        import faiss

        index: Any = faiss.IndexBinaryFlat(HASH_BYTES * 8)
        if len(hashes) > flat_up_to and distance <= _SHORT_REACHES:
            index = faiss.IndexBinaryMultiHash(HASH_BYTES * 8, _SHORT_HASHES, _SHORT_BITS)
            index.nflip = _SHORT_FLIPS
        elif len(hashes) > flat_up_to and distance <= _REACHES:
            index = faiss.IndexBinaryMultiHash(HASH_BYTES * 8, _HASHES, _BITS)
            index.nflip = _FLIPS
        for start in range(0, len(hashes), _ADDED):
            index.add(np.ascontiguousarray(hashes[start : start + _ADDED]))
        return cls(index, distance)

    @classmethod
    def read(cls, path: Path, distance: int) -> Self:
        """Read the index that `write` wrote. Raises RuntimeError where the file is damaged."""
        import faiss

        return cls(faiss.read_index_binary(str(path)), distance)

    def write(self, path: Path) -> None:
        """Write it to a file; reading that takes a third of the time of building."""
        import faiss

        faiss.write_index_binary(self._index, str(path))

    @property
    def size(self) -> int:
        """Number of hashes."""
        return int(self._index.ntotal)

    def search(self, hashes: Hashes, distance: int | None = None) -> Found:
        """Return all entries within `distance` bits of each hash, uint8 [m, 32]: at most the distance that the index
        was built for, which is the default."""
        within = self._distance if distance is None else distance
        if within > self._distance:
            raise ValueError(f"an index for {self._distance} bits cannot tell what is within {within}")
        counts, distances, entries = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
        for start in range(0, len(hashes) if self.size else 0, _QUERIES):
            for limits, bits, found in self._within(hashes[start : start + _QUERIES], within):
                counts.append(np.diff(limits.astype(np.int64)))
                distances.append(bits.astype(np.int32))
                entries.append(found)
        if not self.size:
            counts.append(np.zeros(len(hashes), np.int64))
        return Found(np.concatenate(counts).cumsum(), np.concatenate(distances), np.concatenate(entries))

    def _within(self, hashes: Hashes, distance: int) -> Iterable[Any]:
        """Yield FAISS's limits, distances and entries for consecutive groups of the hashes."""
        import faiss

        def search(some: Hashes) -> Any:
            strictly_nearer = distance + 1
            return self._index.range_search(np.ascontiguousarray(some), strictly_nearer)

        threads = min(faiss.omp_get_max_threads(), len(hashes))
        if threads == 1 or len(hashes) > _SHARED_FROM or self.size <= FLAT_UP_TO:
            return [search(hashes)]
        with ThreadPoolExecutor(threads, thread_name_prefix="near") as pool:
            return list(pool.map(search, np.array_split(hashes, threads)))


def index_bytes(hashes: int) -> int:
    """Estimate the memory of an index over so many hashes, for a plan of what runs where."""
    if hashes <= FLAT_UP_TO:
        return hashes * HASH_BYTES
    buckets = 2**_BITS
    filled = buckets * (1 - np.exp(-hashes / buckets))
    return int(hashes * _BYTES_A_HASH + _HASHES * filled * _BYTES_A_BUCKET)


def search_on(threads: int) -> None:
    """Let FAISS use so many threads of this process; a worker with one core uses one."""
    import faiss

    faiss.omp_set_num_threads(threads)
