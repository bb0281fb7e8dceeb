"""Choose the frame of an animation that is decoded, and count the frames.

The frame is the first one that people see: an animated PNG may hide its default image, and the first frame of a GIF may
cover only a part of its screen.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress

from PIL import Image

from nsfwscan.images.formats.gif_blocks import first_is_opaque
from nsfwscan.images.formats.heif import track_length
from nsfwscan.images.formats.png_chunks import HEAD_BYTES, hidden_default
from nsfwscan.images.formats.registry import load, plugin_of
from nsfwscan.images.formats.svg import SvgFile
from nsfwscan.images.opening import check_pixels
from nsfwscan.images.salvage import become

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_MOST_WITHIN = 30_000
"""Frames of pictures within a file; no more are counted."""


def first_frame(image: Image.Image, data: bytes, max_pixels: int) -> Image.Image:
    """Return the first frame of an animated PNG whose default image is not part of the animation; else the image."""
    found = hidden_default(data) if image.format == "PNG" and b"acTL" in data[:HEAD_BYTES] else None
    if found is None:
        return image
    png, (left, top, *_) = found
    frame = Image.open(io.BytesIO(png), formats=[plugin_of("PNG")])
    check_pixels("PNG", frame.size, max_pixels)
    frame.n_frames = max(1, getattr(image, "n_frames", 1) - 1)  # type: ignore[attr-defined]
    if frame.size == image.size:
        return frame
    canvas = Image.new("RGBA", image.size)
    canvas.paste(frame.convert("RGBA"), (left, top))
    canvas.format, canvas.info = "PNG", {**frame.info}
    canvas.info.pop("transparency", None)
    canvas.n_frames = frame.n_frames  # type: ignore[attr-defined]
    return canvas


def load_frame(image: Image.Image, data: bytes) -> None:
    """Decode the pixels. What the first frame of a GIF leaves of its screen becomes transparent."""
    if image.format == "GIF" and "transparency" in image.info:
        with suppress(IndexError, ValueError):  # of a damaged one, what Pillow says
            if first_is_opaque(data):
                image.info.pop("transparency")
    boxes = _around(image)
    load(image, data)
    if boxes:
        become(image, image.convert("RGBA"))
        for box in boxes:
            image.paste((255, 255, 255, 0), box)


def _around(image: Image.Image) -> tuple[Box, ...]:
    tile = next(iter(getattr(image, "tile", ())), None)
    if image.format != "GIF" or tile is None or "transparency" in image.info:
        return ()
    (left, top, right, bottom), (width, height) = tile[1], image.size
    bands = (0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)
    return tuple(box for box in bands if box[0] < box[2] and box[1] < box[3])


def count_frames(image: Image.Image, data: bytes) -> int | None:
    """Return how many frames a file has; None where counting them fails or takes too long."""
    if isinstance(image, SvgFile):
        within = count_pictures(image.pictures())
        return None if within is None else image.n_frames + within - len([*image.pictures()])
    try:
        if image.format == "MPO":
            return 1  # `enclosed.py` finds those after the first
        if image.format == "HEIF":
            items, track = getattr(image, "n_frames", 1), track_length(data)
            return None if track is None else items + track
        if image.format in ("GIF", "TIFF"):  # Pillow walks through the whole file; other formats store the number
            image = Image.open(_CountedReads(data), formats=[plugin_of(image.format)])
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001
        return None


def count_pictures(pictures: Iterable[tuple[bytes, str]]) -> int | None:
    """Return the number of all frames of encoded pictures, each with its format; None as `count_frames`."""
    found = 0
    for picture, name in pictures:
        frames = count_frames(Image.open(io.BytesIO(picture), formats=[plugin_of(name)]), picture)
        if frames is None or found > _MOST_WITHIN:
            return None
        found += frames
    return found


class _CountedReads(io.BytesIO):
    """A file that allows a limited number of reads. A few megabytes can hold a million frames or pages; nobody needs
    their exact number, and the first one is decoded all the same."""

    _left = 3_000_000

    def read(self, size: int | None = -1, /) -> bytes:
        self._charge(1)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._charge(100)  # once or twice a frame, and more expensive for Pillow than a read
        return super().seek(offset, whence)

    def _charge(self, reads: int) -> None:
        self._left -= reads
        if self._left < 0:
            raise _TooManyReads  # not an OSError: Pillow would take that for the end of the file


class _TooManyReads(Exception):
    pass
