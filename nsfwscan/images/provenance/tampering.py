"""Draw maps of a picture in which a reviewer may see that a part has another history than the rest.

They are for a person's eye. A map is no score: both show what compression left behind, and much that is harmless leaves
the same.

    error_levels          how much each place changes when the picture is saved as a JPEG once more (Krawetz 2007, A
                          Picture's Worth: Digital Image Analysis and Forensics). A part that was compressed less often
                          than the rest may be lighter. So may edges, fine texture, text and strong colours.
    double_quantisation   of a JPEG that was one before, at a lower quality, the blocks that do not look as if they had
                          been (Bianchi, De Rosa and Piva 2011, Improved DCT coefficient analysis for forgery
                          localization in JPEG images). Light: compressed once. Dark: twice, as the rest. Grey: nothing
                          to tell by. Pure white and black, and the edges of bright things, are often light
                          without harm.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, JpegImagePlugin

from nsfwscan.errors import RowError
from nsfwscan.images.formats.orientation import orientation_of, upright
from nsfwscan.images.formats.registry import load
from nsfwscan.images.frames import first_frame
from nsfwscan.images.opening import Facts, as_row_error, open_within
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.quantisation import Floats, steps_of, transform

ERROR_LEVELS, DOUBLE_QUANTISATION = "error_levels", "double_quantisation"
MAPS = (ERROR_LEVELS, DOUBLE_QUANTISATION)

_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "AVIF", "HEIF")
"""Formats of photographs; a drawing has no history of compression."""
_MOST_PIXELS = 50_000_000
"""A larger picture has no maps: they would take its decoder's time and memory."""
_EDGE = 1024
"""Pixels of the longer side, of error levels."""
_QUALITY = 90
_MOST_GAIN = 20.0
"""How much error levels are raised at most, so that a picture of one history stays dark."""
_LEVELS = 20
"""Multiples of a step that are told apart, on either side of zero; those beyond count as the last."""
_STEPS = np.arange(1, 61)
"""Steps of a first compression that are tried."""
_SHARES = np.array([0.3, 0.5, 0.7, 0.85, 0.95])
"""Shares of the picture that may have been compressed twice."""
_NOISE = 0.35
"""Standard deviation of a coefficient whose pixels were rounded (1 / sqrt(12)) and cut off at 0 and 255 in between."""
_LOGISTIC = 1.702
"""With its argument times this, the logistic function is the normal distribution's to 0.01 (Camilli 1994)."""
_LEAST_GAIN = 0.01
"""Log-likelihood, for each coefficient, by which two compressions must explain a histogram better than one."""
_LEAST_FREQUENCIES = 2


def maps_of(data: bytes, max_pixels: int, formats: Sequence[str]) -> dict[str, Image.Image]:
    """Return the maps of a file's first frame, by their names, upright and grey (`L`); those that it has. A file that
    cannot be decoded has none.

    Args:
        data: the whole encoded file.
        max_pixels, formats: as for `images.decoder.decode`.
    """
    try:
        image, facts = open_within(data, min(max_pixels, _MOST_PIXELS), formats)
        if image.format not in _FORMATS:
            return {}
        with as_row_error(facts):
            orientation = orientation_of(image, data)
            image = first_frame(image, data, max_pixels)
            load(image, data)
            drawn = {ERROR_LEVELS: error_levels(image), DOUBLE_QUANTISATION: double_quantisation_map(image)}
            return {name: upright(one, orientation) for name, one in drawn.items() if one is not None}
    except (RowError, MemoryError):
        return {}


def with_maps(
    facts: Facts, views: list[Facts], drawn: Mapping[str, Image.Image], geometries: Sequence[Geometry]
) -> tuple[list[Facts], bytes]:
    """Return the views of a picture and its maps as further ones, with their names as reasons; and the maps' pixels, as
    of views. Its facts count them."""
    if not drawn or facts["media"] != "image":
        return views, b""
    known = views or [{"index": 0, "at_s": None, "reason": "first", "weight": 1}]
    more = [{"index": len(known) + i, "at_s": None, "reason": name, "weight": 1} for i, name in enumerate(drawn)]
    facts["views"] = len(known) + len(more)
    shown = [image.convert("RGB") for image in drawn.values()]
    return [*known, *more], b"".join(geometry.apply(image) for image in shown for geometry in geometries)


def error_levels(image: Image.Image) -> Image.Image:
    """Return how much each place changes when a picture is saved once more as a JPEG, grey, with at most `_EDGE` pixels
    on its longer side."""
    shown = image.convert("RGB")
    sampling = JpegImagePlugin.get_sampling(image)  # of another, all edges of colours would change
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=_QUALITY, subsampling=max(0, sampling))
    red, green, blue = ImageChops.difference(shown, Image.open(buffer)).split()
    most = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    most.thumbnail((_EDGE, _EDGE), Image.Resampling.BOX)
    gain = min(_MOST_GAIN, 255 / max(1.0, float(np.percentile(np.asarray(most), 99.5))))
    return most.point(lambda level: min(255, round(level * gain)))


def double_quantisation_map(image: Image.Image) -> Image.Image | None:
    """Return where a JPEG looks as if it had been compressed once, among blocks that were compressed twice: a grey
    picture with a pixel for each block of 8 × 8. None where it is no JPEG, is too small, or does not look as if any of
    it had been compressed twice.

    Args:
        image: loaded at its full scale.
    """
    if image.format not in ("JPEG", "MPO") or image.mode not in ("L", "RGB") or min(image.size) < 64:
        return None
    luma = np.asarray(image.convert("L"))
    told = np.zeros((luma.shape[0] // 8, luma.shape[1] // 8), np.float32)
    found = 0
    for place, step in enumerate(steps_of(image).tolist()):
        levels = _levels(luma, place, step)
        once = np.bincount(_levels(luma[4:-4, 4:-4], place, step).ravel() + _LEVELS, minlength=2 * _LEVELS + 1) + 1.0
        counted = np.bincount(levels.ravel() + _LEVELS, minlength=2 * _LEVELS + 1)
        twice = _twice(counted, once / once.sum(), int(step))
        if twice is not None:
            told -= np.log(np.clip(twice, 0.02, None))[levels + _LEVELS].astype(np.float32)
            found += 1
    if found < _LEAST_FREQUENCIES:
        return None
    return Image.fromarray((255 / (1 + np.exp(-_smooth(told)))).astype(np.uint8))


def _levels(luma: NDArray[np.uint8], place: int, step: float) -> NDArray[np.intp]:
    """Return the multiples of a step that the coefficients of one frequency are, [blocks down, blocks across]."""
    down, across = luma.shape[0] // 8, luma.shape[1] // 8
    blocks = luma[: down * 8, : across * 8].reshape(down, 8, across, 8)
    wave = transform()[place].reshape(8, 8)
    found = np.einsum("dyax,yx->da", blocks, wave, optimize=True)
    return np.asarray(np.rint(found / step).clip(-_LEVELS, _LEVELS), np.intp)


def _twice(counted: NDArray[Any], once: NDArray[np.float64], step: int) -> NDArray[np.float64] | None:
    """Return how many times as probable each multiple is in a block that was compressed twice as in one that was
    compressed once, [2 * `_LEVELS` + 1]; None where one compression explains the histogram as well.

    Args:
        counted: how often each multiple is found.
        once: its probability in a block that was compressed once.
    """
    ratios = _ratios(step)
    ratios = ratios / (ratios * once).sum(1, keepdims=True)
    mixed = np.log(_SHARES[:, None, None] * ratios + 1 - _SHARES[:, None, None])  # [shares, steps, levels]
    gains = (mixed @ (counted / counted.sum())).max(0)
    best = int(gains.argmax())
    return ratios[best] if gains[best] >= _LEAST_GAIN else None


@lru_cache(maxsize=64)
def _ratios(step: int) -> NDArray[np.float64]:
    """Return how many multiples of a first step become each multiple of a second one, as a share of what is to be
    expected, [first steps, 2 * `_LEVELS` + 1]."""
    edges = step * (np.arange(-_LEVELS, _LEVELS + 2) - 0.5)
    found = np.ones((len(_STEPS), 2 * _LEVELS + 1))
    for row, before in enumerate(_STEPS):
        reach = int(edges[-1] // before) + 2
        multiples = before * np.arange(-reach, reach + 1)
        below = 1 / (1 + np.exp((-_LOGISTIC / _NOISE * (edges[:, None] - multiples)).clip(-50, 50)))
        found[row, 1:-1] = (np.diff(below, axis=0).sum(1) * before / step)[1:-1]  # the last ones hold all beyond
    return found


def _smooth(told: Floats) -> Floats:
    """Return means over three by three blocks, of what each tells."""
    wide = np.pad(told, 1, mode="edge")
    views = [wide[y : y + told.shape[0], x : x + told.shape[1]] for y in range(3) for x in range(3)]
    return np.asarray(np.mean(views, axis=0), np.float32)
