"""Boxes: the head of YOLOv8, overlaps, and places in shares of the picture."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from nsfwscan.errors import ModelError
from nsfwscan.images.preprocessing import Geometry, read_preprocessor
from nsfwscan.models.boxes import LEAST_SCORE, MOST_BOXES, found_apart, read_boxes, within_view

LETTERBOX = Geometry((16, 16), Image.Resampling.BILINEAR, letterbox="start")


def raw(*places: tuple[float, ...]) -> np.ndarray:
    """What a graph gives of one view: (x, y, w, h, scores…) of each place."""
    return np.array(places, np.float32).T[None]


def test_boxes_are_read_best_first() -> None:
    """Middle and size become a corner and a size, in shares of the pixels; a place below the least score is no box, but
    counts as the highest score of its label."""
    found = read_boxes(raw((4, 6, 4, 8, 0.3, 0.1), (12, 12, 2, 2, 0.2, 0.9), (1, 1, 2, 2, 0.01, 0.2)), LETTERBOX)
    np.testing.assert_allclose(found.numbers, [[0.3, 0.9]])
    assert found.boxes is not None
    expected = [[1, 0.9, 11 / 16, 11 / 16, 2 / 16, 2 / 16], [0, 0.3, 2 / 16, 2 / 16, 4 / 16, 8 / 16]]
    np.testing.assert_allclose(found.boxes[0], expected, rtol=1e-6)
    nothing = read_boxes(raw((4, 6, 4, 8, LEAST_SCORE - 0.01, 0)), LETTERBOX)
    assert nothing.boxes is not None and nothing.boxes[0].shape == (0, 6)


def test_of_boxes_that_overlap_the_best_is_left() -> None:
    """More than 0.45 of their union, whatever their labels; a box inside another one, and one without a size, stay."""
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 4, 4], [20, 0, 30, 10], [25, 5, 25, 5]], np.float32)
    assert found_apart(boxes) == [0, 2, 3, 4]
    assert found_apart(np.empty((0, 4), np.float32)) == []
    many = np.array([[i, 0, i + 0.5, 1] for i in range(MOST_BOXES + 20)], np.float32)
    assert len(found_apart(many)) == MOST_BOXES


@pytest.mark.parametrize(("size", "shown"), [((320, 160), (16, 8)), ((50, 200), (4, 16)), ((7, 7), (16, 16))])
def test_a_letterbox_keeps_the_aspect(size: tuple[int, int], shown: tuple[int, int]) -> None:
    """The picture lies at the top left, the rest is black; a box over all of it is all of the picture, and what hangs
    over its edge is cut."""
    pixels = np.frombuffer(LETTERBOX.apply(Image.new("RGB", size, (200, 100, 50))), np.uint8).reshape(LETTERBOX.shape)
    assert LETTERBOX.resized(size) == shown
    assert (pixels[: shown[1], : shown[0]] == (200, 100, 50)).all()
    assert pixels.sum() == 350 * shown[0] * shown[1]
    whole = np.array([[0, 1, 0, 0, shown[0] / 16, shown[1] / 16], [0, 1, 0, 0, 1, 1]], np.float32)
    np.testing.assert_allclose(within_view(whole, LETTERBOX, size)[:, 2:], [[0, 0, 1, 1]] * 2)


def test_a_preprocessor_may_ask_for_a_letterbox() -> None:
    """In a sidecar; another word is refused."""
    settings = {"size": {"height": 16, "width": 16}, "resample": 2, "image_mean": 0, "image_std": 1}
    assert read_preprocessor({**settings, "letterbox": "start"}, "m")[0] == LETTERBOX
    with pytest.raises(ModelError, match="a letterbox 'middle'"):
        read_preprocessor({**settings, "letterbox": "middle"}, "m")
