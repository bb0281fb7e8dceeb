"""A hundred damaged and odd pictures, made here and stored nowhere; some of them no browser shows."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from nsfwscan.images.formats.png_chunks import SIGNATURE, Chunk, chunks_of

_RAMPS = np.stack(np.broadcast_arrays(*np.ogrid[0:120, 0:160], 90), axis=-1) + 40
_GRAIN = np.random.default_rng(12).integers(-24, 24, (120, 160, 3))
PHOTO = Image.fromarray((_RAMPS + _GRAIN).clip(0, 255).astype(np.uint8))
"""Grain keeps every row from being guessed from others."""

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, and steps of each pass (PNG Specification, 8.1)."""


def encoded(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def with_chunks(png: bytes, *added: Chunk, spoiled: bytes = b"") -> bytes:
    """A PNG with further chunks after its header, and wrong checksums in those of one kind."""
    parts = []
    for chunk in chunks_of(png):
        for one in (chunk, *(added if chunk.kind == b"IHDR" else ())):
            packed = one.packed()
            parts.append(packed[:-4] + b"\1\2\3\4" if one.kind == spoiled else packed)
    return SIGNATURE + b"".join(parts)


def interlaced_png() -> bytes:
    """Return the photograph in seven passes, which Pillow does not write."""
    pixels, rows = np.asarray(PHOTO), []
    for top, left, down, across in ADAM7:
        rows += [b"\0" + row.tobytes() for row in pixels[top::down, left::across]]
    header = struct.pack(">IIBBBBB", *PHOTO.size, 8, 2, 0, 0, 1)
    parts = Chunk(b"IHDR", header), Chunk(b"IDAT", zlib.compress(b"".join(rows))), Chunk(b"IEND", b"")
    return SIGNATURE + b"".join(part.packed() for part in parts)


def large_profile() -> bytes:
    """1.2 MB of an iCCP chunk's body, as profiles of printers have it, in a few kilobytes."""
    large = _SRGB + bytes(1_200_000 - len(_SRGB))
    return b"printer\0\0" + zlib.compress(struct.pack(">I", len(large)) + large[4:])


def small_frame_gif() -> bytes:
    """A frame that leaves most of its screen alone."""
    gif = bytearray(encoded(PHOTO.crop((0, 0, 80, 60)).quantize(32), "GIF"))
    gif[6:10] = struct.pack("<HH", *PHOTO.size)
    at = gif.index(b"\x2c", 13 + 3 * 32)
    gif[at + 1 : at + 5] = struct.pack("<HH", 30, 20)
    return bytes(gif)


def _jpegs() -> Iterator[tuple[str, bytes]]:
    kinds: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "420": (PHOTO, {}),
        "444": (PHOTO, {"subsampling": 0}),
        "grey": (PHOTO.convert("L"), {}),
        "restarts": (PHOTO, {"restart_marker_rows": 1}),
        "progressive": (PHOTO, {"progressive": True}),
        "turned": (PHOTO, {"exif": _turned()}),
    }
    for kind, (image, options) in kinds.items():
        whole = encoded(image, "JPEG", quality=90, **options)
        yield f"jpeg {kind}: no end", whole[:-2]
        yield f"jpeg {kind}: half an end", whole[:-1]
        yield f"jpeg {kind}: end zeroed", whole[:-2] + b"\0\0"
        yield f"jpeg {kind}: last 60 bytes gone", whole[:-60]
        yield f"jpeg {kind}: no end, and a zip behind", whole[:-2] + b"PK\3\4" + bytes(500)
        for share in (0.4, 0.7, 0.9):
            yield f"jpeg {kind}: {share:.0%}", whole[: int(len(whole) * share)]
    plain = encoded(PHOTO, "JPEG", quality=90)
    middle = len(plain) * 2 // 3
    yield "jpeg: fill bytes before markers", plain[:2] + b"\xff" * 9 + plain[2:]
    yield "jpeg: junk between segments", plain[:20] + b"\0" * 7 + plain[20:]
    yield "jpeg: a megabyte of comments", plain[:2] + (b"\xff\xfe\xea\x62" + b"x" * 60_000) * 18 + plain[2:]
    yield "jpeg: an end in the middle", plain[:middle] + b"\xff\xd9" + plain[middle:]
    yield "jpeg: junk in the middle", plain[:middle] + bytes(range(200)) + plain[middle:]
    yield "jpeg: a second one behind, cut", plain + plain[:300]


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def _pngs() -> Iterator[tuple[str, bytes]]:
    clear = PHOTO.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(PHOTO.size))
    kinds = {
        "rgb": encoded(PHOTO),
        "rgba": encoded(clear),
        "palette": encoded(PHOTO.quantize(64)),
        "grey": encoded(PHOTO.convert("L")),
        "dots": encoded(PHOTO.convert("1")),
        "interlaced": interlaced_png(),
    }
    for kind, whole in kinds.items():
        yield f"png {kind}: no end", whole[:-12]
        for share in (0.4, 0.7, 0.9):
            yield f"png {kind}: {share:.0%}", whole[: int(len(whole) * share)]
        yield f"png {kind}: wrong checksum of pHYs", with_chunks(whole, Chunk(b"pHYs", bytes(9)), spoiled=b"pHYs")
        yield f"png {kind}: wrong checksum of pixels", with_chunks(whole, spoiled=b"IDAT")
    whole, words = kinds["rgb"], zlib.compress(b"workflow " * 200_000)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0xFF
    yield "png: a byte flipped", bytes(flipped)
    yield "png: wrong sum of the stream", whole[:-20] + b"\1\2\3\4" + whole[-16:]
    yield "png: wrong checksum of iCCP", with_chunks(encoded(PHOTO, icc_profile=_SRGB), spoiled=b"iCCP")
    yield "png: wrong checksum of tEXt", with_chunks(whole, Chunk(b"tEXt", b"a\0b"), spoiled=b"tEXt")
    yield "png: wrong checksum of tRNS", with_chunks(encoded(PHOTO.quantize(64), transparency=3), spoiled=b"tRNS")
    yield "png: a short sRGB", with_chunks(whole, Chunk(b"sRGB", b""))
    yield "png: a large profile", with_chunks(whole, Chunk(b"iCCP", large_profile()))
    yield "png: a profile that is none", with_chunks(whole, Chunk(b"iCCP", b"x\0\0" + bytes(40)))
    yield "png: a large zTXt", with_chunks(whole, Chunk(b"zTXt", b"prompt\0\0" + words))
    yield "png: a large iTXt", with_chunks(whole, Chunk(b"iTXt", b"workflow\0\1\0\0\0" + words))
    yield "png: an unknown way to pack a text", with_chunks(whole, Chunk(b"zTXt", b"prompt\0\7" + words))
    yield "png: junk behind", whole + bytes(range(256))


def _animations() -> Iterator[tuple[str, bytes]]:
    blank, upside = Image.new("RGB", PHOTO.size, "white"), PHOTO.rotate(180)
    two: dict[str, Any] = {"save_all": True, "append_images": [upside], "duration": 500}
    apng = encoded(PHOTO, **two)
    hidden = encoded(blank, save_all=True, default_image=True, append_images=[PHOTO, upside], duration=500)
    yield "apng: whole", apng
    yield "apng: hidden default image", hidden
    yield "apng: hidden default image, wrong checksum", with_chunks(hidden, Chunk(b"pHYs", bytes(9)), spoiled=b"pHYs")
    yield "apng: cut in the second frame", apng[: len(apng) * 3 // 4]
    yield "apng: cut in the first frame", apng[: len(apng) // 4]
    later = apng.rindex(b"fcTL")
    yield "apng: a gap in the numbers", with_chunks(apng[: later + 4] + b"\0\0\0\x09" + apng[later + 8 :])
    gifs = {
        "plain": encoded(PHOTO, "GIF", interlace=0),
        "interlaced": encoded(PHOTO, "GIF", interlace=1),
        "two frames": encoded(PHOTO, "GIF", **two),
        "small frame": small_frame_gif(),
    }
    for kind, whole in gifs.items():
        yield f"gif {kind}: whole", whole
        yield f"gif {kind}: no end", whole[:-1]
        for share in (0.4, 0.7):
            yield f"gif {kind}: {share:.0%}", whole[: int(len(whole) * share)]
    webp = encoded(PHOTO, "WEBP", **two)
    yield "webp: cut in the second frame", webp[: len(webp) * 4 // 5]


def _others() -> Iterator[tuple[str, bytes]]:
    for fmt in ("WEBP", "AVIF", "BMP"):
        whole = encoded(PHOTO, fmt)
        yield f"{fmt.lower()}: whole", whole
        yield f"{fmt.lower()}: junk behind", whole + bytes(range(64))
        yield f"{fmt.lower()}: 70%", whole[: len(whole) * 7 // 10]
    yield "ico: whole", encoded(PHOTO.resize((64, 64)), "ICO", bitmap_format="bmp", sizes=[(64, 64)])


MAKERS: tuple[Callable[[], Iterator[tuple[str, bytes]]], ...] = (_jpegs, _pngs, _animations, _others)


def corpus() -> list[tuple[str, bytes]]:
    """Return all of them, with names that say what is wrong."""
    return [made for make in MAKERS for made in make()]
