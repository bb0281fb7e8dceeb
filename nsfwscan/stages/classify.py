"""Score pixels: by the model that the policy goes by, and by further detectors over the same decoding.

The model fills `model, label, confidence, nsfw_score` and a score for each category; a detector's probabilities go to
the `signals`. Contents are known by `sha256`, so that copies are scored once. A model that returns no number for an
image leaves that row without a score; one that returns none for any image raises `ModelError`.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ErrorCode
from nsfwscan.models.scorer import Mask, Scorer
from nsfwscan.models.spec import ModelSpec
from nsfwscan.schema import (
    AUDIT_SAMPLE,
    COST,
    FULL_BATCH,
    MODEL_COLUMNS,
    NSFW_CATEGORIES,
    REUSED,
    SIGNAL_COLUMNS,
    Category,
    score_column,
)
from nsfwscan.stages.base import ScoringStage, put, with_cost, with_signals

NO_SCORE = "the model returned no finite score for this image"


class Classify(ScoringStage):
    """Scores every row that has pixels (`column`) and that no filter settled, and the audit sample of those that one
    did."""

    name = "classify"
    adds = pa.schema([*MODEL_COLUMNS, REUSED, COST])

    def __init__(
        self, spec: ModelSpec, config: ModelConfig, storage: StorageConfig, *, threads: int, column: str = "pixels"
    ) -> None:
        self.needs: tuple[str, ...] = (column, "sha256")
        self._spec = spec
        self._scorer = Scorer(spec, config, storage, threads=threads, column=column)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with scores."""
        scored = self._scorer(table, unsettled(table))
        columns, mask = self._columns(scored.probabilities, scored.finite), pa.array(scored.finite)
        for field in MODEL_COLUMNS:
            values = columns.get(field.name, pa.nulls(table.num_rows, field.type))
            table = table.append_column(field, pc.if_else(mask, values, None).cast(field.type))
        table = _note_lost(table, scored.lost)
        table = table.append_column(REUSED, pa.array(scored.reused, mask=~scored.wanted))
        table = with_cost(table, self.name, scored.asked, scored.seconds)
        filled = scored.asked.sum() / max(1, scored.slots)
        return with_cost(table, FULL_BATCH, scored.asked, scored.seconds * filled)

    def _columns(self, scores: NDArray[np.float32], finite: Mask) -> dict[str, pa.Array]:
        categories, scores = self._spec.known, self._spec.by_category(scores)
        by_category = {c: scores[:, i] for i, c in enumerate(categories)}
        top = np.where(finite, np.nan_to_num(scores).argmax(axis=1), 0)
        nsfw = scores[:, [c in NSFW_CATEGORIES for c in categories]].sum(axis=1).clip(0, 1)
        return {
            "model": pa.array([self._spec.identity] * len(scores)),
            "label": pa.array([str(c) for c in categories]).take(pa.array(top)),
            "confidence": pa.array(scores[np.arange(len(scores)), top]),
            "nsfw_score": pa.array(nsfw.astype(np.float32)),
            **{score_column(c): pa.array(by_category[c]) for c in Category if c in by_category},
        }


class Detect(ScoringStage):
    """Asks a further model about every row that has pixels, those that a filter settled included: it looks for
    something else.

    Args:
        spec: its `name` and `labels` name the signals.
        column: of its pixels.
    """

    adds = pa.schema([*SIGNAL_COLUMNS, COST])

    def __init__(
        self, spec: ModelSpec, config: ModelConfig, storage: StorageConfig, *, threads: int, column: str
    ) -> None:
        self.name = f"detect-{spec.name}"
        self.needs: tuple[str, ...] = (column, "sha256")
        self._labels = [f"{spec.name}.{label}" for label in spec.labels]
        self._scorer = Scorer(spec, config, storage, threads=threads, column=column)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the detector's probabilities among its `signals`."""
        scored = self._scorer(table)
        found = [
            dict(zip(self._labels, map(float, row), strict=True)) if there else None
            for row, there in zip(scored.probabilities, scored.finite, strict=True)
        ]
        return with_cost(with_signals(table, found), self.name, scored.asked, scored.seconds)


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
