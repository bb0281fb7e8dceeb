"""Tell where a picture ends in its file. What stands after that is shown by nothing, and may be anything."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

import numpy as np

from nsfwscan.images.formats.gif_blocks import HEAD_BYTES, blocks_of, palette_bytes
from nsfwscan.images.formats.png_chunks import SIGNATURE

_END_OF_IMAGE, _START_OF_SCAN = 0xD9, 0xDA
_END_AS_WORD = np.frombuffer(b"\xff\xd9", np.uint16)[0]
_MARKER = re.compile(rb"\xff(?=[^\0\xd0-\xd7\xff])")
"""A marker within a scan: neither a stuffed byte nor a restart (ITU-T T.81, B.1.1)."""
_BLOCK_BYTES = 2**18
_BOXES = frozenset(b"free idat jumb mdat meco meta mfra moof moov pdin sidx skip styp udta uuid wide".split())
"""Of a file with pictures, or with a track of them; not `mpvd`, which is a film (Motion Photo format 1.0)."""


def end_of(data: bytes, name: str | None, start: int = 0) -> int | None:
    """Return the place after a picture's last byte; None where its format does not tell, or it is cut off. Never
    raises.

    Args:
        data: the whole file.
        name: Pillow's name of the picture's format.
        start: where the picture begins.
    """
    if name not in _ENDS:
        return None
    try:
        end = _ENDS[name](data, start)
    except (IndexError, ValueError, struct.error):
        return None
    return end if end <= len(data) else None


def _jpeg(data: bytes, start: int) -> int:
    scan = _first_scan(data, start)
    first = _find_end_of_image(data, scan)
    if not data[first + 2 : first + 2 + 64].strip(b"\0"):
        return first + 2  # an ordinary file
    at = scan
    while (found := _MARKER.search(data, at)) and data[found.end()] != _END_OF_IMAGE:
        at = _after_segment(data, found.start())
    return found.end() + 1 if found else len(data) + 1


def _first_scan(data: bytes, start: int) -> int:
    at = start + 2
    while data[at + 1] != _START_OF_SCAN:
        at = at + 1 if data[at] == data[at + 1] == 0xFF else _after_segment(data, at)
    return _after_segment(data, at)


def _after_segment(data: bytes, at: int) -> int:
    if data[at] != 0xFF:
        raise IndexError
    return at + 2 + int(struct.unpack_from(">H", data, at + 2)[0])


def _find_end_of_image(data: bytes, start: int) -> int:
    """Return the first place of FF D9. Raises IndexError. NumPy finds two bytes three times as fast as `bytes.find`."""
    for at in range(start, len(data) - 1, _BLOCK_BYTES):
        found = [place for shift in (0, 1) if (place := _in_words(data, at + shift)) is not None]
        if found:
            return min(found)
    raise IndexError


def _in_words(data: bytes, at: int) -> int | None:
    words = min(_BLOCK_BYTES, len(data) - at) // 2
    same = np.frombuffer(data, np.uint16, count=words, offset=at) == _END_AS_WORD if words else np.zeros(1, np.bool_)
    first = int(same.argmax())
    return at + 2 * first if same[first] else None


def _png(data: bytes, start: int) -> int:
    at = start + len(SIGNATURE)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        at += 12 + length
        if kind == b"IEND":
            return int(at)


def _gif(data: bytes, start: int) -> int:
    end = start + HEAD_BYTES + palette_bytes(data[start + 10])
    for _, end in blocks_of(data, start):  # noqa: B007  # the last one's is wanted
        pass
    return end + 1


def _webp(data: bytes, start: int) -> int:
    size: int = struct.unpack_from("<I", data, start + 4)[0]
    return start + 8 + size + size % 2


def _bmp(data: bytes, start: int) -> int:
    size: int = struct.unpack_from("<I", data, start + 2)[0]
    return start + size if size > 54 else len(data)  # some write no size


def _boxed(data: bytes, start: int) -> int:
    """Return the end of the last box that an image has (ISO 14496-12, 4.2 and 6.2)."""
    at = start
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if kind not in _BOXES and (kind != b"ftyp" or at > start):
            break
        if size == 1:
            size = struct.unpack_from(">Q", data, at + 8)[0]
        at = at + max(8, size) if size else len(data)
    return at


_ENDS: dict[str, Callable[[bytes, int], int]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
    "BMP": _bmp,
    "AVIF": _boxed,
    "HEIF": _boxed,
}
