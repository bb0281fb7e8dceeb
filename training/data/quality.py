"""Flaws of an image as training data: blurred, dark, flat, tiny, over-compressed, a sliver.

Sharpness, brightness and contrast are measured at the size at which a model sees the image, not at its own: a
photograph of 12 megapixels that is soft at full size is sharp at 224. A measure that an image does not have is None.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
_STANDARD_LUMA_SUM = 3693
"""Sum of the luminance table of ITU-T T.81, annex K.1: JPEG quality 50 as the IJG's library scales it."""

BLURRED, DARK, FLAT, TINY, OVER_COMPRESSED, SLIVER = "blurred", "dark", "flat", "tiny", "over-compressed", "sliver"

MIN_SHARPNESS = 40.0
"""Measured on 15 photographs of scikit-image: as they are they have 50 to 2,400, and blurred by 4 pixels at 512 × 512
all have 16 or less."""
MIN_BRIGHTNESS = 40.0
MIN_CONTRAST = 12.0
MIN_SIDE = 112
MIN_JPEG_QUALITY = 30
MIN_BITS_PER_PIXEL = 0.12
"""Of WebP, AVIF and HEIC, whose files do not say their quality. Photographs of scikit-image have less at qualities
under 5 (WebP) or 20 (AVIF); a drawing with large even areas may have less and be fine."""
_LOSSY = ("WEBP", "AVIF", "HEIF")
MAX_ASPECT = 4.0

FLAWS = {
    BLURRED: f"variance of the Laplacian under {MIN_SHARPNESS:g}, at 256 × 256 pixels",
    DARK: f"mean luma under {MIN_BRIGHTNESS:g} of 255",
    FLAT: f"standard deviation of luma under {MIN_CONTRAST:g} of 255: next to nothing to see",
    TINY: f"shorter side under {MIN_SIDE} pixels, half of what most models take",
    OVER_COMPRESSED: f"JPEG quantisation as of quality under {MIN_JPEG_QUALITY}; WebP, AVIF, HEIC under "
    f"{MIN_BITS_PER_PIXEL:g} bits a pixel",
    SLIVER: f"one side more than {MAX_ASPECT:g} times the other: squeezed or cut beyond recognition",
}
"""Meaning of each word."""


def measure(pixels: NDArray[np.uint8], data: bytes, format_name: str | None) -> dict[str, float | None]:
    """Measure an image: uint8 [256, 256, 3], and its file.

    Returns:
        `sharpness`: variance of the 4-neighbour Laplacian of luma (Pech-Pacheco et al. 2000), luma 0 to 255;
        `brightness`: mean luma; `contrast`: standard deviation of luma; `jpeg_quality`: 1 to 100, by the luminance
        quantisation table, None where the file is no JPEG.
    """
    luma = pixels.astype(np.float32) @ _LUMA
    centre = luma[1:-1, 1:-1]
    laplacian = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * centre
    quality = jpeg_quality(data) if format_name in ("JPEG", "MPO") else None
    measured = {"sharpness": laplacian.var(), "brightness": luma.mean(), "contrast": luma.std()}
    return {name: float(value) for name, value in measured.items()} | {"jpeg_quality": quality}


def jpeg_quality(data: bytes) -> int | None:
    """Return the quality setting, 1 to 100, that gives a JPEG's luminance table by the IJG's scaling; None without a
    table. Only the header is read, by Pillow's own Python."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            table = image.quantization[0]  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001  # a header that Pillow cannot read says nothing of its quality
        return None
    scale = 100 * sum(table) / _STANDARD_LUMA_SUM
    quality = 5000 / scale if scale > 100 else (200 - scale) / 2
    return int(min(100, max(1, round(quality))))


def flaws(row: dict[str, Any]) -> list[str]:
    """Return the words for an image's flaws, by its row in the catalog (`sharpness, brightness, contrast, jpeg_quality,
    format, size, width, height`)."""
    short, long = sorted((row["width"] or 1, row["height"] or 1))
    is_flat = row["contrast"] < MIN_CONTRAST
    found = {
        FLAT: is_flat,
        BLURRED: row["sharpness"] < MIN_SHARPNESS and not is_flat,
        DARK: row["brightness"] < MIN_BRIGHTNESS,
        TINY: short < MIN_SIDE,
        OVER_COMPRESSED: _is_over_compressed(row) and not is_flat,
        SLIVER: long > MAX_ASPECT * short,
    }
    return [name for name, is_there in found.items() if is_there]


def _is_over_compressed(row: dict[str, Any]) -> bool:
    if row["format"] in _LOSSY:
        return bool(8 * row["size"] < MIN_BITS_PER_PIXEL * row["width"] * row["height"])
    return row["jpeg_quality"] is not None and row["jpeg_quality"] < MIN_JPEG_QUALITY
