"""Settle clearly benign images by cheap filters, before the expensive model.

`filtered_by` names the filter that settled a row; the prefilter's score is among the `signals`. A seeded random share
of the settled rows (`audit_sample`) is scored all the same, which tells how often the filters are wrong. The sample is
drawn by content: the same bytes are in it in every run. A prefilter that does not load raises `ModelError`.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.config import CascadeConfig, StorageConfig
from nsfwscan.models.scorer import Mask, Scored, Scorer
from nsfwscan.models.spec import ModelSpec
from nsfwscan.models.views import images_of, of_rows
from nsfwscan.schema import AUDIT_SAMPLE, COST, NSFW_CATEGORIES, REPORT_SCHEMA, SIGNAL_COLUMNS
from nsfwscan.stages.base import ScoringStage, Stage, put, with_cost, with_signals

FILTERED_BY = REPORT_SCHEMA.field("filtered_by")
PREFILTER = "prefilter"
"""Group of the prefilter's signal, `prefilter.nsfw`."""
_DIGITS = 12
_FLAT = 2
"""Pixels of an image of one colour differ by so many levels of 255 at most."""


class Heuristics(Stage):
    """Settles icons and images of a single colour, by the pixels in `column`."""

    name = "heuristics"
    adds = pa.schema([FILTERED_BY, AUDIT_SAMPLE])

    def __init__(self, config: CascadeConfig, column: str) -> None:
        self.needs: tuple[str, ...] = (column,)
        self._config = config
        self._column = column

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with `filtered_by` and `audit_sample`."""
        images, limits = images_of(table[self._column].combine_chunks())
        views = [images[start:end] for start, end in pairwise(limits)]
        named = (table[name].to_pylist() for name in ("width", "height", "pdq_quality", "sha256"))
        settled = [self._settles(*row) for row in zip(*named, views, strict=True)]
        table = table.append_column(FILTERED_BY, pa.array([name for name, _ in settled], pa.string()))
        return table.append_column(AUDIT_SAMPLE, pa.array([audit_sample for _, audit_sample in settled], pa.bool_()))

    def _settles(
        self, width: int, height: int, quality: int | None, digest: str, views: NDArray[np.uint8]
    ) -> tuple[str | None, bool | None]:
        if not len(views):
            return None, None
        if max(width, height) <= self._config.icon_pixels:
            return "icon", in_audit_sample(digest, self._config)
        # PDQ sees the whole frame, the model's pixels may be cut out of its middle.
        if quality == 0 and np.ptp(views.reshape(len(views), -1, 3), axis=1).max() <= _FLAT:
            return "flat", in_audit_sample(digest, self._config)
        return None, None


class Prefilter(ScoringStage):
    """Asks a light model, and settles the images that it is sure are benign.

    Args:
        column: of its pixels.
        keeps: whether a later model takes the same pixels.
    """

    name = "prefilter"
    adds = pa.schema([FILTERED_BY, AUDIT_SAMPLE, *SIGNAL_COLUMNS, COST])

    def __init__(
        self,
        spec: ModelSpec,
        config: CascadeConfig,
        storage: StorageConfig,
        *,
        threads: int,
        column: str,
        keeps: bool = True,
    ) -> None:
        self.needs: tuple[str, ...] = (column, "sha256")
        self.drops: tuple[str, ...] = () if keeps else (column,)
        self._config = config
        self._name = f"prefilter:{spec.identity}"
        self._nsfw = [category in NSFW_CATEGORIES for category in spec.categories]
        self._scorer = Scorer(spec, config.prefilter, storage, threads=threads, column=column)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the rows that the prefilter settled."""
        before = table["filtered_by"].combine_chunks()
        scored = self._scorer(table, before.is_null().to_numpy(zero_copy_only=False))
        nsfw = self._nsfw_of(scored)
        benign: Mask = scored.finite & (nsfw <= self._config.threshold)
        digests = table["sha256"].to_pylist()
        audit_sample = pa.array(
            [in_audit_sample(digests[i], self._config) if one else None for i, one in enumerate(benign)]
        )
        audit_sample = pc.coalesce(table["audit_sample"], audit_sample.cast(pa.bool_()))
        table = put(table, FILTERED_BY, pc.if_else(pa.array(benign), self._name, before))
        table = put(table, AUDIT_SAMPLE, audit_sample)
        said = [{f"{PREFILTER}.nsfw": float(one)} if ok else None for one, ok in zip(nsfw, scored.finite, strict=True)]
        table = with_cost(with_signals(table, said), self.name, scored.asked, scored.seconds)
        return table.drop_columns(list(self.drops))

    def _nsfw_of(self, scored: Scored) -> NDArray[np.float32]:
        """Return the prefilter's `nsfw_score` of each row: of several views, the worst one's."""
        views = scored.views[:, self._nsfw].sum(axis=1)
        return of_rows(views[:, None], views, np.ones(len(views), np.int64), scored.limits, most=1)[:, 0]


def in_audit_sample(sha256: str, config: CascadeConfig) -> bool:
    """Return whether a content is in the sample: where the first digits of MD5(`<seed>:audit_sample:<sha256>`), as a
    share of their range, are below `audit_sample`."""
    digits = hashlib.md5(f"{config.seed}:audit_sample:{sha256}".encode(), usedforsecurity=False).hexdigest()[:_DIGITS]
    return bool(int(digits, 16) < config.audit_sample * 16**_DIGITS)
