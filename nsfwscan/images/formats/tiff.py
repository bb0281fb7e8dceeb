"""Decode TIFF: every arrangement of samples in losslessly compressed files; Pillow decodes the rest.

Pillow decodes plain pictures of up to 8 bits, and JPEG and fax compression by libtiff. This module decodes deeper,
signed and floating samples, separate planes, further channels and palettes: libtiff undoes the compression as if it
were of bytes, and the samples are assembled from the bytes. Raises `RowError` (`unsupported`) for a camera raw and for
kinds of TIFF that are not decoded, each by its name; `OSError` for damaged data.

Tags are those of TIFF 6.0, its technical notes, and DNG 1.7.
"""

from __future__ import annotations

from typing import Any

from PIL import Image, ImageFile, TiffImagePlugin
from PIL.TiffImagePlugin import TiffImageFile

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.formats.tiff_directories import raw_name
from nsfwscan.images.formats.tiff_layout import BYTEWISE, CHANNELS, MOST_SAMPLES, Layout, Tag, is_plain, read_layout
from nsfwscan.images.formats.tiff_samples import draw

_DEPTHS = {1: (*range(1, 17), 24, 32, 64), 2: (8, 16, 32, 64), 3: (16, 24, 32, 64), 4: (*range(1, 17), 24, 32, 64)}
_WEBP = 50001
_BIG_ENDIAN_BIG = b"MM\0\x2b"
_BEGINNINGS = tuple(TiffImagePlugin.PREFIXES)


class TiffFile(TiffImageFile):
    """A file of which one page's header was read, at first that of the first page; `load` decodes it."""

    _page: int | None = None
    _layout: Layout | None = None
    _is_plain = False

    def _open(self) -> None:
        assert self.fp is not None
        head = self.fp.read(4)
        if head == _BIG_ENDIAN_BIG:  # Pillow does not know this order
            raise RowError(ErrorCode.CODEC_MISSING, "a big-endian BigTIFF is not supported", {"format": "TIFF"})
        self.fp.seek(0)
        super()._open()

    def _setup(self) -> None:
        if self._page == self.tell():
            return  # Pillow has counted the pages, and is back
        assert self.fp is not None
        self._page, self._im, self.tile = self.tell(), None, []
        if raw := raw_name(self.tag_v2, self.fp):
            raise RowError(ErrorCode.CODEC_MISSING, f"not a format that is scanned: looks like {raw}")
        self._layout = layout = read_layout(self.tag_v2)
        self.tag_v2.setdefault(Tag.PHOTOMETRIC, layout.photometric)  # or Pillow takes it for grey
        self._is_plain = is_plain(layout)
        if self._is_plain or layout.compression not in BYTEWISE:
            self._setup_pillow(layout)
        else:
            _check_kind(layout)
            self._tile_size = layout.width, layout.height
            turned = self.tag_v2.get(274) in (5, 6, 7, 8)
            self._size = (layout.height, layout.width) if turned else self._tile_size
            self._mode = "RGB"
            if Tag.PROFILE in self.tag_v2:
                self.info["icc_profile"] = self.tag_v2[Tag.PROFILE]

    def _setup_pillow(self, layout: Layout) -> None:
        try:
            super()._setup()
        except (KeyError, SyntaxError) as error:
            if not (layout.width and layout.height):
                raise
            raise _unsupported(layout) from error
        if layout.photometric == 6 and layout.compression == 1:  # Pillow takes them for pixels without subsampling
            self.use_load_libtiff, self._mode = True, "RGB"
            whole = (0, 0, layout.width, layout.height)
            self.tile = [ImageFile._Tile("libtiff", whole, 0, ("RGBX", False, self.tag_v2.offset))]

    def load(self) -> Any:
        """Decode the pixels, and turn them as the page says."""
        if self._im is not None or self._layout is None:
            return super().load()
        if self.tile:
            return self._load_pillow(self._layout)
        assert self.fp is not None
        self.fp.seek(0)
        drawn = draw(self.fp.read(), self._layout)
        self._mode, self.im, self.readonly = drawn.mode, drawn.im, 0
        self._size = drawn.size
        self._drop_empty_alpha()
        self.load_end()
        return Image.Image.load(self)

    def _load_pillow(self, layout: Layout) -> Any:
        try:
            super().load()
        except OSError as error:
            if layout.compression == _WEBP:  # which most builds of libtiff leave out
                raise _unsupported(layout) from error
            raise
        self._drop_empty_alpha()
        return Image.Image.load(self)

    def _drop_empty_alpha(self) -> None:
        """Make a page opaque whose fourth sample, of which it says nothing, is 0 everywhere: that hides nothing."""
        if self.mode == "RGBA" and Tag.EXTRA not in self.tag_v2 and self.im.getband(3).getextrema() == (0, 0):
            self.im, self._mode = self.im.convert("RGB"), "RGB"


def _check_kind(layout: Layout) -> None:
    """Raise for samples that cannot be assembled here."""
    colours = CHANNELS.get(layout.photometric)
    bits, kinds = set(layout.bits), set(layout.kinds)
    fits = (
        colours is not None
        and len(layout.bits) <= MOST_SAMPLES
        and len(layout.bits) >= colours
        and len(bits) == len(kinds) == 1
        and layout.bits[0] in _DEPTHS.get(layout.kinds[0], ())
        and layout.planar in (1, 2)
        and not (colours == 1 and len(layout.bits) > 2)  # several bands of unknown meaning
        and not (layout.photometric == 3 and (layout.kinds[0] == 3 or layout.bits[0] > 16))
        and not (layout.photometric in (5, 8, 9) and (layout.bits[0] not in (8, 16) or layout.kinds[0] == 3))
        and layout.predictor in (1, 2, 3)
        and not (layout.predictor == 2 and layout.bits[0] not in (8, 16, 32, 64))
        and not (layout.predictor == 3 and layout.kinds[0] != 3)
    )
    if not fits:
        raise _unsupported(layout)


def _unsupported(layout: Layout) -> RowError:
    facts = {"format": "TIFF", "width": layout.width, "height": layout.height}
    return RowError(ErrorCode.CODEC_MISSING, f"{layout.words()} is not supported", facts)


def accepts(prefix: bytes) -> bool:
    """Return whether a file begins as a TIFF does."""
    return prefix[:4] in _BEGINNINGS
