"""What a file says of its making: signals with names, never a verdict.

In: the bytes of an image file, and the image that Pillow made of them. Out: names and numbers, of which 1 says "it is
so". Nothing goes wrong: metadata is what anybody wrote, is often malformed and sometimes hostile, and then says nothing
here. What is looked at is bounded (`_EXIF_BYTES`, `_TEXT_BYTES`, `_BOXES`), whatever a file claims.

    c2pa.manifest               a C2PA manifest is embedded; nobody checked its signature
    c2pa.remote_manifest        XMP says where one is
    c2pa.<term>, iptc.<term>    a DigitalSourceType in the manifest (or in one of its ingredients'), in XMP
    generator.parameters        what an image generator was asked is there
    generator.<tool>            a generator is named where tools write their names
    software.<tool>             an editor is named there
    exif.camera_absent          a JPEG or HEIF without make and model, as after most uploads
    exif.exposure_absent        a make, and neither exposure time nor aperture nor sensitivity
    exif.dates_contradict       changed or digitised before it was taken
    exif.dimensions_differ      EXIF speaks of another size
    exif.gps_out_of_range       a place that is not on Earth
    thumbnail.distance          mean difference of EXIF's thumbnail and the image, 0 to 1: of 25 photographs, under
                                0.02 from their own, whatever cameras do to it, and over 0.07 from another's
    jpeg.double_quantisation    how much it looks as compressed twice, 0 to 1: see `quantisation.py`
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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from nsfwscan.images.provenance.quantisation import double_quantisation

Signals = dict[str, float]

MOST_SIGNALS = 32
LONGEST_NAME = 64

_EXIF_BLOCK, _EXIF_BYTES, _EXIF_READS = 2**20, 2**18, 5_000
"""Bytes of a block, thumbnail and all, that are looked at; bytes of tags in it, and how often something is read."""
_TEXT_BYTES = 2**16
_MANIFEST_BYTES = 2**18
_BOXES = 1_000
_THUMBNAIL_PIXELS = 512 * 512

_C2PA = bytes.fromhex("6332706100110010800000aa00389b71")
"""Type of the JUMBF box that holds manifests (C2PA Technical Specification 2.1, 11.1.4.2)."""
_C2PA_BMFF = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""The `uuid` box of a manifest (the same, A.5)."""
_C2PA_TIFF = 0xCD41
_C2PA_GIF = b"!\xff\x0bC2PA_GIF\x01\x00\x00"

_SOURCE_TYPE = re.compile(rb"newscodes/digitalsourcetype/(\w{1,64})")
_SOURCE_TYPES = frozenset(
    {
        "algorithmicMedia",
        "algorithmicallyEnhanced",
        "composite",
        "compositeCapture",
        "compositeSynthetic",
        "compositeWithTrainedAlgorithmicMedia",
        "computationalCapture",
        "dataDrivenMedia",
        "digitalArt",
        "digitalCapture",
        "digitalCreation",
        "humanEdits",
        "minorHumanEdits",
        "negativeFilm",
        "positiveFilm",
        "print",
        "screenCapture",
        "softwareImage",
        "trainedAlgorithmicMedia",
        "virtualRecording",
    }
)
"""https://cv.iptc.org/newscodes/digitalsourcetype/, with the retired ones."""

_GENERATOR_KEYS = frozenset(
    {
        "parameters",
        "prompt",
        "workflow",
        "generation_data",
        "sui_image_params",
        "fooocus_scheme",
        "Dream",
        "dream",
        "sd-metadata",
        "invokeai_metadata",
        "invokeai_graph",
        "invokeai_workflow",
    }
)
"""Of PNG texts: AUTOMATIC1111 and what descends from it, ComfyUI, TensorArt, SwarmUI, Fooocus, InvokeAI."""
_ASKED = re.compile(
    r"\bSteps: \d+, Sampler: |\"class_type\"|^(?:prompt|workflow):\s*\{|\bJob ID: [0-9a-f]{8}-[0-9a-f]{4}-"
)
"""What generators write into fields for people: AUTOMATIC1111, ComfyUI (also as make and model), Midjourney."""
_GENERATORS = {
    "comfyui": ("comfyui", '"class_type"'),
    "dall-e": ("dall-e", "dall·e"),
    "firefly": ("adobe firefly", "adobe_firefly"),
    "fooocus": ("fooocus",),
    "google-ai": ("made with google ai", "edited with google ai"),
    "ideogram": ("ideogram",),
    "invokeai": ("invokeai", "invoke-ai"),
    "leonardo": ("leonardo.ai",),
    "midjourney": ("midjourney",),
    "novelai": ("novelai",),
    "openai": ("openai", "chatgpt", "gpt-4o", "gpt-image"),
    "stable-diffusion": ("stable diffusion", "stable-diffusion", "stablediffusion"),
    "swarmui": ("swarmui", "sui_image_params"),
}
"""Words in lower case, as the tools write themselves."""
_EDITORS = {
    "affinity": ("affinity",),
    "canva": ("canva",),
    "capture-one": ("capture one",),
    "darktable": ("darktable",),
    "faceapp": ("faceapp",),
    "facetune": ("facetune",),
    "gd": ("gd-jpeg",),
    "gimp": ("gimp",),
    "imagemagick": ("imagemagick",),
    "instagram": ("instagram",),
    "krita": ("krita",),
    "lightroom": ("lightroom",),
    "meitu": ("meitu", "beautyplus", "beautycam"),
    "paint.net": ("paint.net",),
    "photopea": ("photopea",),
    "photoshop": ("photoshop",),
    "picsart": ("picsart",),
    "pixelmator": ("pixelmator",),
    "procreate": ("procreate",),
    "rawtherapee": ("rawtherapee",),
    "remini": ("remini",),
    "snapseed": ("snapseed",),
    "vsco": ("vsco",),
}
_TOOL_IN_XMP = re.compile(rb"(?:CreatorTool|softwareAgent|photoshop:Credit)(?:=[\"']|>)([^\"'<>]{1,200})")

_TIME = re.compile(r"(\d{4}):(\d\d):(\d\d) (\d\d):(\d\d):(\d\d)", re.ASCII)
_ZONES = timedelta(hours=26)
"""EXIF's times are local, and what changes a file may be in another zone: from UTC-12 to UTC+14."""
_SIDE = 32
"""Pixels of the edges of what is compared with a thumbnail."""

Grey = NDArray[np.float32]


def signals_of(data: bytes, image: Image.Image, size: tuple[int, int]) -> Signals:
    """At most `MOST_SIGNALS` names of at most `LONGEST_NAME` printable characters, and finite numbers.

    Args:
        data: the whole file.
        image: the one that Pillow opened, loaded; nothing is decoded again, but for a thumbnail.
        size: width and height as the header gave them; the image may have been decoded at a reduced scale.

    Raises:
        MemoryError: this process may not have as much memory as it takes.
    """
    file, found = _File(data, image, size), Signals()
    for look in _LOOKS:
        try:
            found |= {name[:LONGEST_NAME]: float(value) for name, value in look(file)}
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  # malformed metadata is common and harmless
            continue
    finite = ((name, value) for name, value in found.items() if isfinite(value))
    return dict(islice(finite, MOST_SIGNALS))


@dataclass(frozen=True)
class _File:
    """A file, and what is found in it once for all looks."""

    data: bytes
    image: Image.Image
    size: tuple[int, int]

    @cached_property
    def exif(self) -> Image.Exif:
        """Read anew, from a file that may only be read so much. Empty where there is none, or none that can be read."""
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
    def photo(self) -> dict[int, Any]:
        """EXIF's own tags, which are not the image's."""
        return self.exif.get_ifd(ExifTags.IFD.Exif) if len(self.exif) else {}

    @cached_property
    def xmp(self) -> bytes:
        found = self.image.info.get("xmp")
        return found[:_TEXT_BYTES].replace(b"\0", b"") if isinstance(found, bytes) else b""

    @cached_property
    def texts(self) -> dict[str, str]:
        """PNG's texts by their keys; GIF's comment and the like are among them."""
        return {str(key): value for key, value in self.image.info.items() if isinstance(value, str)}

    @cached_property
    def manifest(self) -> bytes | None:
        """The beginning of what holds C2PA manifests."""
        found = _MANIFESTS.get(self.image.format or "", lambda _: None)(self)  # type: ignore[no-untyped-call]
        return found[:_MANIFEST_BYTES] if found is not None else None

    def tag(self, tag: ExifTags.Base) -> str:
        """A text of EXIF; empty where it is absent."""
        return _text(self.exif.get(tag, self.photo.get(tag)))


class _Bounded(io.BytesIO):
    """A file of which only so much is read: a tag costs far more than its bytes, and there may be many."""

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
        yield f"{where}.{term if term in _SOURCE_TYPES else 'other'}", 1


def _tools(file: _File) -> Iterator[tuple[str, float]]:
    """Generators and editors, by their names and by what they leave."""
    asked = [f"{key} {text}" for key, text in file.texts.items() if key in _GENERATOR_KEYS]
    spoken = [file.tag(tag) for tag in _FOR_PEOPLE] + [file.texts.get(key, "") for key in ("Description", "Comment")]
    left = [text for text in spoken if _ASKED.search(text[:_TEXT_BYTES])]
    if asked or left:
        yield "generator.parameters", 1
    signed = [file.tag(ExifTags.Base.Software), file.tag(ExifTags.Base.ProcessingSoftware)]
    signed += [file.texts.get(key, "") for key in ("Software", "Source")]
    signed += [_text(found[1]) for found in islice(_TOOL_IN_XMP.finditer(file.xmp), 16)]
    names = _lower(signed)
    manifest = (file.manifest or b"").decode("utf-8", "replace").lower()
    yield from _named("generator", _GENERATORS, _lower([names, *asked, *left]) + manifest)
    yield from _named("software", _EDITORS, _lower([names, _text(file.image.info.get("comment"))]))


_FOR_PEOPLE = (
    ExifTags.Base.UserComment,
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
)


def _named(kind: str, tools: dict[str, tuple[str, ...]], text: str) -> Iterator[tuple[str, float]]:
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
    """EXIF's times, in a zone that nobody knows; None for what is none, as where the camera's clock was never set."""
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
    """The least mean difference over what cameras and editors do to thumbnails: bars beside the picture, or its middle
    alone, and turned with it or not."""
    if not len(file.exif):
        return
    small = file.exif.get_ifd(ExifTags.IFD.IFD1)
    start, length = small[ExifTags.Base.JpegIFOffset], small[ExifTags.Base.JpegIFByteCount]
    raw = file.exif.fp.getvalue()[start : start + length]  # type: ignore[attr-defined]
    with Image.open(io.BytesIO(raw), formats=("JPEG",)) as thumbnail:
        if thumbnail.width * thumbnail.height > _THUMBNAIL_PIXELS:
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
    """The largest box around the middle of a size that has the shape of another."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    left, top = (size[0] - shape[0] * scale) / 2, (size[1] - shape[1] * scale) / 2
    return left, top, size[0] - left, size[1] - top


def _little(image: Image.Image, box: tuple[float, float, float, float] | None = None) -> Grey:
    """Grey levels of a part, `_SIDE` each way; of some pixels: averaging all of a large image takes longer than
    everything else here."""
    sampled = image.resize((8 * _SIDE, 8 * _SIDE), Image.Resampling.NEAREST, box).convert("L")
    return np.asarray(sampled.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32)


def _quantisation(file: _File) -> Iterator[tuple[str, float]]:
    if file.image.format in ("JPEG", "MPO"):
        found = double_quantisation(file.image, file.size)
        if found is not None:
            yield "jpeg.double_quantisation", found


_LOOKS: tuple[Callable[[_File], Iterator[tuple[str, float]]], ...] = (
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


def _in_jpeg(file: _File) -> bytes | None:
    """JUMBF boxes lie in APP11 segments: `JP`, two numbers, then the box, or its head again and more of it
    (ISO/IEC 19566-5, annex D)."""
    parts = [part for name, part in file.image.applist if name == "APP11" and part[:2] == b"JP"]  # type: ignore[attr-defined]
    if any(part[12:16] == b"jumb" and part[24:40] == _C2PA for part in parts):
        return b"".join(part[16:] for part in parts)
    return None


def _in_png(file: _File) -> bytes | None:
    chunks = file.image.private_chunks  # type: ignore[attr-defined]
    return next((chunk[1] for chunk in chunks if chunk[0] == b"caBX"), None)


def _in_webp(file: _File) -> bytes | None:
    return next((body for kind, body in _riff_chunks(file.data) if kind == b"C2PA"), None)


def _in_bmff(file: _File) -> bytes | None:
    """In the one box of its type (ISO/IEC 14496-12, 11.1) at the top of HEIF and AVIF."""
    boxes = (body for kind, body in _bmff_boxes(file.data) if kind == b"uuid")
    return next((bytes(body[16:]) for body in boxes if body[:16] == _C2PA_BMFF), None)


def _in_tiff(file: _File) -> bytes | None:
    found = file.exif.get(_C2PA_TIFF)
    return found if isinstance(found, bytes) else None if found is None else b""


def _in_gif(file: _File) -> bytes | None:
    at = file.data.find(_C2PA_GIF, 0, _TEXT_BYTES)  # before the first frame
    return file.data[at : at + _MANIFEST_BYTES] if at >= 0 else None


_MANIFESTS: dict[str, Callable[[_File], bytes | None]] = {
    "JPEG": _in_jpeg,
    "MPO": _in_jpeg,
    "PNG": _in_png,
    "WEBP": _in_webp,
    "HEIF": _in_bmff,
    "AVIF": _in_bmff,
    "TIFF": _in_tiff,
    "GIF": _in_gif,
}
"""Where each format has its manifests (C2PA Technical Specification 2.1, annex A)."""


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 12
    for _ in range(_BOXES):
        if at + 8 > len(data):
            return
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        yield data[at : at + 4], data[at + 8 : at + 8 + min(length, _MANIFEST_BYTES)]
        at += 8 + length + length % 2


def _bmff_boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(_BOXES):
        if at + 8 > len(data):
            return
        length, head = int.from_bytes(data[at : at + 4], "big"), 8
        if length == 1:
            length, head = int.from_bytes(data[at + 8 : at + 16], "big"), 16
        elif length == 0:  # to the end
            length = len(data) - at
        if length < head:
            return
        yield data[at + 4 : at + 8], data[at + head : at + min(length, head + _MANIFEST_BYTES)]
        at += length


def _text(value: Any) -> str:
    """A string; of EXIF's texts with a character set before them, what matters of it is the same in all of them."""
    if isinstance(value, bytes):
        value = value[: 2 * _TEXT_BYTES].replace(b"\0", b"").removeprefix(b"ASCII").removeprefix(b"UNICODE")
        value = value[:_TEXT_BYTES].decode("utf-8", "replace")
    return value[:_TEXT_BYTES].strip() if isinstance(value, str) else ""
