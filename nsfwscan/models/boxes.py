"""Read the head of a YOLOv8 detector: from what its graph gives to boxes with a label, a score and a place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models.spec import Boxes, Findings

LEAST_SCORE = 0.25
"""Of a box, as in the package nudenet 3.4.2, and in ultralytics' own predictions."""
MOST_OVERLAP = 0.45
"""Of two boxes that overlap by more of their union, the better one is left, whatever their labels; as in nudenet."""
MOST_BOXES = 100
"""Of one view, the best ones."""


def read_boxes(raw: NDArray[np.float32], geometry: Geometry) -> Findings:
    """Return the boxes of a batch of views, and for each label the highest score of any place, box or not.

    Args:
        raw: float32 [batch, 4 + labels, places]: middle and size of a box in pixels, then a score for each label.
        geometry: of the pixels.

    Returns:
        Boxes in shares of the pixels' width and height, the best first.
    """
    height, width, _ = geometry.shape
    boxes = [_of_view(one, np.array([width, height, width, height], np.float32)) for one in raw.transpose(0, 2, 1)]
    return Findings(raw[:, 4:].max(axis=2), boxes)


def _of_view(places: NDArray[np.float32], size: NDArray[np.float32]) -> Boxes:
    """Return the boxes of one view from its places, float32 [places, 4 + labels]."""
    scores = places[:, 4:].max(axis=1)
    found = np.flatnonzero(scores >= LEAST_SCORE)
    found = found[np.argsort(-scores[found], kind="stable")]
    middle, extent = places[found, :2], places[found, 2:4]
    corners = np.concatenate([middle - extent / 2, middle + extent / 2], axis=1)
    kept = found_apart(corners)
    some = found[kept]
    labels = places[some, 4:].argmax(axis=1)
    place = np.concatenate([middle[kept] - extent[kept] / 2, extent[kept]], axis=1) / size
    return np.column_stack([labels, scores[some], place]).astype(np.float32)


def found_apart(corners: NDArray[np.float32]) -> list[int]:
    """Return which boxes are left, the best first: those that overlap no better one by more than `MOST_OVERLAP`.

    Args:
        corners: float32 [boxes, 4], left, top, right, bottom, the best box first.
    """
    area = (corners[:, 2:] - corners[:, :2]).clip(0).prod(axis=1)
    left, kept = np.arange(len(corners)), list[int]()
    while len(left) and len(kept) < MOST_BOXES:
        best, left = left[0], left[1:]
        kept.append(int(best))
        low = np.maximum(corners[best, :2], corners[left, :2])
        high = np.minimum(corners[best, 2:], corners[left, 2:])
        shared = (high - low).clip(0).prod(axis=1)
        left = left[shared <= MOST_OVERLAP * (area[best] + area[left] - shared)]
    return kept


def within_view(boxes: Boxes, geometry: Geometry, size: tuple[int, int]) -> Boxes:
    """Return boxes in shares of a view's width and height, cut at its edges.

    Args:
        boxes: in shares of the model's pixels.
        size: (width, height) of the view in pixels.
    """
    height, width, _ = geometry.shape
    shown = geometry.resized(size) if geometry.letterbox else (width, height)
    share = np.array([shown[0] / width, shown[1] / height], np.float32)
    low = (boxes[:, 2:4] / share).clip(0, 1)
    high = ((boxes[:, 2:4] + boxes[:, 4:6]) / share).clip(0, 1)
    return np.column_stack([boxes[:, :2], low, high - low]).astype(np.float32)
