"""Compute the PDQ hash of a frame and its quality, the same as the reference gives for the same pixels.

PDQ (https://github.com/facebook/ThreatExchange/blob/main/hashing/hashing.pdf) blurs the luma with a box filter, twice
each way, takes 64 x 64 samples of that, and tells for each of 16 x 16 coefficients of their cosine transform whether it
is over the median. The reference (the package `pdqhash`) filters every pixel four times, which for a photograph takes
longer than decoding it. But blurring and sampling is one linear map along each edge: products of matrices give the same
samples in a fraction of the time, except for the rounding of the reference's running sums. Where that rounding could
decide a bit, the reference computes the hash. It would take a gigabyte for more than 33 megapixels; the hash of such an
image may differ in the doubtful bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pdqhash
from numpy.typing import NDArray
from PIL import Image

_SIDE = 64
"""Samples each way."""
_BITS = 16
"""Coefficients each way."""
_LEAST_EDGE = 128
"""Pixels. The reference hashes smaller images: it takes no time for them, and has rules of its own for tiny ones."""
_STRIP = 256
"""Rows at a time, so that intermediate results take little memory."""
_BANDS = 8
"""Pieces of a row: a pixel counts for few samples, so most of a matrix for a whole row would be zeros."""
_COEFFICIENT_ERROR = 0.06
"""The largest error of the reference's first coefficient; that of the frequencies `i` and `j` is divided by the root of
`i * j`, since the errors of running sums are slow waves. Measured on 1,356 photographs, drawings and
gradients of up to 18 megapixels (as `pytest -k error_bound -s tests/images/test_pdq.py` does): 0.003 as a rule, 0.025
at most for the former two, 0.057 for gradients."""
_SAMPLE_ERROR = 5e-4
"""The same for the samples: grey levels, 0 to 255."""
_MOST_PIXELS = 2**25
"""Limit for asking the reference: it takes 24 bytes a pixel."""
_QUALITY_DIVISOR = 90
"""The reference's: this sum of gradients, in hundredths of the range and cut to whole numbers, makes one point."""

Samples = NDArray[np.float64]


def pdq_of(image: Image.Image) -> tuple[str, int]:
    """Return the hash (64 hex digits) and its quality, 0 to 100.

    Args:
        image: mode RGB, not turned, its colours as they are stored: the banks' hashes were made of such images.
    """
    if min(image.size) >= _LEAST_EDGE:
        samples = _samples(image)
        bits, is_sure = _bits(samples)
        least, most = _quality(samples)
        if (is_sure and least == most) or image.width * image.height > _MOST_PIXELS:
            return np.packbits(bits).tobytes().hex(), least
    found, quality = pdqhash.compute(np.asarray(image))
    return np.packbits(found.astype(np.uint8)).tobytes().hex(), int(quality)


def _samples(image: Image.Image) -> Samples:
    """Return the blurred luma at 64 x 64 points."""
    across, down = _bands(image.width), _blur(image.height)
    samples = np.zeros((_SIDE, _SIDE))
    for top in range(0, image.height, _STRIP):
        bottom = min(image.height, top + _STRIP)
        luma = np.asarray(image.crop((0, top, image.width, bottom)).convert("F"))  # 0.299 R + 0.587 G + 0.114 B
        rows = np.zeros((bottom - top, _SIDE), np.float32)
        for pixels, near, shares in across:
            rows[:, near] += luma[:, pixels] @ shares
        samples += down[:, top:bottom] @ rows
    return samples


@lru_cache(maxsize=64)
def _bands(edge: int) -> tuple[tuple[slice, slice, NDArray[np.float32]], ...]:
    """Return `_blur` in pieces along the edge: pixels, the samples that they add to, shares [pixels, samples]."""
    shares, found = _blur(edge), []
    for band in np.array_split(np.arange(edge), _BANDS):
        pixels = slice(band[0], band[-1] + 1)
        touched = np.flatnonzero(shares[:, pixels].any(axis=1))
        near = slice(touched[0], touched[-1] + 1)
        found.append((pixels, near, np.ascontiguousarray(shares[near, pixels].T)))
    return tuple(found)


@lru_cache(maxsize=64)
def _blur(edge: int) -> NDArray[np.float32]:
    """Return the share of each pixel along an edge in each of 64 samples: [64, edge].

    A box of `(edge + 127) // 128` pixels lies over each pixel that a box over the sample covers. At the ends of the
    edge the boxes are cut, and the rest of them is averaged.
    """
    box = (edge + 2 * _SIDE - 1) // (2 * _SIDE)
    ahead = (box + 2) // 2
    at = np.arange(edge)
    begins, ends = np.maximum(0, at + ahead - box), np.minimum(edge, at + ahead)
    steps = np.zeros((_SIDE, edge + 1))
    for row, sample in zip(steps, ((np.arange(_SIDE) + 0.5) * edge / _SIDE).astype(int), strict=True):
        covered = slice(begins[sample], ends[sample])
        share = 1.0 / ((ends[covered] - begins[covered]) * (ends[sample] - begins[sample]))
        np.add.at(row, begins[covered], share)
        np.add.at(row, ends[covered], -share)
    return np.ascontiguousarray(steps.cumsum(axis=1)[:, :edge], np.float32)


def _transform() -> Samples:
    """Return coefficients 1 to 16 of the cosine transform of 64 samples: [16, 64]."""
    waves = np.outer(np.arange(1, _BITS + 1), 2 * np.arange(_SIDE) + 1)
    return np.asarray(np.sqrt(2 / _SIDE) * np.cos(np.pi / (2 * _SIDE) * waves))


_TRANSFORM = _transform()
_FREQUENCIES = np.arange(1, _BITS + 1)
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
    steps = [np.abs(np.diff(samples, axis=axis)) * (100 / 255) for axis in (0, 1)]
    off = 2 * _SAMPLE_ERROR * (100 / 255)
    least, most = (sum(int(np.floor(np.maximum(step + by, 0)).sum()) for step in steps) for by in (-off, off))
    return min(100, least // _QUALITY_DIVISOR), min(100, most // _QUALITY_DIVISOR)
