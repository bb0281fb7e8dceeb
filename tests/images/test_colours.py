"""Colours of whole files: what gAMA, cHRM, cICP, nclx and tRNS make of samples is what a browser shows."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms
from skimage import data as photographs

from nsfwscan.images.decoder import decode
from tests.images import chromium
from tests.images.bitmaps import photograph, truth

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

PLENTY = 10_000_000
Chunk = tuple[bytes, bytes]


def _png(samples: NDArray[Any], kind: int, bits: int, *chunks: Chunk) -> bytes:
    """A PNG of rows of samples, with chunks before the pixels."""
    height, width = samples.shape[:2]
    flat = samples.reshape(height, -1)
    if bits == 16:
        rows = flat.astype(">u2").view(np.uint8)
    elif bits == 8:
        rows = flat.astype(np.uint8)
    else:
        spread = flat.astype(np.uint8)[..., None] >> np.arange(bits - 1, -1, -1, dtype=np.uint8) & 1
        rows = np.packbits(spread.reshape(height, -1), axis=1)
    pixels = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    packed = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def gama(value: float) -> Chunk:
    return b"gAMA", struct.pack(">I", round(value * 100_000))


def chrm(*corners: float) -> Chunk:
    return b"cHRM", struct.pack(">8I", *(round(n * 100_000) for n in corners))


def cicp(primaries: int, transfer: int) -> Chunk:
    return b"cICP", bytes([primaries, transfer, 0, 1])


SRGB = chrm(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
WIDE = chrm(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
WARM = chrm(0.3457, 0.3585, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
NONE = chrm(0, 0, 0, 0, 0, 0, 0, 0)
PROFILE = (b"iCCP", b"x\0\0" + zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()))
RAMP = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, axis=2)
PICTURE = np.concatenate([RAMP, photograph(256, 40)])

ORDINARY: dict[str, list[Chunk]] = {
    "nothing": [],
    "gAMA 0.45455": [gama(0.45455)],
    "gAMA 0.45455 and cHRM of sRGB": [gama(0.45455), SRGB],
    "gAMA 0.44": [gama(0.44)],
    "gAMA beside sRGB": [gama(1.0), (b"sRGB", b"\0")],
    "gAMA beside a profile": [gama(1.0), PROFILE],
    "gAMA 0": [gama(0)],
    "cHRM alone": [WIDE],
    "cHRM of nothing": [gama(0.45455), NONE],
    "cICP of sRGB before gAMA": [cicp(1, 13), gama(1.0)],
}
UNUSUAL: dict[str, list[Chunk]] = {
    "gAMA 0.02": [gama(0.02)],
    "gAMA 0.25": [gama(0.25)],
    "gAMA 0.43": [gama(0.43)],
    "gAMA 1": [gama(1)],
    "gAMA 5": [gama(5)],
    "gAMA 1 and cHRM of sRGB": [gama(1), SRGB],
    "gAMA 1 and wide cHRM": [gama(1), WIDE],
    "gAMA 0.45455 and wide cHRM": [gama(0.45455), WIDE],
    "gAMA 0.5 and another white": [gama(0.5), WARM],
    "cICP of Display P3": [cicp(12, 13)],
    "cICP of linear light": [cicp(1, 8)],
    "cICP of BT.2020": [cicp(9, 13)],
    "cICP before a profile": [cicp(12, 13), PROFILE],
}
HDR = {"PQ": [cicp(9, 16)], "PQ of sRGB's primaries": [cicp(1, 16)], "PQ of P3": [cicp(12, 16)], "HLG": [cicp(9, 18)]}


@pytest.mark.parametrize("name", ORDINARY)
def test_what_is_normal_changes_no_bit(name: str) -> None:
    """A gamma of 1/2.2, and whatever does not count beside something else, leaves every sample as it is stored."""
    decoded = decode(_png(PICTURE, 2, 8, *ORDINARY[name]), max_pixels=PLENTY)
    assert np.array_equal(truth(decoded.image), PICTURE)
    assert "signals" not in decoded.facts


@pytest.mark.browser
def test_a_browser_shows_the_same(browser: BrowserContext) -> None:
    """What Chromium shows of a PNG with other colours than sRGB is decoded here, to two levels."""
    cases = {name: _png(PICTURE, 2, 8, *chunks) for name, chunks in UNUSUAL.items()}
    cases |= {f"grey, {name}": _png(PICTURE[..., 0], 0, 8, *UNUSUAL[name]) for name in ("gAMA 0.02", "gAMA 1")}
    alpha = np.dstack([PICTURE, np.tile(np.arange(256, dtype=np.uint8), (41, 1))])
    cases |= {"with alpha": _png(alpha, 6, 8, gama(1))}
    differ = {}
    for (name, data), seen in zip(cases.items(), chromium.shown(browser, list(cases.values())), strict=True):
        assert seen is not None, name
        off = np.abs(truth(decode(data, max_pixels=PLENTY).image) - seen)
        if off.max() > 2:
            differ[name] = (int(off.max()), round(float(off.mean()), 2))
    assert differ == {}


@pytest.mark.browser
def test_a_browser_shows_the_same_of_hdr(browser: BrowserContext) -> None:
    """What Chromium shows of a PNG in PQ or HLG is decoded here, to a level and a half on the average."""
    for (name, chunks), seen in zip(
        HDR.items(), chromium.shown(browser, [_png(PICTURE, 2, 8, *c) for c in HDR.values()]), strict=True
    ):
        assert seen is not None, name
        off = np.abs(truth(decode(_png(PICTURE, 2, 8, *chunks), max_pixels=PLENTY).image) - seen)
        assert (off.mean() < 1.5, off.max() <= 12) == (True, True), (name, off.mean(), off.max())
        assert np.abs(PICTURE - seen).mean() > 20


@pytest.mark.browser
@pytest.mark.parametrize("code", [(9, 16), (9, 18), (12, 13)], ids=["PQ", "HLG", "Display P3"])
def test_a_browser_shows_the_same_of_avif(code: tuple[int, int], browser: BrowserContext) -> None:
    """What Chromium shows of an AVIF in PQ, HLG or Display P3 is decoded here, but for what its coding loses."""
    data = _avif(*code)
    [seen] = chromium.shown(browser, [data])
    assert seen is not None
    decoded = decode(data, max_pixels=PLENTY)
    off = np.abs(truth(decoded.image) - seen)
    assert off.mean() < 1.5
    plain = truth(decode(_avif(1, 13), max_pixels=PLENTY).image)
    assert np.abs(plain - seen).mean() > 3 * off.mean() + 1
    assert decoded.facts.get("signals") == (None if code[1] == 13 else {"decode.hdr": 1.0})


def _avif(primaries: int, transfer: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(photograph(128, 96)).save(out, "AVIF", quality=100, subsampling="4:4:4", speed=10)
    data = bytearray(out.getvalue())
    at = data.index(b"colrnclx") + 8
    data[at : at + 4] = struct.pack(">HH", primaries, transfer)
    return bytes(data)


def test_an_hdr_picture_says_so() -> None:
    """PQ and HLG have the signal `decode.hdr`, whether signals are asked for or not; other pictures have it never."""
    for examined in (False, True):
        for chunks in HDR.values():
            decoded = decode(_png(PICTURE, 2, 8, *chunks), max_pixels=PLENTY, examined=examined)
            assert decoded.facts["signals"]["decode.hdr"] == 1
        assert not decode(_png(PICTURE, 2, 8, gama(1)), max_pixels=PLENTY, examined=examined).facts.get("signals")


def test_a_picture_that_hides_in_its_gamma_is_seen() -> None:
    """Samples that look white without their gAMA of 0.02 are the photograph that browsers show, for the model and for
    the hash that banks are asked by."""
    photo = np.asarray(Image.fromarray(photographs.chelsea()).resize((180, 120)))
    hidden = np.rint(255 * (photo / 255) ** (0.02 * 2.2)).astype(np.uint8)
    assert hidden.min() > 180
    decoded = decode(_png(hidden, 2, 8, gama(0.02)), max_pixels=PLENTY, hashed=True)
    assert np.abs(truth(decoded.image) - photo).mean() < 12  # what so few levels hold
    plain = decode(_png(photo, 2, 8), max_pixels=PLENTY, hashed=True)
    assert decoded.facts["pdq_quality"] >= 50
    apart = int(decoded.facts["pdq"], 16) ^ int(plain.facts["pdq"], 16)
    assert apart.bit_count() <= 30


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_one_transparent_grey_of_any_depth(bits: int) -> None:
    """A grey that tRNS names is white, and no other level is, whatever the depth."""
    top = (1 << bits) - 1
    samples = np.rint(photograph(64, 48)[..., 0] / 255 * min(top, 255)).astype(np.int64) * (257 if bits == 16 else 1)
    key = int(samples[20, 30])
    levels = samples * 255 // top if bits < 16 else samples >> 8
    shown = np.where(samples == key, 255, levels)
    data = _png(samples, 0, bits, (b"tRNS", struct.pack(">H", key)))
    found = truth(decode(data, max_pixels=PLENTY).image)
    assert np.abs(found - shown[..., None]).max() <= (0 if bits in (1, 2, 4, 8, 16) else 1)


@pytest.mark.parametrize("bits", [8, 16])
def test_one_transparent_colour_of_any_depth(bits: int) -> None:
    """A colour that tRNS names is white, of 8 bits and of 16."""
    photo = photograph(64, 48)
    samples = photo.astype(np.int64) * (257 if bits == 16 else 1)
    key = samples[20, 30].tolist()
    shown = np.where((samples == key).all(axis=2)[..., None], np.uint8(255), photo)
    data = _png(samples, 2, bits, (b"tRNS", struct.pack(">HHH", *key)))
    assert np.array_equal(truth(decode(data, max_pixels=PLENTY).image), shown)


@pytest.mark.browser
def test_a_browser_shows_the_same_of_transparent_colours(browser: BrowserContext) -> None:
    """PNGs of every type and depth, with a transparent colour and without, are as Chromium shows them, to one level."""
    photo, cases = photograph(64, 48), {}
    for bits in (1, 2, 4, 8, 16):
        top = (1 << bits) - 1
        grey = np.rint(photo[..., 1] / 255 * top).astype(np.int64)
        cases[f"grey {bits}"] = _png(grey, 0, bits)
        cases[f"grey {bits}, keyed"] = _png(grey, 0, bits, (b"tRNS", struct.pack(">H", int(grey[9, 9]))))
        if bits <= 8:
            colours = (b"PLTE", np.random.default_rng(bits).integers(0, 256, (top + 1) * 3).astype(np.uint8).tobytes())
            cases[f"palette {bits}"] = _png(grey, 3, bits, colours)
            cases[f"palette {bits}, clear"] = _png(grey, 3, bits, colours, (b"tRNS", bytes([0, 128])))
        if bits >= 8:
            rgb = np.rint(photo / 255 * top).astype(np.int64)
            alpha = np.dstack([rgb, np.rint(np.linspace(0, top, 64))[None, :].repeat(48, 0).astype(np.int64)])
            cases[f"RGB {bits}"] = _png(rgb, 2, bits)
            cases[f"RGB {bits}, keyed"] = _png(rgb, 2, bits, (b"tRNS", struct.pack(">HHH", *rgb[9, 9].tolist())))
            cases[f"RGBA {bits}"] = _png(alpha, 6, bits)
            cases[f"LA {bits}"] = _png(alpha[..., [1, 3]], 4, bits)
    differ = {}
    for (name, data), seen in zip(cases.items(), chromium.shown(browser, list(cases.values())), strict=True):
        assert seen is not None, name
        off = int(np.abs(truth(decode(data, max_pixels=PLENTY).image) - seen).max())
        if off > 1:
            differ[name] = off
    assert differ == {}
