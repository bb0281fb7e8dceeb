"""Convert the colours of a file without a profile to sRGB, as browsers show them.

This is for a PNG's transparent colour (tRNS), gAMA and cHRM, the code points of PNG (cICP), AVIF and HEIF (nclx), and
HDR (PQ and HLG), which becomes SDR. An ordinary file is left alone. Nothing raises but `MemoryError`. The signal:

    decode.hdr                  an HDR picture; the model saw it as browsers show it on a screen without HDR

The rules are Chromium's, and the tests compare with it: gAMA counts where it differs from 1/2.2 by a twentieth, cHRM
only beside gAMA, cICP before a profile, a profile before the rest. HDR is dimmed so that the reference white of 203
cd/m² is half of white, with a curve on to 1,000 cd/m² (SMPTE ST 2094-50, the default for content without metadata).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.images.formats.levels import Range
from nsfwscan.images.formats.png_chunks import SIGNATURE, side_chunks

Floats = NDArray[np.float32]
Primaries = tuple[float, float, float, float, float, float, float, float]
"""x and y of white, red, green and blue, as in cHRM."""

_SRGB: Primaries = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_PRIMARIES: dict[int, Primaries] = {
    4: (0.310, 0.316, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (0.3127, 0.3290, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (0.3127, 0.3290, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (0.310, 0.316, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    12: (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),
    22: (0.3127, 0.3290, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
"""By their code points (ITU-T H.273, table 2); all others are sRGB's."""
_LINEAR, _SRGB_CODE, _PQ, _CINEMA, _HLG, _EARLY_HDTV = 8, 13, 16, 17, 18, 7
_VIDEO = (1, 6, 11, 14, 15)
_GAMMAS = {4: 2.2, 5: 2.8, _LINEAR: 1.0, **dict.fromkeys(_VIDEO, 2.4)}
"""Transfer characteristics that are powers (the same, table 3; of video, as screens show it: ITU-R BT.1886)."""
_CURVES = {_SRGB_CODE: (0.055, 1 / 12.92, 2.4, 0.04045), _EARLY_HDTV: (0.1115, 1 / 4, 1 / 0.45, 0.0912)}
"""The offset and the exponent of a power, and before it the slope and the end of a line; other codes are sRGB's."""
_LAST_INTENT = 3
"""Of those that an sRGB chunk may state (PNG, 11.3.2.5)."""
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_GAMMA_TOLERANCE, _PRIMARIES_TOLERANCE = 0.05, 0.005
_WHITE_NITS, _PEAK_NITS = 203.0, 1000.0
_SYSTEM_GAMMA = 1.2
"""HLG's at 1,000 cd/m² (ITU-R BT.2100, table 5)."""
_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)
"""Weights of BT.2020's channels."""
_ROWS = 128


@dataclass(frozen=True)
class Encoding:
    """Relation of samples to light.

    Args:
        transfer: a code point of H.273, or
        gamma: light is a sample to this power.
    """

    primaries: Primaries = _SRGB
    transfer: int = _SRGB_CODE
    gamma: float | None = None

    @property
    def is_hdr(self) -> bool:
        """Return whether it holds light brighter than a white page."""
        return self.gamma is None and self.transfer in (_PQ, _HLG)

    @property
    def is_plain(self) -> bool:
        """Return whether it is sRGB, as near as browsers care."""
        near = np.allclose(self.primaries, _SRGB, atol=_PRIMARIES_TOLERANCE)
        power = _GAMMAS.get(self.transfer) if self.gamma is None else self.gamma
        if power is None:
            return near and self.transfer not in (_PQ, _HLG, _CINEMA, _EARLY_HDTV)
        return near and abs(power / 2.2 - 1) < _GAMMA_TOLERANCE


def encoding_of(data: bytes, image: Image.Image) -> Encoding | None:
    """Return the encoding that a file states beside a profile; None where it states none that changes its colours."""
    if data.startswith(SIGNATURE):
        found = _of_png(side_chunks(data), image)
    elif image.format in ("AVIF", "HEIF") and not image.info.get("icc_profile"):
        found = _of_boxes(data)
    else:
        return None
    return None if found is None or found.is_plain else found


def _of_png(there: dict[bytes, bytes], image: Image.Image) -> Encoding | None:
    code, srgb, gamma = (there.get(kind, b"") for kind in (b"cICP", b"sRGB", b"gAMA"))
    if len(code) == 4 and code[2] == 0:
        return Encoding(_PRIMARIES.get(code[0], _SRGB), code[1])
    stated = image.info.get("icc_profile") or (len(srgb) == 1 and srgb[0] <= _LAST_INTENT)
    if stated or len(gamma) != 4 or not any(gamma):
        return None
    return Encoding(_corners(there.get(b"cHRM", b"")), gamma=100_000 / int.from_bytes(gamma, "big"))


def _corners(body: bytes) -> Primaries:
    """Return the primaries of a cHRM; sRGB's where there are none, or none that span a triangle."""
    if len(body) != 32:
        return _SRGB
    wx, wy, rx, ry, gx, gy, bx, by = (n / 100_000 for n in struct.unpack(">8I", body))
    found = wx, wy, rx, ry, gx, gy, bx, by
    try:
        _matrix(found)
    except (np.linalg.LinAlgError, ZeroDivisionError):
        return _SRGB
    return found


def _of_boxes(data: bytes) -> Encoding | None:
    """Return the `nclx` of the first `colr` box (ISO 14496-12, 12.1.5). Browsers take the curve of video for sRGB's."""
    at = data.find(b"colrnclx", 0, 2**20)
    if at < 0 or len(data) < at + 14:
        return None
    primaries, transfer = struct.unpack_from(">HH", data, at + 8)
    return Encoding(_PRIMARIES.get(primaries, _SRGB), _SRGB_CODE if transfer in _VIDEO else transfer)


def in_srgb(image: Image.Image, encoding: Encoding) -> Image.Image:
    """Return the image, RGB or RGBA, as an sRGB screen shows it."""
    if image.mode.startswith("I;16"):
        image = Image.fromarray(Range(shift=8).levels(np.asarray(image)))
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    shown = image.convert("RGBA" if clear else "RGB")
    light, matrix, narrow = _light(encoding), _matrix(encoding.primaries), _matrix(_PRIMARIES[9])
    wide = np.linalg.inv(narrow) @ matrix  # HDR is dimmed as light of BT.2020
    for top in range(0, shown.height, _ROWS):
        box = (0, top, shown.width, min(top + _ROWS, shown.height))
        band = np.array(shown.crop(box))
        linear = light[band[..., :3]]
        if encoding.is_hdr:
            linear = _dimmed(linear @ wide.T, encoding.transfer) @ narrow.T
        elif encoding.primaries != _SRGB:
            linear = linear @ matrix.T
        band[..., :3] = np.rint(255 * _of_light(np.clip(linear, 0, 1)))
        shown.paste(Image.fromarray(band), box)
    shown.info.pop("icc_profile", None)
    return shown


@lru_cache(maxsize=8)
def _light(encoding: Encoding) -> Floats:
    """Return the light of each level, float32 [256]: 1 is white; of PQ, the reference white; of HLG, the scene's."""
    level = np.arange(256) / 255
    power = _GAMMAS.get(encoding.transfer) if encoding.gamma is None else encoding.gamma
    if power is not None:
        light = level**power
    elif encoding.transfer == _PQ:  # ITU-R BT.2100, table 4
        root = level ** (1 / 78.84375)
        light = (
            10_000 / _WHITE_NITS * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)
        )
    elif encoding.transfer == _HLG:  # the same, table 5
        light = np.where(level <= 0.5, level**2 / 3, (np.exp((level - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    elif encoding.transfer == _CINEMA:  # H.273, table 3
        light = 52.37 / 48 * level**2.6
    else:
        offset, slope, exponent, end = _CURVES.get(encoding.transfer, _CURVES[_SRGB_CODE])
        light = np.where(level <= end, level * slope, ((level + offset) / (1 + offset)) ** exponent)
    return light.astype(np.float32)


def _of_light(light: Floats) -> Floats:
    """Return levels of sRGB, 0 to 1 (IEC 61966-2-1)."""
    levels: Floats = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** np.float32(1 / 2.4) - 0.055)
    return levels


def _dimmed(light: Floats, transfer: int) -> Floats:
    """Return HDR light [H, W, 3] as SDR: half of it up to the reference white, then along a curve to the peak."""
    if transfer == _HLG:
        bright = np.maximum(light @ _LUMINANCE, 1e-6)[..., None]
        light = light * bright ** np.float32(_SYSTEM_GAMMA - 1) * np.float32(_PEAK_NITS / _WHITE_NITS)
    most = light.max(axis=2, keepdims=True)
    peak = _PEAK_NITS / _WHITE_NITS
    middle_x, middle_y = 0.35 + 0.65 * 2, 0.35 * 0.5 + 0.65  # of a quadratic Bézier curve from (1, 1/2) to (peak, 1)
    a, b = 1 - 2 * middle_x + peak, 2 * (middle_x - 1)
    t = (-b + np.sqrt(b * b + 4 * a * np.clip(most - 1, 0, peak - 1))) / (2 * a)
    curve = (1 - t) ** 2 * 0.5 + 2 * t * (1 - t) * middle_y + t**2
    gain = np.where(most <= 1, 0.5, curve / np.maximum(most, 1e-6))
    return (light * gain).astype(np.float32)


@lru_cache(maxsize=8)
def _matrix(primaries: Primaries) -> Floats:
    """Return the matrix from light of these primaries to that of sRGB's, [3, 3]. Raises `LinAlgError` or
    `ZeroDivisionError` where they are no primaries."""
    ours, theirs = _to_xyz(_SRGB), _to_xyz(primaries)
    white, other = (_BRADFORD @ _xyz(*corner[:2]) for corner in (_SRGB, primaries))
    if not other.all():
        raise ZeroDivisionError
    adapted = np.linalg.inv(_BRADFORD) @ np.diag(white / other) @ _BRADFORD
    found: Floats = (np.linalg.inv(ours) @ adapted @ theirs).astype(np.float32)
    return found


def _to_xyz(primaries: Primaries) -> NDArray[np.float64]:
    corners = np.array([(x, y, 1 - x - y) for x, y in zip(primaries[2::2], primaries[3::2], strict=True)]).T
    return corners * np.linalg.solve(corners, _xyz(*primaries[:2]))


def _xyz(x: float, y: float) -> NDArray[np.float64]:
    return np.array([x / y, 1, (1 - x - y) / y])


# --- a PNG's transparent colour -------------------------------------------------------------------------------------


def keyed(image: Image.Image, data: bytes) -> Image.Image:
    """Apply the transparent colour of a PNG of grey samples or 16 bits; Pillow compares it with other levels. One that
    stands before the palette or after the pixels does not count."""
    key = image.info.get("transparency")
    if not data.startswith(SIGNATURE) or len(data) < 26 or key is None:
        return image
    before = [kind for kind in side_chunks(data) if kind in (b"PLTE", b"tRNS")]
    if before[-1:] != [b"tRNS"]:
        image.info.pop("transparency")
        return image
    if isinstance(key, bytes):
        return image
    bits, grey = data[24], data[25] == 0
    if bits == 8 or image.mode not in ("1", "L", "RGB", "I;16", "I;16B", "I;16L", "I;16N", "I"):
        return image
    samples = np.asarray(image)
    if grey:
        levels = Range(shift=8).levels(samples) if bits == 16 else np.asarray(image.convert("L"))
        clear = samples == key if bits == 16 else levels == int(key) * 255 // ((1 << bits) - 1)
        pixels = np.stack([levels] * 3, axis=-1)
    else:  # of 16 bits, Pillow keeps the upper ones
        pixels, clear = samples, (samples == np.array([part >> 8 for part in key])).all(axis=2)
    shown = Image.fromarray(np.dstack([pixels, np.where(clear, 0, 255).astype(np.uint8)]))
    shown.info = {name: value for name, value in image.info.items() if name != "transparency"}
    return shown
