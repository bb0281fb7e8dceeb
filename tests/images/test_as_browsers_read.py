"""Orientation, profiles and transparent colours count where browsers read them, and nowhere else."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image, ImageCms

from nsfwscan.images.decoder import decode
from nsfwscan.images.formats.png_chunks import SIGNATURE, Chunk, chunks_of
from tests.images import chromium
from tests.images.decoding import PLENTY, SCENE, difference, encode, pixels, rgb

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

SHORT, LONG = 3, 4
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def _tiff(orientation: int, kind: int = SHORT, count: int = 1) -> bytes:
    """EXIF without its head, big-endian, with one tag."""
    value = struct.pack(">H2x" if kind == SHORT else ">I", orientation)
    return b"MM\0*" + struct.pack(">IHHHI", 8, 1, 0x112, kind, count) + value + bytes(4)


def _swapped() -> bytes:
    """A profile that takes red for green."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {}
    for entry in range(struct.unpack_from(">I", profile, 128)[0]):
        name, start, size = struct.unpack_from(">4sII", profile, 132 + 12 * entry)
        at[name] = slice(start, start + size)
    profile[at[b"rXYZ"]], profile[at[b"gXYZ"]] = profile[at[b"gXYZ"]], profile[at[b"rXYZ"]]
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))


def _grey() -> bytes:
    """A profile of greys whose samples are light."""
    white = struct.pack(">3i", 63190, 65536, 54061)
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"grey\0" + bytes(79),
        b"wtpt": b"XYZ \0\0\0\0" + white,
        b"kTRC": b"curv" + bytes(8),
        b"cprt": b"text\0\0\0\0none\0\0\0\0",
    }
    table, body = struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(tag))
        body += tag
    size = 128 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    return (head + bytes(28) + white).ljust(128, b"\0") + table + body


SWAP, GREY = _swapped(), _grey()
_ICC = b"ICC_PROFILE\0"


def _jpeg(*segments: tuple[int, bytes], after_frame: bool = False) -> bytes:
    """The scene with further segments before all others, or after the header of its frame."""
    data = encode(SCENE, "JPEG", quality=95, subsampling=0)
    packed = b"".join(struct.pack(">BBH", 0xFF, code, len(body) + 2) + body for code, body in segments)
    at = data.index(b"\xff\xc4") if after_frame else 2
    return data[:at] + packed + data[at:]


def _exif(orientation: int, **how: int) -> tuple[int, bytes]:
    return 0xE1, b"Exif\0\0" + _tiff(orientation, **how)


def _png(*chunks: tuple[bytes, bytes], after: bool = False, image: Image.Image = SCENE, broken: bool = False) -> bytes:
    """A picture with further chunks before its pixels or after them; their checksums may be wrong."""
    packed = b"".join(Chunk(*chunk).packed() for chunk in chunks)
    packed = packed[:-4] + b"\1\2\3\4" if broken else packed
    parts = []
    for chunk in chunks_of(encode(image)):
        parts.append(packed if chunk.kind == (b"IEND" if after else b"IDAT") else b"")
        parts.append(chunk.packed())
    return SIGNATURE + b"".join(parts)


def _iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"x\0\0" + zlib.compress(profile)


_HEX = (b"Exif\0\0" + _tiff(6)).hex().encode()
TURNED = {
    "jpeg: plain": _jpeg(_exif(6)),
    "jpeg: after the frame's header": _jpeg(_exif(6), after_frame=True),
    "jpeg: the first of two": _jpeg(_exif(6), _exif(3)),
    "jpeg: its head ends otherwise": _jpeg((0xE1, b"Exif\0\xff" + _tiff(6))),
    "png: plain": _png((b"eXIf", _tiff(6))),
    "png: the first of two": _png((b"eXIf", _tiff(6)), (b"eXIf", _tiff(3))),
}
NOT_TURNED = {
    "jpeg: a number of 32 bits": _jpeg(_exif(6, kind=LONG)),
    "jpeg: two numbers": _jpeg(_exif(6, count=2)),
    "jpeg: XMP": _jpeg((0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)),
    "png: after the pixels": _png((b"eXIf", _tiff(6)), after=True),
    "png: a wrong checksum": _png((b"eXIf", _tiff(6)), broken=True),
    "png: the head of JPEGs": _png((b"eXIf", b"Exif\0\0" + _tiff(6))),
    "png: XMP": _png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)),
    "png: a text": _png((b"tEXt", b"Raw profile type exif\0\nexif\n      32\n" + _HEX + b"\n")),
}
APPLIED = {
    "jpeg: plain": _jpeg((0xE2, _ICC + b"\1\1" + SWAP)),
    "jpeg: in parts, in another order": _jpeg((0xE2, _ICC + b"\2\2" + SWAP[99:]), (0xE2, _ICC + b"\1\2" + SWAP[:99])),
    "jpeg: after the frame's header": _jpeg((0xE2, _ICC + b"\1\1" + SWAP), after_frame=True),
    "jpeg: the first of two": _jpeg((0xE2, _ICC + b"\1\1" + SWAP), (0xE2, _ICC + b"\1\1" + GREY)),
    "png: plain": _png(_iccp(SWAP)),
    "png: the first of two": _png(_iccp(SWAP), _iccp(GREY)),
}
IGNORED = {
    "jpeg: a part is missing": _jpeg((0xE2, _ICC + b"\1\2" + SWAP[:99])),
    "jpeg: a part twice": _jpeg(*[(0xE2, _ICC + b"\1\2" + SWAP[:99])] * 2, (0xE2, _ICC + b"\2\2" + SWAP[99:])),
    "jpeg: numbered from 0": _jpeg((0xE2, _ICC + b"\0\2" + SWAP[:99]), (0xE2, _ICC + b"\1\2" + SWAP[99:])),
    "png: after the pixels": _png(_iccp(SWAP), after=True),
    "png: gAMA with a wrong checksum": _png((b"gAMA", struct.pack(">I", 100_000)), broken=True),
}
_INDEXED = SCENE.quantize(16)
CLEAR = b"tRNS", bytes(16)
OPAQUE = {
    "tRNS after the pixels": _png(CLEAR, after=True, image=_INDEXED),
    "tRNS before the palette": encode(_INDEXED)[:33] + Chunk(*CLEAR).packed() + encode(_INDEXED)[33:],
}
LIGHT = {
    "gAMA beside an sRGB that is none": _png((b"sRGB", b"\x09"), (b"gAMA", struct.pack(">I", 100_000))),
    "gAMA beside a damaged profile": _png((b"iCCP", b"x\0\0" + bytes(40)), (b"gAMA", struct.pack(">I", 100_000))),
    "gAMA beyond all reason": _png((b"gAMA", struct.pack(">I", 2**31 - 1))),
}
_L = SCENE.convert("L")
_LA = Image.merge("LA", (_L, Image.linear_gradient("L").resize(_L.size)))
GREYS = {
    "grey": _png(_iccp(GREY), image=_L),
    "grey with alpha": _png(_iccp(GREY), image=_LA),
    "grey of 16 bits": _png(_iccp(GREY), image=Image.fromarray(np.asarray(_L).astype(np.uint16) * 257)),
}
CODES = {f"cICP {code}": _png((b"cICP", bytes([*code, 0, 1]))) for code in (
    (4, 13), (5, 13), (6, 13), (8, 13), (9, 13), (10, 13), (11, 13), (12, 13), (22, 13),
    (1, 1), (1, 4), (5, 5), (6, 6), (7, 7), (1, 8), (1, 9), (1, 11), (9, 15), (1, 17),
)}  # fmt: skip


@pytest.mark.parametrize("name", TURNED)
def test_an_orientation_counts_where_browsers_read_it(name: str) -> None:
    """A picture is turned by its first EXIF, wherever that stands before the pixels."""
    assert difference(pixels(TURNED[name]), rgb(SCENE.transpose(Image.Transpose.ROTATE_270))) < 3


@pytest.mark.parametrize("name", NOT_TURNED)
def test_an_orientation_elsewhere_turns_nothing(name: str) -> None:
    """A picture that stands upright in browsers does here, too, whatever XMP, a text or an odd tag says."""
    assert difference(pixels(NOT_TURNED[name]), rgb(SCENE)) < 3


@pytest.mark.parametrize("name", APPLIED)
def test_a_profile_counts_where_browsers_read_it(name: str) -> None:
    """The first whole profile before the pixels is applied."""
    assert difference(pixels(APPLIED[name]), pixels(APPLIED["png: plain"])) < 3
    assert difference(pixels(APPLIED[name]), rgb(SCENE)) > 10


@pytest.mark.parametrize("name", [*IGNORED, *OPAQUE])
def test_what_browsers_ignore_changes_nothing(name: str) -> None:
    """A profile in disorder, a chunk in the wrong place or with a wrong checksum: the picture is as it is without."""
    plain = rgb(_INDEXED) if name in OPAQUE else rgb(SCENE)
    assert difference(pixels({**IGNORED, **OPAQUE}[name]), plain) < 3


def test_a_profile_of_greys_is_applied_to_all_greys() -> None:
    """With alpha, and of 16 bits."""
    plain = pixels(GREYS["grey"])
    assert difference(plain, rgb(_L)) > 10
    assert difference(pixels(GREYS["grey of 16 bits"]), plain) <= 1
    shown = plain.astype(float) * np.asarray(_LA)[..., 1:] / 255 + (255.0 - np.asarray(_LA)[..., 1:])
    assert np.abs(pixels(GREYS["grey with alpha"]) - shown).mean() <= 1


@pytest.mark.browser
def test_a_browser_reads_the_same(browser: BrowserContext) -> None:
    """What Chromium shows of all of them is what is decoded here, to two levels on the average."""
    groups = TURNED, NOT_TURNED, APPLIED, IGNORED, OPAQUE, LIGHT, GREYS, CODES
    every = [one for group in groups for one in group.items()]
    differ = {}
    for (name, data), seen in zip(every, chromium.shown(browser, [data for _, data in every]), strict=True):
        assert seen is not None, name
        found = np.asarray(decode(data, max_pixels=PLENTY).image).astype(int)
        off = np.abs(found - seen).mean() if found.shape == seen.shape else np.inf
        if off > 2:
            differ[name] = float(off)
    assert differ == {}
