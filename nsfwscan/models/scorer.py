"""Score the views of a table's rows with one model.

All views of a table go into batches of one fixed shape, and the last one is padded, so a score does not depend on its
neighbours. A worker scores the same bytes once, as far as it remembers them. A model that returns no number for any
image raises `ModelError`: the set-up is broken.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models import registry
from nsfwscan.models.boxes import read_boxes
from nsfwscan.models.spec import Boxes, Classifier, Findings, Hardware, ModelSpec
from nsfwscan.models.views import Limits, images_of, indices_of

_REMEMBERED = 50_000
"""Number of latest contents whose scores a worker keeps: about 15 MB; of vectors, fewer, as many numbers as of eight
labels."""

Mask = NDArray[np.bool_]
Content = tuple[str, tuple[int, ...]]
"""SHA-256, and which of its frames are its views: others where decoding took too long, and in a second look."""


@dataclass(frozen=True)
class Scored:
    """Scores of a table.

    Attributes:
        boxes: of each view; None where the model gives none, and empty in a view that was not wanted.
        views: float32 probabilities [views, labels], or vectors [views, dimensions]; NaN in a view of a row that was
            not wanted, and where the model returned no number.
        limits: of each row's views.
        wanted: rows that were scored, now or before.
        finite: rows of these whose views all have probabilities.
        reused: rows of these whose bytes were scored before.
        seconds: time taken.
        filled: share of the places in all batches that a view took; the others are padding.
    """

    views: NDArray[np.float32]
    limits: Limits
    wanted: Mask
    finite: Mask
    reused: Mask
    seconds: float
    filled: float
    boxes: Sequence[Boxes] | None = None

    @property
    def asked(self) -> Mask:
        """Rows that the model scored now."""
        return self.wanted & ~self.reused

    @property
    def lost(self) -> NDArray[np.intp]:
        """Rows for which the model returned no number."""
        return np.flatnonzero(self.wanted & ~self.finite)


NO_BOXES: Boxes = np.empty((0, 6), np.float32)


def reader_of(spec: ModelSpec) -> Callable[[NDArray[np.float32]], Findings]:
    """Return what reads the output of a model: float32 [batch, …] to findings of each view of the batch."""
    return partial(read_boxes, geometry=spec.geometry) if spec.gives == "boxes" else Findings


class Scorer:
    """A model on the device of this worker.

    Args:
        column: of its pixels.
        moved: called before each batch, as long as there is progress.
    """

    def __init__(
        self,
        spec: ModelSpec,
        config: ModelConfig,
        storage: StorageConfig,
        *,
        threads: int,
        column: str,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self._config = config
        self._storage = storage
        self._threads = threads
        self._column = column
        self._moved = moved
        self._remembered: dict[Content, tuple[NDArray[np.float32], list[Boxes]]] = {}
        self._read = reader_of(spec)

    def open(self) -> None:
        """Load the weights."""
        _ = self._classifier

    @cached_property
    def hardware(self) -> Hardware:
        """Device, precision and batch size, as found on this worker."""
        return registry.choose_hardware(self.spec, self._config, threads=self._threads)

    @cached_property
    def _classifier(self) -> Classifier:
        return registry.load(self.spec, self._storage, self.hardware)

    def __call__(self, table: pa.Table, wanted: Mask | None = None) -> Scored:
        """Score the `wanted` rows of a table, or all, where they have pixels."""
        began = time.perf_counter()
        pixels = table[self._column].combine_chunks()
        images, limits = images_of(pixels)
        there: Mask = pixels.is_valid().to_numpy(zero_copy_only=False)
        wanted = there if wanted is None else there & wanted
        rows, known = np.flatnonzero(wanted), self._remembered
        contents = list(zip(table["sha256"].to_pylist(), indices_of(table, limits), strict=True))
        first = {contents[row]: row for row in reversed(rows)}
        is_new = np.array([first[contents[row]] == row and contents[row] not in known for row in rows], np.bool_)
        scores = np.full((len(images), self.spec.width), np.nan, np.float32)
        new = np.concatenate([np.arange(limits[row], limits[row + 1]) for row in rows[is_new]] or [rows[:0]])
        boxes: list[Boxes] = [NO_BOXES] * len(images)
        self._score(images.reshape(-1, *self.spec.geometry.shape), new, scores, boxes)
        views = {row: slice(limits[row], limits[row + 1]) for row in rows}
        for row in rows[~is_new]:
            original = views[first[contents[row]]]
            scores[views[row]], boxes[views[row]] = known.get(contents[row], (scores[original], boxes[original]))
        finite = np.zeros(table.num_rows, np.bool_)
        finite[rows] = [np.isfinite(scores[views[row]]).all() for row in rows]
        if len(rows) and not finite.any():
            raise ModelError(
                f"{self.spec.identity} returned no finite score for any of {len(rows)} images: try --dtype float32"
            )
        self._remember({contents[row]: (scores[views[row]].copy(), boxes[views[row]]) for row in rows if finite[row]})
        reused = np.zeros(table.num_rows, np.bool_)
        reused[rows[~is_new]] = True
        size = self.hardware.batch_size
        filled = len(new) / max(1, -(-len(new) // size) * size)
        given = boxes if self.spec.gives == "boxes" else None
        return Scored(scores, limits, wanted, finite, reused, time.perf_counter() - began, filled, given)

    def _remember(self, found: dict[Content, tuple[NDArray[np.float32], list[Boxes]]]) -> None:
        self._remembered |= found
        most = _REMEMBERED * 8 // max(8, self.spec.width)
        for oldest in list(islice(self._remembered, max(0, len(self._remembered) - most))):
            del self._remembered[oldest]

    def _score(
        self, images: NDArray[np.uint8], views: NDArray[np.intp], scores: NDArray[np.float32], boxes: list[Boxes]
    ) -> None:
        """Fill in what the model says of some views, batch by batch."""
        size = self.hardware.batch_size
        batches = [views[start : start + size] for start in range(0, len(views), size)]
        found = self._classifier.stream(self._padded(images[batch]) for batch in batches)
        for batch, raw in zip(batches, found, strict=True):
            findings = self._read(raw[: len(batch)])
            scores[batch] = findings.numbers
            for view, one in zip(batch, findings.boxes or (), strict=findings.boxes is not None):
                boxes[view] = one

    def _padded(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return at most one batch of images, padded with black ones to the fixed shape."""
        self._moved()
        missing = self.hardware.batch_size - len(images)
        batch = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images
        return np.ascontiguousarray(batch)
