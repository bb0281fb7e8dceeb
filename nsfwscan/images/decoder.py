"""Decode the bytes of a file: to an upright RGB picture, to the models' pixels, and to what the file says about itself.

`decode` names the steps in their order, and each step is a module. Whatever is wrong with a file is a `RowError`; where
memory ran out it is a `MemoryError`. A file may take its whole process down: `sandbox/child.py` runs this module in a
process of its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import ceil
from typing import Any

from PIL import ExifTags, Image

from nsfwscan.errors import ErrorCode, RowError, Status
from nsfwscan.images.colours import encoding_of, in_srgb, keyed
from nsfwscan.images.formats.endings import is_cut_off
from nsfwscan.images.formats.orientation import orientation_of, upright, upright_size
from nsfwscan.images.formats.registry import FORMATS, claimed_format
from nsfwscan.images.formats.unsupported_kinds import undecoded_kind
from nsfwscan.images.frames import count_frames, first_frame, load_frame
from nsfwscan.images.opening import Facts, as_row_error, check_pixels, open_within
from nsfwscan.images.out_of_memory import forget_lack_of_memory, lacks_memory
from nsfwscan.images.pdq import pdq_of
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.profiles import settle_profile
from nsfwscan.images.provenance.signals import MOST_SIGNALS, Signals, Verify, signals_of
from nsfwscan.images.salvage import salvaged
from nsfwscan.images.screenshots import screenshot_signals
from nsfwscan.images.srgb import to_srgb

_TAGS = (ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.Software)
_TEXT_LIMIT = 120
_FAST_MARGIN = 2.9
"""How much larger than the model's pixels a JPEG stays that is decoded at reduced scale. Measured on 267 versions of
photographs with edges of 600 to 5,640 pixels (tests/images/test_reduced.py, with NSFWSCAN_PHOTOS the JPEGs of Debian's
mate-backgrounds 1.26): the score of open_nsfw that moves most moves by 0.013 at 2.9, 0.031 at 2, 0.060 at 1; that of
DINOv2 by 0.009, 0.016, 0.065. A little below 3, so that 12 megapixels still become a sixteenth for 256 pixels."""


@dataclass(frozen=True)
class Decoded:
    """An upright RGB image, and what its file says.

    Attributes:
        data: the file, as it was decoded: repaired where it was damaged.
    """

    image: Image.Image
    facts: Facts
    data: bytes


def to_pixels(data: bytes, *geometries: Geometry, fast: bool = False, **how: Any) -> tuple[Facts, bytes]:
    """Return what a file says about itself, and the models' pixels of its first frame, as `decoded_pixels`."""
    decoded, pixels = decoded_pixels(data, *geometries, fast=fast, **how)
    return decoded.facts, pixels


def decoded_pixels(data: bytes, *geometries: Geometry, fast: bool = False, **how: Any) -> tuple[Decoded, bytes]:
    """Return the first frame of a file, and the models' pixels of it: `geometry.nbytes` bytes for each geometry, one
    after the other.

    Args:
        fast: decode a large JPEG at a half, a quarter or an eighth of its scale, and resize it from there.
        data, **how: as for `decode`.

    Raises:
        RowError, MemoryError: as `decode`.
    """
    decoded = decode(data, reduced=partial(_reduce, geometries) if fast else None, **how)
    with as_row_error(decoded.facts):
        return decoded, b"".join(geometry.apply(decoded.image) for geometry in geometries)


def decode(
    data: bytes,
    *,
    max_pixels: int,
    formats: Sequence[str] = FORMATS,
    reduced: Callable[[Image.Image], None] | None = None,
    hashed: bool = False,
    examined: bool = False,
    verify: Verify | None = None,
    screens: bool = False,
) -> Decoded:
    """Return the first frame as an upright sRGB image on white, in the colours that browsers show.

    Args:
        data: the whole encoded file.
        max_pixels: a file of more pixels (width x height) is not decoded.
        formats: Pillow's names of the formats that are opened.
        reduced: asks an opened image, before it is loaded, for a smaller scale. The facts stay those of the file, but
            for a hash.
        hashed: the facts have its PDQ hash.
        examined: the facts have its `signals`, None where there are none: see `provenance/signals.py`. The signals of
            decoding itself (`salvage.py`, `colours.py`) are there in any case.
        verify: what verifies C2PA manifests, where it is examined.
        screens: the signals say how likely it is a picture of a screen (`screenshots.py`).

    Raises:
        RowError: `unsupported`, `too_large` or `decode_error`, with the facts that the header gave.
        MemoryError: the file needs more memory than this process may have.
    """
    described = partial(_described, data, hashed=hashed, examined=examined, verify=verify, screens=screens)
    forget_lack_of_memory()
    with warnings.catch_warnings(action="ignore"):  # Pillow warns of odd files; what matters becomes a status
        try:
            image, facts = open_within(data, max_pixels, formats)
            with as_row_error(facts):
                image = first_frame(image, data, max_pixels)
                opened = image.size
                if reduced is not None:
                    reduced(image)
                asked = image.size
                load_frame(image, data)
                return described(image, facts, opened if asked != opened else None)
        except RowError as error:
            if error.status != Status.DECODE_ERROR:
                raise
            if kind := undecoded_kind(data, error.message):
                raise RowError(ErrorCode.CODEC_MISSING, f"{kind} is not supported", error.values) from error
            code = ErrorCode.TRUNCATED if is_cut_off(data, error.values.get("format")) else error.code
            damage = RowError(code, error.message, error.values)  # without what holds the first try's memory
        image = None  # type: ignore[assignment]
        return _salvaged(data, damage, max_pixels, formats, described)


def _salvaged(
    data: bytes, damage: RowError, max_pixels: int, formats: Sequence[str], described: Callable[..., Decoded]
) -> Decoded:
    """Return what a tolerant second try makes of a damaged file. Raises `damage` where it makes nothing of it."""
    if lacks_memory():
        raise MemoryError
    name = claimed_format(data, formats)
    if name is None:
        raise damage
    with as_row_error({"format": name, **damage.values}, damage.code):
        found = salvaged(data, name, lambda repaired: open_within(repaired, max_pixels, formats)[0])
        if lacks_memory():
            raise MemoryError
        if found is None:
            raise damage
        facts = check_pixels(found.image.format, found.image.size, max_pixels)
        decoded = described(found.image, facts, signals=found.signals)
        if decoded.facts["frames"] is not None:
            decoded.facts["frames"] += found.repaired.lost
        return replace(decoded, data=found.repaired.data)


def _described(
    data: bytes,
    image: Image.Image,
    facts: Facts,
    before: tuple[int, int] | None = None,
    *,
    hashed: bool,
    examined: bool,
    verify: Verify | None,
    screens: bool,
    signals: Signals | None = None,
) -> Decoded:
    """Return the upright picture of a loaded image, and its facts.

    Args:
        before: the size of the image before it was reduced; None where it was not.
        signals: what is known of its decoding.
    """
    exif, size, orientation = exif_of(image), before or image.size, orientation_of(image, data)
    settle_profile(image, data)
    encoding, shown, signals = encoding_of(data, image), keyed(image, data), signals or {}
    if encoding is not None:
        shown = in_srgb(shown, encoding)
        signals |= {"decode.hdr": 1.0} if encoding.is_hdr else {}
    facts |= {"frames": count_frames(image, data), **makers_of(exif)}
    if hashed:
        facts["pdq"], facts["pdq_quality"] = pdq_of(_as_stored(shown))
    if examined or signals:
        found = signals_of(data, image, size, verify) if examined else {}
        facts["signals"] = dict(islice({**signals, **found}.items(), MOST_SIGNALS)) or None
    turned = upright(to_srgb(shown), orientation)
    if screens:
        known = {**screenshot_signals(turned), **(facts.get("signals") or {})}
        facts["signals"] = dict(islice(known.items(), MOST_SIGNALS))
    width, height = upright_size(before, orientation) if before else turned.size
    return Decoded(turned, {**facts, "width": width, "height": height}, data)


def frame_of(image: Image.Image, data: bytes, *, hashed: bool) -> tuple[Image.Image, Facts]:
    """Return a further frame of a file as `decode` returns the first one, and its hash: `pdq`, `pdq_quality`.

    Args:
        image: loaded.
        data: the whole encoded file.
    """
    orientation = orientation_of(image, data)
    settle_profile(image, data)
    encoding, shown = encoding_of(data, image), keyed(image, data)
    if encoding is not None:
        shown = in_srgb(shown, encoding)
    pdq, quality = pdq_of(_as_stored(shown)) if hashed else (None, None)
    return upright(to_srgb(shown), orientation), {"pdq": pdq, "pdq_quality": quality}


def header(data: bytes, *, max_pixels: int, formats: Sequence[str] = FORMATS) -> Facts:
    """Return `format`, `width` and `height` as they are stored, before any turning. Raises as `decode`; more files have
    a header that can be read than pixels that can be decoded."""
    with warnings.catch_warnings(action="ignore"):
        return open_within(data, max_pixels, formats)[1]


def _reduce(geometries: Sequence[Geometry], image: Image.Image) -> None:
    """Ask libjpeg for the smallest scale that leaves `_FAST_MARGIN` times what the geometries resize to, whether the
    picture is turned or not. Nothing changes for other formats."""
    width, height = image.size
    stored = [geometry.resized((width, height)) for geometry in geometries]
    turned = [geometry.resized((height, width))[::-1] for geometry in geometries]
    wanted = tuple(max(sizes) for sizes in zip(*stored, *turned, strict=True))
    image.draft(None, (ceil(wanted[0] * _FAST_MARGIN), ceil(wanted[1] * _FAST_MARGIN)))


def _as_stored(image: Image.Image) -> Image.Image:
    """Return the frame that PDQ's reference would hash: RGB as it is stored, without applying profile, transparency or
    orientation; what Pillow cannot convert plainly, as we show it."""
    try:
        return image if image.mode == "RGB" else image.convert("RGB")
    except ValueError:
        return to_srgb(image)


def makers_of(exif: Image.Exif) -> Facts:
    """Return `camera` and `software`."""
    make, model, software = (_text(exif.get(tag)) for tag in _TAGS)
    return {"camera": " ".join(part for part in (make, model) if part) or None, "software": software}


def exif_of(image: Image.Image) -> Image.Exif:
    """Return the EXIF of an opened image; empty where there is none that can be read."""
    try:
        return image.getexif()
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # malformed EXIF is common and harmless
        return Image.Exif()


def _text(value: Any) -> str | None:
    """Return an EXIF string without control characters; None where it is empty or no string."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if not isinstance(value, str):
        return None
    clean = "".join(c for c in value if c.isprintable()).strip()
    return clean[:_TEXT_LIMIT].encode("utf-8", errors="replace").decode() or None
