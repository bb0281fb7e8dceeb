"""Walk through the frames of an animation, or the pages of a file, as browsers show them.

Frames come in their order, each with the time at which it is shown. A frame that is damaged ends the walk: what follows
builds on it. Nothing here knows how many frames are wanted; `views.py` does.
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count

from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from nsfwscan.images.formats.gif_blocks import CONTROL, EXTENSION, HEAD_BYTES, blocks_of, palette_bytes
from nsfwscan.images.formats.heif import TrackFile, open_heif, track_frames
from nsfwscan.images.formats.registry import plugin_of, register_formats
from nsfwscan.images.formats.svg import SvgFile

_ANIMATED = ("PNG", "WEBP", "AVIF")
"""Formats whose frames have times that Pillow tells."""
_SHORTEST_S, _SHOWN_S = 0.011, 0.1
"""Browsers show a frame that asks for a hundredth of a second or less for a tenth, whatever the format."""
_CLEAR, _RESTORE = 2, 3
"""Disposal methods of a frame (GIF89a, 23): clear its box, or restore what was there before it."""


@dataclass(frozen=True)
class Frame:
    """One frame as it is shown.

    Attributes:
        index: its place in the animation, from 0.
        at_s: seconds from the beginning until it is shown; None for a page.
        shown_s: seconds that it is shown; None for a page.
        image: loaded; valid until the next frame is asked for.
        data: the whole file that it is a frame of.
    """

    index: int
    at_s: float | None
    shown_s: float | None
    image: Image.Image
    data: bytes


def frames_of(data: bytes, name: str, enclosed: Iterable[tuple[bytes, str]] = ()) -> Iterator[Frame]:
    """Yield the frames of a file, and end before the first one that cannot be decoded; then those of enclosed pictures.

    Args:
        name: its format, as the registry names it, or MPO.
        enclosed: encoded pictures with their formats, whose frames are pages.
    """
    at_s = 0.0
    if name == "SVG":  # the pictures within it: the drawing may cover them, or show them small
        drawing = SvgFile(io.BytesIO(data), "")
        walked, enclosed = _svg_frames(drawing), chain(drawing.pictures(), enclosed)
    else:
        walked = _FRAMES[name](data) if name in _FRAMES else _pillow_frames(data, name)
    index = -1
    for index, (image, shown_s) in enumerate(_until_damage(walked)):
        if shown_s is None:
            yield Frame(index, None, None, image, data)
            continue
        lasts_s = _SHOWN_S if shown_s < _SHORTEST_S else shown_s
        yield Frame(index, at_s, lasts_s, image, data)
        at_s += lasts_s
    for frame in chain.from_iterable(frames_of(*picture) for picture in enclosed):
        if index < 0:  # the first picture took a second try: the walk does not show it, and its place is not another's
            yield Frame(0, None, None, Image.new("RGB", (1, 1)), data)
        index = max(index, 0) + 1
        yield Frame(index, None, None, frame.image, frame.data)


_Walked = Iterator[tuple[Image.Image, float | None]]
"""Pictures, and the seconds that each is shown; None for a page."""


def _until_damage(frames: _Walked) -> _Walked:
    while True:
        try:
            with warnings.catch_warnings(action="ignore"):
                found = next(frames)
        except StopIteration:
            return
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # Pillow's plugins raise nearly anything on a malformed file
            return
        yield found


def _pillow_frames(data: bytes, name: str) -> _Walked:
    register_formats()
    image = Image.open(io.BytesIO(data), formats=[plugin_of(name)])
    hidden = 1 if getattr(image, "default_image", False) else 0  # an animated PNG may hide its first image
    for index in range(1) if name == "MPO" else count(hidden):  # a damaged file does not know its number
        image.seek(index)
        if isinstance(image, PngImageFile):
            image.decoderconfig = ()  # else Pillow adds its flag for interlaced pixels with each frame, and fails
        image.load()
        yield image, max(0.0, float(image.info.get("duration") or 0)) / 1000 if name in _ANIMATED else None


def _heif_frames(data: bytes) -> _Walked:
    """Yield the picture that is shown first, the others, then the frames of a track."""
    image = open_heif(io.BytesIO(data))
    if not isinstance(image, TrackFile):
        first, items = image.tell(), range(getattr(image, "n_frames", 1))
        for item in sorted(items, key=lambda item: item != first):
            image.seek(item)
            image.load()
            yield image, None
    yield from track_frames(data)


def _svg_frames(drawing: SvgFile) -> _Walked:
    drawing.load()
    yield drawing, None


def _gif_frames(data: bytes) -> _Walked:
    """Yield the frames of a GIF on a transparent canvas. Pillow fills what no frame covers with the background colour,
    which browsers ignore."""
    canvas = None
    for found in _gif_images(data):
        if canvas is None:  # the first image makes the screen larger, others are cut
            width, height = struct.unpack_from("<HH", data, 6)
            canvas = Image.new("RGBA", (max(width, found.left + found.width), max(height, found.top + found.height)))
        if not found.width or not found.height:
            yield canvas, found.delay_s
            continue
        before = canvas.copy() if found.disposal == _RESTORE else None
        image = Image.open(io.BytesIO(found.gif), formats=["GIF"]).convert("RGBA")
        canvas.paste(image, (found.left, found.top), image)
        yield canvas, found.delay_s
        if before is not None:
            canvas = before
        elif found.disposal == _CLEAR:
            canvas.paste((0, 0, 0, 0), (found.left, found.top, found.left + image.width, found.top + image.height))


_FRAMES = {"GIF": _gif_frames, "HEIF": _heif_frames}


@dataclass(frozen=True)
class _GifImage:
    """One image of a GIF, as a GIF of its own, and how it goes on the canvas."""

    gif: bytes
    left: int
    top: int
    width: int
    height: int
    disposal: int
    delay_s: float


def _gif_images(data: bytes) -> Iterator[_GifImage]:
    """Yield the images of a GIF (GIF89a, appendix B). Raises IndexError or struct.error where it is cut off."""
    screen = data[10], data[HEAD_BYTES : HEAD_BYTES + palette_bytes(data[10])]
    control = b"\0\0\0\0"
    for at, end in blocks_of(data):
        if data[at] == EXTENSION:
            if data[at + 1 : at + 3] == CONTROL:
                control = data[at + 3 : at + 7]
            continue
        left, top, width, height, own = struct.unpack_from("<4HB", data, at + 1)
        pixels = at + 10 + palette_bytes(own)
        colours = (own, data[at + 10 : pixels]) if own & 0x80 else screen
        gif = _single_gif((width, height), colours, own & 0x40, control, data[pixels:end])
        delay_s = int.from_bytes(control[1:3], "little") / 100
        yield _GifImage(gif, left, top, width, height, control[0] >> 2 & 7, delay_s)
        control = b"\0\0\0\0"


def _single_gif(
    size: tuple[int, int], colours: tuple[int, bytes], interlaced: int, control: bytes, pixels: bytes
) -> bytes:
    flags, palette = colours
    screen = b"GIF89a" + struct.pack("<2H", *size) + bytes([flags & 0x87, 0, 0]) + palette
    transparency = b"\x21\xf9\x04" + bytes([control[0] & 1, 0, 0, control[3]]) + b"\0"
    return screen + transparency + b"\x2c" + struct.pack("<4HB", 0, 0, *size, interlaced) + pixels + b"\x3b"
