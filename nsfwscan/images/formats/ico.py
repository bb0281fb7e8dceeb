"""Decode icons and mouse pointers (ICO, CUR) as browsers show them: the best picture, with its transparency.

Browsers take the picture with the largest area, and of equals the one with the most bits; where it cannot be opened,
this decoder takes the next one. Opening raises `SyntaxError` where none can be opened.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from nsfwscan.images.formats import bmp

_ICON, _CURSOR = 1, 2
_NAMES = {_ICON: "ICO", _CURSOR: "CUR"}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_ENTRIES = 256
"""No icon has so many; the rest is not read."""


@dataclass(frozen=True)
class _Entry:
    """A line of the directory: `width` and `height` in pixels, `bits` 0 where it does not say."""

    width: int
    height: int
    bits: int
    data: bytes


class IcoFile(ImageFile.ImageFile):
    """A file whose best picture's header was read; `load` decodes it."""

    format = "ICO"
    format_description = "Windows icon or mouse pointer"

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        if not accepts(data):
            raise SyntaxError("no ICO and no CUR")
        self.format = _NAMES[data[2]]
        entries = _best_first(data)
        for entry in entries:
            try:
                self._open_entry(entry.data)
            except (SyntaxError, ValueError, OSError, struct.error):
                continue
            return
        raise SyntaxError(f"none of {len(entries)} pictures can be opened")

    def _open_entry(self, data: bytes) -> None:
        self._png, self._header, self._data = None, None, data
        if data.startswith(_PNG_SIGNATURE):
            self._png = PngImageFile(io.BytesIO(data))
            self._size, self._mode, self.info = self._png.size, "RGBA", self._png.info
        else:
            self._header = bmp.read_header(data, 0, 0, in_icon=True)
            self._size, self._mode = (self._header.width, self._header.height), "RGB"

    def load(self) -> Any:
        """Decode the picture; the mode becomes `RGBA` where some of it is transparent."""
        if self._im is None:
            if self._png is not None:
                self._png.load()
                drawn: Image.Image = self._png
                self.info = self._png.info
            else:
                assert self._header is not None
                drawn = _masked(bmp.draw(self._data, self._header), self._data, self._header)
            self._mode, self.im, self.palette = drawn.mode, drawn.im, drawn.palette
        return Image.Image.load(self)


def accepts(prefix: bytes) -> bool:
    """Return whether a file begins as an icon or a mouse pointer does, with a first picture of some size."""
    return prefix[:4] in (b"\0\0\1\0", b"\0\0\2\0") and prefix[4:6] != b"\0\0" and prefix[9:10] == b"\0"


def _entries(data: bytes) -> Iterator[_Entry]:
    count = min(int.from_bytes(data[4:6], "little"), _MOST_ENTRIES)
    for at in range(6, 6 + 16 * count, 16):
        if at + 16 > len(data):
            return
        width, height, _, _, _, bits, size, offset = struct.unpack_from("<BBBBHHII", data, at)
        if offset < len(data):
            known = bits if data[2] == _ICON else 0
            yield _Entry(width or 256, height or 256, known, data[offset : offset + size])


def _best_first(data: bytes) -> list[_Entry]:
    return sorted(_entries(data), key=lambda e: (e.width * e.height, e.bits), reverse=True)


def other_icons(data: bytes, least: int) -> Iterator[bytes]:
    """Yield the pictures beside the one that is shown, each as an icon of its own: those that have so many pixels each
    way, whatever the directory says."""
    opened = 0
    for entry in _best_first(data):
        line = struct.pack("<BBBBHHII", entry.width % 256, entry.height % 256, 0, 0, 0, entry.bits, len(entry.data), 22)
        icon = struct.pack("<3H", 0, _ICON, 1) + line + entry.data
        try:
            size = IcoFile(io.BytesIO(icon)).size
        except (SyntaxError, ValueError, OSError, struct.error):
            continue
        opened += 1
        if opened > 1 and min(size) >= least:
            yield icon


def _masked(drawn: Image.Image, data: bytes, header: bmp.Header) -> Image.Image:
    """Apply the mask of transparency that follows the pixels, a bit each; not to a picture with alpha of its own."""
    if drawn.mode == "RGBA":
        return drawn
    stride = (header.width + 31) // 32 * 4
    begin = header.pixels + header.stride * header.height
    stored = data[begin : begin + stride * header.height]
    if len(stored) < stride * header.height:
        return drawn
    rows = np.frombuffer(stored, np.uint8).reshape(header.height, stride)
    clear = np.unpackbits(rows, axis=1)[:, : header.width]
    if not clear.any():
        return drawn
    drawn.putalpha(Image.fromarray((1 - (clear if header.top_down else clear[::-1])) * np.uint8(255)))
    return drawn
