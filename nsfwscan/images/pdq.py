"""Compute the PDQ hash of a frame and its quality, the same as the reference gives for the same pixels.

PDQ (https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf) blurs the luma with a box filter, twice
each way, takes 64 x 64 samples of that, and tells for each of 16 x 16 coefficients of their cosine transform whether it
is over the median. The reference (the package `pdqhash`) filters every pixel four times, which for a photograph takes
longer than decoding it. But blurring and sampling is one linear map along each edge: weighted sums of rows, then of
columns, give the same samples in a fraction of the time, except for the rounding of the reference's running sums. Where
that rounding could decide a bit, it is done as the reference does it (`pdq_roundings.py`), or by the reference itself.
That would take a gigabyte for more than 33 megapixels; the hash of such an image may differ in the doubtful bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.images import pdq_roundings
from nsfwscan.images.pdq_roundings import BITS, SIDE, box_of, sampled
from nsfwscan.images.raster import luma_of

_LEAST_EDGE = 128
"""Pixels. The reference hashes smaller images: it takes no time for them, and has rules of its own for tiny ones."""
_COEFFICIENT_ERROR = 0.06
"""The largest error of the reference's first coefficient; that of the frequencies `i` and `j` is divided by the root of
`i * j`, since the errors of running sums are slow waves. Measured on 1,356 photographs, drawings and
gradients of up to 18 megapixels (as `pytest -k error_bound -s tests/images/test_pdq.py` does): 0.003 as a rule, 0.025
at most for the former two, 0.057 for gradients."""
_SAMPLE_ERROR = 5e-4
"""The same for the samples: grey levels, 0 to 255."""
_MOST_PIXELS = 2**25
"""Limit for asking the reference: it takes 24 bytes a pixel."""
_FEW_PIXELS = 2**19
"""The reference hashes as few as these sooner than a step in Python for each row and column would."""
_STRIP_PIXELS = 2**18
"""Pixels that become luma at a time."""
_BLOCK = 8
"""Samples across that are summed in one product: more would be mostly zeros, fewer mostly calls."""
_QUALITY_DIVISOR = 90
"""The reference's: this sum of gradients, in hundredths of the range and cut to whole numbers, makes one point."""

Samples = NDArray[np.float64]


def pdq_of(image: Image.Image) -> tuple[str, int]:
    """Return the hash (64 hex digits) and its quality, 0 to 100.

    Args:
        image: mode RGB, not turned, its colours as they are stored: the banks' hashes were made of such images.
    """
    pixels = image.width * image.height
    if min(image.size) >= _LEAST_EDGE:
        samples = _samples(image)
        bits, is_sure = _bits(samples)
        least, most = _quality(samples)
        if (is_sure and least == most) or pixels > _MOST_PIXELS:
            return _in_hex(bits), least
        if pixels > _FEW_PIXELS and pdq_roundings.are_reproduced():
            bits, quality = pdq_roundings.hash_of(image)
            return _in_hex(bits), quality
    found, quality = pdqhash.compute(np.asarray(image))
    return _in_hex(found.astype(np.bool_)), int(quality)


def _in_hex(bits: NDArray[np.bool_]) -> str:
    return np.packbits(bits).tobytes().hex()


def _samples(image: Image.Image) -> Samples:
    """Return the blurred luma at 64 x 64 points. So many rows become luma at a time as a cache holds."""
    spans, luma_of_rows = _spans(image.height), luma_of(image)
    rows = np.empty((SIDE, image.width), np.float32)
    at_once = max(1, SIDE * _STRIP_PIXELS // (image.width * image.height))
    for start in range(0, SIDE, at_once):
        strip = spans[start : start + at_once]
        first = strip[0][0]
        luma = luma_of_rows(first, strip[-1][1])
        for row, (top, bottom, shares) in zip(rows[start:], strip, strict=False):
            np.dot(shares, luma[top - first : bottom - first], out=row)
    return np.concatenate(
        [rows[:, left:right] @ shares for left, right, shares in _blocks(image.width)], axis=1
    ).astype(np.float64)


@lru_cache(maxsize=32)  # of a megabyte for 32,000 pixels
def _blocks(edge: int) -> tuple[tuple[int, int, NDArray[np.float32]], ...]:
    """Return the same as `_spans` for blocks of samples: the first pixel, the one after the last, the shares of each
    sample in a column. A product for each block takes a third of the time of one for each sample."""
    spans, found = _spans(edge), []
    for start in range(0, SIDE, _BLOCK):
        block = spans[start : start + _BLOCK]
        left, right = block[0][0], block[-1][1]
        shares = np.zeros((right - left, _BLOCK), np.float32)
        for column, (first, last, of_sample) in zip(shares.T, block, strict=True):
            column[first - left : last - left] = of_sample
        found.append((left, right, shares))
    return tuple(found)


@lru_cache(maxsize=256)
def _spans(edge: int) -> tuple[tuple[int, int, NDArray[np.float32]], ...]:
    """Return which pixels along an edge each of 64 samples is made of: the first, the one after the last, their shares.

    A box of `(edge + 127) // 128` pixels lies over each pixel that a box over the sample covers. At the ends of the
    edge the boxes are cut, and the rest of them is averaged.
    """
    box, ahead = box_of(edge)
    at = np.arange(edge)
    begins, ends = np.maximum(0, at + ahead - box), np.minimum(edge, at + ahead)
    found = []
    for sample in sampled(edge):
        covered = slice(begins[sample], ends[sample])
        first, last = int(begins[covered][0]), int(ends[covered][-1])
        share = 1.0 / ((ends[covered] - begins[covered]) * (ends[sample] - begins[sample]))
        steps = np.zeros(last - first + 1)
        np.add.at(steps, begins[covered] - first, share)
        np.add.at(steps, ends[covered] - first, -share)
        found.append((first, last, steps[:-1].cumsum().astype(np.float32)))
    return tuple(found)


def _transform() -> Samples:
    """Return coefficients 1 to 16 of the cosine transform of 64 samples: [16, 64]."""
    waves = np.outer(np.arange(1, BITS + 1), 2 * np.arange(SIDE) + 1)
    return np.asarray(np.sqrt(2 / SIDE) * np.cos(np.pi / (2 * SIDE) * waves))


_TRANSFORM = _transform()
_FREQUENCIES = np.arange(1, BITS + 1)
_OFF = (_COEFFICIENT_ERROR / np.sqrt(np.outer(_FREQUENCIES, _FREQUENCIES))).ravel()
"""The largest error of each coefficient."""


def _bits(samples: Samples) -> tuple[NDArray[np.bool_], bool]:
    """Return 256 bits, the highest coefficient's first; and whether the reference's rounding cannot change one."""
    coefficients = (_TRANSFORM @ samples @ _TRANSFORM.T).ravel()
    middle = np.argpartition(coefficients, 127)[127]
    median = coefficients[middle]
    doubtful = np.abs(coefficients - median) < _OFF + _OFF[middle]
    return (coefficients > median)[::-1], bool(doubtful.sum() == 1)  # itself


def _quality(samples: Samples) -> tuple[int, int]:
    """Return the least and the greatest quality, 0 to 100, that the reference may round to."""
    steps = np.abs(np.concatenate([np.diff(samples, axis=0).ravel(), np.diff(samples, axis=1).ravel()]))
    off = 2 * _SAMPLE_ERROR
    least, most = (int(((steps + by) * (100 / 255)).astype(np.int32).sum()) for by in (-off, off))  # cut towards zero
    return min(100, least // _QUALITY_DIVISOR), min(100, most // _QUALITY_DIVISOR)
