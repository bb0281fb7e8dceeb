"""Measure how much a JPEG looks as if it had been compressed before, with other quantisation tables.

A coefficient of the blocks' cosine transform is a multiple of its step in the table. In photographs that are compressed
once, the histogram of the multiples falls off smoothly from zero. Where they had been multiples of another step before,
some are found too often and others too seldom, at regular distances (Popescu and Farid 2004, Statistical Tools for
Digital Forensics, section 3): the spectrum of the histogram, which would fall as well, rises again. The rise is what is
measured, as a share of the coefficients that are not zero, for the low frequencies of the luma.

Measured in its own test, it finds photographs that were saved at a lower quality before (5 to 10 or more below, on
libjpeg's scale). Photographs that were saved at a higher or about the same quality, cropped off the grid of blocks or
resized in between look as compressed once. Drawings and pages often look as twice compressed at once: their
histograms have gaps of their own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.images.raster import luma_of

FREQUENCIES = ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0), (1, 2), (2, 1), (0, 3), (3, 0), (2, 2))
"""(down, across): frequencies with enough coefficients that are not zero."""
_BLOCKS = 1024
_BAND = 4
"""Rows of blocks in a band."""
_WIDEST = 256
"""Blocks across a band, at most."""
_LEVELS = 31
"""Multiples counted, from 0."""
_LEAST = 60
"""Coefficients other than zero that a histogram must have."""
_AGREE = 3
"""So many of the highest rises are averaged."""
_CYCLES = np.linspace(0.15, 0.5, 71)
"""Frequencies of the spectrum, in cycles a level; lower ones come from the histogram's own width."""

Floats = NDArray[np.float32]


def double_quantisation(image: Image.Image, size: tuple[int, int]) -> float | None:
    """Return the rise, 0 (as compressed once) to 1; None where there is not enough to go by.

    Of photographs that were compressed once, one in fifty is over 0.25. Raises what Pillow and NumPy raise for a
    table that makes no sense.

    Args:
        image: of Pillow's JPEG plugin, loaded.
        size: width and height in the file; at a reduced scale, rounding hides the steps of good qualities.
    """
    if image.size != size or image.mode not in ("L", "RGB") or image.info.get("adobe_transform") == 0:
        return None
    multiples = np.minimum(np.rint(np.abs(_coefficients(image)) / steps_of(image)[:, None]), _LEVELS)
    places = multiples + (_LEVELS + 1) * np.arange(len(FREQUENCIES))[:, None]
    counted = np.bincount(places.astype(np.intp).ravel(), minlength=len(FREQUENCIES) * (_LEVELS + 1))
    histograms = counted.reshape(len(FREQUENCIES), -1)[:, 1:_LEVELS]
    found = histograms.sum(1)
    if np.count_nonzero(found >= _LEAST) < _AGREE:
        return None
    kept = histograms[found >= _LEAST]
    spectra = (kept / kept.sum(1, keepdims=True)) @ _waves()
    rises = (spectra - np.minimum.accumulate(spectra, axis=1)).max(1)
    highest: list[float] = sorted(rises.tolist())[-_AGREE:]
    return min(1.0, sum(highest) / _AGREE)


def steps_of(image: Image.Image) -> Floats:
    """Return the steps of the luma's table for `FREQUENCIES`. Raises what Pillow and NumPy raise for a table that makes
    no sense.

    Args:
        image: of Pillow's JPEG plugin.
    """
    layer: Any = image.layer[0]  # type: ignore[attr-defined]
    table = np.asarray(image.quantization[layer[3]], np.float32).reshape(8, 8)  # type: ignore[attr-defined]
    return np.array([table[at] for at in FREQUENCIES], np.float32).clip(1)


def _coefficients(image: Image.Image) -> Floats:
    """Return the coefficients at `FREQUENCIES` of about `_BLOCKS` blocks from evenly spaced bands, [frequencies, N]."""
    across, down = min(image.width // 8, _WIDEST), image.height // 8
    if not across or not down:
        return np.zeros((len(FREQUENCIES), 0), np.float32)
    left, rows = (image.width // 8 - across) // 2 * 8, min(_BAND, down)
    bands = min(-(-_BLOCKS // (across * rows)), down // rows)
    luma, waves = luma_of(image, "L"), _edge_waves()
    tops = [(down - rows) * band // max(1, bands - 1) for band in range(bands)]
    strips = [luma(top * 8, (top + rows) * 8)[:, left : left + across * 8] for top in tops]
    lines = np.concatenate(strips).astype(np.float32).reshape(bands * rows, 8, across * 8)
    both = (waves @ lines).reshape(-1, 8) @ waves.T  # down each block, then across
    found: Any = both.reshape(bands * rows, len(waves), across, len(waves)).transpose(1, 3, 0, 2)
    return np.asarray(found[tuple(zip(*FREQUENCIES, strict=True))].reshape(len(FREQUENCIES), -1), np.float32)


@lru_cache(maxsize=1)
def transform() -> Floats:
    """Return the map from a block's pixels to its coefficients, [frequencies, 64]."""
    waves = _edge_waves()
    return np.asarray([np.outer(waves[down], waves[across]).ravel() for down, across in FREQUENCIES], np.float32)


@lru_cache(maxsize=1)
def _edge_waves() -> Floats:
    """Return the four lowest waves of the cosine transform of 8 pixels, [4, 8]."""
    at, waves = np.arange(8), np.arange(4)[:, None]
    return np.asarray(np.sqrt((1 + (waves > 0)) / 8) * np.cos((2 * at + 1) * waves * np.pi / 16), np.float32)


@lru_cache(maxsize=1)
def _waves() -> Floats:
    """Return the map from a histogram to its spectrum, [levels 1 to `_LEVELS` - 1, frequencies]."""
    return np.asarray(np.cos(2 * np.pi * np.outer(np.arange(1, _LEVELS), _CYCLES)), np.float32)
