"""Repair the bytes of a damaged file, so that a decoder opens it: one function for each format.

Each yields pairs of files: the repaired one, and the same with other bytes in place of what is missing. `salvage.py`
decodes both; a pixel that differs is not the file's.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from nsfwscan.images.formats.gif_blocks import without_empty_images
from nsfwscan.images.formats.png_chunks import SIGNATURE, rebuilt
from nsfwscan.images.formats.webp import chunks_of

_EOI, _SOS = b"\xff\xd9", 0xDA
_ALONE = (0x00, 0x01, *range(0xD0, 0xD9), 0xFF)
"""Codes after 0xFF that no length follows (ITU-T T.81, table B.1), and fill bytes."""
_ANY_MARKER, _MARKER = re.compile(rb"\xff(?=\xff*[^\0\xff])"), re.compile(rb"\xff(?=\xff*[^\0\xd0-\xd7\xff])")
_RESTARTS, _MORE = b"\xff\xdd", (b"\xda", b"\xc4", b"\xdb", b"\xdd")
"""The definition of restart intervals; what may follow a scan: another scan, or tables for it."""
_KEPT = (*range(0xC0, 0xD0), 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xEB, 0xEE)
"""Segments that are kept: tables; JFIF, EXIF and XMP, profiles, C2PA's manifests, Adobe's colours."""
_LEAST_BYTES = {b"JFIF\0": 14, b"Adobe": 12, b"ICC_PROFILE\0": 14}
"""Of segments by their marks, without the marker and the length (ITU-T T.871, 10.1; T.872, 6.5.3; ICC.1, B.4)."""
_NOISE = bytes(byte % 251 for byte in hashlib.shake_128(b"in place of what is missing").digest(4096))
"""Never 0xFF, which would begin a marker of a JPEG."""
_PADDING_BYTES = 2**25
_LARGEST_ICON_BYTES = 256 * 256 * 4 + 256 * 32


@dataclass(frozen=True)
class Repaired:
    """A file that may open, and the same with other bytes in place of what is missing.

    Args:
        streamed: the edge at which the pixels begin, where they are one stream and each needs those before it.
        lost: number of frames that it lacks, as far as the file shows; below 0, of those that were left out for good.
    """

    data: bytes
    other: bytes
    streamed: Literal["", "top", "bottom"] = ""
    lost: int = 0


Repair = Callable[[bytes], Iterator[Repaired]]


def as_it_is(data: bytes) -> Iterator[Repaired]:
    """Change nothing: the decoder itself is tolerant."""
    yield Repaired(data, data)


def gif(data: bytes) -> Iterator[Repaired]:
    """Change nothing; then leave out images without pixels, which browsers pass over."""
    yield from as_it_is(data)
    with suppress(IndexError, ValueError):
        made, left_out = without_empty_images(data)
        yield Repaired(made, made, lost=-left_out)


def nothing(_: bytes) -> Iterator[Repaired]:
    """Yield nothing: browsers show nothing of it either."""
    yield from ()


def bmp(data: bytes) -> Iterator[Repaired]:
    """Fill up a BMP; the decoder takes zeros for what is missing. Rows go upwards unless the height is negative."""
    upwards = data[25:26] < b"\x80" or data[14:15] == b"\x0c"
    yield Repaired(data, data + _NOISE, streamed="bottom" if upwards else "top")


def ico(data: bytes) -> Iterator[Repaired]:
    """Fill up an icon; not one with a PNG in it, in which nothing tells what is missing."""
    if SIGNATURE not in data:
        yield Repaired(data, data + _noise(_LARGEST_ICON_BYTES))


def png(data: bytes) -> Iterator[Repaired]:
    """Write a PNG anew from its chunks; then from those alone that a picture cannot be shown without."""
    for bare in (False, True):
        made = rebuilt(data, bare=bare)
        if made is not None:
            yield Repaired(made, made)


def jpeg(data: bytes) -> Iterator[Repaired]:
    """Give a JPEG an end; then leave out what stands between its segments, and those that a picture does not need."""
    for head, scans in _jpeg_parts(data):
        body = scans.rstrip(b"\xff")  # half a marker
        found = (_MARKER if _RESTARTS in head else _ANY_MARKER).search(body, 2)
        end = found.start() if found else len(body)  # of the first scan
        if body[end : end + 16].lstrip(b"\xff")[:1] in _MORE:  # after it, something of every pixel is there
            yield Repaired(head + body + _EOI, head + body + _EOI)
        else:
            yield Repaired(head + body[:end] + _EOI, head + body[:end] + _NOISE + _EOI, streamed="top")


def _jpeg_parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the header as it is and the scans; then the header written anew and the scans."""
    kept, start, at = [data[:2]], 0, 2
    while not start and 0 <= (at := data.find(b"\xff", at)) < len(data) - 4:
        marker = data[at + 1]
        if marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOS:
            start = at
        elif marker in _KEPT and not _is_short(data[at + 4 : end]):
            kept.append(data[at:end])
        at = end
    if start:
        yield data[:start], data[start:]
        yield b"".join(kept), data[start:]


def _is_short(body: bytes) -> bool:
    """Return whether a segment ends before what its mark announces; browsers pass over it."""
    return any(body.startswith(mark) and len(body) < least for mark, least in _LEAST_BYTES.items())


def webp(data: bytes) -> Iterator[Repaired]:
    """Fill up a cut chunk of pixels with zeros, or leave out a cut chunk of anything else."""
    chunks: list[bytes] = []
    lost = 0
    for kind, at, end in chunks_of(data):
        missing = end - len(data)
        if missing <= 0:
            chunks.append(data[at:end])
            continue
        drawn = any(chunk[:4] in (b"VP8 ", b"VP8L", b"ANMF") for chunk in chunks)
        if drawn or kind not in (b"VP8 ", b"VP8L", b"ANMF") or missing > _PADDING_BYTES:
            lost = int(kind == b"ANMF")
            break
        chunks.append(data[at:])
        yield Repaired(_riff(chunks, bytes(missing)), _riff(chunks, _noise(missing)), streamed="top")
        return
    whole = _riff(chunks, b"")
    yield Repaired(whole, whole, lost=lost)


def _riff(chunks: list[bytes], padding: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks) + padding
    return b"RIFF" + struct.pack("<I", len(body)) + body


def boxed(data: bytes) -> Iterator[Repaired]:
    """Fill up the last box of an ISO base media file (AVIF, HEIF) with zeros."""
    at = 0
    while len(data) - at >= 8:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8 or at + size > len(data):
            break
        at += size
    else:
        return
    missing = at + size - len(data)
    if kind == b"mdat" and 0 < missing <= _PADDING_BYTES:
        yield Repaired(data + bytes(missing), data + _noise(missing), streamed="top")


def _noise(size: int) -> bytes:
    return (_NOISE * (size // len(_NOISE) + 1))[:size]
