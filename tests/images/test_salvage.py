"""Damaged files: what a browser would show of them is decoded, white where there is nothing, and the row says so."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from nsfwscan.errors import RowError
from nsfwscan.images.decoder import decode
from nsfwscan.images.formats.png_chunks import Chunk
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.images.views import ViewLimits, to_views
from tests.images.damage import PHOTO, interlaced_png, large_profile, small_frame_gif, with_chunks
from tests.images.decoding import PLENTY, difference, encode, failure, pixels, rgb

_JPEG, _PNG = encode(PHOTO, "JPEG", quality=90), encode(PHOTO)
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def signals(data: bytes) -> dict[str, float]:
    return decode(data, max_pixels=PLENTY).facts.get("signals") or {}


_WORDS = zlib.compress(b"workflow " * 200_000)
_ANIMATION = encode(PHOTO, save_all=True, append_images=[PHOTO.rotate(180)], duration=500)

WHOLE: dict[str, Callable[[], bytes]] = {
    "a JPEG without its end": lambda: _JPEG[:-2],
    "a JPEG with half its end": lambda: _JPEG[:-1],
    "a progressive JPEG without its end": lambda: encode(PHOTO, "JPEG", quality=90, progressive=True)[:-2],
    "a JPEG with half a JFIF": lambda: _JPEG[:2] + b"\xff\xe0\0\7JFIF\0" + _JPEG[2:],
    "a JPEG with half a mark of Adobe's": lambda: _JPEG[:2] + b"\xff\xee\0\7Adobe" + _JPEG[2:],
    "a JPEG with a profile of nothing": lambda: _JPEG[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + _JPEG[2:],
    "a PNG with a wrong checksum of pHYs": lambda: with_chunks(_PNG, Chunk(b"pHYs", bytes(9)), spoiled=b"pHYs"),
    "a PNG with a wrong checksum of iCCP": lambda: with_chunks(encode(PHOTO, icc_profile=_SRGB), spoiled=b"iCCP"),
    "a PNG with a wrong checksum of tEXt": lambda: with_chunks(_PNG, Chunk(b"tEXt", b"a\0b"), spoiled=b"tEXt"),
    "a PNG with a wrong checksum of its header": lambda: with_chunks(_PNG, spoiled=b"IHDR"),
    "a PNG with a wrong sum of its stream": lambda: _PNG[:-20] + b"\1\2\3\4" + _PNG[-16:],
    "a PNG with a large profile": lambda: with_chunks(_PNG, Chunk(b"iCCP", large_profile())),
    "a PNG with a large zTXt": lambda: with_chunks(_PNG, Chunk(b"zTXt", b"prompt\0\0" + _WORDS)),
    "a PNG with a large iTXt": lambda: with_chunks(_PNG, Chunk(b"iTXt", b"workflow\0\1\0\0\0" + _WORDS)),
    "a PNG with seventy megabytes of text": lambda: with_chunks(
        _PNG, *[Chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(900_000)))] * 80
    ),
    "an APNG whose first frame has a wrong number": lambda: with_chunks(
        _ANIMATION.replace(b"fcTL" + bytes(4), b"fcTL" + b"\0\0\0\7", 1)
    ),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_picture_that_is_whole_is_shown_whole(name: str) -> None:
    """Damage beside the pixels changes none of them; the row says that it took a second try, and that all is there."""
    plain = pixels(_JPEG if "JPEG" in name else _PNG)
    if "progressive" in name:
        plain = pixels(encode(PHOTO, "JPEG", quality=90, progressive=True))
    data = WHOLE[name]()
    assert difference(pixels(data), plain) == 0
    assert signals(data) == {"decode.salvaged": 1.0, "decode.complete": 1.0}


CUT = {
    "JPEG": (_JPEG, False),
    "JPEG with restarts": (encode(PHOTO, "JPEG", quality=90, restart_marker_rows=1), False),
    "grey JPEG": (encode(PHOTO.convert("L"), "JPEG", quality=90), False),
    "PNG": (_PNG, False),
    "palette PNG": (encode(PHOTO.quantize(64)), False),
    "PNG of 16 bits": (encode(Image.fromarray(np.asarray(PHOTO.convert("L")).astype(np.uint16) * 257)), False),
    "GIF": (encode(PHOTO, "GIF", interlace=0), False),
    "BMP": (encode(PHOTO, "BMP"), True),
    "TIFF": (encode(PHOTO, "TIFF"), False),
}


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", CUT)
def test_a_picture_that_is_cut_off_is_shown_as_far_as_it_goes(kind: str, share: float) -> None:
    """Rows that are there are those of the whole picture, the others white; the row says how many there are."""
    whole, upwards = CUT[kind]
    data = whole[: int(len(whole) * share)]
    found, plain, complete = pixels(data), pixels(whole), signals(data)["decode.complete"]
    if upwards:
        found, plain = found[::-1], plain[::-1]
    rows = int(round(complete * len(plain), 6))
    assert abs(complete - share) < 0.2
    assert difference(found[: rows - 1], plain[: rows - 1]) == 0
    assert (found[rows + 1 :] == 255).all() and (plain[rows + 1 :] != 255).any()
    assert signals(data)["decode.salvaged"] == 1


def test_a_progressive_jpeg_that_is_cut_off_is_coarse() -> None:
    """After its first scan all of it is there, if coarse; within it, the rows so far."""
    whole = encode(PHOTO, "JPEG", quality=90, progressive=True)
    scans = [at for at in range(len(whole)) if whole[at : at + 2] == b"\xff\xda"]
    coarse = whole[: scans[3]]
    assert signals(coarse)["decode.complete"] == 1
    assert 0 < difference(pixels(coarse), pixels(whole)) < 20
    within = whole[: scans[0] + (scans[1] - scans[0]) // 2]
    complete = signals(within)["decode.complete"]
    assert 0.2 < complete < 0.7
    rows = round(complete * PHOTO.height)
    assert (pixels(within)[rows + 1 :] == 255).all()
    assert difference(pixels(within)[:rows], pixels(whole)[:rows]) < 20


@pytest.mark.parametrize("fmt", ["GIF", "PNG"])
def test_an_interlaced_picture_that_is_cut_off_is_coarse(fmt: str) -> None:
    """Where a finer pass is missing, the pixels of the pass before stand for it; only given ones count."""
    whole = encode(PHOTO, "GIF", interlace=1) if fmt == "GIF" else interlaced_png()
    assert difference(pixels(whole), rgb(PHOTO)) < 8
    cut = whole[: len(whole) * 6 // 10]
    assert 0.4 < signals(cut)["decode.complete"] < 0.75
    assert not (pixels(cut) == 255).all(axis=2).any()
    assert difference(pixels(cut), pixels(whole)) < 30


def test_around_a_frame_there_is_nothing() -> None:
    """What the first frame of a GIF leaves of its screen is white, and does not count as a part of the picture."""
    whole = small_frame_gif()
    found = pixels(whole)
    inside = np.zeros(found.shape[:2], np.bool_)
    inside[20:80, 30:110] = True
    assert (found[~inside] == 255).all() and not (found[inside] == 255).all(axis=1).any()
    assert signals(whole) == {}
    cut = whole[: len(whole) * 6 // 10]
    assert 0.3 < signals(cut)["decode.complete"] < 0.7
    assert (pixels(cut)[~inside] == 255).all()
    nothing = whole.replace(struct.pack("<4H", 30, 20, 80, 60), struct.pack("<4H", 30, 20, 0, 60))
    assert failure(nothing).status == "decode_error"


def test_white_is_not_called_missing() -> None:
    """A picture whose lower half is white, or black, or grey, is as whole as another."""
    for level in (0, 128, 255):
        image = PHOTO.copy()
        image.paste((level,) * 3, (0, 60, 160, 120))
        for fmt, end in (("JPEG", 2), ("PNG", 12)):
            whole = encode(image, fmt)
            data = whole[:-end] if fmt == "JPEG" else with_chunks(whole, Chunk(b"pHYs", bytes(9)), spoiled=b"pHYs")
            assert signals(data)["decode.complete"] == 1
            assert difference(pixels(data), pixels(whole)) == 0


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "AVIF"])
def test_where_there_is_nothing_there_is_no_picture(fmt: str) -> None:
    """A header alone, with none of the pixels, stays an error, and the row has what the header says."""
    whole = encode(PHOTO, fmt)
    head = {"JPEG": whole.find(b"\xff\xda") + 14, "PNG": 33 + 12, "BMP": 54, "TIFF": 200, "GIF": 13 + 768 + 11}
    error = failure(whole[: head.get(fmt, 60)])
    assert error.status == "decode_error"
    assert error.values["format"] == fmt


def test_a_hidden_default_image_is_not_what_is_shown() -> None:
    """Of an APNG whose default image is not part of the animation, the first frame is decoded, where it lies."""
    blank = Image.new("RGB", PHOTO.size, "white")
    hidden = encode(blank, save_all=True, default_image=True, append_images=[PHOTO, PHOTO.rotate(180)], duration=500)
    decoded = decode(hidden, max_pixels=PLENTY, hashed=True)
    assert difference(rgb(decoded.image), rgb(PHOTO)) == 0
    assert decoded.facts["frames"] == 2 and signals(hidden) == {}
    assert decoded.facts["pdq"] == decode(_PNG, max_pixels=PLENTY, hashed=True).facts["pdq"]
    assert signals(with_chunks(hidden, Chunk(b"pHYs", bytes(9)), spoiled=b"pHYs"))["decode.complete"] == 1


def test_a_second_try_leaves_nothing_behind() -> None:
    """Pillow's tolerant modes are off again after a file that was salvaged, or could not be."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK, PngImagePlugin.MAX_TEXT_MEMORY
    for data in (_JPEG[:-2], _PNG[:60]):
        with suppress(RowError):
            decode(data, max_pixels=PLENTY)
        assert before == (
            ImageFile.LOAD_TRUNCATED_IMAGES,
            PngImagePlugin.MAX_TEXT_CHUNK,
            PngImagePlugin.MAX_TEXT_MEMORY,
        )


def test_limits_hold_for_the_second_try() -> None:
    """A file that is damaged and too large is refused as too large, and its row says how large."""
    for data in (_JPEG[:-2], with_chunks(_PNG, Chunk(b"pHYs", bytes(9)), spoiled=b"pHYs")):
        error = failure(data, max_pixels=160 * 120 - 1)
        assert (error.status, error.values["width"], error.values["height"]) == ("too_large", 160, 120)


@pytest.mark.parametrize("examined", [True, False])
def test_the_child_says_so(examined: bool) -> None:
    """What is salvaged comes out of the child with hash, size and signals, whether or not provenance is looked at."""
    geometry = Geometry((32, 32), Image.Resampling.BILINEAR)
    child = DecodeChild(Settings((geometry,), True, True, examined, PLENTY, {}, 20.0, 2**28))
    cut = encode(PHOTO, "JPEG", exif=_exif())[:-40]
    facts, found = child.decode(cut)
    how = {"hashed": True, "examined": examined, "max_pixels": PLENTY}
    expected, _, pixels = to_views(cut, geometry, limits=ViewLimits(), **how)
    assert (facts, found) == (expected, pixels)
    assert (facts["width"], facts["height"], facts["camera"]) == (120, 160, "Demo")
    assert facts["pdq"] is not None and facts["signals"]["decode.salvaged"] == 1
    assert ("software.gimp" in facts["signals"]) is examined
    child.close()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    tags: dict[int, Any] = {0x0112: 6, 0x010F: "Demo", 0x0131: "GIMP 2.10"}
    exif.update(tags)
    return exif
