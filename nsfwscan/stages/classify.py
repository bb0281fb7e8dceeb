"""Pixels to probabilities.

In: `pixels`. Out: `model, label, confidence, nsfw_score` and a score for each category. Batches have one fixed shape
and the last is padded, so a score does not depend on its neighbours. A model that yields no number for one image leaves
that row without a score; one that yields none for any image is a broken set-up.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models import registry
from nsfwscan.models.spec import Classifier, Hardware, ModelSpec
from nsfwscan.schema import MODEL_COLUMNS, NSFW_CATEGORIES, Category, score_column

NO_SCORE = "the model returned no finite score for this image"


class Classify:
    """Scores every row that has pixels, on the device that this worker finds."""

    name = "classify"
    needs: tuple[str, ...] = ("pixels",)
    adds = pa.schema(MODEL_COLUMNS)
    drops: tuple[str, ...] = ("pixels",)

    def __init__(self, spec: ModelSpec, config: ModelConfig, storage: StorageConfig, *, threads: int) -> None:
        self._spec = spec
        self._config = config
        self._storage = storage
        self._threads = threads

    def open(self) -> None:
        """Loads the weights."""
        _ = self._classifier

    @cached_property
    def hardware(self) -> Hardware:
        """Device, precision and batch size, as found on this worker."""
        return registry.choose_hardware(self._spec, self._config, threads=self._threads)

    @cached_property
    def _classifier(self) -> Classifier:
        return registry.load(self._spec, self._storage, self.hardware)

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with scores, without `pixels`."""
        pixels = table["pixels"].combine_chunks()
        rows = np.flatnonzero(pixels.is_valid().to_numpy(zero_copy_only=False))
        images = _as_images(pixels, self._spec.geometry.shape)
        scores = np.full((table.num_rows, len(self._spec.categories)), np.nan, np.float32)
        size = self.hardware.batch_size
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        found = self._classifier.stream(self._padded(images[batch]) for batch in batches)
        for batch, probabilities in zip(batches, found, strict=True):
            scores[batch] = probabilities[: len(batch)]
        finite: NDArray[np.bool_] = np.asarray(np.isfinite(scores).all(axis=1))
        if len(rows) and not finite[rows].any():
            raise ModelError(
                f"{self._spec.identity} returned no finite score for any of {len(rows)} images: try --dtype float32"
            )
        return self._with_scores(table.drop_columns(["pixels"]), scores, finite, lost=rows[~finite[rows]])

    def _padded(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """At most one batch of images, filled up with black ones to the fixed shape."""
        missing = self.hardware.batch_size - len(images)
        batch = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images
        return np.ascontiguousarray(batch)

    def _with_scores(
        self, table: pa.Table, scores: NDArray[np.float32], finite: NDArray[np.bool_], lost: NDArray[np.intp]
    ) -> pa.Table:
        categories = self._spec.categories
        by_category = {c: scores[:, i] for i, c in enumerate(categories)}
        top = np.where(finite, np.nan_to_num(scores).argmax(axis=1), 0)
        nsfw = scores[:, [c in NSFW_CATEGORIES for c in categories]].sum(axis=1).clip(0, 1)
        columns: dict[str, pa.Array] = {
            "model": pa.array([self._spec.identity] * table.num_rows),
            "label": pa.array([str(c) for c in categories]).take(pa.array(top)),
            "confidence": pa.array(scores[np.arange(len(scores)), top]),
            "nsfw_score": pa.array(nsfw.astype(np.float32)),
            **{score_column(c): pa.array(by_category[c]) for c in Category if c in by_category},
        }
        mask = pa.array(finite)
        for field in self.adds:
            values = columns.get(field.name)
            column = (
                pa.nulls(table.num_rows, field.type)
                if values is None
                else pc.if_else(mask, values, None).cast(field.type)
            )
            table = table.append_column(field, column)
        return _note_lost(table, lost)


def _as_images(pixels: pa.FixedSizeBinaryArray, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The column as uint8 [rows, H, W, 3] without a copy; null rows hold whatever lies in their slot."""
    width = pixels.type.byte_width
    flat = np.frombuffer(pixels.buffers()[1], np.uint8, count=(pixels.offset + len(pixels)) * width)
    return flat[pixels.offset * width :].reshape(len(pixels), *shape)


def _note_lost(table: pa.Table, lost: NDArray[np.intp]) -> pa.Table:
    if not len(lost):
        return table
    errors = table["error"].to_pylist()
    for row in lost:
        errors[row] = NO_SCORE
    return table.set_column(
        table.schema.get_field_index("error"), table.schema.field("error"), pa.array(errors, pa.string())
    )
