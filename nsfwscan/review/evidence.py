"""Choose what a person needs to see of an animation, a video or a document: as little as settles it.

The views are those that a scan scores (`images/views.py`). A file of views that is absent or damaged is a `StoreError`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.review.covers import View
from nsfwscan.runs.beside import DETECTIONS, VIEWS
from nsfwscan.runs.run import Run

MOST = 6
"""Views that are shown of an object at most."""
_NEAR = 0.5
"""A view below this share of the worst one's score settles nothing."""

Scores = Mapping[str, Mapping[int, float]]
"""By URI and frame, the `nsfw_score` of a view."""
Parts = Mapping[str, Mapping[int, list[dict[str, Any]]]]
"""By URI and frame, what detectors found there: the `label`, and the `box` in shares of the view's edges."""


def minimal(views: Sequence[View], scores: Mapping[int, float]) -> list[View]:
    """Return the worst views, in the order of the file: those within half of the worst score, and six at most. Without
    scores, as of a file that the run did not score, the first six."""
    known = [view for view in views if view.index in scores]
    if not known:
        return list(views[:MOST])
    worst = sorted(known, key=lambda view: -scores[view.index])[:MOST]
    peak = scores[worst[0].index]
    return sorted((view for view in worst if scores[view.index] >= _NEAR * peak), key=lambda view: view.index)


def scores_of_views(run: Run, uris: Collection[str]) -> Scores:
    """Return the scores of the views of some objects that have several."""
    wanted, found = pa.array(sorted(uris), pa.string()), dict[str, dict[int, float]]()
    for file in run.record().files_in(VIEWS.folder):
        rows = run.parquet(file).read(columns=["uri", "index", "nsfw_score"])
        for row in rows.filter(pc.is_in(rows["uri"], wanted)).to_pylist():
            if row["nsfw_score"] is not None:
                found.setdefault(row["uri"], {})[row["index"]] = row["nsfw_score"]
    return found


def worst_of(scores: Scores) -> dict[str, list[int]]:
    """Return the worst views of each object, by URI: what of it is drawn."""
    return {uri: sorted(known, key=lambda index, known=known: -known[index])[:MOST] for uri, known in scores.items()}  # type: ignore[misc]


def parts_of_views(run: Run, uris: Collection[str]) -> Parts:
    """Return the boxes that detectors found in some objects; they stay covered in an original until they are asked
    for."""
    wanted, found = pa.array(sorted(uris), pa.string()), dict[str, dict[int, list[dict[str, Any]]]]()
    for file in run.record().files_in(DETECTIONS.folder):
        rows = run.parquet(file).read(columns=["uri", "view", "label", "x", "y", "w", "h"])
        for row in rows.filter(pc.is_in(rows["uri"], wanted)).to_pylist():
            box = {"left": row["x"], "top": row["y"], "width": row["w"], "height": row["h"]}
            found.setdefault(row["uri"], {}).setdefault(row["view"] or 0, []).append(
                {"label": row["label"], "box": box}
            )
    return found
