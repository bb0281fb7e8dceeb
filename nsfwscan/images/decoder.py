"""Encoded bytes to an upright picture and the model's pixels, and what the file says about itself.

In: the bytes of a file. Out: an RGB image, or `H*W*3` uint8 of a model's geometry, and `format, width, height, frames,
camera, software, pdq, pdq_quality, signals`. Formats are known by content and restricted to an allow-list; the header's
size is checked before anything is decoded. Whatever is wrong with a file is a `RowError`; where memory ran out it is a
`MemoryError`. What takes a whole process down is the business of `child.py`, which runs this in a process of its own.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from math import ceil
from typing import Any

import numpy as np
import pi_heif
from PIL import Image, ImageCms, UnidentifiedImageError

from nsfwscan.errors import RowError, Status
from nsfwscan.images.colours import encoding_of, in_srgb, keyed
from nsfwscan.images.formats import bmp, ico, tiff
from nsfwscan.images.formats.bmp import BmpFile
from nsfwscan.images.formats.content_names import content_of
from nsfwscan.images.formats.ico import IcoFile
from nsfwscan.images.formats.levels import Range, range_of
from nsfwscan.images.formats.png_chunks import hidden_default
from nsfwscan.images.formats.salvage import become, forget_lack_of_memory, lacks_memory, salvaged
from nsfwscan.images.formats.tiff import TiffFile
from nsfwscan.images.formats.unsupported_kinds import undecoded_kind
from nsfwscan.images.pdq import pdq_of
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.signals import MOST_SIGNALS, Signals, signals_of

Facts = dict[str, Any]
"""Values of the content columns."""
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "ICO", "TIFF", "AVIF", "HEIF")
"""Allow-list of formats (MPO comes through JPEG's, CUR through ICO's). PSD, EPS, FITS, JPEG2000 and the like are left
out for their security history."""

_OWN = {"BMP": (BmpFile, bmp.accepts), "ICO": (IcoFile, ico.accepts), "TIFF": (TiffFile, tiff.accepts)}
"""What opens a format here, and how such a file begins; for the others, it is Pillow's plugin of that name."""

_MAKE, _MODEL, _SOFTWARE = 0x010F, 0x0110, 0x0131  # EXIF 2.3, table 4
_ORIENTATION = 0x0112
_HEAD_BYTES = 2**16
"""In which an animated PNG says that it is one: its `acTL` stands before the pixels."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_TEXT_LIMIT = 120
_FAST_MARGIN = 2.9
"""How much larger than the model's pixels a JPEG stays that is decoded at reduced scale. Measured on 267 versions of
photographs with edges of 600 to 5,640 pixels (tests/images/test_reduced.py, with NSFWSCAN_PHOTOS the JPEGs of Debian's
mate-backgrounds 1.26): the score of open_nsfw that moves most moves by 0.013 at 2.9, 0.031 at 2, 0.060 at 1; that of
DINOv2 by 0.009, 0.016, 0.065. A little below 3, so that 12 megapixels still become a sixteenth for 256 pixels."""


@dataclass(frozen=True)
class Decoded:
    """An upright RGB image, and what its file says."""

    image: Image.Image
    facts: Facts


@lru_cache(maxsize=1)
def register_formats() -> None:
    """Makes Pillow know its own formats and HEIC; once a process."""
    Image.init()
    pi_heif.register_heif_opener()
    for name, (opens, accepts) in _OWN.items():
        Image.register_open(_opener(name), opens, accepts)  # beside Pillow's own, which stays as it is for others


def _opener(name: str) -> str:
    """The plugin that opens a format."""
    return f"NSFWSCAN {name}" if name in _OWN else name


def to_pixels(data: bytes, *geometries: Geometry, fast: bool = False, **how: Any) -> tuple[Facts, bytes]:
    """What the file says about itself, and the models' pixels of its first frame: `geometry.nbytes` bytes for each
    geometry, one after the other.

    Args:
        fast: decode a large JPEG at a half, a quarter or an eighth of its scale, and resize it from there.
        data, **how: as for `decode`.

    Raises:
        RowError, MemoryError: as `decode`; and `too_large` where resizing would make a sliver enormous.
    """
    decoded = decode(data, reduced=partial(_reduce, geometries) if fast else None, **how)
    size = decoded.facts["width"], decoded.facts["height"]
    for geometry in geometries:
        _check_resized(geometry.resized(size), how["max_pixels"], decoded.facts)
    with _as_row_error(decoded.facts):
        return decoded.facts, b"".join(geometry.apply(decoded.image) for geometry in geometries)


def decode(
    data: bytes,
    *,
    max_pixels: int,
    formats: Sequence[str] = FORMATS,
    reduced: Callable[[Image.Image], None] | None = None,
    hashed: bool = False,
    examined: bool = False,
) -> Decoded:
    """The first frame as an upright sRGB image on white.

    Args:
        data: the whole encoded file.
        max_pixels: width x height over which a file is not decoded.
        formats: Pillow's names of those that are opened.
        reduced: asks an image that was opened, and not loaded, for a smaller scale. The facts stay those of the file,
            but for a hash.
        hashed: the facts have its PDQ hash.
        examined: the facts have its `signals`, None where there are none: see `provenance/signals.py`.

    Colours are as browsers show them, see `colours.py`. What cannot be decoded strictly is tried again tolerantly, see
    `salvage.py`. Their `signals` are there, `examined` or not.

    Raises:
        RowError: `unsupported`, `too_large` or `decode_error`, with the facts that the header gave.
        MemoryError: this process may not have as much memory as it takes.
    """
    wanted = _Wanted(hashed, examined)
    forget_lack_of_memory()
    with _quiet():
        try:
            image, facts = _open_within(data, max_pixels, formats)
            with _as_row_error(facts):
                image = _shown(image, data, max_pixels)
                opened = image.size
                if reduced is not None:
                    reduced(image)
                asked = image.size
                around = _around(image)
                image.load()
                _clear(image, around)
                return _described(image, data, facts, wanted, opened if asked != opened else None)
        except RowError as error:
            if error.status != Status.DECODE_ERROR:
                raise
            if kind := undecoded_kind(data):
                raise RowError(Status.UNSUPPORTED, f"{kind} is not supported", error.values) from error
            damage = RowError(error.status, error.message, error.values)  # without what holds the first try's memory
        image = None  # type: ignore[assignment]
        return _salvaged(data, damage, max_pixels, formats, wanted)


@dataclass(frozen=True)
class _Wanted:
    """As `decode` is asked for it."""

    hashed: bool
    examined: bool


def _salvaged(data: bytes, damage: RowError, max_pixels: int, formats: Sequence[str], wanted: _Wanted) -> Decoded:
    """What a tolerant second try makes of a damaged file. Raises `damage` where it makes nothing of it."""
    if lacks_memory():
        raise MemoryError  # few codecs in C tell a lack of memory from a broken file
    name = _claimed_format(data, formats)
    if name is None:
        raise damage
    with _as_row_error({"format": name, **damage.values}):
        found = salvaged(data, name, lambda mended: _open_within(mended, max_pixels, formats)[0])
        if lacks_memory():
            raise MemoryError
        if found is None:
            raise damage
        facts = _check_pixels(found.image.format, found.image.size, max_pixels)
        return _described(found.image, data, facts, wanted, None, found.signals)


def _described(
    image: Image.Image,
    data: bytes,
    facts: Facts,
    wanted: _Wanted,
    before: tuple[int, int] | None,
    signals: Signals | None = None,
) -> Decoded:
    """The upright picture of a loaded image, and its facts.

    Args:
        before: its size, where it was reduced.
        signals: what is known of its decoding.
    """
    exif, size = _exif_of(image), before or image.size
    encoding, shown, signals = encoding_of(data, image), keyed(image, data), signals or {}
    if encoding is not None:
        shown = in_srgb(shown, encoding)
        signals |= {"decode.hdr": 1.0} if encoding.is_hdr else {}
    facts |= {"frames": _frames(image, data), "camera": _camera(exif), "software": _text(exif.get(_SOFTWARE))}
    if wanted.hashed:
        facts["pdq"], facts["pdq_quality"] = pdq_of(_as_the_reference_has_it(shown))
    if wanted.examined or signals:
        found = signals_of(data, image, size) if wanted.examined else {}
        facts["signals"] = dict(islice({**signals, **found}.items(), MOST_SIGNALS)) or None
    upright = _upright(_to_rgb(shown), exif)
    width, height = _upright_size(before, exif) if before else upright.size
    return Decoded(upright, {**facts, "width": width, "height": height})


def _shown(image: Image.Image, data: bytes, max_pixels: int) -> Image.Image:
    """Of an animated PNG whose default image is not part of it, the first frame, which is what people see."""
    found = hidden_default(data) if image.format == "PNG" and b"acTL" in data[:_HEAD_BYTES] else None
    if found is None:
        return image
    png, (left, top, *_) = found
    frame = Image.open(io.BytesIO(png), formats=[_opener("PNG")])
    _check_pixels("PNG", frame.size, max_pixels)
    frame.n_frames = max(1, getattr(image, "n_frames", 1) - 1)  # type: ignore[attr-defined]
    if frame.size == image.size:
        return frame
    canvas = Image.new("RGBA", image.size)
    canvas.paste(frame.convert("RGBA"), (left, top))
    canvas.format, canvas.info = "PNG", {**frame.info}
    canvas.info.pop("transparency", None)
    canvas.n_frames = frame.n_frames  # type: ignore[attr-defined]
    return canvas


def _around(image: Image.Image) -> tuple[Box, ...]:
    """What the first frame of a GIF leaves of its screen, which shows what is behind it."""
    tile = next(iter(getattr(image, "tile", ())), None)
    if image.format != "GIF" or tile is None or "transparency" in image.info:
        return ()
    (left, top, right, bottom), (width, height) = tile[1], image.size
    bands = (0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)
    return tuple(box for box in bands if box[0] < box[2] and box[1] < box[3])


def _clear(image: Image.Image, boxes: tuple[Box, ...]) -> None:
    """Makes a loaded image transparent there."""
    if boxes:
        become(image, image.convert("RGBA"))
        for box in boxes:
            image.paste((255, 255, 255, 0), box)


def header(data: bytes, *, max_pixels: int, formats: Sequence[str] = FORMATS) -> Facts:
    """`format`, `width` and `height` as they are stored, before any turning. Raises as `decode`, which does not come so
    far with every file."""
    with _quiet():
        return _open_within(data, max_pixels, formats)[1]


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow warns of large or odd files; what matters becomes a status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _open_within(data: bytes, max_pixels: int, formats: Sequence[str]) -> tuple[Image.Image, Facts]:
    register_formats()
    _lift_limit_of_pillow(max_pixels)
    if (canvas := _webp_canvas(data)) is not None:
        _check_pixels("WEBP", canvas, max_pixels)  # Pillow makes room for two canvases when it opens one
    image = _open(data, formats)
    return image, _check_pixels(image.format, image.size, max_pixels)


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Width and height by a WebP's first chunk (RFC 9649, 2.5 to 2.7); None where it is none."""
    kind, head = data[8:16].removeprefix(b"WEBP"), int.from_bytes(data[20:30], "little")
    if kind == b"VP8X":
        return (head >> 32 & 0xFFFFFF) + 1, (head >> 56 & 0xFFFFFF) + 1
    if kind == b"VP8L":
        return (head >> 8 & 0x3FFF) + 1, (head >> 22 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return head >> 48 & 0x3FFF, head >> 64 & 0x3FFF
    return None


def _lift_limit_of_pillow(max_pixels: int) -> None:
    """Pillow refuses images of more than twice its own limit; where ours is higher than that, ours holds."""
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2


@contextmanager
def _as_row_error(facts: Facts) -> Iterator[None]:
    """Pillow's plugins raise nearly anything on a malformed file; all of it is the file's fault, and its row's."""
    try:
        yield
    except (RowError, MemoryError):
        raise
    except Exception as error:
        words = f"the {facts['format']} data is damaged: {_first_line(error)}"
        raise RowError(Status.DECODE_ERROR, words, facts) from error


def _open(data: bytes, formats: Sequence[str]) -> Image.Image:
    if not data:
        raise RowError(Status.UNSUPPORTED, "empty: 0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=[_opener(name) for name in formats])
    except Image.DecompressionBombError:
        return _open_large(data, formats)
    except UnidentifiedImageError:
        claimed = _claimed_format(data, formats)
        if claimed is None:
            words = f"not a format that is scanned: looks like {content_of(data).name}"
            raise RowError(Status.UNSUPPORTED, words) from None
        raise RowError(
            Status.DECODE_ERROR, f"begins like {claimed}, but its header is damaged", {"format": claimed}
        ) from None
    except (MemoryError, RowError):
        raise
    except Exception as error:
        words = f"the header is damaged: {_first_line(error)}"
        raise RowError(Status.DECODE_ERROR, words, {"format": _claimed_format(data, formats)}) from error


def _open_large(data: bytes, formats: Sequence[str]) -> Image.Image:
    """Reads the header that Pillow's own limit refuses, so that the row can say how large the image claims to be."""
    claimed = _claimed_format(data, formats)
    if claimed is None:
        raise RowError(Status.TOO_LARGE, "more pixels than Pillow accepts")
    factory, _ = Image.OPEN[_opener(claimed)]
    try:
        image: Image.Image = factory(io.BytesIO(data), "")
    except Exception as error:  # a GIF's first frame may be larger than the file's own size
        raise RowError(Status.TOO_LARGE, _first_line(error), {"format": claimed}) from error
    return image


def _claimed_format(data: bytes, formats: Sequence[str]) -> str | None:
    """The allowed format that the first bytes claim, by the plugins' own signatures."""
    for name in formats:
        _, accepts = Image.OPEN.get(_opener(name), (None, None))
        if accepts is not None and accepts(data[:16]) is True:
            return name
    return None


def _countable(pixels: int) -> int | None:
    """A declared length as the report can hold it; a 64-bit TIFF may claim more than there are integers."""
    return pixels if 0 <= pixels < 2**63 else None


def _check_pixels(name: str | None, size: tuple[int, int], max_pixels: int) -> Facts:
    width, height = size
    facts: Facts = {"format": name, "width": _countable(width), "height": _countable(height)}
    if width * height > max_pixels:
        words = f"{width:,} × {height:,} pixels, over the limit of {max_pixels:,} (--max-pixels)"
        raise RowError(Status.TOO_LARGE, words, facts)
    return facts


def _check_resized(size: tuple[int, int], max_pixels: int, facts: Facts) -> None:
    """A sliver of a few pixels may become enormous when its shortest edge is resized to the model's."""
    if size[0] * size[1] > max_pixels:
        shape, becomes = f"{facts['width']:,} × {facts['height']:,}", f"{size[0]:,} × {size[1]:,}"
        message = f"{shape} pixels become {becomes} in the model's preprocessing, over the limit of {max_pixels:,}"
        raise RowError(Status.TOO_LARGE, f"{message} (--max-pixels)", facts)


class _CountedReads(io.BytesIO):
    """A file that may only be read so often. A few megabytes can hold a million frames or pages, which nobody needs to
    know so exactly, and which are no reason to leave the first one undecoded."""

    _left = 3_000_000

    def read(self, size: int | None = -1, /) -> bytes:
        self._charge(1)
        return super().read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._charge(100)  # once or twice for each frame, which costs Pillow more than a read
        return super().seek(offset, whence)

    def _charge(self, reads: int) -> None:
        self._left -= reads
        if self._left < 0:
            raise _TooManyReads  # not an OSError: Pillow would take that for the end of the file


class _TooManyReads(Exception):
    pass


def _frames(image: Image.Image, data: bytes) -> int | None:
    """How many frames the file has; None where counting them fails or takes too long."""
    try:
        if image.format in ("GIF", "TIFF"):  # Pillow walks through the whole file; the others have a number in it
            image = Image.open(_CountedReads(data), formats=[_opener(image.format)])
        return int(getattr(image, "n_frames", 1))
    except Exception:  # noqa: BLE001
        return None


def _exif_of(image: Image.Image) -> Image.Exif:
    try:
        return image.getexif()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # malformed EXIF is common and harmless
        return Image.Exif()


def _camera(exif: Image.Exif) -> str | None:
    make, model = _text(exif.get(_MAKE)), _text(exif.get(_MODEL))
    return " ".join(part for part in (make, model) if part) or None


def _text(value: Any) -> str | None:
    """An EXIF string without control characters; None where it is empty or no string."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return None
    clean = "".join(c for c in value if c.isprintable()).strip()
    return clean[:_TEXT_LIMIT].encode("utf-8", errors="replace").decode() or None


def _upright(image: Image.Image, exif: Image.Exif) -> Image.Image:
    """Turned as its EXIF orientation says; other values than 2 to 8 turn nothing."""
    orientation = exif.get(_ORIENTATION)
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info.pop("exif", None)  # it would ask the next reader to turn it again
    return turned


def _upright_size(size: tuple[int, int], exif: Image.Exif) -> tuple[int, int]:
    """(width, height) after `_upright`."""
    return (size[1], size[0]) if exif.get(_ORIENTATION) in _SIDEWAYS else size


def _reduce(geometries: Sequence[Geometry], image: Image.Image) -> None:
    """Asks libjpeg for the smallest scale that leaves `_FAST_MARGIN` times what the geometries resize to, lying or
    upright. Nothing changes for other formats."""
    width, height = image.size
    lying = [geometry.resized((width, height)) for geometry in geometries]
    upright = [geometry.resized((height, width))[::-1] for geometry in geometries]
    wanted = tuple(max(sizes) for sizes in zip(*lying, *upright, strict=True))
    image.draft(None, (ceil(wanted[0] * _FAST_MARGIN), ceil(wanted[1] * _FAST_MARGIN)))


def _as_the_reference_has_it(image: Image.Image) -> Image.Image:
    """The frame that PDQ's reference would hash: RGB as it is stored, whatever its profile, its transparency and its
    orientation; what Pillow cannot convert plainly, as we show it."""
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode to 8-bit sRGB, alpha over white."""
    profile = image.info.get("icc_profile")
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _eight_bit(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _to_rgb_with_profile(_over_white(image), profile)
    return _to_rgb_with_profile(image, profile)


def _to_rgb_with_profile(image: Image.Image, profile: bytes | None) -> Image.Image:
    if image.mode in ("P", "1", "YCbCr", "HSV"):
        image = image.convert("RGB")
    if profile and image.mode in ("RGB", "CMYK", "L", "LAB"):
        transform = _to_srgb(bytes(profile), image.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(image, transform)
            if converted is not None:
                return converted
    if image.mode == "LAB":
        image = ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )  # type: ignore[assignment]
    return image if image.mode == "RGB" else image.convert("RGB")


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """A transform to sRGB; None where the profile is sRGB already, broken, or meant for another mode."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits, or floats, to 8 bits over the range that the type stands for."""
    values = np.asarray(image)
    strips = _strips(len(values))
    found = Range(shift=8) if image.mode.startswith("I;16") else range_of((values[s] for s in strips), 32)
    grey = np.empty(values.shape, np.uint8)
    for strip in strips:
        grey[strip] = found.levels(values[strip])
    return Image.fromarray(grey)


def _over_white(image: Image.Image) -> Image.Image:
    flat = Image.new("RGB", image.size)
    for strip in _strips(image.height):
        box = (0, strip.start, image.width, strip.stop)
        rgba = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        flat.paste(Image.alpha_composite(white, rgba).convert("RGB"), box)
    return flat


def _strips(height: int, rows: int = 256) -> list[slice]:
    """An image's rows, a few at a time: what is made on the way to the result takes little memory that way."""
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:_TEXT_LIMIT]
