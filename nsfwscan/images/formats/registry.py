"""Formats that are read, and what opens each of them: a new format is one more line of `READ`.

A decoder is a plugin of Pillow: a class whose `_open` reads the header (size and mode) and whose `load` decodes the
pixels, and a function that tells by a file's first 16 bytes whether it may be of that format. Pillow tries the formats
in the order of `READ`; the first one whose header is right decodes the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from nsfwscan.images.formats import bmp, heif, ico, jpeg, repair, svg, tiff, webp


@dataclass(frozen=True)
class Format:
    """A format that is read.

    Args:
        name: Pillow's name of it.
        repair: yields repaired versions of a damaged file, the best one first.
        keeps_partial: whether a picture keeps what was decoded before an error.
        decoder: a decoder of our own and how its files begin; unset, Pillow's plugin decodes them.
        claims: tells by a whole file whether it is of this format, where its beginning alone does not.
        load: loads an opened image from its whole file, faster than Pillow; returns False where it leaves it to Pillow.
    """

    name: str
    repair: repair.Repair
    keeps_partial: bool = False
    decoder: tuple[Callable[..., Any], Callable[[bytes], bool]] | None = None
    claims: Callable[[bytes], bool] | None = None
    load: Callable[[Image.Image, bytes], bool] | None = None

    @property
    def plugin(self) -> str:
        """Return the name of Pillow's plugin that opens it. Ours stand beside Pillow's, which others may use."""
        return f"NSFWSCAN {self.name}" if self.decoder else self.name


READ = {
    found.name: found
    for found in (
        Format("JPEG", repair.jpeg, keeps_partial=True, load=jpeg.load),  # MPO, too
        Format("PNG", repair.png, keeps_partial=True),
        Format("WEBP", repair.webp, decoder=(webp.WebpFile, webp.accepts)),
        Format("GIF", repair.gif, keeps_partial=True),
        Format("BMP", repair.bmp, keeps_partial=True, decoder=(bmp.BmpFile, bmp.accepts)),
        Format("ICO", repair.ico, keeps_partial=True, decoder=(ico.IcoFile, ico.accepts)),  # CUR, too
        Format("TIFF", repair.as_it_is, keeps_partial=True, decoder=(tiff.TiffFile, tiff.accepts)),
        Format("AVIF", repair.boxed, decoder=(heif.open_avif, heif.accepts), claims=heif.is_avif),
        Format("HEIF", repair.boxed, decoder=(heif.open_heif, heif.accepts), claims=heif.is_heif),
        Format("SVG", repair.nothing, decoder=(svg.SvgFile, svg.accepts), claims=svg.claims),
    )
}
"""By their names. PSD, EPS, FITS, JPEG 2000 and the like are left out for their security history."""

FORMATS = tuple(READ)
_WITH = {"MPO": "JPEG", "CUR": "ICO"}
"""Formats that another one's plugin opens, as an image names them."""


@lru_cache(maxsize=1)
def register_formats() -> None:
    """Register all decoders with Pillow, once a process."""
    Image.init()
    for found in READ.values():
        if found.decoder:
            Image.register_open(found.plugin, *found.decoder)


def plugin_of(name: str) -> str:
    """Return the name of Pillow's plugin for a format; a user's plugin has the format's own name."""
    name = _WITH.get(name, name)
    return READ[name].plugin if name in READ else name


def load(image: Image.Image, data: bytes) -> None:
    """Decode an opened image: by its format's own `load`, else by Pillow. Raises nearly anything, as Pillow does."""
    found = READ.get(_WITH.get(str(image.format), str(image.format)))
    if found is None or found.load is None or not found.load(image, data):
        image.load()


def claimed_format(data: bytes, formats: Sequence[str]) -> str | None:
    """Return the first of the formats whose signature a file begins with."""
    for name in formats:
        _, accepts = Image.OPEN.get(plugin_of(name), (None, None))
        claims = READ[name].claims if name in READ else None
        if accepts is not None and accepts(data[:16]) is True and (claims is None or claims(data)):
            return name
    return None
