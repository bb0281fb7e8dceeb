"""Frames of animations and pages of files, as browsers compose them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from nsfwscan.images.animations import Frame, frames_of
from nsfwscan.images.formats.png_chunks import SIGNATURE, Chunk
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.srgb import to_srgb
from nsfwscan.images.views import ViewLimits, to_views
from tests.images.chromium import frames_shown
from tests.images.damage import ADAM7
from tests.images.decoding import encode, rgb
from tests.images.decoding import pixels as decoded_pixels

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

_SIZE = (40, 30)


def patch(colour: str, size: tuple[int, int] = _SIZE, *, hole: bool = False) -> Image.Image:
    """A picture of one colour with a line, and a hole in its middle where asked."""
    image = Image.new("RGBA", size, colour)
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, *size), "black")
    if hole:
        draw.rectangle((size[0] // 3, size[1] // 3, size[0] // 2, size[1] // 2), (0, 0, 0, 0))
    return image


def gif(images: Sequence[tuple[Image.Image, int, int, int, int]], palette: bool = False) -> bytes:
    """A GIF with images as they are: picture, left, top, disposal, hundredths of a second.

    Args:
        palette: the screen has colours of its own, and a background that is red.
    """
    colours = bytes([255, 0, 0, 0, 0, 255]) if palette else b""
    parts = [b"GIF89a", struct.pack("<2H3B", *_SIZE, 0x80 if palette else 0, 0, 0), colours]
    for image, left, top, disposal, delay in images:
        buffer = io.BytesIO()
        image.convert("RGBA").save(buffer, "GIF")
        alone = buffer.getvalue()
        at = 13 + (3 << (alone[10] & 7) + 1)
        table, control = alone[13:at], b"\0\0\0\0"
        while alone[at] == 0x21:
            end = at + 2
            while alone[end]:
                end += alone[end] + 1
            control = alone[at + 3 : at + 7] if alone[at + 1] == 0xF9 else control
            at = end + 1
        parts += [
            b"\x21\xf9\x04", struct.pack("<BHB", disposal << 2 | control[0] & 1, delay, control[3]), b"\0\x2c",
            struct.pack("<4HB", left, top, *image.size, 0x80 | alone[10] & 7 | alone[at + 9] & 0x40), table,
            alone[at + 10 : -1],
        ]  # fmt: skip
    return b"".join([*parts, b"\x3b"])


def on_screen(data: bytes, width: int, height: int) -> bytes:
    """A GIF that says that its screen has another size."""
    return data[:6] + struct.pack("<2H", width, height) + data[10:]


def before_first_image(data: bytes, image: bytes) -> bytes:
    """A GIF without a palette of its screen, with one more image."""
    return data[:13] + image + data[13:]


EMPTY_IMAGE = b"\x21\xf9\4\0\x0a\0\0\0" + b"\x2c" + struct.pack("<4HB", 0, 0, 0, 0, 0) + b"\2\2\x4c\1\0"


def webp(images: Sequence[tuple[Image.Image, int, int, bool]]) -> bytes:
    """A WebP without alpha, of images as they are: picture, left, top (both even), whether it is cleared afterwards."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    def three(*numbers: int) -> bytes:
        return b"".join(number.to_bytes(3, "little") for number in numbers)

    parts = [chunk(b"VP8X", b"\2\0\0\0" + three(_SIZE[0] - 1, _SIZE[1] - 1)), chunk(b"ANIM", bytes(6))]
    for image, left, top, clears in images:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "WEBP", lossless=True)
        place = three(left // 2, top // 2, image.width - 1, image.height - 1, 100)
        parts.append(chunk(b"ANMF", place + bytes([clears]) + buffer.getvalue()[12:]))
    body = b"WEBP" + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def interlaced(images: Sequence[Image.Image], *, hidden: bool = False) -> bytes:
    """An animated PNG of pixels in seven passes, which Pillow does not write; the first image may not be part of it."""
    parts = [
        Chunk(b"IHDR", struct.pack(">2I5B", *_SIZE, 8, 6, 0, 0, 1)),
        Chunk(b"acTL", struct.pack(">2I", len(images) - hidden, 0)),
    ]
    number = 0
    for place, image in enumerate(images):
        pixels = np.asarray(image)
        rows = [b"\0" + row.tobytes() for top, left, down, across in ADAM7 for row in pixels[top::down, left::across]]
        packed = zlib.compress(b"".join(rows))
        if place or not hidden:
            parts.append(Chunk(b"fcTL", struct.pack(">5I2H2B", number, *_SIZE, 0, 0, 1, 10, 0, 0)))
            number += 1
        if place:
            packed, number = struct.pack(">I", number) + packed, number + 1
        parts.append(Chunk(b"fdAT" if place else b"IDAT", packed))
    return SIGNATURE + b"".join(part.packed() for part in [*parts, Chunk(b"IEND", b"")])


def saved(fmt: str, images: Sequence[Image.Image], **how: Any) -> bytes:
    buffer = io.BytesIO()
    images[0].save(buffer, fmt, save_all=True, append_images=images[1:], **how)
    return buffer.getvalue()


def drawn(data: bytes, name: str) -> list[tuple[Frame, Any]]:
    """Return the frames with their pixels on white."""
    return [(frame, np.asarray(to_srgb(frame.image)).astype(int)) for frame in frames_of(data, name)]


_SMALL = (12, 10)
_ANIMATIONS = {
    "a GIF whose frames cover parts": gif(
        [(patch("red"), 0, 0, 1, 10), (patch("lime", _SMALL), 5, 5, 1, 30), (patch("blue", _SMALL), 20, 9, 0, 7)]
    ),
    "a GIF that clears": gif(
        [
            (patch("red", _SMALL), 3, 3, 2, 10),
            (patch("lime", _SMALL), 9, 9, 2, 10),
            (patch("blue", _SMALL), 20, 9, 2, 9),
        ]
    ),
    "a GIF that clears on a coloured background": gif(
        [(patch("yellow", _SMALL), 3, 3, 2, 10), (patch("lime", _SMALL), 9, 9, 1, 10)], palette=True
    ),
    "a GIF that restores": gif(
        [(patch("red"), 0, 0, 1, 10), (patch("lime", _SMALL), 5, 5, 3, 10), (patch("blue", _SMALL), 9, 9, 1, 10)]
    ),
    "a GIF with holes": gif(
        [(patch("red", hole=True), 0, 0, 1, 10), (patch("lime", hole=True), 5, 5, 2, 10), (patch("blue"), 20, 9, 1, 5)]
    ),
    "a GIF beyond its screen": gif([(patch("red"), 0, 0, 1, 10), (patch("lime"), 30, 20, 1, 10)]),
    "a GIF on a screen of one pixel": on_screen(gif([(patch("red"), 0, 0, 1, 10), (patch("lime"), 9, 9, 1, 10)]), 1, 1),
    "a GIF on no screen": on_screen(gif([(patch("red"), 4, 2, 1, 10), (patch("lime"), 0, 0, 1, 10)]), 0, 0),
    "a GIF that begins with nothing": before_first_image(
        gif([(patch("red"), 0, 0, 1, 10), (patch("lime", _SMALL), 9, 9, 1, 10)]), EMPTY_IMAGE
    ),
    "a WebP without alpha whose frames cover parts": webp(
        [(patch("red", _SMALL), 4, 2, False), (patch("lime", _SMALL), 8, 8, False), (patch("blue"), 0, 0, False)]
    ),
    "a WebP without alpha that clears": webp([(patch("red"), 0, 0, True), (patch("lime", _SMALL), 8, 8, False)]),
    "a GIF with two controls": before_first_image(
        gif([(patch("red"), 0, 0, 1, 10), (patch("lime", hole=True), 0, 0, 1, 10)]), b"\x21\xf9\4\1\x0a\0\1\0"
    ),
    "a PNG": saved("PNG", [patch("red"), patch("lime", hole=True), patch("blue")], duration=[100, 250, 40], blend=1),
    "a PNG in passes": interlaced([patch("red"), patch("lime", hole=True), patch("blue")]),
    "a PNG in passes with a hidden image": interlaced([patch("red"), patch("lime"), patch("blue")], hidden=True),
    "a PNG that disposes": saved(
        "PNG", [patch("red"), patch("lime", hole=True), patch("blue", hole=True)], duration=80, disposal=1, blend=1
    ),
    "a PNG with a hidden image": saved(
        "PNG", [patch("red"), patch("lime"), patch("blue")], duration=100, default_image=True
    ),
    "a WebP": saved(
        "WEBP", [patch("red"), patch("lime", hole=True), patch("blue")], duration=[100, 250, 40], lossless=True
    ),
}


@pytest.mark.browser
@pytest.mark.parametrize("name", _ANIMATIONS)
def test_frames_are_those_of_a_browser(browser: BrowserContext, tmp_path: Path, name: str) -> None:
    """Blending, disposal, transparency, hidden images and times are as Chromium has them."""
    data = _ANIMATIONS[name]
    kind = name.split()[1]
    expected = frames_shown(browser, tmp_path, data, f"image/{kind.lower()}")
    found = drawn(data, "WEBP" if kind == "WebP" else kind)
    assert len(found) == len(expected) >= 2
    for (frame, pixels), (at_s, theirs) in zip(found, expected, strict=True):
        assert frame.at_s == pytest.approx(at_s, abs=1e-3)
        assert pixels.shape == theirs.shape
        assert np.abs(pixels - theirs).max() <= 1, frame.index


def test_a_gif_in_a_hurry() -> None:
    """A frame that asks for a hundredth of a second or less is shown for a tenth, as browsers do."""
    data = gif([(patch("red"), 0, 0, 1, delay) for delay in (0, 1, 2, 10)])
    assert [frame.shown_s for frame in frames_of(data, "GIF")] == [0.1, 0.1, 0.02, 0.1]
    images = [patch(colour) for colour in ("red", "lime", "blue")]
    for fmt in ("WEBP", "PNG", "AVIF"):
        found = [frame.shown_s for frame in frames_of(saved(fmt, images, duration=[10, 20, 10]), fmt)]
        assert found == pytest.approx([0.1, 0.02, 0.1]), fmt


def test_pages_have_no_times() -> None:
    """Pages of a TIFF are given each in its own size and colours, and no time."""
    images = [patch("red").convert("RGB"), patch("lime", (20, 50)).convert("L"), patch("blue").convert("RGB")]
    found = drawn(saved("TIFF", images), "TIFF")
    assert [(frame.index, frame.at_s, frame.shown_s) for frame, _ in found] == [(i, None, None) for i in range(3)]
    for (_, pixels), image in zip(found, images, strict=True):
        assert pixels.shape[:2] == image.size[::-1]
        assert np.abs(pixels - np.asarray(image.convert("RGB")).astype(int)).mean() < 0.1


@pytest.mark.parametrize("name", ["a GIF whose frames cover parts", "a PNG", "a WebP"])
def test_damage_ends_the_frames(name: str) -> None:
    """Of a file that is cut off, the frames before the damage are given, and nothing is raised."""
    data, kind = _ANIMATIONS[name], name.split()[1].upper()
    whole = drawn(data, kind)
    for length in range(len(data)):
        found = drawn(data[:length], kind) if length > 60 else []
        for (frame, pixels), (same, expected) in zip(found[:-1], whole, strict=False):
            assert frame.index == same.index
            assert np.array_equal(pixels, expected)


def test_a_gif_that_begins_with_nothing_is_decoded() -> None:
    """Browsers pass over an image without pixels, and show the next one, which is the first here; it is a view like all
    others."""
    images = [(patch("red"), 0, 0, 1, 10), (patch("lime"), 0, 0, 1, 10)]
    data = before_first_image(gif(images), EMPTY_IMAGE)
    assert np.abs(decoded_pixels(data) - rgb(patch("red"))).max() == 0
    facts, views, _ = to_views(data, limits=ViewLimits(8, 10**8, 60.0), max_pixels=10**8)
    assert (facts["frames"], len(views)) == (2, 2)
    assert facts["signals"] == {"decode.salvaged": 1.0, "decode.complete": 1.0}


@pytest.mark.parametrize("index", [0, 1])
def test_of_two_controls_before_an_image_the_last_one_counts(index: int) -> None:
    """A colour that only the first control makes transparent is shown, as in browsers."""
    control = b"\x21\xf9\4\1\x0a\0" + bytes([index, 0])
    data = before_first_image(gif([(patch("red"), 0, 0, 1, 10)]), control)
    assert np.abs(decoded_pixels(data) - rgb(patch("red"))).max() == 0


def test_a_picture_behind_a_damaged_one_is_a_view() -> None:
    """The first picture takes a second try, and keeps its place: what is enclosed is looked at beside it, not lost for it."""
    whole = gif([(patch("red"), 0, 0, 1, 10)])
    block = next(at for at in range(13, len(whole)) if whole[at] == len(whole) - 3 - at > 20)  # the only one of pixels
    damaged = whole[:block] + b"\x14" + whole[block + 1 : block + 21] + b"\0\x3b"
    geometry = Geometry((8, 8), Image.Resampling.BILINEAR)
    facts, views, pixels = to_views(
        damaged + encode(patch("blue")), geometry, limits=ViewLimits(8, 10**8, 60.0), max_pixels=10**8
    )
    assert (facts["frames"], facts["signals"]["decode.salvaged"]) == (2, 1.0)
    assert [view["index"] for view in views] == [0, 1]
    shown = np.frombuffer(pixels, np.uint8).reshape(2, 64, 3).mean(axis=1)
    assert np.argmax(shown, axis=1).tolist() == [0, 2]
