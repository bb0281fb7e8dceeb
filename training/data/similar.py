"""Group similar images, which must fall on one side, and find contents under several labels.

Images are connected by the same bytes, the same pixels, or similar PDQ hashes: one's hash is within `distance` bits of
the other's, or of the other's as mirrored or cropped (`perceptual.py`), and PDQ trusts both. The search is exact: it
finds every such pair. A scan's near-duplicates are narrower: 15 bits, and neither mirrored nor cropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from nsfwscan.banks.pdq_index import NearIndex
from nsfwscan.schema import Category
from training.data.perceptual import HASH_BYTES, MIN_QUALITY, VARIANTS

Labels = NDArray[np.int64]

_QUERIES = 1024
"""Hashes looked up at a time, which bounds the pairs in memory where very many are similar."""
_MERGE_AT = 1_000_000


@dataclass(frozen=True)
class Conflict:
    """One content under several labels.

    Attributes:
        kind: `exact`: the same bytes or pixels, or one URI twice; kept out of the splits. `similar`: similar images,
            which may differ in what matters (a covered and an uncovered version): kept, on one side.
        members: (uri, label) of each.
    """

    kind: Literal["exact", "similar"]
    members: tuple[tuple[str, Category], ...]


@dataclass(frozen=True)
class Groups:
    """Groups of images that belong together.

    Attributes:
        same: for each image, the number of its content (equal bytes or equal pixels).
        similar: for each image, the number of its group.
    """

    same: Labels
    similar: Labels


def find_groups(ok: pa.Table, distance: int) -> Groups:
    """Group the images.

    Args:
        ok: the facts of the readable images.
        distance: bits, of 256, up to which two hashes are similar.
    """
    same = _connected(len(ok), [_chain(ok["sha256"].to_numpy()), _chain(ok["pixels_sha256"].to_numpy())])
    trusted = np.flatnonzero(ok["pdq_quality"].to_numpy() >= MIN_QUALITY)
    if not len(trusted):
        return Groups(same, same)
    base, variants = _matrix(ok["pdq"], trusted), _matrix(ok["pdq_variants"], trusted)
    hashes, first, which = np.unique(base, axis=0, return_index=True, return_inverse=True)
    owners = trusted[first]
    near = _connected(len(ok), [_chain(same), np.stack([trusted, owners[which.reshape(-1)]])])
    queries = np.concatenate([base.reshape(-1, 1, HASH_BYTES), variants.reshape(-1, VARIANTS, HASH_BYTES)], axis=1)
    return Groups(same, _join_near(near, hashes, owners, queries, trusted, distance))


def conflicts(ok: pa.Table, groups: Groups) -> list[Conflict]:
    """Return contents under several labels, and similar images of different contents under several labels."""
    labels = np.unique(ok["label"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
    exact = _mixed(groups.same, labels)
    found = [Conflict("exact", _members(ok, rows)) for rows in exact]
    exactly = np.isin(groups.same, [groups.same[rows[0]] for rows in exact])
    similar = _mixed(np.where(exactly, -1, groups.similar), labels)
    found += [Conflict("similar", _members(ok, rows)) for rows in similar]
    return sorted(found, key=lambda conflict: (conflict.kind, conflict.members))


def exactly_contradicted(ok: pa.Table, groups: Groups) -> NDArray[np.bool_]:
    """Return for each image whether its content stands under another label, too."""
    labels = np.unique(ok["label"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)[1]
    rows = [row for group in _mixed(groups.same, labels) for row in group]
    found = np.zeros(len(ok), np.bool_)
    found[rows] = True
    return found


def _members(ok: pa.Table, rows: NDArray[np.int64]) -> tuple[tuple[str, Category], ...]:
    picked = ok.select(["uri", "label"]).take(pa.array(rows)).to_pylist()
    return tuple(sorted((row["uri"], Category(row["label"])) for row in picked))


def _mixed(groups: Labels, labels: Labels) -> list[NDArray[np.int64]]:
    """Return the rows of each group that has several labels; group -1 is none."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-2))
    split = np.split(order, starts[1:])
    return [rows for rows in split if groups[rows[0]] >= 0 and len(np.unique(labels[rows])) > 1]


def _chain(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return edges [2, n] that connect equal values, each with the next one."""
    order = np.argsort(values, kind="stable")
    equal = values[order][1:] == values[order][:-1]
    return np.stack([order[:-1][equal], order[1:][equal]])


def _connected(count: int, edges: list[NDArray[np.int64]]) -> Labels:
    """Return for each of `count` nodes the number of its component."""
    left, right = np.concatenate(edges, axis=1)
    graph = coo_array((np.ones(len(left), np.bool_), (left, right)), shape=(count, count))
    components: Labels = connected_components(graph, directed=False)[1].astype(np.int64)
    return components


def _matrix(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return fixed-size binary values as uint8 [rows, bytes]."""
    array = column.take(pa.array(rows)).combine_chunks()
    raw = b"".join(array.to_pylist())
    return np.frombuffer(raw, np.uint8).reshape(len(rows), -1)


def _join_near(
    near: Labels,
    hashes: NDArray[np.uint8],
    owners: NDArray[np.int64],
    queries: NDArray[np.uint8],
    asking: NDArray[np.int64],
    distance: int,
) -> Labels:
    """Merge the components of all images that are similar.

    Args:
        near: components so far.
        hashes, owners: distinct hashes [n, 32], and an image that has each.
        queries, asking: hashes [m, variants, 32] to look for, and the image that they are of.
    """
    index = NearIndex.over(hashes, distance)
    step = max(1, _QUERIES // queries.shape[1])
    pending: list[NDArray[np.int64]] = []
    for start in range(0, len(queries), step):
        some = np.ascontiguousarray(queries[start : start + step].reshape(-1, HASH_BYTES))
        found = index.search(some)
        counts = np.diff(found.limits).reshape(-1, queries.shape[1]).sum(axis=1)
        left = near[np.repeat(asking[start : start + step], counts)]
        right = near[owners[found.entries]]
        pending.append(np.unique(np.stack([left, right])[:, left != right], axis=1))
        if sum(pairs.shape[1] for pairs in pending) > _MERGE_AT or start + step >= len(queries):
            near = _connected(int(near.max()) + 1, pending)[near]
            pending = []
    return near
