"""Walk through the blocks of a GIF (GIF89a, appendix B). Everything here raises IndexError where a GIF is cut off."""

from __future__ import annotations

import struct
from collections.abc import Iterator

EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B
CONTROL = b"\xf9\4"
"""Label and length of a graphic control extension."""
HEAD_BYTES = 13
"""Signature and logical screen descriptor, before the global palette."""


def blocks_of(data: bytes, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield where each image and each extension begins and ends. Raises ValueError where something else stands.

    Args:
        start: where the GIF begins.
    """
    at = start + HEAD_BYTES + palette_bytes(data[start + 10])
    while data[at] != TRAILER:
        if data[at] not in (EXTENSION, IMAGE):
            raise ValueError("no block of a GIF")
        end = _after(data, at + 2 if data[at] == EXTENSION else at + 11 + palette_bytes(data[at + 9]))
        yield at, end
        at = end


def palette_bytes(flags: int) -> int:
    """Return the length of the palette that the flags of a screen or of an image announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def first_is_opaque(data: bytes) -> bool:
    """Return whether the first image has no transparent colour: of several controls before it, the last one counts."""
    opaque = True
    for at, _ in blocks_of(data):
        if data[at] == IMAGE:
            break
        if data[at + 1 : at + 3] == CONTROL:
            opaque = not data[at + 3] & 1
    return opaque


def without_empty_images(data: bytes) -> tuple[bytes, int]:
    """Return a GIF without its images that have no pixels, and how many these are; browsers show the next one."""
    begin = HEAD_BYTES + palette_bytes(data[10])
    blocks = [(data[at], data[at:end]) for at, end in blocks_of(data)]
    kept = [block for kind, block in blocks if kind == EXTENSION or 0 not in struct.unpack_from("<2H", block, 5)]
    end = begin + sum(len(block) for _, block in blocks)
    return data[:begin] + b"".join(kept) + data[end:], len(blocks) - len(kept)


def _after(data: bytes, at: int) -> int:
    """Return where a series of data blocks ends."""
    while size := data[at]:
        at += size + 1
    return at + 1
