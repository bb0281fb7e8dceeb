"""Open a file: only formats that are read, and only sizes within the limit. Nothing is decoded yet.

Whatever is wrong with a file is a `RowError`: `unsupported`, `too_large` or `decode_error`, with what its header says.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from PIL import Image, UnidentifiedImageError

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.formats.content_names import content_of
from nsfwscan.images.formats.registry import claimed_format, plugin_of, register_formats

Facts = dict[str, Any]
"""Values of the content columns."""
_MESSAGE_CHARACTERS = 120


def open_within(data: bytes, max_pixels: int, formats: Sequence[str]) -> tuple[Image.Image, Facts]:
    """Return the opened image, and its `format`, `width` and `height` as they are stored."""
    register_formats()
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > 2 * Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2  # Pillow refuses twice its limit; ours holds where it is higher
    if (canvas := _webp_canvas(data)) is not None:
        check_pixels("WEBP", canvas, max_pixels)  # Pillow allocates two canvases when it opens a WebP
    image = _open(data, formats)
    return image, check_pixels(image.format, image.size, max_pixels)


def check_pixels(name: str | None, size: tuple[int, int], max_pixels: int) -> Facts:
    """Return the facts of a header. Raises `RowError` (`too_large`) where it declares too many pixels."""
    width, height = (edge if 0 <= edge < 2**63 else None for edge in size)  # a 64-bit TIFF may declare more
    facts: Facts = {"format": name, "width": width, "height": height}
    if size[0] * size[1] > max_pixels:
        words = f"{size[0]:,} × {size[1]:,} pixels, over the limit of {max_pixels:,} (--max-pixels)"
        raise RowError(ErrorCode.TOO_MANY_PIXELS, words, facts)
    return facts


@contextmanager
def as_row_error(facts: Facts, code: ErrorCode = ErrorCode.DECODE_ERROR) -> Iterator[None]:
    """Turn any exception into a `RowError`: Pillow's plugins raise nearly anything on a malformed file."""
    try:
        yield
    except (RowError, MemoryError):
        raise
    except Exception as error:
        words = f"the {facts['format']} data is damaged: {_first_line(error)}"
        raise RowError(code, words, facts) from error


def _webp_canvas(data: bytes) -> tuple[int, int] | None:
    """Return width and height by a WebP's first chunk (RFC 9649, 2.5 to 2.7); None where the file is no WebP."""
    kind, head = data[8:16].removeprefix(b"WEBP"), int.from_bytes(data[20:30], "little")
    if kind == b"VP8X":
        return (head >> 32 & 0xFFFFFF) + 1, (head >> 56 & 0xFFFFFF) + 1
    if kind == b"VP8L":
        return (head >> 8 & 0x3FFF) + 1, (head >> 22 & 0x3FFF) + 1
    if kind == b"VP8 ":
        return head >> 48 & 0x3FFF, head >> 64 & 0x3FFF
    return None


def _open(data: bytes, formats: Sequence[str]) -> Image.Image:
    if not data:
        raise RowError(ErrorCode.EMPTY, "empty: 0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=[plugin_of(name) for name in formats])
    except Image.DecompressionBombError:
        return _open_large(data, formats)
    except UnidentifiedImageError:
        claimed = claimed_format(data, formats)
        if claimed is None:
            content = content_of(data)
            words = f"not a format that is scanned: looks like {content.name}"
            raise RowError(content.kind.code, words) from None
        words = f"begins like {claimed}, but its header is damaged"
        raise RowError(ErrorCode.DECODE_ERROR, words, {"format": claimed}) from None
    except (MemoryError, RowError):
        raise
    except Exception as error:
        words = f"the header is damaged: {_first_line(error)}"
        raise RowError(ErrorCode.DECODE_ERROR, words, {"format": claimed_format(data, formats)}) from error


def _open_large(data: bytes, formats: Sequence[str]) -> Image.Image:
    """Read a header that Pillow's own limit refuses, so that the row can say how large the image claims to be."""
    claimed = claimed_format(data, formats)
    if claimed is None:
        raise RowError(ErrorCode.TOO_MANY_PIXELS, "more pixels than Pillow accepts")
    factory, _ = Image.OPEN[plugin_of(claimed)]
    try:
        image: Image.Image = factory(io.BytesIO(data), "")
    except Exception as error:  # a GIF's first frame may be larger than the file's own size
        raise RowError(ErrorCode.TOO_MANY_PIXELS, _first_line(error), {"format": claimed}) from error
    return image


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:_MESSAGE_CHARACTERS]
