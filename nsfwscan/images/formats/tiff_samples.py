"""Assemble the samples of a TIFF's page from its bytes; libtiff undoes the compression as if it were of bytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffTags
from PIL.TiffImagePlugin import TiffImageFile

from nsfwscan.images.formats.levels import Range, Samples, range_of
from nsfwscan.images.formats.tiff_layout import CHANNELS, Layout, Tag

_ALPHA = {1: "RGBa", 2: "RGBA", 999: "RGBA"}
"""Modes by the kind of an extra sample: premultiplied, plain, and as Corel writes it."""
_BAND_BYTES = 2**24
"""Unpacked at once, unless a strip of the file is larger."""
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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
    colours = CHANNELS[layout.photometric]
    used = list(range(colours))
    alpha = next((i for i, kind in enumerate(layout.extra) if kind in _ALPHA), None)
    if layout.photometric in (5, 8, 9):
        return "CMYK" if layout.photometric == 5 else "LAB", used
    if alpha is not None and colours + alpha < len(layout.bits):
        return _ALPHA[layout.extra[alpha]], [*used, colours + alpha]
    return "L" if colours == 1 and layout.photometric != 3 else "RGB", used


def _ranges(bands: Iterable[tuple[int, Samples]], layout: Layout, used: list[int]) -> list[Range]:
    """Return the range of each used sample: one for the colours, and one for alpha."""
    bits, colours = layout.bits[0], CHANNELS[layout.photometric]
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
        Tag.WIDTH: [layout.row_bytes],
        Tag.LENGTH: [rows],
        Tag.BITS: [8],
        Tag.COMPRESSION: [layout.compression],
        Tag.PHOTOMETRIC: [1],
        Tag.FILL_ORDER: [layout.fill_order],
        Tag.STRIPS: list(accumulate(map(len, chunks[:-1]), initial=8)),
        Tag.SAMPLES: [1],
        Tag.ROWS: [layout.chunk[1]],
        Tag.STRIP_BYTES: [len(chunk) for chunk in chunks],
    }
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
