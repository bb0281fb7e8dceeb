"""BMPs, icons and mouse pointers of every kind, written here from their specifications, beside what they show."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A file, and the picture that it stands for: uint8 [height, width, 3], on white.

    Args:
        tolerance: levels that a pixel may be off: what few bits can hold.
        in_browser: whether Chromium shows it, too.
    """

    name: str
    data: bytes
    picture: Pixels
    tolerance: int = 0
    in_browser: bool = True


def photograph(width: int = 37, height: int = 23) -> Pixels:
    """A picture without symmetry, with many colours; its size is no multiple of anything."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    red, green, blue = x, y, (np.sin(9 * x * y + 2) + 1) / 2
    return np.asarray(np.rint(255 * np.stack([red, green, blue], -1)), np.uint8)


def _row_padded(rows: Sequence[bytes]) -> bytes:
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def file_of(header: bytes, pixels: bytes, palette: bytes = b"", gap: int = 0) -> bytes:
    """A BMP of its parts, with a gap before the pixels."""
    offset = 14 + len(header) + len(palette) + gap
    total = offset + len(pixels)
    return struct.pack("<2sIHHI", b"BM", total, 0, 0, offset) + header + palette + bytes(gap) + pixels


def info(
    width: int, height: int, bits: int, *, length: int = 40, compression: int = 0, colours: int = 0,
    masks: Sequence[int] = (0, 0, 0, 0), size: int = 0,
) -> bytes:  # fmt: skip
    """A header of any length from 12 to 124."""
    if length == 12:
        return struct.pack("<IHHHH", 12, width, height, 1, bits)
    head = struct.pack("<IiiHHIIiiII", length, width, height, 1, bits, compression, size, 2835, 2835, colours, 0)
    if length in (52, 56) or length > 64:
        head += struct.pack("<IIII", *masks)
    if length >= 108:
        head = head.ljust(56, b"\0") + b"BGRs"
    return head[:length].ljust(length, b"\0")


def packed(indices: Pixels, bits: int) -> bytes:
    """Palette indices, the lowest row first."""
    rows = []
    for row in indices[::-1]:
        spread = row[:, None] >> np.arange(bits - 1, -1, -1) & 1
        rows.append(np.packbits(spread.astype(np.uint8).ravel()).tobytes())
    return _row_padded(rows)


def words(picture: Pixels, bits: int, masks: Sequence[int], alpha: Pixels | None = None) -> bytes:
    """Pixels that hold their colour, each channel where its mask says, the lowest row first."""
    value = np.zeros(picture.shape[:2], np.uint64)
    channels = [picture[..., i] for i in range(3)] + ([] if alpha is None else [alpha])
    for channel, mask in zip(channels, masks, strict=False):
        if mask:
            low = (mask & -mask).bit_length() - 1
            top = mask >> low
            value |= np.rint(channel / 255 * top).astype(np.uint64) << np.uint64(low)
    stored = value.astype("<u8").view(np.uint8).reshape(*picture.shape[:2], 8)[..., : bits // 8]
    return _row_padded([row.tobytes() for row in stored[::-1]])


def _palette(colours: Pixels, entry: int = 4) -> bytes:
    return b"".join(bytes(colour[::-1]) + bytes(entry - 3) for colour in colours.tolist())


def _with_palette() -> list[Case]:
    cases = []
    for bits in (1, 2, 4, 8):
        count = 1 << bits
        grid = np.add.outer(np.arange(23) * 3, np.arange(37)) % count
        index = grid.astype(np.uint8)
        colours = np.random.default_rng(bits).integers(0, 256, (count, 3)).astype(np.uint8)
        shown, stored = colours[index], packed(index, bits)
        for length in (12, 40, 52, 56, 64, 108, 124):
            data = file_of(info(37, 23, bits, length=length), stored, _palette(colours, 3 if length == 12 else 4))
            cases.append(Case(f"{bits} bits, header {length}", data, shown, in_browser=(bits, length) != (2, 12)))
        head = info(37, -23, bits)
        down = b"".join(stored[i : i + len(stored) // 23] for i in range(0, len(stored), len(stored) // 23)[::-1])
        cases.append(Case(f"{bits} bits, top down", file_of(head, down, _palette(colours)), shown))
        some = max(1, count // 2)
        black = np.where((index < some)[..., None], shown, np.uint8(0))
        short = file_of(info(37, 23, bits, colours=some), stored, _palette(colours[:some]))
        cases.append(Case(f"{bits} bits, short palette", short, black))
        long = file_of(info(37, 23, bits, colours=count + 9), stored, _palette(colours) + bytes(36))
        cases.append(Case(f"{bits} bits, long palette", long, shown))
        apart = file_of(info(37, 23, bits), stored, _palette(colours), gap=18)
        cases.append(Case(f"{bits} bits, a gap", apart, shown))
    return cases


_MASKS: dict[str, tuple[int, tuple[int, int, int, int], int]] = {
    "5-6-5": (16, (0xF800, 0x07E0, 0x001F, 0), 5),
    "5-5-5": (16, (0x7C00, 0x03E0, 0x001F, 0), 5),
    "4-4-4": (16, (0x0F00, 0x00F0, 0x000F, 0), 9),
    "3-3-2": (16, (0x00E0, 0x001C, 0x0003, 0), 43),
    "blue first": (16, (0x001F, 0x07E0, 0xF800, 0), 5),
    "8-8-8 of 32": (32, (0xFF0000, 0xFF00, 0xFF, 0), 0),
    "red last": (32, (0xFF, 0xFF00, 0xFF0000, 0), 0),
    "high": (32, (0xFF000000, 0xFF0000, 0xFF00, 0), 0),
    "10-10-10": (32, (0x3FF00000, 0x000FFC00, 0x000003FF, 0), 1),
    "11-11-10": (32, (0xFFE00000, 0x001FFC00, 0x000003FF, 0), 1),
}


def _with_colours() -> list[Case]:
    photo, cases = photograph(), []
    plain = {16: (0x7C00, 0x3E0, 0x1F), 24: (0xFF0000, 0xFF00, 0xFF), 32: (0xFF0000, 0xFF00, 0xFF)}
    for bits, masks in plain.items():
        for length in (12, 40, 52, 56, 64, 108, 124) if bits == 24 else (40, 52, 56, 108, 124):
            data = file_of(info(37, 23, bits, length=length), words(photo, bits, masks))
            cases.append(
                Case(f"{bits} bits, header {length}", data, photo, 5 if bits == 16 else 0, length not in (52, 56))
            )
        down = file_of(info(37, -23, bits), words(photo[::-1], bits, masks))
        cases.append(Case(f"{bits} bits, top down", down, photo, 5 if bits == 16 else 0))
    for name, (bits, masks, tolerance) in _MASKS.items():
        stored = words(photo, bits, masks)
        for length in (40, 52, 56, 108, 124):
            head = info(37, 23, bits, length=length, compression=3, masks=masks)
            after = struct.pack("<III", *masks[:3]) if length == 40 else b""
            data = file_of(head, stored, after)
            cases.append(Case(f"{name}, header {length}", data, photo, tolerance))
    return [*cases, *_with_alpha()]


def _with_alpha() -> list[Case]:
    photo, cases = photograph(), []
    mask = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    half = np.full(photo.shape[:2], 255, np.uint8)
    half[:, 20:] = 0
    on_white = np.where(half[..., None] > 0, photo, np.uint8(255))
    none = np.zeros(photo.shape[:2], np.uint8)
    for length in (40, 56, 108, 124):
        for compression in (0, 3, 6):
            after = struct.pack("<4I", *mask)[: 16 if compression == 6 else 12] if length == 40 and compression else b""
            head = info(37, 23, 32, length=length, compression=compression, masks=mask)
            shown = on_white if length > 56 or compression == 6 or (length, compression) == (56, 3) else photo
            name = f"header {length}, compression {compression}"
            cases.append(Case(f"alpha, {name}", file_of(head, words(photo, 32, mask, half), after), shown))
            if length != 56 and compression != 6:
                empty = file_of(head, words(photo, 32, mask, none), after)
                cases.append(Case(f"alpha 0, {name}", empty, photo, 0, shown is photo))
    small = (0x7C00, 0x3E0, 0x1F, 0x8000)
    head = info(37, 23, 16, length=124, compression=3, masks=small)
    cases.append(Case("alpha of a bit", file_of(head, words(photo, 16, small, half)), on_white, 5))
    cases.append(Case("alpha of a bit, 0", file_of(head, words(photo, 16, small, none)), photo, 5, in_browser=False))
    return cases


def _rle(index: Pixels, bits: int, *, leaps: bool = False) -> tuple[bytes, NDArray[np.bool_]]:
    """Run-length encoded rows, and which pixels they draw: runs, literal pixels, and leaps over what is left out."""
    out, drawn = bytearray(), np.ones(index.shape, np.bool_)
    height, width = index.shape
    for y in range(height - 1, -1, -1):
        row, x = index[y].tolist(), 0
        if leaps and y % 5 == 2:
            drawn[y] = False  # nothing of this row
            row, x = [], width
        while x < width:
            if leaps and x == 10:
                out += b"\0\2\4\0"
                drawn[y, x : x + 4] = False
                x += 4
                continue
            same = 1
            while x + same < width and row[x + same] == row[x] and same < 255 and not (leaps and x + same == 10):
                same += 1
            ahead = min(7, width - x, 10 - x if leaps and x < 10 else width)
            if same >= 3 or ahead < 3:
                out += bytes([same, row[x] * 17 if bits == 4 else row[x]])
                x += same
                continue
            literal = row[x : x + ahead]
            body = bytes(literal) if bits == 8 else _nibbles(literal)
            out += bytes([0, ahead]) + body + bytes(len(body) % 2)
            x += ahead
        out += b"\0\0"
    return bytes(out[:-2] + b"\0\1"), drawn


def _nibbles(values: Sequence[int]) -> bytes:
    padded = [*values, 0] if len(values) % 2 else list(values)
    return bytes(high << 4 | low for high, low in zip(padded[::2], padded[1::2], strict=True))


def _with_runs() -> list[Case]:
    cases = []
    for bits, compression in ((8, 1), (4, 2)):
        count = 1 << bits
        index = (np.add.outer(np.arange(23) // 3 * 5, np.arange(37) // 3) % count).astype(np.uint8)
        index[:, 20:30] = np.arange(10) % count
        colours = np.random.default_rng(bits).integers(0, 200, (count, 3)).astype(np.uint8)
        for leaps in (False, True):
            stored, drawn = _rle(index, bits, leaps=leaps)
            shown = np.where(drawn[..., None], colours[index], np.uint8(0))
            head = info(37, 23, bits, compression=compression, size=len(stored))
            name = f"runs of {bits} bits" + (" with leaps" if leaps else "")
            cases.append(Case(name, file_of(head, stored, _palette(colours)), shown))
    turns = file_of(info(5, 1, 4, compression=2), b"\5\x12\0\1", _palette(np.arange(48, dtype=np.uint8).reshape(16, 3)))
    cases.append(Case("two colours in turn", turns, np.array([[[3, 4, 5], [6, 7, 8]] * 3], np.uint8)[:, :5]))
    red, green = b"\0\0\xff", b"\0\xff\0"
    runs24 = file_of(info(5, 1, 24, length=64, compression=4), b"\2" + red + b"\0\3" + green * 3 + b"\0\0\1")
    cases.append(Case("OS/2 runs of 24 bits", runs24, np.array([[[255, 0, 0]] * 2 + [[0, 255, 0]] * 3], np.uint8)))
    return cases


def _with_profile() -> list[Case]:
    """An embedded profile that is plainly not sRGB: its red and blue are exchanged by it."""
    photo = photograph()
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ", 128), profile.index(b"bXYZ", 128)
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    at = profile.find(b"sRGB built-in".decode().encode("utf-16-be"))
    if at >= 0:
        profile[at : at + 8] = "swap".encode("utf-16-be")
    pixels = words(photo, 24, (0xFF0000, 0xFF00, 0xFF))
    head = bytearray(info(37, 23, 24, length=124))
    head[56:60] = b"DEBM"
    head[112:120] = struct.pack("<II", 124 + len(pixels), len(profile))
    return [Case("an embedded profile", file_of(bytes(head), pixels) + bytes(profile), photo[..., ::-1], 2)]


def bitmaps() -> list[Case]:
    """Return every kind of BMP."""
    return [*_with_palette(), *_with_colours(), *_with_runs(), *_with_profile()]


# --- icons ----------------------------------------------------------------------------------------------------------


def _icon(kind: int, entries: Sequence[tuple[int, int, int, bytes]]) -> bytes:
    """A file of pictures, each with the width, height and bits that the directory says of it."""
    out, at = struct.pack("<HHH", 0, kind, len(entries)), 6 + 16 * len(entries)
    for width, height, bits, data in entries:
        extra = (1, bits) if kind == 1 else (0, 0)
        out += struct.pack("<BBBBHHII", width % 256, height % 256, 0, 0, *extra, len(data), at)
        at += len(data)
    return out + b"".join(data for *_, data in entries)


def _in_icon(picture: Pixels, bits: int, clear: NDArray[np.bool_], alpha: Pixels | None = None) -> bytes:
    height, width = clear.shape
    head = info(width, 2 * height, bits)
    mask = _row_padded([np.packbits(row).tobytes() for row in clear[::-1]])
    if bits <= 8:
        colours, index = np.unique(picture.reshape(-1, 3), axis=0, return_inverse=True)
        table = _palette(colours).ljust(4 << bits, b"\0")
        return head + table + packed(index.reshape(height, width).astype(np.uint8), bits) + mask
    masks = {16: (0x7C00, 0x3E0, 0x1F), 24: (0xFF0000, 0xFF00, 0xFF), 32: (0xFF0000, 0xFF00, 0xFF, 0xFF000000)}[bits]
    return head + words(picture, bits, masks, alpha) + mask


def _png(picture: Pixels, alpha: Pixels | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(picture)
    if alpha is not None:
        image.putalpha(Image.fromarray(alpha))
    image.save(out, "PNG")
    return out.getvalue()


def icons() -> list[Case]:
    """Icons and mouse pointers: of each depth, as BMP and as PNG, with masks and alpha, and of several pictures."""
    cases: list[Case] = []
    photo, small = photograph(32, 32), photograph(16, 16)[::-1].copy()
    clear = np.zeros((32, 32), np.bool_)
    clear[:9, :20] = True
    shown = np.where(clear[..., None], np.uint8(255), photo)
    alpha = np.where(clear, np.uint8(0), np.uint8(255))
    for bits, levels in ((1, 1), (4, 1), (8, 5)):
        few = (photo // (256 // (levels + 1)) * (255 // levels)).astype(np.uint8)
        few = np.repeat(few[..., :1], 3, axis=2) if bits == 1 else few
        data = _icon(1, [(32, 32, bits, _in_icon(few, bits, clear))])
        cases.append(Case(f"{bits} bits", data, np.where(clear[..., None], np.uint8(255), few)))
    for bits in (16, 24):
        cases.append(Case(f"{bits} bits", _icon(1, [(32, 32, bits, _in_icon(photo, bits, clear))]), shown, 5))
    opaque, none = np.full((32, 32), 255, np.uint8), np.zeros((32, 32), np.uint8)
    nothing = np.zeros((32, 32), np.bool_)
    whole = _in_icon(photo, 32, nothing, opaque)
    cases += [
        Case("alpha", _icon(1, [(32, 32, 32, _in_icon(photo, 32, nothing, alpha))]), shown),
        Case("alpha, and a mask that says otherwise", _icon(1, [(32, 32, 32, _in_icon(photo, 32, ~clear, alpha))]), shown),
        Case("alpha 0, and a mask", _icon(1, [(32, 32, 32, _in_icon(photo, 32, clear, none))]), shown),
        Case("PNG", _icon(1, [(32, 32, 32, _png(photo, alpha))]), shown),
        Case("opaque PNG", _icon(1, [(32, 32, 24, _png(photo))]), photo),
        Case("a mouse pointer", _icon(2, [(32, 32, 0, _in_icon(photo, 24, clear))]), shown),
        Case("the largest", _icon(1, [(16, 16, 32, _png(small)), (32, 32, 8, whole), (16, 16, 24, _png(small))]), photo),
        Case("the deepest", _icon(1, [(32, 32, 8, _png(photo[::-1].copy())), (32, 32, 32, whole)]), photo),
        Case("one that is cut", _icon(1, [(64, 64, 32, b"\x89PNG\r\n\x1a\n"), (32, 32, 32, whole)]), photo, in_browser=False),
        Case("256 pixels", _icon(1, [(256, 256, 32, _png(photograph(256, 256)))]), photograph(256, 256)),
    ]  # fmt: skip
    return cases


def truth(image: Image.Image) -> NDArray[Any]:
    """An image as int [height, width, 3], for differences."""
    return np.asarray(image.convert("RGB")).astype(int)
