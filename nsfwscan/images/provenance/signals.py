"""Collect signals of how a file was made: names with numbers (1: it is so), never a verdict.

Anybody can write metadata; it is often malformed and sometimes hostile, and then gives no signal. Only so much of it is
read (`_EXIF_BYTES`, `_TEXT_BYTES`), whatever a file claims.

    c2pa.manifest               a C2PA manifest is embedded; with `decode.c2pa`, `credentials.py` verifies it
    c2pa.remote_manifest        XMP says where a manifest is
    c2pa.<term>, iptc.<term>    a DigitalSourceType in the manifest (or in one of its ingredients'), in XMP
    generator.parameters        the prompt or the settings of an image generator
    generator.<tool>            an image generator, named where tools write their names
    software.<tool>             an editor, named there
    exif.camera_absent          a JPEG or HEIF without make and model, as after most uploads
    exif.exposure_absent        a make, and neither exposure time nor aperture nor sensitivity
    exif.dates_contradict       changed or digitised before it was taken
    exif.dimensions_differ      EXIF states another size
    exif.gps_out_of_range       a place that is not on Earth
    thumbnail.distance          mean difference of EXIF's thumbnail and the image, 0 to 1: of 25 photographs, under
                                0.02 from their own, whatever cameras do to it, and over 0.07 from another's
    jpeg.double_quantisation    how much a JPEG looks as compressed twice, 0 to 1: see `quantisation.py`
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import islice
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from nsfwscan.documents import load_yaml
from nsfwscan.images.formats.registry import plugin_of
from nsfwscan.images.provenance.c2pa import manifests_of
from nsfwscan.images.provenance.quantisation import double_quantisation

Signals = dict[str, float]
Verify = Callable[[bytes], Signals]
"""What verifies the C2PA manifests of a whole file."""

MOST_SIGNALS = 32
LONGEST_NAME = 64

_EXIF_BLOCK, _EXIF_BYTES, _EXIF_READS = 2**20, 2**18, 5_000
"""Limits on what is read: bytes of a block, thumbnail and all; bytes of its tags; number of reads."""
_TEXT_BYTES = 2**16
_THUMBNAIL_EDGE, _THUMBNAIL_PIXELS = 256, 512 * 512
"""A larger thumbnail is decoded at a scale that leaves as much; one that has too many pixels even then is not."""

_SOURCE_TYPE = re.compile(rb"newscodes/digitalsourcetype/(\w{1,64})")
_ASKED = re.compile(
    r"\bSteps: \d+, Sampler: |\"class_type\"|^(?:prompt|workflow):\s*\{|\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-"
)
"""Text that generators write into fields for people: AUTOMATIC1111, ComfyUI (also as make and model), Midjourney."""
_TABLES: dict[str, Any] = load_yaml(Path(__file__).with_name("tools.yaml").read_text(encoding="utf-8"))
SOURCE_TYPES = frozenset[str](_TABLES["source_types"])
"""DigitalSourceTypes that there are; others are `other`."""
_TOOL_IN_XMP = re.compile(rb"(?:CreatorTool|softwareAgent|photoshop:Credit)(?:=[\"']|>)([^\"'<>]{1,200})")

_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_ZONES = timedelta(hours=26)
"""EXIF's times are local, and the tool that changed a file may be in another zone: UTC-12 to UTC+14."""
_SIDE = 32
"""Edge, in pixels, at which a thumbnail and its image are compared."""

Grey = NDArray[np.float32]


def signals_of(data: bytes, image: Image.Image, size: tuple[int, int], verify: Verify | None = None) -> Signals:
    """Return at most `MOST_SIGNALS` names of at most `LONGEST_NAME` printable characters, with finite numbers. Raises
    MemoryError where the file needs more memory than this process may have.

    Args:
        data: the whole file.
        image: as Pillow opened it, loaded; only a thumbnail is decoded here.
        size: width and height by the header; the image may have been decoded at a reduced scale.
        verify: asked where there is a C2PA manifest; unset: nobody checks it.
    """
    file, found = _File(data, image, size, verify), Signals()
    for look in _LOOKS:
        try:
            found |= {name[:LONGEST_NAME]: float(value) for name, value in look(file)}
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # malformed metadata is common and harmless
            continue
    finite = ((name, value) for name, value in found.items() if isfinite(value))
    return dict(islice(finite, MOST_SIGNALS))


def thumbnail_of(data: bytes, name: str) -> bytes | None:
    """Return EXIF's thumbnail of a file, as it is stored; None where there is none that can be read."""
    try:
        with Image.open(io.BytesIO(data), formats=[plugin_of(name)]) as image:
            return _File(data, image, image.size).thumbnail
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # as above
        return None


@dataclass(frozen=True)
class _File:
    """A file, and the parts of its metadata, read once for all looks."""

    data: bytes
    image: Image.Image
    size: tuple[int, int]
    verify: Verify | None = None

    @cached_property
    def exif(self) -> Image.Exif:
        """EXIF, read anew within limits; empty where there is none that can be read."""
        exif = Image.Exif()
        raw = self.data if self.image.format == "TIFF" else self.image.info.get("exif")
        if isinstance(raw, bytes) and raw:
            try:
                block = raw if self.image.format == "TIFF" else raw[:_EXIF_BLOCK]
                exif.load_from_fp(_Bounded(block.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")))
            except MemoryError:
                raise
            except Exception:  # noqa: BLE001  # as above
                return Image.Exif()
        return exif

    @cached_property
    def thumbnail(self) -> bytes:
        """EXIF's thumbnail, as it is stored. Raises nearly anything where there is none."""
        small = self.exif.get_ifd(ExifTags.IFD.IFD1)
        start, length = small[ExifTags.Base.JpegIFOffset], small[ExifTags.Base.JpegIFByteCount]
        found: bytes = self.exif.fp.getvalue()[start : start + length]  # type: ignore[attr-defined]
        return found

    @cached_property
    def photo(self) -> dict[int, Any]:
        """Tags of EXIF's own directory, beside the image's."""
        return self.exif.get_ifd(ExifTags.IFD.Exif) if len(self.exif) else {}

    @cached_property
    def xmp(self) -> bytes:
        found = self.image.info.get("xmp")
        return found[:_TEXT_BYTES].replace(b"\0", b"") if isinstance(found, bytes) else b""

    @cached_property
    def texts(self) -> dict[str, str]:
        """A PNG's texts by their keys, and the like: a GIF's comment."""
        return {str(key): value for key, value in self.image.info.items() if isinstance(value, str)}

    @cached_property
    def manifest(self) -> bytes | None:
        """First bytes of the C2PA manifests."""
        return manifests_of(self.data, self.image, self.exif)

    def tag(self, tag: ExifTags.Base) -> str:
        """Return a text of EXIF; empty where it is absent."""
        return _text(self.exif.get(tag, self.photo.get(tag)))


class _Bounded(io.BytesIO):
    """A file that allows a limited number of reads and bytes: a tag costs far more than its bytes."""

    _bytes, _reads = _EXIF_BYTES, _EXIF_READS

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self._bytes -= len(found)
        self._reads -= 1
        if self._bytes < 0 or self._reads < 0:
            raise _TooMuch  # not an OSError, which Pillow would take for the end of the file
        return found


class _TooMuch(Exception):
    pass


def _credentials(file: _File) -> Iterator[tuple[str, float]]:
    if file.verify is not None and file.manifest is not None:
        yield from file.verify(file.data).items()


def _manifest(file: _File) -> Iterator[tuple[str, float]]:
    if file.manifest is not None:
        yield "c2pa.manifest", 1
        yield from _source_types("c2pa", file.manifest)
    if b"dcterms:provenance" in file.xmp:  # C2PA Technical Specification 2.1, 11.3.3
        yield "c2pa.remote_manifest", 1


def _source_type(file: _File) -> Iterator[tuple[str, float]]:
    yield from _source_types("iptc", file.xmp)


def _source_types(where: str, text: bytes) -> Iterator[tuple[str, float]]:
    for found in islice(_SOURCE_TYPE.finditer(text), MOST_SIGNALS):
        term = found[1].decode("ascii", "replace")
        yield f"{where}.{term if term in SOURCE_TYPES else 'other'}", 1


def _tools(file: _File) -> Iterator[tuple[str, float]]:
    """Find generators and editors by their names, and generators by their settings."""
    asked = [f"{key} {text}" for key, text in file.texts.items() if key in _TABLES["generator_keys"]]
    spoken = [file.tag(tag) for tag in _FOR_PEOPLE] + [file.texts.get(key, "") for key in ("Description", "Comment")]
    left = [text for text in spoken if _ASKED.search(text[:_TEXT_BYTES])]
    if asked or left:
        yield "generator.parameters", 1
    signed = [file.tag(ExifTags.Base.Software), file.tag(ExifTags.Base.ProcessingSoftware)]
    signed += [file.texts.get(key, "") for key in ("Software", "Source")]
    signed += [_text(found[1]) for found in islice(_TOOL_IN_XMP.finditer(file.xmp), 16)]
    names = _lower(signed)
    manifest = (file.manifest or b"").decode("utf-8", "replace").lower()
    yield from _named("generator", _TABLES["generators"], _lower([names, *asked, *left]) + manifest)
    yield from _named("software", _TABLES["editors"], _lower([names, _text(file.image.info.get("comment"))]))


_FOR_PEOPLE = (ExifTags.Base.UserComment, ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model)


def _named(kind: str, tools: dict[str, list[str]], text: str) -> Iterator[tuple[str, float]]:
    for tool, words in tools.items():
        if any(word in text and re.search(rf"(?<![a-z]){re.escape(word)}(?![a-z])", text) for word in words):
            yield f"{kind}.{tool}", 1


def _lower(texts: list[str]) -> str:
    return "\n".join(text[:_TEXT_BYTES] for text in texts if text)[: 4 * _TEXT_BYTES].lower()


def _camera(file: _File) -> Iterator[tuple[str, float]]:
    make, model = file.tag(ExifTags.Base.Make), file.tag(ExifTags.Base.Model)
    if not make and not model and file.image.format in ("JPEG", "MPO", "HEIF"):
        yield "exif.camera_absent", 1
    exposure = (ExifTags.Base.ExposureTime, ExifTags.Base.FNumber, ExifTags.Base.ISOSpeedRatings)
    if make and not any(tag in file.photo or tag in file.exif for tag in exposure):
        yield "exif.exposure_absent", 1


def _dimensions(file: _File) -> Iterator[tuple[str, float]]:
    edges = [file.photo.get(tag) for tag in (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)]
    said = [edge for edge in edges if isinstance(edge, int) and edge > 0]
    if len(said) == 2 and sorted(said) != sorted(file.size):
        yield "exif.dimensions_differ", 1  # in either order: many turn the pixels and leave the rest


def _dates(file: _File) -> Iterator[tuple[str, float]]:
    taken = _time(file.tag(ExifTags.Base.DateTimeOriginal))
    later = [_time(file.tag(tag)) for tag in (ExifTags.Base.DateTime, ExifTags.Base.DateTimeDigitized)]
    if taken and any(time is not None and time < taken - _ZONES for time in later):
        yield "exif.dates_contradict", 1


def _time(text: str) -> datetime | None:
    """Return a time of EXIF, in an unknown zone; None where it is no time, as of a clock that was never set."""
    parts = _TIME.match(text)
    try:
        return datetime(*map(int, parts.groups())) if parts else None  # type: ignore[arg-type]
    except ValueError:
        return None


def _place(file: _File) -> Iterator[tuple[str, float]]:
    if ExifTags.IFD.GPSInfo not in file.exif:
        return
    gps = file.exif.get_ifd(ExifTags.IFD.GPSInfo)
    for tag, most in ((ExifTags.GPS.GPSLatitude, 90), (ExifTags.GPS.GPSLongitude, 180)):
        if tag in gps and sum(abs(float(part)) / 60**i for i, part in enumerate(gps[tag])) > most:
            yield "exif.gps_out_of_range", 1


def _thumbnail(file: _File) -> Iterator[tuple[str, float]]:
    """Compare a thumbnail with the image in all ways that cameras and editors make thumbnails: with bars beside the
    picture, or of its middle alone; turned with it or not. The least mean difference counts."""
    if not len(file.exif):
        return
    with Image.open(io.BytesIO(file.thumbnail), formats=("JPEG",)) as thumbnail:
        thumbnail.draft("L", (_THUMBNAIL_EDGE, _THUMBNAIL_EDGE))
        if thumbnail.width * thumbnail.height > _THUMBNAIL_PIXELS:
            yield "thumbnail.distance", 1.0  # no camera makes such a one
            return
        little = thumbnail.convert("L")
    whole, middle = _little(file.image), _little(file.image, _middle(file.image.size, little.size))
    pairs = [
        (whole, _little(little)),
        (whole, _little(little, _middle(little.size, file.size))),
        (middle, _little(little)),
    ]
    differences = [one - np.rot90(other, turns) for one, other in pairs for turns in range(4)]
    yield "thumbnail.distance", min(float(np.abs(levels).mean()) for levels in differences) / 255


def _middle(size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the largest box around the middle of a size that has the shape of another."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    left, top = (size[0] - shape[0] * scale) / 2, (size[1] - shape[1] * scale) / 2
    return left, top, size[0] - left, size[1] - top


def _little(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Grey:
    """Return grey levels of a part, `_SIDE` each way, from a sample of its pixels: averaging all of a large image
    takes longer than everything else here."""
    sampled = image.resize((8 * _SIDE, 8 * _SIDE), Image.Resampling.NEAREST, box).convert("L")
    return np.asarray(sampled.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def _quantisation(file: _File) -> Iterator[tuple[str, float]]:
    if file.image.format in ("JPEG", "MPO"):
        found = double_quantisation(file.image, file.size)
        if found is not None:
            yield "jpeg.double_quantisation", found


def _text(value: Any) -> str:
    """Return a string. A character set stands before some of EXIF's texts; the letters that matter are ASCII in all."""
    if isinstance(value, bytes):
        value = value[: 2 * _TEXT_BYTES].replace(b"\0", b"").removeprefix(b"ASCII").removeprefix(b"UNICODE")
        value = value[:_TEXT_BYTES].decode("utf-8", "replace")
    return value[:_TEXT_BYTES].strip() if isinstance(value, str) else ""


_LOOKS: tuple[Callable[[_File], Iterator[tuple[str, float]]], ...] = (
    _credentials,
    _manifest,
    _source_type,
    _tools,
    _camera,
    _dimensions,
    _dates,
    _place,
    _thumbnail,
    _quantisation,
)
