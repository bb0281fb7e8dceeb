"""Tell whether a file ends before its end, as after an upload that was cut off."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import IO, Literal

_START_OF_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"


def is_cut_off(data: bytes, name: str | None) -> bool:
    """Return whether the end of a file is missing; False where its format does not tell.

    Args:
        name: Pillow's name of its format.
    """
    return name in _CUT_OFF and _CUT_OFF[name](data)


def ends_early(file: IO[bytes], name: str) -> bool:
    """Return the same of a video, of which no more is read than the heads of its boxes."""
    return name in _BOXED and _ends_within_a_box(file)


def _jpeg(data: bytes) -> bool:
    """Look after the scan: a thumbnail before it has an end of its own."""
    return data.find(_END_OF_IMAGE, max(0, data.rfind(_START_OF_SCAN))) < 0


def _tiff(data: bytes) -> bool:
    """Look for the end of the first directory, which is often the last thing in the file."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    start = int.from_bytes(data[4:8], order)
    return start + 2 + 12 * int.from_bytes(data[start : start + 2], order) > len(data)


def _ends_within_a_box(file: IO[bytes]) -> bool:
    """Look for a box that goes on after the end (ISO 14496-12)."""
    end, at = file.seek(0, os.SEEK_END), 0
    while end - at >= 8:
        file.seek(at)
        size = int.from_bytes(file.read(4), "big")
        if size < 8:  # to the end, or of 64 bits
            return False
        at += size
    return at != end


_BOXED = ("AVIF", "HEIF", "MP4", "MOV")


_CUT_OFF: dict[str, Callable[[bytes], bool]] = {
    "JPEG": _jpeg,
    "MPO": _jpeg,
    "PNG": lambda data: b"IEND" not in data,
    "GIF": lambda data: not data.rstrip(b"\0").endswith(b";"),
    "WEBP": lambda data: int.from_bytes(data[4:8], "little") + 8 > len(data),
    "BMP": lambda data: int.from_bytes(data[2:6], "little") > len(data),
    "TIFF": _tiff,
    **dict.fromkeys(_BOXED, lambda data: _ends_within_a_box(io.BytesIO(data))),
}
