"""Settle clearly benign images by cheap filters, before the expensive model.

`filtered_by` names the filter that settled a row; the prefilter's score is among the `signals`. A seeded random share
of the settled rows (`audit_sample`) is scored all the same, which tells how often the filters are wrong. The sample is
drawn by content: the same bytes are in it in every run. A prefilter that does not load raises `ModelError`.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import CascadeConfig, StorageConfig
from nsfwscan.models.scorer import Mask, Scorer
from nsfwscan.models.spec import ModelSpec
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
        named = ["width", "height", "pdq_quality", "sha256", self._column]
        rows = zip(*(table[name].to_pylist() for name in named), strict=True)
        settled = [self._settles(*row) for row in rows]
        table = table.append_column(FILTERED_BY, pa.array([name for name, _ in settled], pa.string()))
        return table.append_column(AUDIT_SAMPLE, pa.array([audit_sample for _, audit_sample in settled], pa.bool_()))

    def _settles(
        self, width: int, height: int, quality: int | None, digest: str, pixels: bytes | None
    ) -> tuple[str | None, bool | None]:
        if pixels is None:
            return None, None
        if max(width, height) <= self._config.icon_pixels:
            return "icon", in_audit_sample(digest, self._config)
        # PDQ sees the whole frame, the model's pixels may be cut out of its middle.
        if quality == 0 and np.ptp(np.frombuffer(pixels, np.uint8).reshape(-1, 3), axis=0).max() <= _FLAT:
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
        nsfw = scored.probabilities[:, self._nsfw].sum(axis=1)
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


def in_audit_sample(sha256: str, config: CascadeConfig) -> bool:
    """Return whether a content is in the sample: where the first digits of MD5(`<seed>:audit_sample:<sha256>`), as a
    share of their range, are below `audit_sample`."""
    digits = hashlib.md5(f"{config.seed}:audit_sample:{sha256}".encode(), usedforsecurity=False).hexdigest()[:_DIGITS]
    return bool(int(digits, 16) < config.audit_sample * 16**_DIGITS)
