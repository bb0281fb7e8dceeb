"""Score pixels: by the model that the policy goes by, and by further detectors over the same decoding.

The model fills `model, label, confidence, nsfw_score` and a score for each category; a detector's probabilities go to
the `signals`. All are means over the worst views of an object (`models/views.py`), and `each_view` has each view's own.
What a detector finds as boxes goes to `each_detection`, a vector to `each_embedding`, and their number to the signals.
Contents are known by `sha256`, so that copies are scored once. A model that returns no number for an
image leaves that row without a score; one that returns none for any image raises `ModelError`. The signal:

    view.max            of several views, the highest `nsfw_score`
    boxes.<detector>    boxes that a detector found, in all views
    vectors.<detector>  embeddings that a detector gave, one for each view
    gate.<detector>     of a detector with a `when`: 1 where it wants the row, 0 where it does not
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.config import DetectorConfig, ModelConfig, StorageConfig
from nsfwscan.errors import ErrorCode
from nsfwscan.models.boxes import within_view
from nsfwscan.models.scorer import Mask, Scored, Scorer
from nsfwscan.models.spec import Boxes, ModelSpec
from nsfwscan.models.views import of_rows, views_of_row, weights_of
from nsfwscan.policy.gate import Gate
from nsfwscan.schema import (
    AUDIT_SAMPLE,
    COST,
    EACH_DETECTION,
    EACH_EMBEDDING,
    EACH_VIEW,
    FULL_BATCH,
    MODEL_COLUMNS,
    NSFW_CATEGORIES,
    REUSED,
    SIGNAL_COLUMNS,
    VIEW_COLUMNS,
    Category,
    score_column,
)
from nsfwscan.stages.base import ScoringStage, gated, put, with_cost, with_signals

NO_SCORE = "the model returned no finite score for this image"


class Classify(ScoringStage):
    """Scores every row that has pixels (`column`) and that no filter settled, and the audit sample of those that one
    did."""

    name = "classify"
    adds = pa.schema([*MODEL_COLUMNS, REUSED, COST])

    def __init__(
        self,
        spec: ModelSpec,
        config: ModelConfig,
        storage: StorageConfig,
        *,
        threads: int,
        column: str = "pixels",
        worst: int = 2,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.needs: tuple[str, ...] = (column, "sha256")
        self._spec = spec
        self._worst = worst
        self._scorer = Scorer(spec, config, storage, threads=threads, column=column, moved=moved)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with scores."""
        scored = self._scorer(table, unsettled(table))
        views = self._spec.by_category(scored.views)
        of_views = self._columns(views)
        nsfw = of_views["nsfw_score"].to_numpy()
        weights = weights_of(table, scored.limits)
        columns = self._columns(of_rows(views, nsfw, weights, scored.limits, self._worst))
        table = self._with_views(table, scored, of_views, columns)
        mask = pa.array(scored.finite)
        for field in MODEL_COLUMNS:
            values = columns.get(field.name, pa.nulls(table.num_rows, field.type))
            table = table.append_column(field, pc.if_else(mask, values, None).cast(field.type))
        table = _note_lost(table, scored.lost)
        table = table.append_column(REUSED, pa.array(scored.reused, mask=~scored.wanted))
        table = with_cost(table, self.name, scored.asked, scored.seconds)
        return with_cost(table, FULL_BATCH, scored.asked, scored.seconds * scored.filled)

    def _columns(self, scores: NDArray[np.float32]) -> dict[str, pa.Array]:
        """Return the columns of rows, or of views, from probabilities [rows, known categories]."""
        categories = self._spec.known
        by_category = {c: scores[:, i] for i, c in enumerate(categories)}
        top = np.nan_to_num(scores).argmax(axis=1)
        nsfw = scores[:, [c in NSFW_CATEGORIES for c in categories]].sum(axis=1).clip(0, 1)
        return {
            "model": pa.array([self._spec.identity] * len(scores)),
            "label": pa.array([str(c) for c in categories]).take(pa.array(top)),
            "confidence": pa.array(scores[np.arange(len(scores)), top]),
            "nsfw_score": pa.array(nsfw.astype(np.float32)),
            **{score_column(c): pa.array(by_category[c]) for c in Category if c in by_category},
        }

    def _with_views(
        self, table: pa.Table, scored: Scored, of_views: dict[str, pa.Array], columns: dict[str, pa.Array]
    ) -> pa.Table:
        """Return the table with the scores of each view of the rows that have several, and add to the columns where the
        worst one is."""
        if EACH_VIEW.name not in table.column_names or table[EACH_VIEW.name].null_count == table.num_rows:
            return table
        each = table[EACH_VIEW.name].to_pylist()
        own = [field.name for field in VIEW_COLUMNS if field.name in of_views]
        worst: list[dict[str, Any]] = [{}] * table.num_rows
        said: list[dict[str, float] | None] = [None] * table.num_rows
        for row in np.flatnonzero(scored.finite):
            if each[row]:
                of_row = slice(scored.limits[row], scored.limits[row + 1])
                named = pa.table({name: of_views[name][of_row] for name in own}).to_pylist()
                each[row] = [{**view, **scores} for view, scores in zip(each[row], named, strict=True)]
                worst[row] = max(each[row], key=lambda view: float(view["nsfw_score"]))
                said[row] = {"view.max": worst[row]["nsfw_score"]}
        columns["worst_view"] = pa.array([view.get("index") for view in worst], pa.int32())
        columns["worst_at_s"] = pa.array([view.get("at_s") for view in worst], pa.float64())
        return with_signals(put(table, EACH_VIEW, pa.array(each, EACH_VIEW.type)), said)


class Detect(ScoringStage):
    """Asks a further model about the rows that have pixels and that it wants, those that a filter settled included: it
    looks for something else.

    Args:
        spec: its `name` and `labels` name the signals.
        column: of its pixels.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: DetectorConfig,
        storage: StorageConfig,
        *,
        threads: int,
        column: str,
        worst: int = 2,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._gate = Gate(spec.name, config) if config.when is not None else None
        self._column, self._abstain = column, config.abstain
        self.name = f"detect-{spec.name}"
        own = {"boxes": [EACH_DETECTION], "embedding": [EACH_EMBEDDING]}.get(spec.gives, [])
        self.adds = pa.schema([*SIGNAL_COLUMNS, COST, *own])
        self._spec = spec
        self._worst = worst
        self.needs: tuple[str, ...] = (column, "sha256")
        self._labels = [f"{spec.name}.{label}" for label in dict.fromkeys(spec.labels)]
        self._scorer = Scorer(spec, config, storage, threads=threads, column=column, moved=moved)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the detector's probabilities among its `signals`."""
        wanted, table = gated(table, self._gate, self._column)
        scored = self._scorer(table, wanted)
        if self._spec.gives == "embedding":
            return with_cost(self._with_vectors(table, scored), self.name, scored.asked, scored.seconds)
        weights = weights_of(table, scored.limits)
        of_labels = [
            of_rows(one[:, None], one, weights, scored.limits, self._worst)[:, 0].tolist()
            for one in self._by_name(scored.views).T
        ]
        found = [
            self._said(dict(zip(self._labels, row, strict=True))) if there else None
            for *row, there in zip(*of_labels, scored.finite, strict=True)
        ]
        table = with_cost(with_signals(table, found), self.name, scored.asked, scored.seconds)
        return table if scored.boxes is None else self._with_boxes(table, scored, scored.boxes)

    def _said(self, found: dict[str, float]) -> dict[str, float]:
        """Return the probabilities of a row without those that say nothing, and whether there were such ones."""
        if self._abstain is None:
            return found
        low, high = self._abstain
        kept = {name: value for name, value in found.items() if not low < value < high}
        return {**kept, f"{self._spec.name}.abstained": float(len(kept) < len(found))}

    def _by_name(self, views: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the numbers of each name: of several labels, their sum, or the highest score of a box."""
        labels = np.array(self._spec.labels)
        if len(self._labels) == len(labels):
            return views
        joined = np.max if self._spec.gives == "boxes" else np.sum
        return np.stack([joined(views[:, labels == name], axis=1) for name in dict.fromkeys(labels)], axis=1)

    def _with_vectors(self, table: pa.Table, scored: Scored) -> pa.Table:
        """Return the table with a vector of length 1 for each view, after other detectors' ones, and their number."""
        there, contents = EACH_EMBEDDING.name in table.column_names, table["sha256"].to_pylist()
        each = table[EACH_EMBEDDING.name].to_pylist() if there else [None] * table.num_rows
        counts: list[dict[str, float] | None] = [None] * table.num_rows
        vectors = scored.views / np.maximum(np.linalg.norm(scored.views, axis=1, keepdims=True), _SMALLEST)
        rows = table.select([name for name in _OF_VIEWS if name in table.column_names])
        for row in np.flatnonzero(scored.finite):
            of_row = vectors[scored.limits[row] : scored.limits[row + 1]]
            places = [index for index, _ in views_of_row(rows.slice(row, 1).to_pylist()[0])]
            one = {"sha256": contents[row], "detector": self._spec.name}
            found = [{**one, "view": view, "vector": vector} for view, vector in zip(places, of_row, strict=True)]
            counts[row] = {f"vectors.{self._spec.name}": float(len(found))}
            each[row] = [*(each[row] or []), *found]
        return with_signals(put(table, EACH_EMBEDDING, pa.array(each, EACH_EMBEDDING.type)), counts)

    def _with_boxes(self, table: pa.Table, scored: Scored, boxes: Sequence[Boxes]) -> pa.Table:
        """Return the table with the boxes of all views, after those of other detectors, and their number."""
        there = EACH_DETECTION.name in table.column_names
        each = table[EACH_DETECTION.name].to_pylist() if there else [None] * table.num_rows
        counts: list[dict[str, float] | None] = [None] * table.num_rows
        rows = table.select([name for name in _OF_VIEWS if name in table.column_names])
        for row in np.flatnonzero(scored.finite):
            views = views_of_row(rows.slice(row, 1).to_pylist()[0])
            named = [
                self._named(index, within_view(boxes[scored.limits[row] + place], self._spec.geometry, size))
                for place, (index, size) in enumerate(views)
            ]
            found = [box for of_view in named for box in of_view]
            counts[row] = {f"boxes.{self._spec.name}": float(len(found))}
            each[row] = [*(each[row] or []), *found] or None
        return with_signals(put(table, EACH_DETECTION, pa.array(each, EACH_DETECTION.type)), counts)

    def _named(self, view: int, boxes: Boxes) -> list[dict[str, Any]]:
        """Return the boxes of a view as `each_detection` has them."""
        return [
            {
                "view": view,
                "detector": self._spec.name,
                "label": self._spec.labels[int(label)],
                **dict(zip(("score", "x", "y", "w", "h"), map(float, rest), strict=True)),
            }
            for label, *rest in boxes
        ]


_SMALLEST = np.float32(1e-12)
"""A vector of nothing stays one."""
_OF_VIEWS = ("width", "height", EACH_VIEW.name)


def unsettled(table: pa.Table) -> Mask:
    """Return the rows that no filter settled, and the audit sample of those that one did."""
    if AUDIT_SAMPLE.name not in table.column_names:
        return np.ones(table.num_rows, np.bool_)
    open_ = pc.or_(pc.is_null(table["filtered_by"]), pc.fill_null(table[AUDIT_SAMPLE.name], False))
    return np.asarray(open_.to_numpy(), np.bool_)


def _note_lost(table: pa.Table, lost: NDArray[np.intp]) -> pa.Table:
    if not len(lost):
        return table
    is_lost = np.zeros(table.num_rows, np.bool_)
    is_lost[lost] = True
    for name, value in (("error", NO_SCORE), ("error_code", str(ErrorCode.NO_SCORE))):
        table = put(table, table.schema.field(name), pc.if_else(is_lost, value, table[name]))
    return table
