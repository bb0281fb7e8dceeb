"""Find what a file holds beside the picture that it shows: whoever looks for it sees it, with another program.

Enclosed pictures are looked at as pages are: each is a view. They are

    after the end           of a JPEG, PNG, GIF, WebP, BMP, AVIF or HEIF: pictures, whatever stands between them
    EXIF's thumbnail        where it is not of this picture (`thumbnail.distance`)
    the default image       of an animated PNG that hides it: programs that know no animations show it
    other sizes             of an icon, if they have `LEAST_ICON` pixels each way
    pages of pages          of a TIFF: its SubIFDs

A gain map, which makes a photograph brighter on an HDR screen, is none. Signals say what nobody looks at:

    file.after_end          share of the file that stands after the end and belongs to no picture, if it has other bytes
                            than zeros and spaces
    file.after_end.<kind>   1: some of them are a video, an archive, a document … (`ContentKind`)
    file.gain_map           1: a JPEG after the end says that it is a gain map
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field

from nsfwscan.errors import RowError
from nsfwscan.images.formats.content_names import ContentKind, content_of
from nsfwscan.images.formats.file_end import end_of
from nsfwscan.images.formats.ico import other_icons
from nsfwscan.images.formats.png_chunks import default_image
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.images.formats.tiff_directories import sub_pages
from nsfwscan.images.frames import count_pictures
from nsfwscan.images.opening import Facts, open_within
from nsfwscan.images.provenance.signals import Signals, thumbnail_of

LEAST_ICON = 64
"""Pixels each way: the small sizes of an icon are drawn simpler, and a model misreads them."""
_ANOTHERS_THUMBNAIL = 0.05
"""A `thumbnail.distance` between those of a picture's own thumbnail and those of another's."""
_MOST = 32
"""Enclosed pictures that are looked at."""
_MOST_TRIES = 100
"""Places after the end that look like a picture's beginning."""
_BEGINS = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|BM.{4}\0{4}|II\*\0|MM\0\*|.{4}ftyp",
    re.DOTALL,
)
_GAIN_MAPS = (
    b"http://ns.adobe.com/hdr-gain-map/",
    b"urn:iso:std:iso:ts:21496",
    b"urn:com:apple:photo:2020:aux:hdrgainmap",
)
"""What a gain map says of itself before its pixels."""
_START_OF_SCAN = b"\xff\xda"
_KINDS_SAID = frozenset(ContentKind) - {ContentKind.IMAGE, ContentKind.EMPTY, ContentKind.UNKNOWN}
_PADDING = b"\0 \t\r\n"


@dataclass
class Enclosed:
    """What a file holds beside its own picture.

    Attributes:
        pictures: encoded, with Pillow's names of their formats.
        frames: of all of them, and of those that are left out for their size; None where nobody can count them.
        signals: what is not looked at.
    """

    pictures: list[tuple[bytes, str]] = field(default_factory=list)
    frames: int | None = 0
    signals: Signals = field(default_factory=dict)


def enclosed_in(data: bytes, facts: Facts, max_pixels: int) -> Enclosed:
    """Return what a file encloses. Raises MemoryError.

    Args:
        data: the whole file.
        facts: `format` and `signals` of its own picture.
        max_pixels: a picture of more is counted, and not looked at.
    """
    with warnings.catch_warnings(action="ignore"):
        search = _Search(data, max_pixels)
        candidates = [*_within(data, facts), *search.pictures(end_of(data, facts["format"]))]
        fit = [_fits(*one, max_pixels) for one in candidates[:_MOST]]
        pictures = [one for one, fits in zip(candidates, fit, strict=False) if fits]
        frames = count_pictures(pictures) if len(candidates) <= _MOST else None
        return Enclosed(pictures, None if frames is None else frames + fit.count(False), search.signals)


def _within(data: bytes, facts: Facts) -> Iterator[tuple[bytes, str]]:
    """Yield the pictures that stand before the end."""
    name, signals = facts["format"], facts.get("signals") or {}
    if signals.get("thumbnail.distance", 0.0) > _ANOTHERS_THUMBNAIL and (thumbnail := thumbnail_of(data, name)):
        yield thumbnail, "JPEG"
    if name == "PNG" and (hidden := default_image(data)):
        yield hidden, "PNG"
    if name in ("ICO", "CUR"):
        yield from ((icon, "ICO") for icon in other_icons(data, LEAST_ICON))
    if name == "TIFF":
        yield from ((page, "TIFF") for page in sub_pages(data))


def _fits(data: bytes, name: str, max_pixels: int) -> bool | None:
    """Return whether a picture is small enough; None where it does not open."""
    try:
        open_within(data, max_pixels, [name])
    except RowError as error:
        return False if error.values.get("width") else None
    return True


@dataclass
class _Search:
    """A search for pictures after the end."""

    data: bytes
    max_pixels: int
    signals: Signals = field(default_factory=dict)

    def pictures(self, end: int | None) -> Iterator[tuple[bytes, str]]:
        """Yield the pictures after an end, and note what is none."""
        if end is None or not self.data[end:].strip(_PADDING):
            return
        left, at = len(self.data) - end, end
        self._note_kind(self.data[end:].lstrip(_PADDING))
        for _ in range(_MOST_TRIES):
            begin = _BEGINS.search(self.data, at)
            if begin is None:
                break
            at, rest = begin.start() + 1, self.data[begin.start() :]
            name = _format_of(rest, self.max_pixels)
            if name is None:
                self._note_kind(rest)
                continue
            size = end_of(rest, name) or len(rest)
            at, left = begin.start() + size, left - size
            if _is_gain_map(rest[:size], name):
                self.signals["file.gain_map"] = 1.0
            else:
                yield rest[:size], name
        if left:
            self.signals["file.after_end"] = left / len(self.data)

    def _note_kind(self, rest: bytes) -> None:
        kind = content_of(rest).kind
        if kind in _KINDS_SAID:
            self.signals[f"file.after_end.{kind}"] = 1.0


def _format_of(data: bytes, max_pixels: int) -> str | None:
    """Return the name of the format of a picture that begins here, of any size; None where there is none."""
    try:
        return str(open_within(data, max_pixels, FORMATS)[1]["format"])
    except RowError as error:
        return error.values.get("format") if error.values.get("width") else None


def _is_gain_map(data: bytes, name: str) -> bool:
    head = data[: max(0, data.find(_START_OF_SCAN))]
    return name in ("JPEG", "MPO") and any(mark in head for mark in _GAIN_MAPS)
