"""Read the layout of a TIFF's page: which samples it has, and where they are.

Tags are those of TIFF 6.0, its technical notes, and DNG 1.7.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2


class Tag(IntEnum):
    """Tags of a directory, by what they say."""

    WIDTH = 256
    LENGTH = 257
    BITS = 258
    COMPRESSION = 259
    PHOTOMETRIC = 262
    FILL_ORDER = 266
    MAKE = 271
    STRIPS = 273
    SAMPLES = 277
    ROWS = 278
    STRIP_BYTES = 279
    MOST = 281
    PLANAR = 284
    PREDICTOR = 317
    COLOUR_MAP = 320
    TILE_WIDTH = 322
    TILE_LENGTH = 323
    TILES = 324
    TILE_BYTES = 325
    SUB_IFDS = 330
    EXTRA = 338
    FORMAT = 339
    PROFILE = 34675
    DNG_VERSION = 50706


BYTEWISE = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
"""Compressions of bytes, whatever the bytes mean."""
_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "ICC Lab", 10: "ITU Lab",
            32844: "LogL", 32845: "LogLuv"}  # fmt: skip
_RGB = 2
CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 8: 3, 9: 3}
"""Samples of the colours, for those that are assembled here."""
_KINDS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
MOST_SAMPLES = 16


@dataclass(frozen=True)
class Layout:
    """Layout of a page's samples in the file.

    Args:
        kinds: the SampleFormat of each sample.
        extra: the kinds of the samples beside the colours'.
        chunk: width and height of a strip or a tile.
        order: `<` or `>`.
        most: the largest value that the file says its samples have, 0 where it does not.
        palette: [n, 3] uint8.
    """

    width: int
    height: int
    bits: tuple[int, ...]
    kinds: tuple[int, ...]
    photometric: int
    planar: int
    compression: int
    predictor: int
    fill_order: int
    extra: tuple[int, ...]
    tiled: bool
    chunk: tuple[int, int]
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    order: str
    most: int
    palette: NDArray[np.uint8] | None

    @property
    def in_chunk(self) -> int:
        """Samples of a pixel in one chunk."""
        return 1 if self.planar == 2 else len(self.bits)

    @property
    def across(self) -> int:
        """Chunks beside each other."""
        return -(-self.width // self.chunk[0])

    @property
    def down(self) -> int:
        """Rows of chunks."""
        return -(-self.height // self.chunk[1])

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a chunk."""
        return (self.chunk[0] * self.in_chunk * self.bits[0] + 7) // 8

    def words(self) -> str:
        """Return the kind of TIFF, for a person."""
        bits = "/".join(str(b) for b in dict.fromkeys(self.bits))
        kinds = "/".join(_KINDS.get(k, f"unknown ({k})") for k in dict.fromkeys(self.kinds))
        colours = _COLOURS.get(self.photometric, f"unknown ({self.photometric})")
        squeezed = "" if self.compression in BYTEWISE else f", with compression {self.compression}"
        channels = "1 channel" if len(self.bits) == 1 else f"{len(self.bits)} channels"
        return f"a TIFF of {bits}-bit {kinds} samples with {channels}, {colours}{squeezed},"


def is_plain(layout: Layout) -> bool:
    """Return whether Pillow decodes such samples right."""
    few = all(bits <= 8 for bits in layout.bits) and set(layout.kinds) == {1}
    known = len(layout.bits) - len(layout.extra) == {**CHANNELS, 6: 3}.get(layout.photometric)
    alpha = layout.photometric == 2 and len(layout.extra) == 1
    ordered = layout.fill_order == 1 or layout.compression != 1
    return (
        few
        and known
        and ordered
        and layout.planar == 1
        and (alpha or not layout.extra)
        and layout.photometric not in (3, 8, 9)
    )


def read_layout(tags: ImageFileDirectory_v2) -> Layout:
    """Return the layout of a page. Raises `KeyError` where it has no size."""
    width, height = number(tags, Tag.WIDTH), number(tags, Tag.LENGTH)
    compression = number(tags, Tag.COMPRESSION, 1)
    if width is None or height is None or width <= 0 or height <= 0:
        raise KeyError("no size")
    stated = number(tags, Tag.PHOTOMETRIC)
    samples = number(tags, Tag.SAMPLES, 3 if compression == 7 and stated in (2, 6) else 1)
    photometric = stated if stated is not None else (_RGB if samples >= CHANNELS[_RGB] else 0)
    bits, kinds = _each(tags, Tag.BITS, samples, 1), _each(tags, Tag.FORMAT, samples, 1)
    tiled = Tag.TILES in tags
    chunk = (number(tags, Tag.TILE_WIDTH, 0), number(tags, Tag.TILE_LENGTH, 0)) if tiled else (width, 0)
    if not tiled:
        chunk = width, max(1, min(number(tags, Tag.ROWS, height), height))
    extra = tuple(many(tags, Tag.EXTRA))
    colours = CHANNELS.get(photometric, 3)
    if not extra and samples > colours:  # RGB with a fourth sample has alpha, whether it says so or not
        extra = (2 if photometric == 2 and samples == 4 else 0,) + (0,) * (samples - colours - 1)
    return Layout(
        width, height, bits, kinds, photometric, number(tags, Tag.PLANAR, 1), compression,
        number(tags, Tag.PREDICTOR, 1), number(tags, Tag.FILL_ORDER, 1), extra, tiled, chunk,
        tuple(many(tags, Tag.TILES if tiled else Tag.STRIPS)),
        tuple(many(tags, Tag.TILE_BYTES if tiled else Tag.STRIP_BYTES)),
        "<" if tags.prefix[:2] == b"II" else ">", max((n for n in many(tags, Tag.MOST)), default=0),
        _palette(tags) if photometric == 3 else None,
    )  # fmt: skip


def many(tags: ImageFileDirectory_v2, tag: int) -> list[int]:
    """Return the whole numbers of a tag."""
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return [int(n) for n in values if isinstance(n, int)]


def number(tags: ImageFileDirectory_v2, tag: int, default: Any = None) -> Any:
    """Return the first whole number of a tag."""
    return next(iter(many(tags, tag)), default)


def _each(tags: ImageFileDirectory_v2, tag: int, samples: int, default: int) -> tuple[int, ...]:
    """Return a value for each sample; a single value is that of all."""
    values = many(tags, tag) or [default]
    count = min(max(samples, 1), MOST_SAMPLES + 1)
    return tuple(values[:count]) if len(values) >= count else (values[0],) * count


def _palette(tags: ImageFileDirectory_v2) -> NDArray[np.uint8]:
    """Return colours [n, 3]; some files have a table of 8 bits, against the standard."""
    table = np.asarray(many(tags, Tag.COLOUR_MAP), np.uint32)
    table = table[: len(table) // 3 * 3].reshape(3, -1).T
    return (table if table.size and table.max() < 256 else table >> 8).astype(np.uint8)
