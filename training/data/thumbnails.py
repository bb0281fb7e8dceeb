"""Blurred-by-default thumbnails for HTML pages.

Each has two data URIs: one that is blurred beyond recognition, here and not by the browser, and a clear one that is
shown on demand. Pixels come from a decode child, never from the file itself: what it carries beside them (EXIF, a
place, a name) does not get onto the page.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import datasets
from PIL import Image, ImageFilter

from nsfwscan.config import DecodeConfig
from nsfwscan.errors import RowError
from training.data.decoding import DecodePool
from training.data.examine import GEOMETRY
from training.progress import ProgressCallback

_EDGE = 200
"""Pixels of the longer side."""
_BLURRED_EDGE = 24
_LONGEST_ASPECT = 3.0


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """Data URIs of a blurred and of a clear picture, and their width and height in pixels."""

    blurred: str
    clear: str
    width: int
    height: int


def thumbnail(data: bytes, pool: DecodePool) -> Thumbnail | None:
    """Return the pictures of an encoded image; None where it does not decode. Raises NsfwscanError."""
    try:
        facts, raw = pool.decode(data)
    except RowError:
        return None
    height, width, _ = pool.geometry.shape
    image = Image.frombytes("RGB", (width, height), raw).resize(_fitted(facts["width"], facts["height"]))
    tiny = image.resize((max(1, image.width * _BLURRED_EDGE // _EDGE), max(1, image.height * _BLURRED_EDGE // _EDGE)))
    blurred = tiny.filter(ImageFilter.GaussianBlur(2)).resize(image.size, Image.Resampling.BICUBIC)
    return Thumbnail(_uri(blurred, 30), _uri(image, 75), *image.size)


def pictures_of(
    images: datasets.Dataset, rows: Sequence[int], config: DecodeConfig, progress: ProgressCallback
) -> dict[int, Thumbnail | None]:
    """Draw some images, by their row. Raises NsfwscanError."""
    pictures: dict[int, Thumbnail | None] = {}
    if not rows:
        return pictures
    with DecodePool(config, GEOMETRY) as pool:
        for done, row in enumerate(rows):
            progress("drawn", done, len(rows))
            pictures[row] = thumbnail(images[row]["bytes"], pool)
    progress("drawn", len(rows), len(rows))
    return pictures


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Return the size on the page; slivers are squeezed a little."""
    aspect = min(_LONGEST_ASPECT, max(1 / _LONGEST_ASPECT, width / height))
    return (_EDGE, round(_EDGE / aspect)) if aspect >= 1 else (round(_EDGE * aspect), _EDGE)


def _uri(image: Image.Image, quality: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
