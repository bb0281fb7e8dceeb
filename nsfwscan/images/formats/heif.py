"""Open HEIF files: libheif reads their pictures, PyAV their track. AVIF files are HEIF, too, and libavif reads them.

An HEIF file holds pictures (items), a track of them that moves (an image sequence: ISO/IEC 23008-12, 7), or both. The
item that is shown first comes first, and the track last. The track needs the extra that videos need: without it, a file
with a track alone is `unsupported`; of one with items, too, `frames` is unknown, and half of it is unseen.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from itertools import islice
from typing import IO, Any

from pi_heif import HeifImageFile
from PIL import Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile

from nsfwscan.images.formats.brands import MOST_BYTES, brands_of
from nsfwscan.images.formats.containers import Container, refuse_without_extra, videos_are_decoded
from nsfwscan.images.formats.file_end import end_of

TRACK = Container("HEIF", "mov", "an HEIF image sequence")
_AVIF = frozenset((b"avif", b"avis"))
_HEIF = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"))


def accepts(prefix: bytes) -> bool:
    """Return whether a file may be an HEIF or an AVIF by its first bytes; which of them, its brands tell."""
    return prefix[4:8] == b"ftyp"


def is_avif(data: bytes) -> bool:
    """Return whether a file says that it is an AVIF."""
    return not _AVIF.isdisjoint(brands_of(data))


def is_heif(data: bytes) -> bool:
    """Return whether a file says that it is an HEIF."""
    return not _HEIF.isdisjoint(brands_of(data))


def open_avif(file: IO[bytes], name: str | bytes = "") -> ImageFile.ImageFile:
    """Return the opened file. Raises SyntaxError where it is no AVIF."""
    if not is_avif(file.read(MOST_BYTES)):
        raise SyntaxError("no brand of an AVIF")
    file.seek(0)
    return AvifImageFile(file, name)


def open_heif(file: IO[bytes], name: str | bytes = "") -> ImageFile.ImageFile:
    """Return the opened file, at the picture that it shows first.

    Raises:
        SyntaxError: it has neither pictures nor a track.
        RowError: it has a track alone, and videos are not decoded here (`unsupported`).
    """
    data = file.read()
    if not is_heif(data):
        raise SyntaxError("no brand of an HEIF")
    try:
        found: ImageFile.ImageFile = HeifImageFile(io.BytesIO(data[: end_of(data, "HEIF")]), name)
        return found
    except SyntaxError:
        if not has_track(data):
            raise
        refuse_without_extra(TRACK)
        return TrackFile(io.BytesIO(data), name)


class TrackFile(ImageFile.ImageFile):
    """A file with a track alone; `load` decodes its first frame."""

    format = "HEIF"
    format_description = "HEIF image sequence"
    n_frames = 0

    def _open(self) -> None:
        assert self.fp is not None
        self._track = self.fp.read()
        first = next(islice(track_frames(self._track), 1), None)
        if first is None:
            raise SyntaxError("no frame of the track can be decoded")
        self._first, self._size, self._mode = first[0], first[0].size, "RGB"

    def load(self) -> Any:
        """Decode the first frame."""
        if self._im is None:
            self.im = self._first.im
        return Image.Image.load(self)


def has_track(data: bytes) -> bool:
    """Return whether a file has a box for tracks (`moov`)."""
    return any(kind == b"moov" for kind, _ in _boxes(data))


def track_length(data: bytes) -> int | None:
    """Return how many frames a file's track has; None where there is one that is not decoded here."""
    if not has_track(data):
        return 0
    if not videos_are_decoded():
        return None
    from nsfwscan.images.formats.videos import length_of  # which imports PyAV

    return length_of(_without_items(data), TRACK)


def track_frames(data: bytes) -> Iterator[tuple[Image.Image, float]]:
    """Yield the frames of a file's track, if it has one, and the seconds that each is shown."""
    if has_track(data) and videos_are_decoded():
        from nsfwscan.images.formats.videos import pictures_in_order

        yield from pictures_in_order(_without_items(data), TRACK)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the boxes of a file: the type of each, and where it stands."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        yield kind, at + 4
        if size == 1 and at + 16 <= len(data):
            size = struct.unpack_from(">Q", data, at + 8)[0]
        if size < 8:  # to the end
            return
        at += size


def _without_items(data: bytes) -> io.BytesIO:
    """Return a file in which the box of its pictures is none, since FFmpeg takes those for tracks."""
    changed = io.BytesIO(data)
    for kind, at in _boxes(data):
        if kind == b"meta":
            changed.seek(at)
            changed.write(b"free")
    changed.seek(0)
    return changed
