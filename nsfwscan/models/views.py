"""Views of an object: columns of their pixels, and the scores of a row from those of its views.

A photograph has one view, an animation several. A column of pixels holds for each row the list of its views, each
H*W*3 bytes, null where there are none: a table of photographs is as large as one with a picture a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.schema import EACH_VIEW, as_matrix

Images = NDArray[np.uint8]
Limits = NDArray[np.int64]
"""Where the views of each row begin among all views, and where the last row's end: [rows + 1]."""
Scores = NDArray[np.float32]
Weights = NDArray[np.int64]
"""How often views count among the worst ones of their row."""


def pixels_type(nbytes: int) -> pa.DataType:
    """Return the type of a column of pixels, of so many bytes a view."""
    return pa.list_(pa.binary(nbytes))


def is_pixels(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds pixels."""
    return bool(pa.types.is_list(kind) and pa.types.is_fixed_size_binary(kind.value_type))


def pixels_column(images: Images, counts: Sequence[int]) -> pa.ListArray:
    """Return a column of pixels over images [views, bytes], without a copy.

    Args:
        counts: number of views of each row; a row of none is null.
    """
    limits = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    kind = pixels_type(images.shape[1])
    values = pa.Array.from_buffers(kind.value_type, int(limits[-1]), [None, pa.py_buffer(images)])
    return pa.ListArray.from_arrays(limits, values, type=kind, mask=pa.array(np.asarray(counts) == 0))


def images_of(pixels: pa.ListArray) -> tuple[Images, Limits]:
    """Return the images of a column of pixels, uint8 [views, bytes], without a copy; and the limits of its rows."""
    limits = pixels.offsets.to_numpy().astype(np.int64)
    return as_matrix(pixels.values.slice(limits[0], limits[-1] - limits[0])), limits - limits[0]


def without(pixels: pa.ListArray, dropped: NDArray[np.bool_]) -> pa.ListArray:
    """Return a copy in which some rows are null, and their bytes are gone."""
    images, limits = images_of(pixels)
    counts = np.where(dropped, 0, np.diff(limits))
    return pixels_column(images[np.repeat(~dropped, np.diff(limits))], counts.tolist())


def indices_of(table: pa.Table, limits: Limits) -> list[tuple[int, ...]]:
    """Return which frames the views of each row are, as `each_view` has them; without it, they are counted from 0."""
    known = dict(_of_views(table, limits, "index"))
    return [tuple(known.get(row, range(count))) for row, count in enumerate(np.diff(limits).tolist())]


def views_of_row(row: Mapping[str, Any]) -> list[tuple[int, tuple[int, int]]]:
    """Return the index and the (width, height) in pixels of each view of a row with `width`, `height` and
    `each_view`."""
    whole = row["width"], row["height"]
    views = row.get(EACH_VIEW.name) or [{"index": 0}]
    return [(one["index"], (one.get("width") or whole[0] or 1, one.get("height") or whole[1] or 1)) for one in views]


def weights_of(table: pa.Table, limits: Limits) -> Weights:
    """Return the weights of all views of a table's rows, as `each_view` has them; 1 where a row has one view."""
    weights = np.ones(limits[-1], np.int64)
    for row, values in _of_views(table, limits, "weight"):
        weights[limits[row] : limits[row + 1]] = values
    return weights


def _of_views(table: pa.Table, limits: Limits, name: str) -> Iterator[tuple[int, list[int]]]:
    """Yield the rows of several views, and what `each_view` has of each of them."""
    if EACH_VIEW.name in table.column_names:
        each = table[EACH_VIEW.name].combine_chunks()
        for row in np.flatnonzero(each.is_valid().to_numpy(zero_copy_only=False) & (np.diff(limits) > 1)):
            yield int(row), [view[name] for view in each[row].as_py()]


def of_rows(scores: Scores, badness: Scores, weights: Weights, limits: Limits, most: int) -> Scores:
    """Return the scores of rows from those of their views: the mean over the worst views, each as often as it weighs.

    One frame far above all others is no verdict by itself. A model misreads one frame in a few hundred, and by the
    worst of many frames every long animation would be a hit. A scene has several frames, whose mean stays high; they
    look alike and are one view, which therefore weighs as much as they do.

    Args:
        scores: float32 [views, labels]; NaN where there is none.
        badness: float32 [views]; the greatest first.
        weights: int64 [views].
        most: sum of the weights that count.

    Returns:
        float32 [rows, labels]; NaN in a row without views, or with a view without scores.
    """
    rows = np.full((len(limits) - 1, scores.shape[1]), np.nan, np.float32)
    counts = np.diff(limits)
    rows[counts == 1] = scores[limits[:-1][counts == 1]]
    for row in np.flatnonzero(counts > 1):
        views = slice(limits[row], limits[row + 1])
        if np.isfinite(scores[views]).all():
            order = np.argsort(-badness[views], kind="stable")
            worst = np.repeat(order, np.minimum(weights[views][order], most))[:most]
            rows[row] = scores[views][worst].mean(axis=0)
    return rows
