"""Look again at what scored high: closer around frames of animations and videos, and at parts of pictures.

A second look is one more passage of the object through the same stages, from reading to scoring, with `look_closer` in
its listing: the frames to look at, or none of a picture, which is cut into tiles. Its row takes the place of the first
one, but not where the bytes are others by now, or where it fails. An object is looked at again until each spike has a
beginning and an end, or the frames are used up (`views.closer`), three times at most. The signal:

    view.closer     1 after a second look, 0 after one that failed or saw other bytes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import ViewsConfig
from nsfwscan.schema import COST, EACH_VIEW, LISTING_SCHEMA, LOOK_CLOSER, LOOKED_CLOSER, as_schema
from nsfwscan.stages.base import put, with_signals

_AT_ONCE = 16
"""Objects whose pixels are in memory together."""
_MOST_SPIKES = 4
"""Frames around which is looked, the worst ones: their neighbourhoods often overlap."""
_MOST_LOOKS = 3
"""Second looks at an object: each takes as long as the first one."""
_NEAR_S = 1.0
"""How closely the beginning and the end of a spike are to be known."""

Closer = dict[str, Any]
"""What to look at: a value of `look_closer`."""


class SecondLook:
    """Second looks at the rows of a table that want one.

    Args:
        again: takes a listing with `look_closer` through all stages.
    """

    def __init__(self, views: ViewsConfig, again: Callable[[pa.Table], pa.Table]) -> None:
        self._views = views
        self._again = again

    def __call__(self, rows: pa.Table) -> pa.Table:
        """Return the rows (`STAGED_SCHEMA`) after their second looks, in the same order."""
        wanted = self._wanted(rows)
        for left in reversed(range(_MOST_LOOKS)):
            before = {row: rows["views"][row].as_py() for row in wanted}
            looks = iter(wanted.items())
            while some := dict(islice(looks, _AT_ONCE)):
                rows = self._looked_at(rows, some)
            grown = [row for row in wanted if rows["views"][row].as_py() > before[row]]
            wanted = self._spikes(rows, grown, left - 1) if left else {}
        return rows

    def _wanted(self, rows: pa.Table) -> dict[int, Closer]:
        """Return the rows that want a second look, and where to look in each."""
        views, score, frames = rows["views"], rows["nsfw_score"], rows["frames"]
        if not self._views.looks_again:
            return {}
        several = pc.and_(pc.greater(views, 1), pc.is_in(rows["media"], pa.array(["animation", "video"])))
        some = pc.and_(several, pc.fill_null(pc.less(views, frames), True))
        found = self._spikes(rows, _rows(some), _MOST_LOOKS - 1)
        if self._views.tiles and self._views.most > 1:
            low, high = self._views.band
            between = pc.and_(pc.greater_equal(score, low), pc.less_equal(score, high))
            alone = pc.and_(pc.equal(rows["media"], "image"), pc.and_(pc.equal(views, 1), pc.equal(frames, 1)))
            found |= {row: {"frames": []} for row in _rows(pc.and_(between, alone))}
        return found

    def _spikes(self, rows: pa.Table, among: Sequence[int], left: int) -> dict[int, Closer]:
        """Return the rows in which to look closer around spikes, and where. All frames of an animation were seen: where
        there was room for more views, each looks like one of those there are.

        Args:
            left: number of looks that may follow.
        """
        found: dict[int, Closer] = {}
        for row in among:
            views = rows[EACH_VIEW.name][row].as_py() or ()
            if rows["media"][row].as_py() == "animation" and len(views) < self._views.most:
                continue
            length = rows["frames"][row].as_py() or 1 + max((view["index"] for view in views), default=0)
            if closer := look_closer(views, self._views.spike, length, self._views.closer, left):
                found[row] = closer
        return found

    def _looked_at(self, rows: pa.Table, wanted: Mapping[int, Closer]) -> pa.Table:
        first = rows.take(pa.array(list(wanted)))
        listing = as_schema(first.select([n for n in LISTING_SCHEMA.names if n in first.column_names]), LISTING_SCHEMA)
        closer = pa.array(list(wanted.values()), LOOK_CLOSER.type)
        second = self._again(listing.append_column(LOOK_CLOSER, closer))
        settled = pc.or_(pc.is_valid(second["nsfw_score"]), pc.is_valid(second["match_kind"]))
        taken = pc.and_(pc.fill_null(pc.equal(first["sha256"], second["sha256"]), False), settled).to_numpy()
        spent = first[COST.name].to_pylist()
        costs = [_added(*both) for both in zip(spent, second[COST.name].to_pylist(), strict=True)]
        places = np.where(taken, np.arange(len(taken)) + len(taken), np.arange(len(taken)))
        kept = pa.concat_tables([first, second]).take(pa.array(places))
        kept = with_signals(put(kept, COST, pa.nulls(len(taken), COST.type)), costs, COST)
        known = [any(cost["name"] == LOOKED_CLOSER for cost in one or ()) for one in spent]
        said = [
            {"view.closer": float(one)} if one or not before else None for one, before in zip(taken, known, strict=True)
        ]
        kept = with_signals(kept, said)
        order = np.arange(rows.num_rows)
        order[list(wanted)] = rows.num_rows + np.arange(len(taken))
        return pa.concat_tables([rows, kept]).take(pa.array(order))


def look_closer(views: Sequence[Mapping[str, Any]], spike: float, length: int, most: int, left: int) -> Closer | None:
    """Return where to look closer in an object; None where no view scored high, or all that did begin and end.

    A spike begins, or ends, between a view that scored high and one that did not. Frames in even distances between the
    two are looked at, half of those that are left each time, so that a later look can be closer. Beside them, frames
    around the spike are looked at in small: it counts for as long as it is shown.

    Args:
        views: `each_view`, ascending by index.
        length: number of frames.
        most: number of further views that the object may have.
        left: number of looks that may follow.
    """
    found = [view["index"] for view in views if view["reason"] == "spike"]
    high = sorted((view for view in views if _is_high(view, spike)), key=lambda view: -float(view["nsfw_score"]))
    room = most - len(found)
    if not high or room < 1:
        return None
    edges = [(one["index"], other["index"]) for one, other in pairwise(views) if _is_edge(one, other, spike)]
    if found and not edges:
        return None
    share = -(-room // (2 if left else 1))
    between = _between(edges, share)
    around = frames_around([view["index"] for view in high[:_MOST_SPIKES]], length)
    more = len(between) if found else (share if edges else room)
    frames = list(dict.fromkeys([*found, *between, *around]))
    return {"frames": frames, "views": len(found) + more}


def _is_high(view: Mapping[str, Any], spike: float) -> bool:
    return view["nsfw_score"] is not None and view["nsfw_score"] >= spike


def _is_edge(one: Mapping[str, Any], other: Mapping[str, Any], spike: float) -> bool:
    """Return whether a spike begins or ends between two views that follow each other, nobody knows when."""
    apart_s = (other["at_s"] or 0.0) - (one["at_s"] or 0.0)
    return _is_high(one, spike) != _is_high(other, spike) and other["index"] - one["index"] > 1 and apart_s > _NEAR_S


def _between(edges: Sequence[tuple[int, int]], most: int) -> list[int]:
    """Return so many frames in even distances between those of each edge, the widest ones first."""
    widest = sorted(edges, key=lambda edge: edge[0] - edge[1])[:most]
    parts = most // max(1, len(widest)) + 1
    return [
        begin + (end - begin) * part // parts
        for part in range(1, parts)
        for begin, end in widest
        if (end - begin) * part // parts
    ]


def frames_around(spikes: Sequence[int], frames: int) -> list[int]:
    """Return the places of frames that scored high, then those a frame before and after them, then two, four, eight …,
    the nearest first: however long a spike is, some of them are within it, and some beside it."""
    steps = [0, *(2**exponent for exponent in range(frames.bit_length()))]
    places = [spike + step * side for step in steps for spike in spikes for side in (-1, 1)]
    return [place for place in dict.fromkeys(places) if 0 <= place < frames]


def _rows(mask: pa.ChunkedArray) -> list[int]:
    found: list[int] = np.flatnonzero(pc.fill_null(mask, False).to_numpy()).tolist()
    return found


def _added(*costs: list[dict[str, Any]] | None) -> dict[str, float]:
    total: Counter[str] = Counter()
    for cost in costs:
        total.update({one["name"]: one["value"] for one in cost or ()})
    return dict(total)
