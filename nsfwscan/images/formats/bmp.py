"""Decode BMP as browsers show it: every header, depth, mask, palette and run-length encoding.

A picture in an icon is a BMP without a file header. Alpha counts only where browsers make it count: with a mask of its
own, with a header of version 4 or 5, or in an icon; an alpha that is 0 everywhere hides nothing, as in Firefox and in
viewers. Raises `RowError` (`unsupported`) for another format inside a BMP (a JPEG, a PNG, a fax), `SyntaxError` for a
header that is no BMP's, `OSError` for damaged data.

The headers are those of Microsoft's "Bitmap Storage" and of the OS/2 2.0 toolkit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from nsfwscan.errors import ErrorCode, RowError

_FILE_HEADER = 14
_CORE, _INFO, _V2, _V3, _V4, _V5 = 12, 40, 52, 56, 108, 124
_RGB, _RLE8, _RLE4, _BITFIELDS, _JPEG, _PNG, _ALPHABITFIELDS = range(7)
_OS2_HUFFMAN, _OS2_RLE24 = 3, 4
_ELSEWHERE = {_JPEG: "a JPEG inside of a BMP", _PNG: "a PNG inside of a BMP"}
_CMYK = (11, 12, 13)
_EMBEDDED_PROFILE = b"DEBM"
_BAND_BYTES = 2**22
"""Unpacked at once."""


@dataclass(frozen=True)
class Header:
    """Headers of a BMP.

    Args:
        start: of the header in the data; `length` is its own.
        masks: of red, green, blue and alpha, 0 where there is none.
        palette: [256, 3] uint8, black where the file has no colour.
        pixels: where they begin.
        profile: an embedded ICC profile.
    """

    start: int
    length: int
    width: int
    height: int
    top_down: bool
    bits: int
    compression: int
    masks: tuple[int, int, int, int]
    palette: NDArray[np.uint8]
    pixels: int
    profile: bytes | None = None

    @property
    def stride(self) -> int:
        """Bytes of a row: a multiple of four."""
        return (self.width * self.bits + 31) // 32 * 4


class BmpFile(ImageFile.ImageFile):
    """A file whose header was read; `load` decodes it."""

    format = "BMP"
    format_description = "Windows and OS/2 bitmap"

    def _open(self) -> None:
        assert self.fp is not None
        self._data = self.fp.read()
        if not accepts(self._data):
            raise SyntaxError("no BMP")
        self._header = read_header(self._data, _FILE_HEADER, int.from_bytes(self._data[10:14], "little"))
        self._size, self._mode = (self._header.width, self._header.height), "RGB"
        if self._header.profile:
            self.info["icc_profile"] = self._header.profile

    def load(self) -> Any:
        """Decode the pixels; the mode becomes `RGBA` where some of them are transparent."""
        if self._im is None:
            drawn = draw(self._data, self._header)
            self._mode, self.im = drawn.mode, drawn.im
        return Image.Image.load(self)


def accepts(prefix: bytes) -> bool:
    """Return whether a file begins as a BMP does."""
    return prefix[:2] == b"BM"


def read_header(data: bytes, start: int, pixels: int, *, in_icon: bool = False) -> Header:
    """Read the header that begins at `start`.

    Args:
        pixels: where they begin, as the file's header says; 0 where it doesn't.
        in_icon: a 32-bit picture has alpha, and the height counts a mask of transparency as well.
    """
    length = int.from_bytes(data[start : start + 4], "little")
    known = length in (_CORE, _INFO, _V2, _V3, _V4, _V5) or 16 <= length <= 64
    if not known or len(data) < start + length:
        raise SyntaxError(f"a BMP header of {length:,} bytes")
    if length == _CORE:
        width, height, _, bits = struct.unpack_from("<HhHH", data, start + 4)
        compression = colours = 0
    else:
        fields = data[start : start + min(length, _INFO)].ljust(_INFO, b"\0")
        width, height, _, bits, compression, _, _, _, colours = struct.unpack_from("<iiHHIIiiI", fields, 4)
    top_down, height = height < 0, abs(height) // (2 if in_icon else 1)
    if width <= 0 or height <= 0:
        raise SyntaxError(f"a BMP of {width} × {height} pixels")
    os2 = length not in (_CORE, _INFO, _V2, _V3, _V4, _V5)
    if os2 and compression == _OS2_RLE24 and bits == 24:
        compression = _RLE8
    _check_kind(bits, compression, os2=os2)
    at = start + length
    header = Header(start, length, width, height, top_down, bits, compression, (0,) * 4, _no_palette(), at)
    masks, at = _masks(data, header, in_icon=in_icon)
    palette, at = _palette(data, header, at, colours, pixels)
    profile = _profile(data, start) if length == _V5 else None
    return replace(header, masks=masks, palette=palette, pixels=pixels or at, profile=profile)


def _check_kind(bits: int, compression: int, *, os2: bool) -> None:
    what = _ELSEWHERE.get(compression)
    if os2 and compression == _OS2_HUFFMAN:
        what = "a BMP compressed as a fax (OS/2's Huffman 1D)"
    elif compression in _CMYK:
        what = "a BMP of CMYK colours"
    elif what is None and compression not in (_RGB, _RLE8, _RLE4, _BITFIELDS, _ALPHABITFIELDS):
        what = f"a BMP with compression {compression}"
    if what is not None:
        raise RowError(ErrorCode.CODEC_MISSING, f"{what} is not supported", {"format": "BMP"})
    fits = {
        _RGB: (1, 2, 4, 8, 16, 24, 32),
        _RLE8: (8, 24),
        _RLE4: (4,),
        _BITFIELDS: (16, 24, 32),
        _ALPHABITFIELDS: (16, 24, 32),
    }
    if bits not in fits[compression]:
        raise SyntaxError(f"a BMP of {bits} bits with compression {compression}")


def _masks(data: bytes, header: Header, *, in_icon: bool) -> tuple[tuple[int, int, int, int], int]:
    """Return the masks of the channels, and where they end. Browsers ignore an alpha without a mask, which is often
    noise; an icon's counts."""
    start, after, alpha = header.start, header.start + header.length, 0
    has_masks = header.compression in (_BITFIELDS, _ALPHABITFIELDS)
    if header.length >= (_V3 if has_masks else _V4) or header.compression == _ALPHABITFIELDS:
        alpha = int.from_bytes(data[start + 52 : start + 56], "little")
    if not has_masks:
        width = 5 if header.bits == 16 else 8
        full = (1 << width) - 1
        if in_icon and header.bits == 32 and header.length < _V4:
            alpha = 0xFF000000
        return (full << 2 * width, full << width, full, alpha if header.bits >= 16 else 0), after
    red, green, blue = struct.unpack_from("<III", data.ljust(start + 52, b"\0"), start + 40)
    if header.length == _INFO:
        after += 12 if header.compression == _BITFIELDS else 16
    return (red, green, blue, alpha), after


def _no_palette() -> NDArray[np.uint8]:
    return np.zeros((256, 3), np.uint8)


def _palette(data: bytes, header: Header, at: int, colours: int, pixels: int) -> tuple[NDArray[np.uint8], int]:
    """Return as much of the palette as there is before the pixels, and where it ends."""
    table, entry = _no_palette(), 3 if header.length == _CORE else 4
    if header.bits > 8:
        return table, at + colours * entry if colours <= 256 else at
    most = 1 << header.bits
    count = min(colours or most, most)
    end = at + (colours or most) * entry if colours <= 4096 else at + count * entry
    room = (pixels if at < pixels <= len(data) else len(data)) - at
    count = max(0, min(count, room // entry))
    found = np.frombuffer(data, np.uint8, count * entry, at).reshape(count, entry)
    table[:count] = found[:, 2::-1]
    return table, end


def _profile(data: bytes, start: int) -> bytes | None:
    at, size = struct.unpack_from("<II", data, start + 112)
    if data[start + 56 : start + 60] != _EMBEDDED_PROFILE or start + at + size > len(data):
        return None
    return data[start + at : start + at + size]


def draw(data: bytes, header: Header) -> Image.Image:
    """Return the picture: `RGB`, or `RGBA` where some of it is transparent.

    Raises:
        OSError: the data end too soon.
    """
    if header.compression in (_RLE8, _RLE4):
        return _runs(data, header)
    image = Image.new("RGBA" if header.masks[3] else "RGB", (header.width, header.height))
    seen = False
    for top, rows in _bands(data, header):
        band = _indexed(rows, header) if header.bits <= 8 else _direct(rows, header)
        seen = seen or (band.shape[2] == 4 and bool(band[..., 3].any()))
        image.paste(Image.fromarray(band), (0, top))
    return image if seen or image.mode == "RGB" else image.convert("RGB")  # with no alpha at all, all is opaque


def _bands(data: bytes, header: Header) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield rows as they are stored, uint8 [n, stride], the uppermost first, after the number of their top row."""
    stride = header.stride
    there = max(0, len(data) - header.pixels) // stride
    if there < header.height:  # a last row without its padding is whole
        last = (header.width * header.bits + 7) // 8
        whole = len(data) - header.pixels >= stride * (header.height - 1) + last
        if not whole and not ImageFile.LOAD_TRUNCATED_IMAGES:
            raise OSError(f"the pixels end in row {there + 1:,} of {header.height:,}")
    step = max(1, _BAND_BYTES // stride)
    for first in range(0, header.height, step):
        count = min(step, header.height - first)
        begin = header.pixels + first * stride
        stored = data[begin : begin + count * stride].ljust(count * stride, b"\0")
        rows = np.frombuffer(stored, np.uint8).reshape(count, stride)
        yield (first, rows) if header.top_down else (header.height - first - count, rows[::-1])


def _indexed(rows: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    per_byte = 8 // header.bits
    shifts = np.arange(8 - header.bits, -1, -header.bits, dtype=np.uint8)
    used = rows[:, : -(-header.width // per_byte)]
    index = (used[..., None] >> shifts & (1 << header.bits) - 1).reshape(len(rows), -1)[:, : header.width]
    colours: NDArray[np.uint8] = header.palette[index]
    return colours


def _direct(rows: NDArray[np.uint8], header: Header) -> NDArray[np.uint8]:
    """Return RGB or RGBA, [n, width, 3 or 4], of pixels that hold their colour."""
    width, size = header.width, header.bits // 8
    samples = rows[:, : width * size].reshape(len(rows), width, size)
    if header.masks == (0xFF0000, 0xFF00, 0xFF, 0):
        return np.ascontiguousarray(samples[..., 2::-1])
    words = np.zeros((len(rows), width), np.uint32)
    for byte in range(size):
        words |= samples[..., byte].astype(np.uint32) << np.uint32(8 * byte)
    channels = 4 if header.masks[3] else 3
    return np.stack([_channel(words, mask) for mask in header.masks[:channels]], axis=-1)


def _channel(words: NDArray[np.uint32], mask: int) -> NDArray[np.uint8]:
    """Return one channel on 0 to 255: the highest eight bits of a wide one; a narrow one spreads over the range."""
    if not mask:
        return np.zeros(words.shape, np.uint8)
    shift = (mask & -mask).bit_length() - 1
    bits = mask.bit_length() - shift
    values = (words & np.uint32(mask)) >> np.uint32(shift)
    if bits >= 8:
        return (values >> np.uint32(bits - 8)).astype(np.uint8)
    top = (1 << bits) - 1
    return ((values * 255 + top // 2) // top).astype(np.uint8)


def _runs(data: bytes, header: Header) -> Image.Image:
    """Decode run-length encoded pixels. Pixels that the runs skip are black, as in Chromium."""
    size = 3 if header.bits == 24 else 1
    shape = header.height, header.width
    stored, drawn = (np.frombuffer(found, np.uint8) for found in _unpacked(data, header, size))
    colours = header.palette[stored] if size == 1 else stored.reshape(-1, 3)[:, ::-1]
    colours = (colours * drawn[:, None]).reshape(*shape, 3)
    return Image.fromarray(np.ascontiguousarray(colours if header.top_down else colours[::-1]))


def _unpacked(data: bytes, header: Header, size: int) -> tuple[bytearray, bytearray]:
    """Return the pixels in the order of the file, `size` bytes each, and which of them are drawn."""
    width, height, end = header.width, header.height, len(data)
    stored, drawn = bytearray(width * height * size), bytearray(width * height)
    at, x, y = header.pixels, 0, 0
    while y < height:
        if at + 2 > end:
            if ImageFile.LOAD_TRUNCATED_IMAGES:
                break
            raise OSError(f"the runs end in row {y + 1:,} of {height:,}")
        count, code = data[at], data[at + 1]
        at += 2
        if count:  # so many pixels of one colour, or of two in turn
            pattern = data[at - 1 : at - 1 + size] if size == 3 else _pair(code, header.bits)
            at += size - 1
            run = pattern * count if size == 3 or header.bits == 8 else (pattern * (count // 2 + 1))[:count]
        elif code == 0:
            x, y = 0, y + 1
            continue
        elif code == 1:
            break
        elif code == 2:
            if at + 2 > end:
                continue
            x, y, at = x + data[at], y + data[at + 1], at + 2
            continue
        else:  # so many pixels as they stand there
            length = code * size if header.bits != 4 else (code + 1) // 2
            run, at = data[at : at + length], at + length + length % 2
            run = run if header.bits != 4 else bytes(n for byte in run for n in (byte >> 4, byte & 15))[:code]
        place = y * width + x
        fits = max(0, min(len(run) // size, width - x))
        stored[place * size : (place + fits) * size] = run[: fits * size]
        drawn[place : place + fits] = b"\1" * fits
        x += len(run) // size
    return stored, drawn


def _pair(code: int, bits: int) -> bytes:
    return bytes([code]) if bits == 8 else bytes([code >> 4, code & 15])
