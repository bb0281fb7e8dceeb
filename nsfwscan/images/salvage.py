"""Try a damaged file a second time, tolerantly, and show what a browser would show of it.

White stands where the file gives nothing. The row says so among the signals:

    decode.salvaged             the strict way failed, and this one did not
    decode.complete             share of the pixels that the file gives, 0 to 1; of a progressive JPEG a pixel counts
                                from its first, coarse scan on

Nothing is guessed: the file is decoded twice, with other bytes in place of what is missing (`formats/repair.py`) and on
another ground; a pixel that comes out differently is not the file's. In formats that are one stream from top to bottom,
nothing after the first such row is.

Skia's codecs would be another way: of 57 files of other projects' test suites that Chromium shows and Pillow refuses,
they open 53, this module 54 (skia-python 144.1). They take 50 MB, libEGL and libGL, and do not say what is missing.

Pillow's tolerant modes are global. They are set for this try alone, in a process that does nothing else meanwhile, and
lift no limit of ours: size, memory and time are limited as for the first try, and the time is that of both together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, PngImagePlugin

from nsfwscan.errors import RowError, Status
from nsfwscan.images.formats.png_chunks import PROFILE_BYTES
from nsfwscan.images.formats.registry import READ
from nsfwscan.images.formats.repair import Repaired

Opener = Callable[[bytes], Image.Image]
"""Opens a file within the limits, and loads nothing."""
Mask = NDArray[np.bool_]
Lace = tuple[tuple[int, int], ...]

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
    """Rest of a damaged file.

    Args:
        image: loaded.
        complete: share of its pixels that the file gives, over 0 to 1.
        repaired: the file that opens.
    """

    image: Image.Image
    complete: float
    repaired: Repaired

    @property
    def signals(self) -> dict[str, float]:
        """Return the signals of the row."""
        return {"decode.salvaged": 1.0, "decode.complete": self.complete}


def salvaged(data: bytes, name: str, opened: Opener) -> Salvaged | None:
    """Return what there is of a damaged file; None where there is nothing.

    Args:
        name: of the format that it claims to be; Pillow's name.
        opened: opens a repaired file.

    Raises:
        MemoryError: the file needs more memory than this process may have.
        RowError: the file is too large, as `opened` says.
    """
    if name not in READ:
        return None
    partial = READ[name].keeps_partial
    with _tolerant(partial):
        tries = (_tried(repaired, opened, partial=partial) for repaired in READ[name].repair(data))
        return next((found for found in tries if found is not None), None)


@contextmanager
def _tolerant(truncated: bool) -> Iterator[None]:
    """Set Pillow's tolerant modes, until the end."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK
    ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = truncated, PROFILE_BYTES
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES, PngImagePlugin.MAX_TEXT_CHUNK = before


def _tried(repaired: Repaired, opened: Opener, *, partial: bool) -> Salvaged | None:
    image, other = _opened(repaired.data, opened), _opened(repaired.other, opened)
    if image is None or other is None:
        return None
    lace, tiles = _lace_of(image), list(getattr(image, "tile", ())) if partial else []
    if not (_load(image, 255, partial) and _load(other, 0, partial)):
        return None
    if (other.mode, other.size) != (image.mode, image.size):
        return None
    missing = _different(image, other)
    del other
    if repaired.streamed and missing.any():
        rows = missing if repaired.streamed == "top" else missing[::-1]
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
    return Salvaged(image, complete, repaired)


def _area(box: tuple[int, int, int, int], size: tuple[int, int]) -> int:
    """Return how many pixels of a box lie in a picture of that size."""
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
    """Load what there is of an image, on a ground of that level in all channels. Return whether there is anything."""
    tiles, prepare = list(getattr(image, "tile", ())), getattr(image, "load_prepare", None)

    def prepared() -> None:
        assert prepare is not None
        prepare()
        bands = Image.getmodebands(image.mode)
        for tile in tiles:
            image.im.paste(ground if bands == 1 else (ground,) * bands, tile[1])

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


def _lace_of(image: Image.Image) -> Lace:
    """Return how many rows and columns a pixel of each pass stands for, where the picture is interlaced."""
    tile = next(iter(getattr(image, "tile", ())), None)
    if image.format == "PNG" and image.info.get("interlace"):
        return _ADAM7
    if image.format == "GIF" and tile is not None and tile[3][1]:
        return _GIF_LACE
    return ()


def _different(image: Image.Image, other: Image.Image) -> Mask:
    """Return where two images differ, [H, W]."""
    apart = np.zeros(image.size[::-1], np.bool_)
    for box in _boxes(image):
        unlike = np.asarray(image.crop(box)) != np.asarray(other.crop(box))
        apart[box[1] : box[3]] = unlike if unlike.ndim == 2 else unlike.any(axis=2)
    return apart


def _whiten(image: Image.Image, missing: Mask, lace: Lace) -> None:
    """Show white where the file gives nothing, not even a coarser pass."""
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
    """Convert an image in place: this object knows its file and its EXIF."""
    image.im, image._mode, image.palette = converted.im, converted.mode, None
    image.info.pop("transparency", None)


def _laced(pixels: NDArray[Any], missing: Mask, lace: Lace) -> tuple[NDArray[Any], Mask]:
    """Fill missing pixels of a finer pass from the pass before it; return the pixels, and what is missing still."""
    filled, left = pixels.copy(), missing.copy()
    rows, columns = np.arange(missing.shape[0]), np.arange(missing.shape[1])
    for height, width in lace:
        at = np.ix_(rows // height * height, columns // width * width)
        take = left & ~missing[at]
        filled[take] = pixels[at][take]
        left &= ~take
    return filled, left


def _boxes(image: Image.Image, rows: int = 256) -> list[tuple[int, int, int, int]]:
    """Return the picture in bands of whole passes, so that intermediate results take little memory."""
    width, height = image.size
    return [(0, top, width, min(top + rows, height)) for top in range(0, height, rows)]
