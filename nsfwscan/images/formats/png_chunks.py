"""Read the chunks of a PNG, and write a PNG anew of those that a picture needs.

The new PNG has right checksums, and few, bounded, whole side chunks. Nothing in the file is trusted: lengths end where
the file does, and long texts are cut. Sections are those of the PNG Specification, Third Edition.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"

HEAD_BYTES = 2**16
"""An animated PNG says so (`acTL`) before its pixels."""
_COLOUR = (b"PLTE", b"tRNS", b"cICP", b"sRGB", b"gAMA", b"cHRM", b"mDCV", b"cLLI", b"sBIT")
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ONE_TEXT_BYTES, _MOST_TEXTS = 2**16, 32
"""Bytes kept of a text, as many as `provenance/signals.py` reads; and how many texts."""
_EXIF_BYTES = 2**20
PROFILE_BYTES = 2**23
"""A profile uncompressed; those of printers are 1 to 3 MB."""


@dataclass(frozen=True)
class Chunk:
    """One chunk; `whole` where nothing of it is missing and its checksum is right."""

    kind: bytes
    body: bytes
    whole: bool = True

    def packed(self) -> bytes:
        """Return the chunk as it stands in a file, with its checksum."""
        checksum = zlib.crc32(self.body, zlib.crc32(self.kind))
        return struct.pack(">I", len(self.body)) + self.kind + self.body + struct.pack(">I", checksum)


def chunks_of(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to the end, or to a name that is not four letters."""
    at = len(SIGNATURE)
    while len(data) >= at + 8:
        length, kind = struct.unpack_from(">I4s", data, at)
        if not (kind.isascii() and kind.isalpha()):
            return
        body, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        whole = len(checksum) == 4 and zlib.crc32(body, zlib.crc32(kind)) == int.from_bytes(checksum, "big")
        yield Chunk(kind, body, whole)
        if kind == b"IEND":
            return
        at += 12 + length


def side_chunks(data: bytes) -> dict[bytes, bytes]:
    """Return the whole chunks before a PNG's pixels by their kinds, the first one of each, in their order."""
    found: dict[bytes, bytes] = {}
    for chunk in chunks_of(data):
        if chunk.kind == b"IDAT":
            break
        if chunk.whole:
            found.setdefault(chunk.kind, chunk.body)
    return found


def rebuilt(data: bytes, *, bare: bool = False) -> bytes | None:
    """Return the same picture with its pixels, colours, texts and EXIF, and nothing else. None without a header, or
    without pixels.

    Args:
        bare: keep only what the picture cannot be shown without.
    """
    chunks = list(chunks_of(data))
    header = next((chunk.body for chunk in chunks if chunk.kind == b"IHDR"), b"")
    if len(header) != 13:
        return None
    pixels = [chunk.body for chunk in chunks if chunk.kind == b"IDAT"]
    hidden = hidden_default(data)
    pixels = [_without_checksum(b"".join(pixels))] if pixels else []
    if hidden and hidden[1] == (0, 0, *struct.unpack_from(">2I", header)):
        return hidden[0]
    if bare:
        chunks = [chunk for chunk in chunks if chunk.kind in (b"PLTE", b"tRNS")]
    return _made_of(header, chunks, pixels) if pixels else None


def hidden_default(data: bytes) -> tuple[bytes, tuple[int, int, int, int]] | None:
    """Return the first frame of an animation whose default image is not part of it, as a PNG of its own, and where it
    lies (left, top, width, height). None of another PNG, and where the frame is missing.

    Programs that know animations never show the default image (PNG, 4.9.1).
    """
    chunks = list(chunks_of(data))
    kinds = [chunk.kind for chunk in chunks]
    if b"acTL" not in kinds or b"fcTL" not in kinds or b"IDAT" not in kinds or kinds[0] != b"IHDR":
        return None
    first = kinds.index(b"fcTL")
    frames = int.from_bytes(chunks[kinds.index(b"acTL")].body[:4], "big")
    if (
        not 0 < frames < 2**31
        or not kinds.index(b"acTL") < kinds.index(b"IDAT") < first
        or len(chunks[first].body) != 26
    ):
        return None
    width, height, left, top = struct.unpack_from(">4I", chunks[first].body, 4)
    header = chunks[0].body
    canvas = struct.unpack_from(">2I", header)
    if not (0 < width <= canvas[0] - left and 0 < height <= canvas[1] - top):
        return None
    pixels = []
    for chunk in chunks[first + 1 :]:
        if chunk.kind == b"fdAT":
            pixels.append(chunk.body[4:])
        elif chunk.kind == b"fcTL":
            break
    frame = struct.pack(">2I", width, height) + header[8:]
    return (_made_of(frame, chunks, pixels), (left, top, width, height)) if pixels else None


def default_image(data: bytes) -> bytes | None:
    """Return the default image of an animation that it is not part of, as a PNG of its own; else None."""
    if b"acTL" not in data[:HEAD_BYTES] or hidden_default(data) is None:
        return None
    chunks = list(chunks_of(data))
    return _made_of(chunks[0].body, chunks, [chunk.body for chunk in chunks if chunk.kind == b"IDAT"])


def _made_of(header: bytes, chunks: list[Chunk], pixels: list[bytes]) -> bytes:
    parts = [Chunk(b"IHDR", header), *_sides(chunks), Chunk(b"IDAT", b"".join(pixels)), Chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(part.packed() for part in parts)


def _sides(chunks: list[Chunk]) -> Iterator[Chunk]:
    """Yield the chunks before the pixels: one of each kind, a few texts. As in decoders, a colour chunk with a wrong
    checksum is left out; not so the palette, without which there is no picture."""
    there: set[bytes] = set()
    texts = 0
    for chunk in chunks:
        if chunk.kind in _TEXTS and chunk.whole and texts < _MOST_TEXTS:
            if (text := _short(chunk)) is not None:
                texts += 1
                yield text
        elif chunk.kind in there:
            continue
        elif chunk.kind == b"PLTE" or (chunk.kind in _COLOUR and chunk.whole) or _is_bounded(chunk):
            there.add(chunk.kind)
            yield chunk


def _is_bounded(chunk: Chunk) -> bool:
    """Return whether a chunk is EXIF or a profile of a usual size."""
    if not chunk.whole:
        return False
    if chunk.kind == b"eXIf":
        return len(chunk.body) <= _EXIF_BYTES
    return chunk.kind == b"iCCP" and inflated(chunk.body.partition(b"\0")[2][1:], PROFILE_BYTES)[1]


def _short(chunk: Chunk) -> Chunk | None:
    """Return the beginning of a text, uncompressed."""
    key, _, rest = chunk.body.partition(b"\0")
    if chunk.kind == b"tEXt":
        return Chunk(b"tEXt", key + b"\0" + rest[:_ONE_TEXT_BYTES])
    if chunk.kind == b"zTXt":
        text, _ = inflated(rest[1:], _ONE_TEXT_BYTES)
        return Chunk(b"tEXt", key + b"\0" + text)
    packed, (_, _, text) = rest[:1] == b"\1", rest[2:].partition(b"\0")[2].partition(b"\0")
    text = inflated(text, _ONE_TEXT_BYTES)[0] if packed else text[:_ONE_TEXT_BYTES]
    text = text.decode("utf-8", errors="ignore").encode()
    return Chunk(b"iTXt", key + b"\0\0\0\0\0" + text)


def _without_checksum(packed: bytes) -> bytes:
    """Cut a zlib stream (RFC 1950) after its last block, so that a wrong checksum does not cost the last row."""
    inflate, rest = zlib.decompressobj(-15), packed[2:]
    try:
        while rest and not inflate.eof:
            inflate.decompress(rest, 2**20)
            rest = inflate.unconsumed_tail
    except zlib.error:
        return packed
    return packed[: len(packed) - len(inflate.unused_data)]


def inflated(packed: bytes, most: int) -> tuple[bytes, bool]:
    """Return at most so many bytes, and whether that is all."""
    inflate = zlib.decompressobj()
    try:
        found = inflate.decompress(packed, most)
    except zlib.error:
        return b"", False
    return found, not inflate.unconsumed_tail
