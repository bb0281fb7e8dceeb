"""Decode TIFF: every arrangement of samples in losslessly compressed files; Pillow decodes the rest.

Pillow decodes plain pictures of up to 8 bits, and JPEG and fax compression by libtiff. This module decodes deeper,
signed and floating samples, separate planes, further channels and palettes: libtiff undoes the compression as if it
were of bytes, and the samples are assembled from the bytes. Raises `RowError` (`unsupported`) for a camera raw and for
kinds of TIFF that are not decoded, each by its name; `OSError` for damaged data.

Tags are those of TIFF 6.0, its technical notes, and DNG 1.7.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, TiffTags
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.formats.levels import Range, Samples, range_of

_WIDTH, _LENGTH, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 256, 257, 258, 259, 262, 266
_MAKE, _STRIPS, _SAMPLES, _ROWS, _STRIP_BYTES, _MOST = 271, 273, 277, 278, 279, 281
_PLANAR, _PREDICTOR, _COLOUR_MAP, _TILE_WIDTH, _TILE_LENGTH, _TILES, _TILE_BYTES = 284, 317, 320, 322, 323, 324, 325
_SUB_IFDS, _INK_SET, _EXTRA, _FORMAT, _SUBSAMPLING, _PROFILE, _DNG_VERSION = 330, 332, 338, 339, 530, 34675, 50706

_BYTEWISE = {1: "none", 5: "LZW", 8: "Deflate", 32946: "Deflate", 32773: "PackBits", 34925: "LZMA", 50000: "Zstandard"}
"""Compressions of bytes, whatever the bytes mean."""
_COLOURS = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "ICC Lab", 10: "ITU Lab",
            32844: "LogL", 32845: "LogLuv"}  # fmt: skip
_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 8: 3, 9: 3}
"""Samples of the colours, for those that are assembled here."""
_KINDS = {1: "unsigned", 2: "signed", 3: "float", 4: "undefined", 5: "complex", 6: "complex"}
_DEPTHS = {1: (*range(1, 17), 24, 32, 64), 2: (8, 16, 32, 64), 3: (16, 24, 32, 64), 4: (*range(1, 17), 24, 32, 64)}
_MOST_SAMPLES = 16
_ALPHA = {1: "RGBa", 2: "RGBA", 999: "RGBA"}
"""Modes by the kind of an extra sample: premultiplied, plain, and as Corel writes it."""

_CFA, _LINEAR_RAW = 32803, 34892
_RAW_COMPRESSIONS = (32767, 32769, 32770, 34713, 65000, 65535)
"""Of Sony, Epson and Samsung, Nikon, Kodak and Pentax."""
_RAWS = {"NIKON": "of Nikon (NEF)", "SONY": "of Sony (ARW)", "CANON": "of Canon (CR2)", "PENTAX": "of Pentax (PEF)",
         "RICOH": "of Pentax (PEF)", "SAMSUNG": "of Samsung (SRW)", "HASSELBLAD": "of Hasselblad (3FR)",
         "KODAK": "of Kodak (DCR)", "EPSON": "of Epson (ERF)", "LEAF": "of Leaf (MOS)", "PHASE": "of Phase One (IIQ)",
         "OLYMPUS": "of Olympus (ORF)", "PANASONIC": "of Panasonic (RW2)", "LEICA": "of Leica"}  # fmt: skip
_MOST_DIRECTORIES = 8
_BAND_BYTES = 2**24
"""Unpacked at once, unless a strip of the file is larger."""
_BIG, _BIG_ENDIAN_BIG = 43, b"MM\0\x2b"
_BEGINNINGS = tuple(TiffImagePlugin.PREFIXES)
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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
        squeezed = "" if self.compression in _BYTEWISE else f", with compression {self.compression}"
        channels = "1 channel" if len(self.bits) == 1 else f"{len(self.bits)} channels"
        return f"a TIFF of {bits}-bit {kinds} samples with {channels}, {colours}{squeezed},"


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
        if raw := _raw_name(self.tag_v2, self.fp):
            raise RowError(ErrorCode.CODEC_MISSING, f"not a format that is scanned: looks like {raw}")
        self._layout = layout = read_layout(self.tag_v2)
        self._is_plain = _is_plain(layout)
        if self._is_plain or layout.compression not in _BYTEWISE:
            self._setup_pillow(layout)
        else:
            _check_kind(layout)
            self._tile_size = layout.width, layout.height
            turned = self.tag_v2.get(274) in (5, 6, 7, 8)
            self._size = (layout.height, layout.width) if turned else self._tile_size
            self._mode = "RGB"
            if _PROFILE in self.tag_v2:
                self.info["icc_profile"] = self.tag_v2[_PROFILE]

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
        if self.tile or self._im is not None or self._layout is None:
            return super().load()
        assert self.fp is not None
        self.fp.seek(0)
        drawn = draw(self.fp.read(), self._layout)
        self._mode, self.im, self.readonly = drawn.mode, drawn.im, 0
        self._size = drawn.size
        self.load_end()
        return Image.Image.load(self)


def _is_plain(layout: Layout) -> bool:
    """Return whether Pillow decodes such samples right."""
    few = all(bits <= 8 for bits in layout.bits) and set(layout.kinds) == {1}
    known = len(layout.bits) - len(layout.extra) == {**_CHANNELS, 6: 3}.get(layout.photometric)
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
    width, height = _number(tags, _WIDTH), _number(tags, _LENGTH)
    photometric, compression = _number(tags, _PHOTOMETRIC, 0), _number(tags, _COMPRESSION, 1)
    if width is None or height is None or width <= 0 or height <= 0:
        raise KeyError("no size")
    samples = _number(tags, _SAMPLES, 3 if compression == 7 and photometric in (2, 6) else 1)
    bits, kinds = _each(tags, _BITS, samples, 1), _each(tags, _FORMAT, samples, 1)
    tiled = _TILES in tags
    chunk = (_number(tags, _TILE_WIDTH, 0), _number(tags, _TILE_LENGTH, 0)) if tiled else (width, 0)
    if not tiled:
        chunk = width, max(1, min(_number(tags, _ROWS, height), height))
    extra = tuple(_many(tags, _EXTRA))
    colours = _CHANNELS.get(photometric, 3)
    if not extra and samples > colours:  # RGB with a fourth sample has alpha, whether it says so or not
        extra = (2 if photometric == 2 and samples == 4 else 0,) + (0,) * (samples - colours - 1)
    return Layout(
        width, height, bits, kinds, photometric, _number(tags, _PLANAR, 1), compression,
        _number(tags, _PREDICTOR, 1), _number(tags, _FILL_ORDER, 1), extra, tiled, chunk,
        tuple(_many(tags, _TILES if tiled else _STRIPS)), tuple(_many(tags, _TILE_BYTES if tiled else _STRIP_BYTES)),
        "<" if tags.prefix[:2] == b"II" else ">", max((n for n in _many(tags, _MOST)), default=0),
        _palette(tags) if photometric == 3 else None,
    )  # fmt: skip


def _many(tags: ImageFileDirectory_v2, tag: int) -> list[int]:
    value = tags.get(tag, ())
    values = value if isinstance(value, tuple) else (value,)
    return [int(n) for n in values if isinstance(n, int)]


def _number(tags: ImageFileDirectory_v2, tag: int, default: Any = None) -> Any:
    return next(iter(_many(tags, tag)), default)


def _each(tags: ImageFileDirectory_v2, tag: int, samples: int, default: int) -> tuple[int, ...]:
    """Return a value for each sample; a single value is that of all."""
    values = _many(tags, tag) or [default]
    count = min(max(samples, 1), _MOST_SAMPLES + 1)
    return tuple(values[:count]) if len(values) >= count else (values[0],) * count


def _palette(tags: ImageFileDirectory_v2) -> NDArray[np.uint8]:
    """Return colours [n, 3]; some files have a table of 8 bits, against the standard."""
    table = np.asarray(_many(tags, _COLOUR_MAP), np.uint32)
    table = table[: len(table) // 3 * 3].reshape(3, -1).T
    return (table if table.size and table.max() < 256 else table >> 8).astype(np.uint8)


def _check_kind(layout: Layout) -> None:
    """Raise for samples that cannot be assembled here."""
    colours = _CHANNELS.get(layout.photometric)
    bits, kinds = set(layout.bits), set(layout.kinds)
    fits = (
        colours is not None
        and len(layout.bits) <= _MOST_SAMPLES
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


# --- camera raws ----------------------------------------------------------------------------------------------------


def _raw_name(tags: ImageFileDirectory_v2, file: Any) -> str | None:
    """Return the kind of camera raw; a raw has a colour filter array on some page, whatever its previews are."""
    if _DNG_VERSION in tags:
        return "a camera raw (DNG)"
    file.seek(0)
    head = file.read(16)
    if head[8:10] == b"CR" and head[2:3] in (b"\x2a", b"\0"):
        return "a camera raw of Canon (CR2)"
    maker = str(tags.get(_MAKE, "")).upper()
    if not any(_is_raw(page) for page in _pages(tags, file)):
        return None
    return f"a camera raw {next((name for make, name in _RAWS.items() if make in maker), 'in a TIFF')}"


def _is_raw(tags: ImageFileDirectory_v2) -> bool:
    return _number(tags, _PHOTOMETRIC) in (_CFA, _LINEAR_RAW) or _number(tags, _COMPRESSION) in _RAW_COMPRESSIONS


def _pages(tags: ImageFileDirectory_v2, file: Any) -> Iterator[ImageFileDirectory_v2]:
    """Yield the page, and a few of those that belong to it."""
    yield tags
    for offset in islice(_many(tags, _SUB_IFDS) or _big_sub_ifds(tags, file), _MOST_DIRECTORIES):
        page = _directory(file, offset)
        if page is not None:
            yield page
    if _MAKE in tags and tags.next:
        page = _directory(file, tags.next)
        if page is not None:
            yield page


def _big_sub_ifds(tags: ImageFileDirectory_v2, file: Any) -> list[int]:
    """Return the SubIFDs of a BigTIFF; Pillow does not know the type of their pointers (IFD8)."""
    file.seek(0)
    if file.read(4)[2:3] != bytes([_BIG]):
        return []
    file.seek(tags._offset)
    for _ in range(min(int.from_bytes(file.read(8), "little"), 1000)):
        entry = file.read(20)
        if int.from_bytes(entry[:2], "little") == _SUB_IFDS:
            count, place = int.from_bytes(entry[4:12], "little"), int.from_bytes(entry[12:20], "little")
            if count == 1:
                return [place]
            file.seek(place)
            pointers = file.read(8 * min(count, _MOST_DIRECTORIES))
            return [int.from_bytes(pointers[at : at + 8], "little") for at in range(0, len(pointers), 8)]
    return []


def _directory(file: Any, offset: int) -> ImageFileDirectory_v2 | None:
    try:
        file.seek(0)
        head = file.read(16)
        page = ImageFileDirectory_v2(head if head[2] == _BIG else head[:8])
        file.seek(offset)
        page.load(file)
    except Exception:  # noqa: BLE001  # a pointer to nowhere is no raw
        return None
    return page


# --- pixels ---------------------------------------------------------------------------------------------------------


def draw(data: bytes, layout: Layout) -> Image.Image:
    """Return the page as it is stored, before any turning.

    Raises:
        OSError: the data end too soon, or cannot be decompressed.
    """
    if len(layout.offsets) < layout.across * layout.down * (len(layout.bits) if layout.planar == 2 else 1):
        raise OSError("a strip or a tile is missing")
    mode, used = _mode(layout)
    out = np.empty((layout.height, layout.width, len(used) if layout.photometric != 3 else len(used) + 2), np.uint8)
    pages = _Bands(data, layout)
    ranges = _ranges(pages, layout, used)
    for top, samples in pages:
        band = out[top : top + len(samples)]
        if layout.photometric == 3:
            band[...] = _coloured(samples, layout, used, ranges)
            continue
        for i, (sample, found) in enumerate(zip(used, ranges, strict=True)):
            band[..., i] = found.levels(samples[..., sample])
    if layout.photometric == 0:
        np.subtract(255, out[..., 0], out=out[..., 0])
    if layout.photometric in (1, 0) and len(used) == 2:
        out = out[..., [0, 0, 0, 1]]
    if layout.photometric == 9:
        out[..., 1:3] ^= 0x80  # both kinds of Lab as the first is stored
    return Image.frombytes(mode, (layout.width, layout.height), np.ascontiguousarray(out).data)


def _mode(layout: Layout) -> tuple[str, list[int]]:
    """Return Pillow's mode, and the samples that are in it."""
    colours = _CHANNELS[layout.photometric]
    used = list(range(colours))
    alpha = next((i for i, kind in enumerate(layout.extra) if kind in _ALPHA), None)
    if layout.photometric in (5, 8, 9):
        return "CMYK" if layout.photometric == 5 else "LAB", used
    if alpha is not None and colours + alpha < len(layout.bits):
        return _ALPHA[layout.extra[alpha]], [*used, colours + alpha]
    return "L" if colours == 1 and layout.photometric != 3 else "RGB", used


def _ranges(bands: Iterable[tuple[int, Samples]], layout: Layout, used: list[int]) -> list[Range]:
    """Return the range of each used sample: one for the colours, and one for alpha."""
    bits, colours = layout.bits[0], _CHANNELS[layout.photometric]
    if layout.photometric in (5, 8, 9):
        signed = layout.photometric == 8
        return [Range(shift=bits - 8)] * (1 if signed else len(used)) + [Range(shift=bits - 8)] * (2 if signed else 0)
    found = range_of((samples[..., used[:colours]] for _, samples in bands), bits, layout.most)
    if len(used) == colours:
        return [found] * colours
    return [found] * colours + [range_of((samples[..., used[-1]] for _, samples in bands), bits)]


def _coloured(samples: Samples, layout: Layout, used: list[int], ranges: list[Range]) -> NDArray[np.uint8]:
    assert layout.palette is not None
    table = np.zeros((max(1 << layout.bits[0], 1), 3), np.uint8)
    table[: len(layout.palette)] = layout.palette[: len(table)]
    colours: NDArray[np.uint8] = table[samples[..., 0]]
    return colours if len(used) == 1 else np.dstack([colours, ranges[-1].levels(samples[..., used[-1]])])


class _Bands:
    """Samples of a page from top to bottom, a few rows of chunks at a time: the number of a band's first row, and
    its samples [rows, width, samples]. A single band is kept."""

    def __init__(self, data: bytes, layout: Layout) -> None:
        self._data, self._layout = data, layout

    def __iter__(self) -> Iterator[tuple[int, Samples]]:
        layout = self._layout
        bytes_of_row = layout.row_bytes * layout.across * layout.chunk[1] * (len(layout.bits) // layout.in_chunk)
        step = max(1, _BAND_BYTES // max(1, bytes_of_row))
        if step >= layout.down:
            yield 0, self._whole
            return
        for first in range(0, layout.down, step):
            yield first * layout.chunk[1], self._band(first, min(step, layout.down - first))

    @cached_property
    def _whole(self) -> Samples:
        return self._band(0, self._layout.down)

    def _band(self, first: int, count: int) -> Samples:
        layout = self._layout
        planes = range(len(layout.bits) if layout.planar == 2 else 1)
        found = [self._plane(plane, first, count) for plane in planes]
        top = first * layout.chunk[1]
        band = found[0] if len(found) == 1 else np.concatenate(found, axis=-1)
        return band[: min(layout.height - top, count * layout.chunk[1]), : layout.width]

    def _plane(self, plane: int, first: int, count: int) -> Samples:
        """Return some rows of whole chunks of one plane, [rows, columns, samples in a chunk]."""
        layout, (width, height) = self._layout, self._layout.chunk
        begin = (plane * layout.down + first) * layout.across
        chunks = [self._chunk(begin + i) for i in range(count * layout.across)]
        rows = height * len(chunks)
        if not layout.tiled and first + count == layout.down:
            rows -= layout.down * height - layout.height  # the last strip ends with the page
        stored = np.zeros((height * len(chunks), layout.row_bytes), np.uint8)
        stored[:rows] = (_stored if layout.compression == 1 else _decompressed)(chunks, layout, rows)
        samples = _assembled(stored, layout).reshape(count, layout.across, height, width, layout.in_chunk)
        return samples.swapaxes(1, 2).reshape(count * height, layout.across * width, layout.in_chunk)

    def _chunk(self, index: int) -> bytes:
        layout = self._layout
        begin, size = layout.offsets[index], layout.row_bytes * layout.chunk[1]
        count = layout.counts[index] if index < len(layout.counts) else size
        return self._data[begin : begin + count]


def _stored(chunks: list[bytes], layout: Layout, rows: int) -> NDArray[np.uint8]:
    """Return the bytes of chunks without compression, [rows, bytes of a row]."""
    size = layout.row_bytes * layout.chunk[1]
    joined = b"".join(chunk[:size].ljust(size, b"\0") for chunk in chunks[:-1]) + chunks[-1][:size]
    wanted = rows * layout.row_bytes
    whole = len(joined) >= wanted and all(len(chunk) >= size for chunk in chunks[:-1])
    if not whole:
        raise OSError("the data of a strip or a tile end too soon")
    joined = joined[:wanted]
    joined = joined.translate(_REVERSED) if layout.fill_order == 2 else joined
    return np.frombuffer(joined, np.uint8).reshape(rows, layout.row_bytes)


class _Strips(TiffImageFile):
    """A page of bytes; its size was checked as that of the samples."""

    def load_prepare(self) -> None:
        if self._im is None:
            self.im = Image.core.new(  # type: ignore[attr-defined]
                self.mode, self._tile_size
            )
        ImageFile.ImageFile.load_prepare(self)


def _decompressed(chunks: list[bytes], layout: Layout, rows: int) -> NDArray[np.uint8]:
    """Return the bytes of compressed chunks, [rows, bytes of a row]: libtiff reads them as strips of a grey picture."""
    entries = {
        _WIDTH: [layout.row_bytes], _LENGTH: [rows], _BITS: [8], _COMPRESSION: [layout.compression], _PHOTOMETRIC: [1],
        _FILL_ORDER: [layout.fill_order], _STRIPS: list(accumulate(map(len, chunks[:-1]), initial=8)), _SAMPLES: [1],
        _ROWS: [layout.chunk[1]], _STRIP_BYTES: [len(chunk) for chunk in chunks],
    }  # fmt: skip
    at = 8 + sum(map(len, chunks))
    page, beyond, place = struct.pack("<H", len(entries)), b"", at + 2 + 12 * len(entries) + 4
    for tag, values in entries.items():
        packed = struct.pack(f"<{len(values)}I", *values)
        page += struct.pack("<HHI", tag, TiffTags.LONG, len(values))
        page += packed if len(packed) == 4 else struct.pack("<I", place + len(beyond))
        beyond += packed if len(packed) > 4 else b""
    file = b"".join([struct.pack("<4sI", b"II*\0", at), *chunks, page, bytes(4), beyond])
    strips = _Strips(io.BytesIO(file))
    strips.load()
    return np.frombuffer(strips.tobytes(), np.uint8).reshape(rows, layout.row_bytes)


def _assembled(stored: NDArray[np.uint8], layout: Layout) -> Samples:
    """Assemble the samples of rows of bytes, [rows, columns, samples in a chunk]."""
    bits, kind, shape = layout.bits[0], layout.kinds[0], (len(stored), layout.chunk[0], layout.in_chunk)
    order, size = layout.order, bits // 8
    if layout.predictor == 3:
        stored, order = _without_float_predictor(stored, layout), ">"
    if bits % 8:
        return _unpacked(stored, bits, shape)
    if bits == 24:
        wide = np.zeros((stored.size // 3, 4), np.uint8)
        wide[:, 1:] = stored.reshape(-1, 3)[:, :: 1 if order == ">" else -1]
        words = wide.view(">u4").astype(np.uint32).reshape(shape)
        return _float24(words) if kind == 3 else words
    letter = {2: "i", 3: "f"}.get(kind, "u")
    samples = stored.view(f"{order}{letter}{size}").astype(f"{letter}{size}").reshape(shape)
    if layout.predictor == 2:
        whole = samples.view(f"u{size}")
        np.cumsum(whole, axis=1, dtype=whole.dtype, out=whole)
    return samples


def _unpacked(stored: NDArray[np.uint8], bits: int, shape: tuple[int, int, int]) -> Samples:
    """Return samples of a number of bits that is no multiple of eight, the highest bit first."""
    count = shape[1] * shape[2]
    out = np.empty((shape[0], count), np.uint16)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    step = max(1, _BAND_BYTES // max(1, 8 * stored.shape[1]))
    for top in range(0, shape[0], step):
        spread = np.unpackbits(stored[top : top + step], axis=1)[:, : count * bits]
        out[top : top + step] = spread.reshape(-1, count, bits) @ weights
    return out.reshape(shape)


def _without_float_predictor(stored: NDArray[np.uint8], layout: Layout) -> NDArray[np.uint8]:
    """Undo predictor 3 of floats (Adobe Photoshop TIFF Technical Note 3); the result is big-endian."""
    size, step = layout.bits[0] // 8, layout.in_chunk
    summed = np.cumsum(stored.reshape(len(stored), -1, step), axis=1, dtype=np.uint8)
    planes = summed.reshape(len(stored), size, -1)
    return np.ascontiguousarray(planes.swapaxes(1, 2)).reshape(stored.shape)


def _float24(words: NDArray[np.uint32]) -> Samples:
    """Convert floats of 24 bits (the same note): a sign, 7 bits of exponent, 16 of fraction."""
    sign = np.where(words >> 23, -1.0, 1.0)
    exponent, fraction = (words >> 16 & 0x7F).astype(np.int32), (words & 0xFFFF) / 65536
    with np.errstate(over="ignore"):
        values = np.where(exponent == 0, fraction * 2.0**-62, (1 + fraction) * np.exp2(exponent - 63.0))
    values = np.where(exponent == 127, np.inf, values)
    return (sign * values).astype(np.float32)


def accepts(prefix: bytes) -> bool:
    """Return whether a file begins as a TIFF does."""
    return prefix[:4] in _BEGINNINGS
