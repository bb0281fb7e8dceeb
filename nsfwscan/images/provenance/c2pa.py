"""Find the C2PA manifests that are embedded in a file, without parsing them or checking a signature.

Each format has its own place for them (C2PA Technical Specification 2.1, annex A). `signals.py` searches their first
bytes for words. `credentials.py` checks signatures, where it is asked to.
"""

from __future__ import annotations

from collections.abc import Iterator

from PIL import Image

_MANIFEST_BYTES, _BOXES = 2**18, 10_000
_GIF_BYTES = 2**16
"""A GIF's manifest begins in these, before the first frame."""
_JUMBF = bytes.fromhex("6332706100110010800000aa00389b71")
"""Type of the JUMBF box that holds manifests (the same, 11.1.4.2)."""
_BMFF = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""`uuid` box of a manifest (the same, A.5)."""
_TIFF_TAG = 0xCD41
_GIF_BLOCK = b"!\xff\x0bC2PA_GIF\x01\x00\x00"


def manifests_of(data: bytes, image: Image.Image, exif: Image.Exif) -> bytes | None:
    """Return the first bytes of a file's manifests; None where it has none."""
    found: bytes | None = None
    match image.format:
        case "JPEG" | "MPO":
            found = _in_jpeg(image)
        case "PNG":
            found = next((body for kind, body in _png_chunks(data) if kind == b"caBX"), None)
        case "WEBP":
            found = next((body for kind, body in _riff_chunks(data) if kind == b"C2PA"), None)
        case "HEIF" | "AVIF":
            boxes = (body for kind, body in _bmff_boxes(data) if kind == b"uuid")
            found = next((body[16:] for body in boxes if body[:16] == _BMFF), None)
        case "TIFF":
            tag = exif.get(_TIFF_TAG)
            found = tag if isinstance(tag, bytes) else None if tag is None else b""
        case "GIF":
            at = data.find(_GIF_BLOCK, 0, _GIF_BYTES)
            found = b"".join(_gif_blocks(data, at + len(_GIF_BLOCK))) if at >= 0 else None
    return None if found is None else found[:_MANIFEST_BYTES]


def _in_jpeg(image: Image.Image) -> bytes | None:
    """Join the JUMBF boxes of APP11 segments: `JP`, two numbers, then the box, or its head again and more of it
    (ISO/IEC 19566-5, annex D)."""
    parts = [part for name, part in image.applist if name == "APP11" and part[:2] == b"JP"]  # type: ignore[attr-defined]
    if any(part[12:16] == b"jumb" and part[24:40] == _JUMBF for part in parts):
        return b"".join(part[16:] for part in parts)
    return None


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and body of chunks, from the file itself: a damaged one was opened without those beside the pixels."""
    at = 8
    for _ in range(_BOXES):
        if at + 8 > len(data):
            return
        length = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + min(length, _MANIFEST_BYTES)]
        at += 12 + length


def _gif_blocks(data: bytes, at: int) -> Iterator[bytes]:
    """Yield the bodies of a GIF's sub-blocks, of 255 bytes at most: a word may begin in one and end in the next."""
    end = at + _MANIFEST_BYTES
    while at < min(end, len(data)) and data[at]:
        yield data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(_BOXES):
        if at + 8 > len(data):
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + min(length, _MANIFEST_BYTES)]
        at += 8 + length + length % 2


def _bmff_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield type and body of the boxes at the top of an ISO media file (ISO/IEC 14496-12, 4.2)."""
    at = 0
    for _ in range(_BOXES):
        if at + 8 > len(data):
            return
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif length == 0:  # to the end
            length = len(data) - at
        if length < head:
            return
        yield data[at + 4 : at + 8], data[at + head : at + min(length, head + _MANIFEST_BYTES)]
        at += length
