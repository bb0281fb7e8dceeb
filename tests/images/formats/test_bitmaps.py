"""BMP, ICO and CUR: of every variant the pixels that its plain twin has, and that a browser shows."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from nsfwscan.errors import RowError, Status
from nsfwscan.images.decoder import decode, header
from tests.images import chromium
from tests.images.bitmaps import Case, _icon, _png, bitmaps, file_of, icons, info, photograph, truth, words

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

PLENTY = 10_000_000
BITMAPS, ICONS = bitmaps(), icons()
_ALL = [
    pytest.param(case, id=f"{kind}: {case.name}")
    for kind, cases in (("BMP", BITMAPS), ("ICO", ICONS))
    for case in cases
]


@pytest.mark.parametrize("case", _ALL)
def test_every_variant_shows_its_picture(case: Case) -> None:
    """Each header, depth, mask, palette, run-length encoding, icon and pointer has the pixels that were put into it."""
    decoded = decode(case.data, max_pixels=PLENTY)
    found = truth(decoded.image)
    assert found.shape == case.picture.shape
    assert np.abs(found - case.picture).max() <= case.tolerance
    height, width, _ = case.picture.shape
    assert (decoded.facts["width"], decoded.facts["height"], decoded.facts["frames"]) == (width, height, 1)


@pytest.mark.browser
@pytest.mark.parametrize("cases", [BITMAPS, ICONS], ids=["BMP", "ICO"])
def test_every_variant_is_as_a_browser_shows_it(cases: list[Case], browser: BrowserContext) -> None:
    """What Chromium shows of these files is what is decoded here, to two levels."""
    told = [case for case in cases if case.in_browser]
    assert len(told) > 0.9 * len(cases)
    differ = {}
    for case, seen in zip(told, chromium.shown(browser, [case.data for case in told]), strict=True):
        found = truth(decode(case.data, max_pixels=PLENTY).image)
        if seen is None or seen.shape != found.shape or np.abs(found - seen).max() > 2:
            differ[case.name] = None if seen is None else int(np.abs(found - seen).max())
    assert differ == {}


def test_formats_are_told_apart() -> None:
    """The column `format` says BMP, ICO or CUR."""
    cases = {case.name: case.data for case in (*BITMAPS, *ICONS)}
    found = [
        decode(cases[name], max_pixels=PLENTY).facts["format"] for name in ("runs of 8 bits", "PNG", "a mouse pointer")
    ]
    assert found == ["BMP", "ICO", "CUR"]


@pytest.mark.parametrize(
    ("compression", "length", "bits", "words"),
    [
        (4, 40, 0, "a JPEG inside of a BMP is not supported"),
        (5, 124, 0, "a PNG inside of a BMP is not supported"),
        (3, 64, 1, "a BMP compressed as a fax (OS/2's Huffman 1D) is not supported"),
        (11, 40, 32, "a BMP of CMYK colours is not supported"),
        (99, 40, 8, "a BMP with compression 99 is not supported"),
    ],
)
def test_what_is_no_bitmap_inside_is_named(compression: int, length: int, bits: int, words: str) -> None:
    """A whole BMP of a kind that isn't decoded is `unsupported`, with the kind in words, and not called damaged."""
    data = file_of(info(9, 9, bits, length=length, compression=compression), bytes(500))
    with pytest.raises(RowError) as caught:
        decode(data, max_pixels=PLENTY)
    assert (caught.value.status, caught.value.message) == (Status.UNSUPPORTED, words)
    assert caught.value.values == {"format": "BMP"}


def test_the_largest_picture_of_an_icon_counts_for_the_limit() -> None:
    """An icon's size is that of the picture in it, whatever its directory says, and is checked before decoding."""
    claims = _icon(1, [(16, 16, 32, info(40_000, 80_000, 32) + bytes(64))])
    with pytest.raises(RowError) as caught:
        header(claims, max_pixels=PLENTY)
    assert caught.value.status == Status.TOO_LARGE
    assert caught.value.values == {"format": "ICO", "width": 40_000, "height": 40_000}
    bomb = _icon(2, [(16, 16, 0, _png(np.zeros((4000, 4000, 3), np.uint8)))])
    with pytest.raises(RowError) as caught:
        decode(bomb, max_pixels=PLENTY)
    assert (caught.value.status, caught.value.values["format"]) == (Status.TOO_LARGE, "CUR")


def test_a_file_that_is_cut_off_is_shown_as_far_as_it_goes() -> None:
    """A BMP without its last rows is salvaged, and says so; one without the last padding is whole."""
    photo = photograph()
    whole = file_of(info(37, 23, 24), words(photo, 24, (0xFF0000, 0xFF00, 0xFF)))
    runs = next(case.data for case in BITMAPS if case.name == "runs of 8 bits")
    decoded = decode(whole[:-1], max_pixels=PLENTY)
    assert np.array_equal(truth(decoded.image), photo)
    assert "signals" not in decoded.facts
    for data in (whole[:-300], runs[:-40]):
        signals = decode(data, max_pixels=PLENTY).facts["signals"]
        assert signals["decode.salvaged"] == 1
        assert 0.5 < signals["decode.complete"] < 1


def test_pillow_and_this_agree_on_what_pillow_writes() -> None:
    """BMPs and icons as Pillow writes them are as Pillow reads them."""
    photo = Image.fromarray(photograph())
    for mode in ("1", "L", "P", "RGB"):
        out = io.BytesIO()
        photo.convert(mode).save(out, "BMP")
        assert np.array_equal(truth(decode(out.getvalue(), max_pixels=PLENTY).image), truth(photo.convert(mode)))
    out = io.BytesIO()
    Image.fromarray(photograph(64, 64)).save(out, "ICO", sizes=[(16, 16), (64, 64)])
    assert np.array_equal(truth(decode(out.getvalue(), max_pixels=PLENTY).image), photograph(64, 64))


@pytest.mark.parametrize("head", [b"\0\0\1\0\0\0", b"\0\0\1\0", b"\0\0\1\0\1\0" + bytes(3) + b"\7" + bytes(90)])
def test_zeros_with_a_one_are_no_icon(head: bytes) -> None:
    """What only begins like an icon is not taken for one."""
    with pytest.raises(RowError) as caught:
        decode(head + struct.pack("<I", 7), max_pixels=PLENTY)
    assert caught.value.status == Status.UNSUPPORTED
