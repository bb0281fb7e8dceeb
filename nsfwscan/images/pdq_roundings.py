"""Compute a PDQ hash with the reference's own roundings, for the pictures whose hash they decide.

The reference (the package `pdqhash`) blurs by running sums in single precision, one pixel after the other. Sums that
take the same numbers in the same order are rounded alike: whole rows and columns of sums at once, with vector
instructions, give the same bits in a third of the time. The last two filters are stored at the samples alone. Compilers
may fuse a multiplication and an addition into one rounding, so the first time, the reference is asked for comparison.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.images.raster import luma_of

SIDE = 64
"""Samples each way."""
BITS = 16
"""Coefficients each way."""
_BLOCK = 64
"""Edge of the blocks in which a matrix is turned: two of them fit into the first cache."""
_TRIED = (150, 131)
"""Width and height of the picture that is compared: both filters have windows of two pixels, which end at the edges."""

Floats = NDArray[np.float32]


def sampled(edge: int) -> list[int]:
    """Return which pixels along an edge the samples are."""
    return [int((sample + 0.5) * edge / SIDE) for sample in range(SIDE)]


def box_of(edge: int) -> tuple[int, int]:
    """Return how many pixels along an edge a filter averages, and how many of them are a pixel and those after it."""
    box = (edge + 2 * SIDE - 1) // (2 * SIDE)
    return box, (box + 2) // 2


def hash_of(image: Image.Image) -> tuple[NDArray[np.bool_], int]:
    """Return the 256 bits, the highest coefficient's first, and the quality, 0 to 100.

    Args:
        image: mode RGB, of 128 pixels at least each way.
    """
    samples = _samples(image)
    found = _coefficients(samples).ravel()
    return (found > np.partition(found, 127)[127])[::-1], _quality(samples)


@lru_cache(maxsize=1)
def are_reproduced() -> bool:
    """Return whether the roundings here are those of the reference, as it was compiled for this machine."""
    image = Image.frombytes("RGB", _TRIED, np.random.default_rng(0).bytes(3 * math.prod(_TRIED)))
    theirs, quality = pdqhash.compute_float(np.asarray(image))
    samples = _samples(image)
    return np.array_equal(_coefficients(samples).ravel(), theirs[::-1]) and _quality(samples) == quality


def _samples(image: Image.Image) -> Floats:
    """Return the blurred luma at 64 x 64 points."""
    width, height = image.size
    turned, luma = np.empty((width, height), np.float32), luma_of(image)  # a line is a column of pixels
    for top in range(0, height, _BLOCK):
        turned[:, top : top + _BLOCK] = luma(top, min(height, top + _BLOCK)).T
    down = _means(_turned(_means(turned)))
    return _means(_turned(_means(_turned(down), sampled(width))), sampled(height))


def _means(lines: Floats, kept: Sequence[int] | None = None) -> Floats:
    """Return for each line, or for those that are kept, the mean of the lines around it."""
    count, (box, ahead) = len(lines), box_of(len(lines))
    places = np.arange(count) if kept is None else np.array(kept)
    found = np.empty((len(places), lines.shape[1]), np.float32)
    between, unkept = np.empty((2, lines.shape[1]), np.float32)
    into = [unkept] * count
    for place, line in zip(places, found, strict=True):
        into[place] = line
    total, all_lines = np.zeros_like(unkept), list(lines)
    for line in all_lines[: ahead - 1]:
        total += line
    for place, line in enumerate(into):
        first, end = place + ahead - box, place + ahead
        if first <= 0:
            np.add(total, all_lines[end - 1], out=line)
        elif end > count:
            np.subtract(total, all_lines[first - 1], out=line)
        else:
            np.subtract(np.add(total, all_lines[end - 1], out=between), all_lines[first - 1], out=line)
        total = line
    windows = np.minimum(places + ahead, count) - np.maximum(places + ahead - box, 0)
    found /= windows[:, None].astype(np.float32)
    return found


def _turned(matrix: Floats) -> Floats:
    """Return the transposed matrix, in its own memory."""
    rows, columns = matrix.shape
    turned = np.empty((columns, rows), np.float32)
    for top in range(0, rows, _BLOCK):
        for left in range(0, columns, _BLOCK):
            down, across = slice(top, top + _BLOCK), slice(left, left + _BLOCK)
            turned[across, down] = matrix[down, across].T
    return turned


@lru_cache(maxsize=1)
def _transform() -> Floats:
    """Return coefficients 1 to 16 of the cosine transform of 64 samples, [16, 64], each rounded as in the reference."""
    scale, step = float(np.float32(math.sqrt(2 / SIDE))), math.pi / 2 / SIDE
    waves = [[scale * math.cos(step * i * (2 * j + 1)) for j in range(SIDE)] for i in range(1, BITS + 1)]
    return np.array(waves, np.float32)


def _coefficients(samples: Floats) -> Floats:
    """Return the 16 x 16 coefficients, each summed one sample after the other."""
    waves = _transform()
    down, found = np.zeros((BITS, SIDE), np.float32), np.zeros((BITS, BITS), np.float32)
    for sample in range(SIDE):
        down += waves[:, sample, None] * samples[sample]
    for sample in range(SIDE):
        found += down[:, sample, None] * waves[:, sample]
    return found


def _quality(samples: Floats) -> int:
    """Return the sum of gradients, each in hundredths of the range and cut to a whole number, in points of 90."""
    steps = [np.diff(samples, axis=axis) * np.float32(100) / np.float32(255) for axis in (0, 1)]
    return min(100, sum(int(np.abs(step.astype(np.int32)).sum()) for step in steps) // 90)
