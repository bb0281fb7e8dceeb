"""A second, tolerant try at a file that cannot be decoded strictly: what a browser would show of it.

In: the bytes of a file that a first try called damaged. Out: the image, loaded, with white where the file gives
nothing, and how much it gives. Where it gives nothing, there is none. It says so among the signals:

    decode.salvaged             the strict way failed, and this one did not
    decode.complete             share of the pixels that the file gives, 0 to 1; of a progressive JPEG a pixel counts
                                from its first, coarse scan on

What is there is found, not guessed: the file is decoded twice, with other bytes in place of what is missing and on
another ground; a pixel that comes out differently is not the file's. In formats that are decoded from top to bottom as
one stream, nothing after the first such row is.

Skia's codecs would be another way: of 57 files of other projects' test suites that Chromium shows and Pillow refuses,
they open 53, this 54 (skia-python 144.1). They take 50 MB, libEGL and libGL, and have no say about what is there.

Pillow's tolerant modes are global. They are set for this try alone, in a process that does nothing else meanwhile, and
lift no limit of ours: size, memory and time hold as for the first try, and the time is that of both together.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOMEM
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from nsfwscan.errors import RowError, Status
from nsfwscan.images.formats.png_chunks import PROFILE_BYTES, SIGNATURE, rebuilt

Opener = Callable[[bytes], Image.Image]
"""Opens a file within the limits, and loads nothing."""

Lace = tuple[tuple[int, int], ...]

_EOI, _SOS = b"\xff\xd9", b"\xff\xda"
_ALONE = (0x00, 0x01, *range(0xD0, 0xD9), 0xFF)
"""After 0xFF, what no length follows (ITU-T T.81, table B.1), and fill bytes."""
_ANY_MARKER, _MARKER = re.compile(rb"\xff(?=\xff*[^\0\xff])"), re.compile(rb"\xff(?=\xff*[^\0\xd0-\xd7\xff])")
_RESTARTS, _MORE = b"\xff\xdd", (b"\xda", b"\xc4", b"\xdb", b"\xdd")
"""What defines intervals; what may follow a scan: another, or tables for it."""
_TABLES = (*range(0xC0, 0xD0), 0xDB, 0xDD)
_SEGMENTS = (0xE0, 0xE1, 0xE2, 0xEE)
"""JFIF, EXIF and XMP, profiles, Adobe's colours."""
_NOISE = bytes(byte % 251 for byte in hashlib.shake_128(b"in place of what is missing").digest(4096))
"""Never 0xFF, which would begin a marker of a JPEG."""
_PADDING_BYTES = 2**25
_LARGEST_ICON_BYTES = 256 * 256 * 4 + 256 * 32
_WHITE: dict[str, Any] = {
    "CMYK": (0, 0, 0, 0),
    "YCbCr": (255, 128, 128),
    "LAB": (255, 128, 128),
    "I": 65535,
    "F": 1.0,
}
_ADAM7 = ((2, 1), (2, 2), (4, 2), (4, 4), (8, 4), (8, 8))
"""Height and width of what a pixel stands for until finer passes come (PNG Specification, 8.1), finest first."""
_GIF_LACE = ((2, 1), (4, 1), (8, 1))
"""The same of a GIF's four passes (GIF89a, appendix E)."""


@dataclass(frozen=True)
class Salvaged:
    """What there is of a damaged file.

    Args:
        image: loaded.
        complete: share of its pixels that the file gives, over 0 to 1.
    """

    image: Image.Image
    complete: float

    @property
    def signals(self) -> dict[str, float]:
        """For the row."""
        return {"decode.salvaged": 1.0, "decode.complete": self.complete}


@dataclass(frozen=True)
class _Mended:
    """A file that may open, and the same with something else in place of what is missing.

    Args:
        streamed: from where the pixels come as one stream, of which each needs those before it: `top`, or `bottom`.
    """

    data: bytes
    other: bytes
    streamed: Literal["", "top", "bottom"] = ""


def salvaged(data: bytes, name: str, opened: Opener) -> Salvaged | None:
    """What there is of a damaged file; None where there is nothing.

    Args:
        name: of the format that it claims to be, as Pillow calls it.
        opened: what opens a mended file.

    Raises:
        MemoryError: this process may not have as much memory as it takes.
        RowError: what `opened` says of a file that is too large.
    """
    if name not in _MENDS:
        return None
    with _tolerant(name in _TILED):
        for mended in _MENDS[name](data):
            found = _tried(mended, opened, partial=name in _TILED)
            if found is not None:
                return found
    return None


@contextmanager
def _tolerant(truncated: bool) -> Iterator[None]:
    """Pillow's tolerant modes, until the end."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
    ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = truncated, PROFILE_BYTES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = before


def lacks_memory() -> bool:
    """Whether an allocation failed in this thread since `forget_lack_of_memory`: few codecs in C tell that from a
    broken file, and what they then leave undone must not be called the file's fault."""
    return bool(_errno()[0] == ENOMEM)


def forget_lack_of_memory() -> None:
    """Begins anew, before another file."""
    _errno()[0] = 0


def _errno() -> Any:
    """The C library's `errno` of this thread, which a failed allocation sets and a successful call leaves alone."""
    find = _find_errno()
    return find() if find is not None else [0]


@lru_cache(maxsize=1)
def _find_errno() -> Any:
    try:
        find = ctypes.CDLL(None).__errno_location
    except AttributeError:  # not on Linux
        return None
    find.restype = ctypes.POINTER(ctypes.c_int)
    return find


def _tried(mended: _Mended, opened: Opener, *, partial: bool) -> Salvaged | None:
    image, other = _opened(mended.data, opened), _opened(mended.other, opened)
    if image is None or other is None:
        return None
    lace, tiles = _lace_of(image), list(getattr(image, "tile", ())) if partial else []
    if not (_load(image, 255, partial) and _load(other, 0, partial)):
        return None
    if (other.mode, other.size) != (image.mode, image.size):
        return None
    missing = _different(image, other)
    del other
    if mended.streamed and missing.any():
        rows = missing if mended.streamed == "top" else missing[::-1]
        rows[int(rows.any(axis=1).argmax()) :] = True
    drawn = missing.size if not tiles else sum(_area(tile[1], image.size) for tile in tiles)
    complete = 1 - int(missing.sum()) / max(1, drawn)
    if drawn <= 0 or complete <= 0:
        return None
    if image.format == "GIF" and "transparency" not in image.info:
        for left, top, right, bottom in (tile[1] for tile in tiles):
            inside = missing[top:bottom, left:right].copy()
            missing[:] = True  # around the frame there is nothing
            missing[top:bottom, left:right] = inside
    if missing.any():
        _whiten(image, missing, lace)
    return Salvaged(image, complete)


def _area(box: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    """Pixels of it that lie in a picture of that size."""
    width, height = min(box[2], size[0]) - max(box[0], 0), min(box[3], size[1]) - max(box[1], 0)
    return max(0, width) * max(0, height)


def _opened(data: bytes, opened: Opener) -> Image.Image | None:
    try:
        return opened(data)
    except RowError as error:
        if error.status == Status.TOO_LARGE:
            raise
        return None


def _load(image: Image.Image, ground: int, partial: bool) -> bool:
    """Loads what there is of it, on a ground of that level in all channels; whether there is anything."""
    tiles, prepare = list(getattr(image, "tile", ())), getattr(image, "load_prepare", None)

    def prepared() -> None:
        assert prepare is not None
        prepare()
        for tile in tiles:
            image.im.paste(_ink(image, ground), tile[1])

    if partial and prepare is not None:
        image.load_prepare = prepared  # type: ignore[attr-defined]
    try:
        image.load()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # as far as it came
        image.tile = []  # type: ignore[attr-defined]
        return partial and image._im is not None
    return True


def _ink(image: Image.Image, level: int) -> Any:
    bands = Image.getmodebands(image.mode)
    return level if bands == 1 else (level,) * bands


def _lace_of(image: Image.Image) -> Lace:
    """How many rows and columns a pixel of each pass stands for, where the picture is interlaced."""
    tile = next(iter(getattr(image, "tile", ())), None)
    if image.format == "PNG" and image.info.get("interlace"):
        return _ADAM7
    if image.format == "GIF" and tile is not None and tile[3][1]:
        return _GIF_LACE
    return ()


def _different(image: Image.Image, other: Image.Image) -> NDArray[np.bool_]:
    """Where they are, [H, W]."""
    apart = np.zeros(image.size[::-1], np.bool_)
    for box in _boxes(image):
        unlike = np.asarray(image.crop(box)) != np.asarray(other.crop(box))
        apart[box[1] : box[3]] = unlike if unlike.ndim == 2 else unlike.any(axis=2)
    return apart


def _whiten(image: Image.Image, missing: NDArray[np.bool_], lace: Lace) -> None:
    """Shows white where the file gives nothing; but for where coarser passes do."""
    if image.mode in ("P", "PA"):  # which has no white
        become(image, image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB"))
    white = _WHITE.get(image.mode, 65535 if image.mode.startswith("I;16") else (255,) * len(image.getbands()))
    for box in _boxes(image):
        gone = missing[box[1] : box[3]]
        if not gone.any():
            continue
        if lace:
            there, gone = _laced(np.asarray(image.crop(box)), gone, lace)
            image.paste(Image.fromarray(there), box)
        image.paste(white, box, Image.fromarray(gone))


def become(image: Image.Image, converted: Image.Image) -> None:
    """In place: what knows its file and its EXIF is this object."""
    image.im, image._mode, image.palette = converted.im, converted.mode, None
    image.info.pop("transparency", None)


def _laced(pixels: NDArray[Any], missing: NDArray[np.bool_], lace: Lace) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Pixels of a finer pass as the one of the pass before it that stands for them; and what is missing still."""
    filled, left = pixels.copy(), missing.copy()
    rows, columns = np.arange(missing.shape[0]), np.arange(missing.shape[1])
    for height, width in lace:
        at = np.ix_(rows // height * height, columns // width * width)
        take = left & ~missing[at]
        filled[take] = pixels[at][take]
        left &= ~take
    return filled, left


def _boxes(image: Image.Image, rows: int = 256) -> list[tuple[int, int, int, int]]:
    """The picture in bands of whole passes: what is made on the way takes little memory that way."""
    width, height = image.size
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]


# --- formats --------------------------------------------------------------------------------------------------------


def _as_it_is(data: bytes) -> Iterator[_Mended]:
    yield _Mended(data, data)


def _bmp(data: bytes) -> Iterator[_Mended]:
    """`bmp.py` takes zeros for what is missing; the first row is the lowest one, unless the height is negative."""
    upwards = data[25:26] < b"\x80" or data[14:15] == b"\x0c"
    yield _Mended(data, data + _NOISE, streamed="bottom" if upwards else "top")


def _ico(data: bytes) -> Iterator[_Mended]:
    """The same, of pictures that are no PNGs, in which nothing tells what is missing."""
    if SIGNATURE not in data:
        yield _Mended(data, data + _noise(_LARGEST_ICON_BYTES))


def _png(data: bytes) -> Iterator[_Mended]:
    for bare in (False, True):
        made = rebuilt(data, bare=bare)
        if made is not None:
            yield _Mended(made, made)


def _jpeg(data: bytes) -> Iterator[_Mended]:
    """With an end; then without what stands between its segments, and those that a picture does not need."""
    for head, scans in _jpeg_parts(data):
        body = scans.rstrip(b"\xff")  # half a marker
        end = _scan_end(head, body)
        if (
            body[end : end + 16].lstrip(b"\xff")[:1] in _MORE
        ):  # the first scan is over: something of every pixel is there
            yield _Mended(head + body + _EOI, head + body + _EOI)
        else:
            yield _Mended(head + body[:end] + _EOI, head + body[:end] + _NOISE + _EOI, streamed="top")


def _scan_end(head: bytes, body: bytes) -> int:
    """Where the first scan ends: at a marker that is not between its own intervals."""
    found = (_MARKER if _RESTARTS in head else _ANY_MARKER).search(body, 2)
    return found.start() if found else len(body)


def _jpeg_parts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Its header, as it is and made anew, and its scans."""
    kept, start, at = [data[:2]], 0, 2
    while not start and 0 <= (at := data.find(b"\xff", at)) < len(data) - 4:
        marker = data[at + 1]
        if marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _SOS[1]:
            start = at
        elif marker in (*_TABLES, *_SEGMENTS):
            kept.append(data[at:end])
        at = end
    if start:
        yield data[:start], data[start:]
        yield b"".join(kept), data[start:]


def _webp(data: bytes) -> Iterator[_Mended]:
    """With zeros in place of the rest of a cut chunk of pixels, or without a cut one of anything else."""
    chunks: list[bytes] = []
    at = 12
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        end = at + 8 + size + size % 2
        if end > len(data):
            drawn = any(chunk[:4] in (b"VP8 ", b"VP8L", b"ANMF") for chunk in chunks)
            if drawn or kind not in (b"VP8 ", b"VP8L", b"ANMF") or end - len(data) > _PADDING_BYTES:
                break
            chunks.append(data[at:])
            missing = end - len(data)
            yield _Mended(_riff(chunks, bytes(missing)), _riff(chunks, _noise(missing)), streamed="top")
            return
        chunks.append(data[at:end])
        at = end
    whole = _riff(chunks, b"")
    yield _Mended(whole, whole)


def _riff(chunks: list[bytes], padding: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks) + padding
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _boxed(data: bytes) -> Iterator[_Mended]:
    """An ISO base media file with zeros in place of the rest of its last box."""
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
        yield _Mended(data + bytes(missing), data + _noise(missing), streamed="top")


def _noise(size: int) -> bytes:
    return (_NOISE * (size // len(_NOISE) + 1))[:size]


_MENDS: dict[str, Callable[[bytes], Iterator[_Mended]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _as_it_is,
    "BMP": _bmp,
    "ICO": _ico,
    "CUR": _ico,
    "TIFF": _as_it_is,
    "WEBP": _webp,
    "AVIF": _boxed,
    "HEIF": _boxed,
}
_TILED = ("JPEG", "PNG", "GIF", "BMP", "ICO", "CUR", "TIFF")
"""Formats of which a picture may remain half done: they are decoded into one that is there already."""
