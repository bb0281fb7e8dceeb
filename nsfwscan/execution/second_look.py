"""Look again at what scored high: closer around frames of animations and videos, and at parts of pictures.

A second look is one more passage of the object through the same stages, from reading to scoring, with `look_closer` in
its listing: the frames that scored high, or none of a picture, which is cut into tiles. Its row takes the place of the
first one, but not where the bytes are others by now, or where it fails. The signal:

    view.closer     1 after a second look, 0 after one that failed or saw other bytes
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import ViewsConfig
from nsfwscan.schema import COST, EACH_VIEW, LISTING_SCHEMA, LOOK_CLOSER, as_schema
from nsfwscan.stages.base import put, with_signals

_AT_ONCE = 16
"""Objects whose pixels are in memory together."""
_MOST_SPIKES = 4
"""Frames around which is looked, the worst ones: their neighbourhoods often overlap."""

Moved = Callable[[], None]


class SecondLook:
    """Second looks at the rows of a table that want one.

    Args:
        again: takes a listing with `look_closer` through all stages; calls its second argument now and then.
    """

    def __init__(self, views: ViewsConfig, again: Callable[[pa.Table, Moved], pa.Table]) -> None:
        self._views = views
        self._again = again

    def __call__(self, rows: pa.Table, moved: Moved = lambda: None) -> pa.Table:
        """Return the rows (`STAGED_SCHEMA`) after their second looks, in the same order."""
        wanted = iter(self._wanted(rows).items())
        while some := dict(islice(wanted, _AT_ONCE)):
            rows = self._looked_at(rows, some, moved)
        return rows

    def _wanted(self, rows: pa.Table) -> dict[int, list[int]]:
        """Return the rows that want a second look, and where to look in each."""
        views, score, frames = rows["views"], rows["nsfw_score"], rows["frames"]
        found: dict[int, list[int]] = {}
        if not self._views.looks_again:
            return found
        several = pc.and_(pc.greater(views, 1), pc.is_in(rows["media"], pa.array(["animation", "video"])))
        for row in _rows(pc.and_(several, pc.fill_null(pc.less(views, frames), True))):
            if spikes := self._spikes(rows["media"][row].as_py(), rows[EACH_VIEW.name][row].as_py() or ()):
                found[row] = spikes
        if self._views.tiles and self._views.most > 1:
            low, high = self._views.band
            between = pc.and_(pc.greater_equal(score, low), pc.less_equal(score, high))
            alone = pc.and_(pc.equal(rows["media"], "image"), pc.and_(pc.equal(views, 1), pc.equal(frames, 1)))
            found |= {row: [] for row in _rows(pc.and_(between, alone))}
        return found

    def _spikes(self, media: str, views: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the frames around which to look. All frames of an animation were seen: where there was room for more
        views, each looks like one of those there are."""
        if not self._views.closer or (media == "animation" and len(views) < self._views.most):
            return []
        high = [view for view in views if (view["nsfw_score"] or 0.0) >= self._views.spike]
        return [view["index"] for view in sorted(high, key=lambda view: -float(view["nsfw_score"]))[:_MOST_SPIKES]]

    def _looked_at(self, rows: pa.Table, wanted: Mapping[int, list[int]], moved: Moved) -> pa.Table:
        first = rows.take(pa.array(list(wanted)))
        listing = as_schema(first.select([n for n in LISTING_SCHEMA.names if n in first.column_names]), LISTING_SCHEMA)
        closer = pa.array(list(wanted.values()), LOOK_CLOSER.type)
        second = self._again(listing.append_column(LOOK_CLOSER, closer), moved)
        known = pc.or_(pc.is_valid(second["nsfw_score"]), pc.is_valid(second["match_kind"]))
        taken = pc.and_(pc.fill_null(pc.equal(first["sha256"], second["sha256"]), False), known).to_numpy()
        costs = [
            _added(*both) for both in zip(first[COST.name].to_pylist(), second[COST.name].to_pylist(), strict=True)
        ]
        places = np.where(taken, np.arange(len(taken)) + len(taken), np.arange(len(taken)))
        kept = pa.concat_tables([first, second]).take(pa.array(places))
        kept = with_signals(put(kept, COST, pa.nulls(len(taken), COST.type)), costs, COST)
        kept = with_signals(kept, [{"view.closer": float(one)} for one in taken])
        order = np.arange(rows.num_rows)
        order[list(wanted)] = rows.num_rows + np.arange(len(taken))
        return pa.concat_tables([rows, kept]).take(pa.array(order))


def _rows(mask: pa.ChunkedArray) -> Iterator[int]:
    return iter(np.flatnonzero(pc.fill_null(mask, False).to_numpy()).tolist())


def _added(*costs: list[dict[str, Any]] | None) -> dict[str, float]:
    total: Counter[str] = Counter()
    for cost in costs:
        total.update({one["name"]: one["value"] for one in cost or ()})
    return dict(total)
