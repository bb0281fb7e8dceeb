"""Files that are small and harmless as they lie there, and hostile to whoever decodes them; made here, stored nowhere.

`BOMBS` names them all. What is claimed is enormous, or what really comes out is, or the way there is endless. Each says
how it should end, and under which limits it is meant to be tried.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pillow_heif
from PIL import Image


@dataclass(frozen=True)
class Bomb:
    """A hostile file.

    Args:
        make: makes the bytes.
        ends: the status that is right for it.
        max_pixels, max_memory_bytes, timeout_s: limits of decoding, to try it under.
    """

    make: Callable[[], bytes]
    ends: str
    max_pixels: int = 100_000_000
    max_memory_bytes: int = 2**28
    timeout_s: float = 20.0


def _encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def _encode_heif(image: Image.Image) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=30)
    return out.getvalue()


def picture(size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A grey gradient, which is what a viewer sees of the bombs that have a picture."""
    return Image.linear_gradient("L").resize(size).convert("RGB")


# --- sizes that are only claimed ------------------------------------------------------------------------------------


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def _png(width: int, height: int, pixels: bytes, *before: bytes, grey: bool = False) -> bytes:
    """A PNG of 8 bits a channel with the given IDAT, and further chunks before it."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0 if grey else 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def claims_png() -> bytes:
    return _png(60_000, 60_000, zlib.compress(bytes(64)))


def claims_jpeg() -> bytes:
    data = bytearray(_encode(picture(), "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 65_500, 65_500)
    return bytes(data)


def claims_gif() -> bytes:
    data = bytearray(_encode(picture(), "GIF"))
    data[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(data)


def claims_gif_frame() -> bytes:
    """A small screen whose only frame is larger than the world."""
    data = bytearray(_encode(picture(), "GIF"))
    at = data.index(b"\x2c")
    data[at + 5 : at + 9] = b"\xff" * 4
    return bytes(data)


def claims_webp() -> bytes:
    """An extended header with the largest canvas that its product may have."""
    inner = _encode(picture(), "WEBP", lossless=True)[12:]
    extended = b"VP8X" + struct.pack("<II", 10, 0) + (65_534).to_bytes(3, "little") * 2
    body = b"WEBP" + extended + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def claims_tiff() -> bytes:
    return _tiff_claiming(_encode(picture(), "TIFF", compression="tiff_adobe_deflate"), 100_000, 100_000)


def _tiff_claiming(data: bytes, width: int, height: int) -> bytes:
    changed = bytearray(data)
    (at,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[at : at + 2])
    for entry in range(at + 2, at + 2 + 12 * entries, 12):
        tag = struct.unpack("<H", data[entry : entry + 2])[0]
        if tag in (256, 257, 278):  # ImageWidth, ImageLength, RowsPerStrip
            changed[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, width if tag == 256 else height)
    return bytes(changed)


def _claiming_ispe(data: bytes, edge: int) -> bytes:
    """Another size in the container of an AVIF or HEIF file; what is coded in it stays as it is."""
    at = data.index(b"ispe")
    return data[: at + 8] + struct.pack(">II", edge, edge) + data[at + 16 :]


def claims_avif() -> bytes:
    return _claiming_ispe(_encode(picture(), "AVIF", speed=10), 16_000)


def claims_heif() -> bytes:
    return _claiming_ispe(_encode_heif(picture()), 30_000)


def claims_bmp() -> bytes:
    data = bytearray(_encode(picture(), "BMP"))
    data[18:26] = struct.pack("<ii", 2**31 - 1, 2**31 - 1)
    return bytes(data)


# --- sizes that are real --------------------------------------------------------------------------------------------


def real_png() -> bytes:
    """20,000 x 20,000 black pixels, RGB: 1.2 GB in about 1 MB, the same deflated megabyte over and over."""
    edge, piece = 20_000, bytes(2**20)
    total = edge * (3 * edge + 1)
    deflate, checksum = zlib.compressobj(9, zlib.DEFLATED, -15), 1
    block = deflate.compress(piece) + deflate.flush(zlib.Z_FULL_FLUSH)
    for _ in range(total // len(piece)):
        checksum = zlib.adler32(piece, checksum)
    rest = bytes(total % len(piece))
    end = deflate.compress(rest) + deflate.flush() + struct.pack(">I", zlib.adler32(rest, checksum))
    return _png(edge, edge, b"\x78\x9c" + block * (total // len(piece)) + end)


def real_jpeg() -> bytes:
    return _encode(Image.new("L", (10_000, 10_000)), "JPEG")


def real_progressive_jpeg() -> bytes:
    """Return all coefficients have to be kept until the last scan."""
    return _encode(Image.new("RGB", (4_000, 4_000)), "JPEG", progressive=True)


def real_gif() -> bytes:
    return _encode(Image.new("P", (10_000, 10_000)), "GIF")


def real_webp() -> bytes:
    return _encode(Image.new("RGB", (5_000, 5_000)), "WEBP", lossless=True, method=0, quality=0)


def real_tiff() -> bytes:
    return _encode(Image.new("L", (10_000, 10_000)), "TIFF", compression="tiff_adobe_deflate")


def real_avif() -> bytes:
    return _encode(Image.new("RGB", (5_000, 5_000)), "AVIF", speed=10, quality=1)


def real_heif() -> bytes:
    return _encode_heif(Image.new("RGB", (3_000, 3_000)))


def real_bmp() -> bytes:
    """A line of 20,000 pixels for every four bytes: RLE8 may end a line at once."""
    edge = 20_000
    runs = b"\0\0" * edge + b"\0\1"
    palette = bytes(1024)
    header = struct.pack("<IiiHHIIiiII", 40, edge, edge, 1, 8, 1, len(runs), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(runs), 0, 0, offset) + header + palette + runs


def jpeg2000_claimed() -> bytes:
    data = bytearray(_encode(picture(), "JPEG2000"))
    at = data.index(b"ihdr")
    data[at + 4 : at + 12] = struct.pack(">II", 10**6, 10**6)
    return bytes(data)


def jpeg2000_real() -> bytes:
    return _encode(Image.new("L", (4_000, 4_000)), "JPEG2000")


# --- frames and pages -----------------------------------------------------------------------------------------------


def _gif_with(frames: int, size: tuple[int, int], *, offset: int = 0) -> bytes:
    """A picture, and many times one more frame; each further one at `offset` and thrown away after it."""
    data = _encode(picture(size), "GIF", save_all=True, append_images=[Image.new("L", size, 9)], duration=10)
    last = data.rindex(b"\x21\xf9\x04")
    frame = bytearray(data[last:-1])
    frame[3] = frame[3] & 0xE3 | 3 << 2  # restore what was before
    at = frame.index(b"\x2c", 8)
    left = struct.unpack("<H", frame[at + 1 : at + 3])[0]
    frame[at + 1 : at + 3] = struct.pack("<H", left + offset)
    return data[:last] + bytes(frame) * frames + b";"


def million_frames_gif() -> bytes:
    return _gif_with(1_000_000, (4, 4))


def overlapping_frames_gif() -> bytes:
    """A thousand full screens of 9 megapixels on top of each other, each beyond the edge of the last."""
    return _gif_with(1_000, (3_000, 3_000), offset=100)


def endless_extension_gif() -> bytes:
    """After its picture one comment in four million blocks of one byte."""
    return _encode(picture(), "GIF")[:-1] + b"\x21\xfe" + b"\x01 " * 4_000_000 + b"\0;"


def million_frames_apng() -> bytes:
    pixels = zlib.compress(b"".join(b"\0" + picture().tobytes()[y * 192 : y * 192 + 192] for y in range(48)))
    return _png(64, 48, pixels, _chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))


def many_frames_webp() -> bytes:
    """Twenty thousand frames of a pixel, in a canvas of 64 x 48."""
    still = _encode(Image.new("RGB", (2, 2)), "WEBP", lossless=True)[12:]
    header = bytes(6) + b"\x01\0\0" * 2 + (10).to_bytes(3, "little") + b"\0"
    frame = b"ANMF" + struct.pack("<I", len(header) + len(still)) + header + still
    canvas = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + (63).to_bytes(3, "little") + (47).to_bytes(3, "little")
    body = b"WEBP" + canvas + b"ANIM" + struct.pack("<IIH", 6, 0, 0) + frame * 20_000
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_pages_tiff(pages: int = 50_000) -> bytes:
    """A picture, and pages that are the same picture, each a directory and no pixels of its own."""
    data = _encode(picture(), "TIFF")
    start = len(data) + len(data) % 2
    (at,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[at : at + 2])
    directory = data[at : at + 2 + 12 * entries]
    size = len(directory) + 4
    following = [start + size * page for page in range(1, pages)] + [0]
    body = b"".join(directory + struct.pack("<I", where) for where in following)
    return _with_next_page(data, start).ljust(start, b"\0") + body


def _with_next_page(data: bytes, where: int) -> bytes:
    (at,) = struct.unpack("<I", data[4:8])
    (entries,) = struct.unpack("<H", data[at : at + 2])
    end = at + 2 + 12 * entries
    return data[:end] + struct.pack("<I", where) + data[end + 4 :]


def looping_tiff() -> bytes:
    """Return the page after the first is the first."""
    data = _encode(picture(), "TIFF")
    return _with_next_page(data, struct.unpack("<I", data[4:8])[0])


def overlapping_pages_tiff() -> bytes:
    """Ten thousand pages of 65,535 tags, each beginning two bytes after the last."""
    data = _encode(picture(), "TIFF")
    start = len(data) + len(data) % 2
    return _with_next_page(data, start).ljust(start, b"\0") + b"\xff\xff" * 500_000


# --- chunks that swell ----------------------------------------------------------------------------------------------


def _zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 2**20), 9)


def _png_with(*chunks: bytes) -> bytes:
    plain = _encode(picture(), "PNG")
    return plain[:33] + b"".join(chunks) + plain[33:]


def swelling_icc_png() -> bytes:
    return _png_with(_chunk(b"iCCP", b"profile\0\0" + _zeros(50)))


def swelling_text_png() -> bytes:
    return _png_with(_chunk(b"zTXt", b"Comment\0\0" + _zeros(50)))


def many_swelling_texts_png() -> bytes:
    return _png_with(*[_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**20 - 1)))] * 500)


def huge_exif_png() -> bytes:
    """Thirty megabytes of EXIF whose entries all point at the same bytes."""
    return _png_with(_chunk(b"eXIf", _exif_of_many_entries()))


def _exif_of_many_entries() -> bytes:
    """65,535 entries of text, each of them the whole block."""
    size = 30 * 2**20
    entries = b"".join(struct.pack("<HHII", tag, 2, size - 16, 8) for tag in range(65_535))
    return (b"II*\0\x08\0\0\0" + b"\xff\xff" + entries).ljust(size, b"x")


def swelling_icc_webp() -> bytes:
    """Fifty megabytes of a profile that is none, as they are."""
    return _encode(picture(), "WEBP", icc_profile=bytes(50 * 2**20))


def huge_exif_jpeg() -> bytes:
    """Fifteen megabytes of EXIF, in as many segments as that takes."""
    return _jpeg_with_segments(b"\xff\xe1" + struct.pack(">H", 65_533) + b"Exif\0\0" + bytes(65_525), 240)


def endless_exif_jpeg() -> bytes:
    """A million segments of EXIF with a byte in each."""
    return _jpeg_with_segments(b"\xff\xe1\0\x09Exif\0\0 ", 1_000_000)


def _jpeg_with_segments(segment: bytes, count: int) -> bytes:
    plain = _encode(picture(), "JPEG")
    return plain[:2] + segment * count + plain[2:]


# --- work without end -----------------------------------------------------------------------------------------------


def endless_scans_jpeg() -> bytes:
    """A progressive picture of 36 megapixels whose last scan comes three thousand times."""
    data = _encode(Image.new("L", (6_000, 6_000), 99), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * 3_000 + data[-2:]


# --- damage, for whoever tries again tolerantly ----------------------------------------------------------------------


def _with_wrong_checksum(png: bytes) -> bytes:
    """A small chunk after the header, which a first try stumbles over."""
    return png[:33] + _chunk(b"tEXt", b"a\0b")[:-4] + b"\1\2\3\4" + png[33:]


def damaged_claims_png() -> bytes:
    return _with_wrong_checksum(claims_png())


def damaged_real_png() -> bytes:
    return _with_wrong_checksum(real_png())


def damaged_frame_apng() -> bytes:
    """An animation whose hidden default image is small, and whose first frame claims to be larger than the world."""
    size = struct.pack(">5I", 0, 2**31 - 1, 2**31 - 1, 0, 0)
    frame = _chunk(b"fcTL", size + bytes(6)) + _chunk(b"fdAT", bytes(4) + zlib.compress(bytes(64)))
    png = _png(64, 48, zlib.compress(bytes(48 * 193)), _chunk(b"acTL", struct.pack(">II", 1, 0)))
    return _with_wrong_checksum(png[:-12] + frame + png[-12:])


def cut_webp() -> bytes:
    """A chunk that claims four gigabytes, of which there are a hundred bytes."""
    data = bytearray(_encode(picture((640, 480)), "WEBP", lossless=True)[:100])
    data[16:20] = b"\xf0\xff\xff\xff"
    return bytes(data)


def cut_avif() -> bytes:
    """Return the same in a box of pixels."""
    data = bytearray(_encode(picture((640, 480)), "AVIF", speed=10))
    at = data.index(b"mdat")
    data[at - 4 : at] = b"\xff\xff\xff\xf0"
    return bytes(data[: at + 40])


def cut_jpeg() -> bytes:
    """A hundred megapixels of a JPEG, of which there are a few rows."""
    data = bytearray(_encode(picture(), "JPEG")[:-2])
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 9_000, 9_000)
    return bytes(data)


def cut_scans_jpeg() -> bytes:
    return endless_scans_jpeg()[:-2]


def _real(make: Callable[[], bytes], ends: str = "crashed") -> Bomb:
    """With so many pixels allowed that memory, and not the declared size, is what stops the picture."""
    return Bomb(make, ends, max_pixels=500_000_000, max_memory_bytes=2**26)


def _slow(make: Callable[[], bytes]) -> Bomb:
    return Bomb(make, "timeout", timeout_s=1.0)


BOMBS: dict[str, Bomb] = {
    "claims/png": Bomb(claims_png, "too_large"),
    "claims/jpeg": Bomb(claims_jpeg, "too_large"),
    "claims/gif": Bomb(claims_gif, "too_large"),
    "claims/gif-frame": Bomb(claims_gif_frame, "too_large"),
    "claims/webp": Bomb(claims_webp, "too_large"),
    "claims/tiff": Bomb(claims_tiff, "too_large"),
    "claims/avif": Bomb(claims_avif, "too_large"),
    "claims/heif": Bomb(claims_heif, "decode_error"),
    "claims/bmp": Bomb(claims_bmp, "too_large"),
    "claims/jpeg2000": Bomb(jpeg2000_claimed, "unsupported"),
    "real/png": _real(real_png),
    "real/jpeg": _real(real_jpeg),
    "real/progressive": _real(real_progressive_jpeg),
    "real/gif": _real(real_gif),
    "real/webp": _real(real_webp),
    "real/tiff": _real(real_tiff),
    "real/avif": _real(real_avif),
    "real/heif": _real(real_heif),
    "real/bmp": _real(real_bmp),
    "real/jpeg2000": _real(jpeg2000_real, "unsupported"),
    "frames/gif": Bomb(million_frames_gif, "ok"),
    "frames/gif-overlapping": Bomb(overlapping_frames_gif, "ok", max_memory_bytes=2**29),
    "frames/gif-extension": Bomb(endless_extension_gif, "ok"),
    "frames/apng": Bomb(million_frames_apng, "ok"),
    "frames/webp": Bomb(many_frames_webp, "ok"),
    "pages/tiff": Bomb(many_pages_tiff, "ok"),
    "pages/tiff-loop": Bomb(looping_tiff, "ok"),
    "pages/tiff-overlapping": Bomb(overlapping_pages_tiff, "ok"),
    "chunks/icc-png": Bomb(swelling_icc_png, "ok"),
    "chunks/text-png": Bomb(swelling_text_png, "ok"),
    "chunks/texts-png": Bomb(many_swelling_texts_png, "ok"),
    "chunks/exif-png": Bomb(huge_exif_png, "ok"),
    "chunks/icc-webp": Bomb(swelling_icc_webp, "ok"),
    "chunks/exif-jpeg": Bomb(huge_exif_jpeg, "ok"),
    "chunks/exif-jpeg-endless": _slow(endless_exif_jpeg),
    "work/scans-jpeg": _slow(endless_scans_jpeg),
    "damaged/claims-png": Bomb(damaged_claims_png, "too_large"),
    "damaged/real-png": _real(damaged_real_png),
    "damaged/frame-apng": Bomb(damaged_frame_apng, "ok"),
    "damaged/cut-webp": Bomb(cut_webp, "decode_error"),
    "damaged/cut-avif": Bomb(cut_avif, "decode_error"),
    "damaged/cut-jpeg": Bomb(cut_jpeg, "crashed"),
    "damaged/cut-scans-jpeg": _slow(cut_scans_jpeg),
}
