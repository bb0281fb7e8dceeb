"""Pictures, encoded and decoded, as a test compares them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.demo.drawings import draw_gradient
from nsfwscan.demo.media import (
    DemoObject,
)
from nsfwscan.errors import RowError, Status
from nsfwscan.images.decoder import decode

Demo = tuple[Path, list[DemoObject]]

PLENTY = 100_000_000
SCENE = draw_gradient().crop((0, 0, 440, 330)).resize((64, 48))
"""No two of its orientations look alike."""
TINY = SCENE.resize((24, 16))
EXIF_HEAD = b"Exif\0\0"


def encode(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def encode_heif(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=95, **options)
    return out.getvalue()


def pixels(data: bytes) -> NDArray[np.int16]:
    """Decoded pixels, int16 [H, W, 3], for differences."""
    image = decode(data, max_pixels=PLENTY).image
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def rgb(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image.convert("RGB")).astype(np.int16)


def difference(first: NDArray[np.int16], second: NDArray[np.int16]) -> float:
    """Mean absolute difference, in levels of 255."""
    assert first.shape == second.shape
    return float(np.abs(first - second).mean())


def failure(data: bytes, max_pixels: int = PLENTY) -> RowError:
    with pytest.raises(RowError) as caught:
        decode(data, max_pixels=max_pixels)
    assert caught.value.status != Status.OK
    return caught.value
