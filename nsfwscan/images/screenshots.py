"""Tell pictures of a screen, and of a chat on one, by their flat colours, straight edges and shape.

    screenshot          how likely the picture is one of a screen, 0 to 1
    screenshot.chat     how likely it shows a chat: boxes that alternate between left and right

Neither says what is in it, nor whether it is genuine: nobody can tell a made-up chat by its looks. Both are logistic
regressions over `measures`, whose weights `training/screenshots` fitted; `screenshots.json` has them, with where they
come from, and `training/screenshots/README.md` says how well they do.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WEIGHTS = Path(__file__).with_name("screenshots.json")
_BANDS, _LINE = 48, 1024
"""Pairs of neighbouring rows that are looked at in full, and pixels of each."""
_WIDE, _TALL = 128, 256
"""Pixels of the small picture, at most."""
_FLAT, _SHARP, _OTHER = 2, 48, 10
"""Levels of 255: up to which neighbours are one colour; from which they are an edge; that a box differs by."""
_NEAR, _FAR, _WHOLE = 0.16, 0.14, 0.92
"""Shares of the width: a box begins before the first and ends after the second; a margin beyond the third is a dot."""
_STEADY, _ROWS = 0.012, 4
"""An edge is straight that moves by less, as a share of the width, over so many rows of the small picture."""

Floats = NDArray[np.float64]


def screenshot_signals(image: Image.Image) -> dict[str, float]:
    """Return both signals of an upright RGB picture."""
    values = measures(image)
    return {name: _likelihood(values, weights) for name, weights in _weights().items()}


def measures(image: Image.Image) -> Floats:
    """Return the numbers that the signals follow from, as `NAMES` has them.

    Args:
        image: upright, RGB, not enlarged; it may have been reduced.
    """
    pairs = _pairs(image)
    across = _apart(pairs[:, :, 1:], pairs[:, :, :-1])
    down = _apart(pairs[:, 1:], pairs[:, :-1])
    flat_across, flat_down = float((across <= _FLAT).mean()), float((down <= _FLAT).mean())
    edges = across > _FLAT
    sharp = float((across >= _SHARP).sum() / max(1, edges.sum()))
    small = _small(image)
    shape = image.height / image.width
    return np.array(
        [
            flat_across,
            flat_down,
            sharp,
            np.log(shape),
            float(1.6 <= shape <= 2.4),
            float(min(abs(shape * wide / high - 1) for wide, high in _MONITORS) < 0.02),
            *_lines(small),
            *_colours(small),
            *_sides(small),
        ]
    )


NAMES = (
    "flat_across", "flat_down", "sharp_edges", "log_shape", "is_phone_shape", "is_monitor_shape", "blank_rows",
    "blank_columns", "long_lines", "first_colour", "three_colours", "colours", "saturation", "at_left", "at_right",
    "at_both", "turns",
)  # fmt: skip
_MONITORS = ((16, 9), (16, 10), (3, 2), (4, 3))


def _apart(one: NDArray[np.int16], other: NDArray[np.int16]) -> NDArray[np.int16]:
    """Return by how many levels pixels differ, in the channel in which they differ most: [..., 3] to [...]."""
    away = np.abs(one - other)
    return np.asarray(np.maximum(np.maximum(away[..., 0], away[..., 1]), away[..., 2]))


def _pairs(image: Image.Image) -> NDArray[np.int16]:
    """Return pairs of neighbouring rows, int16 [bands, 2, pixels, 3], spread over the picture as it is."""
    left, right = max(0, (image.width - _LINE) // 2), min(image.width, (image.width + _LINE) // 2)
    tops = np.linspace(0, max(0, image.height - 2), min(_BANDS, max(1, image.height // 2))).astype(int)
    bands = [np.asarray(image.crop((left, top, right, top + 2)), np.int16) for top in tops.tolist()]
    return np.stack(bands) if right - left > 1 else np.zeros((1, 2, 2, 3), np.int16)


def _small(image: Image.Image) -> NDArray[np.int16]:
    """Return a small picture of single pixels, whose colours are those of the picture, int16 [rows, columns, 3]."""
    scale = min(1.0, _WIDE / image.width, _TALL / image.height)
    size = max(8, round(image.width * scale)), max(8, round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.NEAREST), np.int16)


def _lines(small: NDArray[np.int16]) -> list[float]:
    """Return the shares of rows and of columns of one colour, and of rows with a line over half of the width."""
    rows = (_apart(small, small[:, :1]) <= 8).mean(1) > 0.97
    columns = (_apart(small, small[:1]) <= 8).mean(0) > 0.97
    steps = (_apart(small[1:], small[:-1]) > 12).mean(1)
    return [float(rows.mean()), float(columns.mean()), float((steps > 0.5).mean())]


def _colours(small: NDArray[np.int16]) -> list[float]:
    """Return the shares of the first colour and of the first three, how many there are, and how strong they are."""
    steps = small >> 3
    counts = np.bincount((steps[..., 0] << 10 | steps[..., 1] << 5 | steps[..., 2]).ravel())
    shares = np.sort(counts)[-3:] / (small.shape[0] * small.shape[1])
    red, green, blue = (small[..., channel] for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    return [
        float(shares[-1]),
        float(shares.sum()),
        float(np.log(np.count_nonzero(counts))),
        float(spread.mean() / 255),
    ]


def _sides(small: NDArray[np.int16]) -> list[float]:
    """Return how much of the picture lies in boxes at its left and at its right, how often they take turns, and how
    much lies in the lesser of the two.

    A box is several rows with one straight edge, nearer to one side of the picture than to the other. Where a row
    begins and ends is where it leaves the colour of its own edge.
    """
    wide = small.shape[1]
    left = _margin(small) / wide
    right = _margin(small[:, ::-1]) / wide
    at_left = (left < _NEAR) & (right > _FAR) & (right < _WHOLE) & _straight(right)
    at_right = (right < _NEAR) & (left > _FAR) & (left < _WHOLE) & _straight(left)
    sides = at_right.astype(int) - at_left.astype(int)
    taken = sides[sides != 0]
    turns = int(np.count_nonzero(np.diff(taken)))
    shares = float(at_left.mean()), float(at_right.mean())
    return [*shares, min(shares), min(turns, 12) / 12]


def _margin(small: NDArray[np.int16]) -> NDArray[np.int64]:
    """Return how many pixels of each row, from the left, have the colour of its first one; all of an empty row."""
    other = _apart(small, small[:, :1]) > _OTHER
    return np.asarray(np.where(other.any(1), other.argmax(1), small.shape[1]))


def _straight(edge: Floats) -> NDArray[np.bool_]:
    """Return the rows whose edge is in one place over some rows around."""
    same = np.abs(np.diff(edge)) < _STEADY
    begins = np.convolve(same, np.ones(_ROWS - 1), "valid") == _ROWS - 1
    return np.asarray(np.convolve(begins, np.ones(_ROWS)) > 0)


def _likelihood(values: Floats, weights: dict[str, Any]) -> float:
    scaled = (values - np.array(weights["mean"])) / np.array(weights["scale"])
    return float(1 / (1 + np.exp(-(scaled @ np.array(weights["weights"]) + weights["bias"]))))


@lru_cache(maxsize=1)
def _weights() -> dict[str, dict[str, Any]]:
    known = json.loads(WEIGHTS.read_text(encoding="utf-8"))
    if tuple(known["measures"]) != NAMES:
        raise ValueError(f"{WEIGHTS.name} is for other measures: run training/screenshots again")
    signals: dict[str, dict[str, Any]] = known["signals"]
    return signals
