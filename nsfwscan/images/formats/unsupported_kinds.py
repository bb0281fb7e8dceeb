"""Name the kinds of JPEG, PNG and HEIF that are not decoded, so that a whole file of one is not called damaged."""

from __future__ import annotations

import re

_FRAMES = {
    0xC3: "a lossless JPEG",
    0xC5: "a hierarchical JPEG",
    0xC6: "a hierarchical JPEG",
    0xC7: "a hierarchical JPEG",
    0xCB: "a lossless JPEG",
    0xCD: "a hierarchical JPEG",
    0xCE: "a hierarchical JPEG",
    0xCF: "a hierarchical JPEG",
    0xF7: "a JPEG-LS image",
}
"""Kinds by the marker of a frame (ITU-T T.81, table B.1; T.87, C.1.1)."""
_APPLE_CHUNK = b"CgBI"
"""In place of a PNG's header: pixels without zlib's head, and blue before red."""
_NUMBER_OF_LINES = b"\xff\xdc\0\4"
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
_CODINGS = {
    b"vvc1": "VVC",
    b"evc1": "EVC",
    b"avc1": "AVC",
    b"j2k1": "JPEG 2000",
    b"jpeg": "JPEG",
    b"unci": "samples without compression",
    b"jxlc": "JPEG XL",
}
"""Types of HEIF's items that are not decoded (ISO 23008-12, its annexes; ISO 23001-17)."""
_DECODED = (b"hvc1", b"av01")
_ITEM = re.compile(rb"infe[\2\3].{3}(?:.{4}|.{6})(....)", re.DOTALL)
_NO_ROOM = "Security limit exceeded"
"""What libheif 1.23.0 says of a picture of which a small part is shown (`clap`): it has room for that part alone."""
_HEAD = 2**20


def undecoded_kind(data: bytes, said: str) -> str | None:
    """Return the kind of a file ("a lossless JPEG") that is not decoded; None where its kind is. Never raises.

    Args:
        said: what its decoder said of it.
    """
    if data[:2] == b"\xff\xd8":
        return _of_jpeg(data)
    if data[12:16] == _APPLE_CHUNK:
        return "a PNG as Apple's tools pack it for apps (CgBI)"
    return _of_boxes(data[:_HEAD], said) if data[4:8] == b"ftyp" else None


def _of_jpeg(data: bytes) -> str | None:
    at = 2
    while at + 5 < len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAMES:
            return _FRAMES[marker]
        if 0xC0 <= marker <= 0xCF and marker not in _NO_FRAMES:
            bits = data[at + 4]
            if not any(data[at + 5 : at + 7]) and _NUMBER_OF_LINES in data:
                return "a JPEG that gives its height behind its picture (DNL)"
            return f"a JPEG of {bits} bits a sample" if bits in (12, 16) else None
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None


def _of_boxes(head: bytes, said: str) -> str | None:
    items = [match[1] for match in _ITEM.finditer(head)]
    if any(item in _DECODED for item in items):
        return "an HEIF image of which a small part is shown (clap)" if _NO_ROOM in said and b"clap" in head else None
    coding = next((_CODINGS[item] for item in items if item in _CODINGS), None)
    return None if coding is None else f"an HEIF image coded as {coding}"
