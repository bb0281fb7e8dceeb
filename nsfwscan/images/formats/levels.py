"""Convert samples of any depth to levels of 0 to 255.

Files rarely say which range deep samples use: 12 bits stand in 16, and a picture of 8 bits in floats. `range_of` finds
the smallest usual range that holds all samples, so that a picture of that depth comes out as its 8-bit twin.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[Any]

_USUAL_BITS = (8, 12, 16, 24, 32)
"""Depths that are stored in deeper samples."""
_USUAL_TOPS = (255.0, 4095.0, 65535.0)
"""White, where floats do not go from 0 to 1."""
_NEGATIVE = 0.25
"""Negative samples below this share of the largest one are noise below black."""
_ROUNDING = 0.25
"""The error of half floats at white."""


@dataclass(frozen=True)
class Range:
    """A conversion of samples to levels: a shift to the right where `shift` is given, else a multiplication.

    Args:
        offset: added first.
    """

    shift: int | None = None
    factor: float = 1.0
    offset: float = 0

    def levels(self, samples: Samples) -> NDArray[np.uint8]:
        """Return the samples on 0 to 255: clipped, and 0 where they are no finite numbers."""
        if self.shift is not None:
            wide = samples if samples.dtype.kind == "u" else samples.astype(np.int64) + int(self.offset)
            shifted: Samples = wide >> wide.dtype.type(self.shift)
            return shifted.clip(0, 255).astype(np.uint8)
        values = np.where(np.isfinite(samples), samples, -self.offset).astype(np.float64)
        return np.clip((values + self.offset) * self.factor + _ROUNDING, 0, 255).astype(np.uint8)


def range_of(bands: Iterable[Samples], bits: int, least: int = 0) -> Range:
    """Return the range that the samples of a picture use.

    Args:
        bands: the picture, a part at a time; only as much of it is read as is needed.
        bits: of a sample.
        least: the largest value that the file says its samples have.
    """
    low, top, kind = 0, least, "u"
    for band in bands:
        kind = band.dtype.kind
        if kind == "f":
            return _of_floats([band, *bands])
        low, top = min(low, int(band.min())), max(top, int(band.max()))
        if kind == "u" and (bits <= 8 or top >> bits - 4):
            break  # nothing that follows can change it
    if kind == "u":
        return _of_top(top, bits)
    if -low <= top * _NEGATIVE:
        return _of_top(top, bits - 1)
    half = next((b - 1 for b in (*_USUAL_BITS, bits) if -low <= 1 << b - 1 > top), bits - 1)
    return Range(shift=max(0, half - 7), offset=1 << half)


def _of_top(top: int, bits: int) -> Range:
    used = next((b for b in _USUAL_BITS if b <= bits and top < 1 << b), bits)
    if used > 16 and 0 < top < 1 << used - 4:
        return Range(factor=255 / top)  # it would be black
    if used in (*_USUAL_BITS, 64):
        return Range(shift=used - 8)
    return Range(factor=255 / ((1 << used) - 1))


def _of_floats(bands: Iterable[Samples]) -> Range:
    """Return the range of floats: as a rule 0 to 1, some of them brighter than white."""
    low = top = 0.0
    count = shares = 0
    whole = True
    for band in bands:
        values = band[np.isfinite(band)]
        if values.size:
            low, top = min(low, float(values.min())), max(top, float(values.max()))
            count, shares = count + values.size, shares + int(np.count_nonzero(values <= 1))
            whole = whole and bool(np.array_equal(values, np.floor(values)))
    if low >= -1 and top <= 1 and -low > top * _NEGATIVE:
        return Range(factor=127.5, offset=1)
    if top <= 1 or (not whole and shares * 2 > count):
        return Range(factor=255.0)
    return Range(factor=255 / next((usual for usual in _USUAL_TOPS if top <= usual * 1.001), top))
