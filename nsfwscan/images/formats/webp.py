"""Decode WebP by Pillow, but see through what the frames of an animation leave of its canvas (RFC 9649, 2.7)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from PIL.WebPImagePlugin import WebPImageFile

_HEAD_BYTES = 12
_DISPOSES = 1


class WebpFile(WebPImageFile):
    """A file whose header was read. Pillow has black where nothing is drawn, unless the file says that it has alpha."""

    def _open(self) -> None:
        super()._open()
        assert self.fp is not None
        self.fp.seek(0)
        if self.rawmode == "RGBX" and _leaves_gaps(self.fp.read(), self.size):
            self.rawmode = self._mode = "RGBA"


def accepts(prefix: bytes) -> bool:
    """Return whether a file begins as a WebP does, whatever its first chunk is."""
    return prefix[:4] == b"RIFF" and prefix[8:12] == b"WEBP"


def chunks_of(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, where it begins and where it ends; the last one may end after the file does."""
    at = _HEAD_BYTES
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size + size % 2
        yield kind, at, end
        at = end


def _leaves_gaps(data: bytes, canvas: tuple[int, int]) -> bool:
    """Return whether a frame of an animation is smaller than its canvas, or is cleared before the next one."""
    for kind, at, _ in chunks_of(data):
        if kind == b"ANMF" and at + 24 <= len(data):
            width, height = (int.from_bytes(data[at + place : at + place + 3], "little") + 1 for place in (14, 17))
            if (width, height) != canvas or data[at + 23] & _DISPOSES:
                return True
    return False
