"""Columns of views, and the scores of rows from those of views."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.models.views import images_of, is_pixels, of_rows, pixels_column, without

_WIDTH = 6


def column(counts: list[int]) -> tuple[pa.ListArray, np.ndarray]:  # type: ignore[type-arg]
    images = np.arange(sum(counts) * _WIDTH).astype(np.uint8).reshape(-1, _WIDTH)
    return pixels_column(images, counts), images


@given(
    counts=st.lists(st.integers(0, 4), max_size=8), start=st.integers(0, 8), dropped=st.lists(st.booleans(), max_size=8)
)
def test_views_come_out_as_they_went_in(counts: list[int], start: int, dropped: list[bool]) -> None:
    """Rows have their own views, none is null, and so it is in any slice and after rows were dropped."""
    pixels, images = column(counts)
    assert is_pixels(pixels.type)
    assert [views and len(views) for views in pixels.to_pylist()] == [count or None for count in counts]
    piece = pixels[start:]
    found, limits = images_of(piece)
    assert np.diff(limits).tolist() == counts[start:]
    assert np.array_equal(found, images[sum(counts[:start]) :])
    mask = np.array([*dropped, *[False] * len(piece)][: len(piece)], np.bool_)
    kept = without(piece, mask)
    expected = [None if drop else views for views, drop in zip(piece.to_pylist(), mask, strict=True)]
    assert kept.to_pylist() == expected
    assert kept.values.nbytes == sum(len(views or ()) for views in expected) * _WIDTH


def test_no_byte_is_copied() -> None:
    """The images of a column, and of a slice of it, lie where they were written."""
    pixels, images = column([1, 2, 0, 1])
    for start, first in ((0, 0), (1, 1)):
        found, _ = images_of(pixels[start:])
        assert found.ctypes.data == images[first:].ctypes.data


def rows(scores: list[list[float]], weights: list[list[int]], most: int = 2) -> list[float]:
    """Return the scores of rows with such scores of views."""
    flat = np.array([score for row in scores for score in row], np.float32)
    limits = np.cumsum([0, *map(len, scores)])
    found = of_rows(flat[:, None], flat, np.array([w for row in weights for w in row], np.int64), limits, most)
    return [float(score) for score in found[:, 0]]


def test_a_spike_is_no_verdict_and_a_scene_is() -> None:
    """Of one bad frame the next worst halves the score; of a view that stands for more frames nothing is taken."""
    assert rows([[0.0, 0.9, 0.1]], [[50, 1, 50]]) == pytest.approx([0.5])
    assert rows([[0.0, 0.9, 0.1]], [[50, 2, 50]]) == pytest.approx([0.9])
    assert rows([[0.0, 0.9, 0.8]], [[50, 1, 1]]) == pytest.approx([0.85])
    assert rows([[0.0, 0.9, 0.1]], [[50, 1, 50]], most=1) == pytest.approx([0.9])
    assert rows([[0.9]], [[1]]) == pytest.approx([0.9])


def test_fewer_views_than_count() -> None:
    """Where all views together weigh less, their mean is taken."""
    assert rows([[0.2, 0.8]], [[1, 1]], most=5) == pytest.approx([0.5])


def test_a_view_without_a_score_leaves_the_row_without() -> None:
    """What nobody can say of one frame cannot be said of the object; other rows keep theirs."""
    found = rows([[0.9, float("nan")], [], [0.4]], [[1, 1], [], [1]])
    assert np.isnan(found[:2]).all()
    assert found[2] == pytest.approx(0.4)
