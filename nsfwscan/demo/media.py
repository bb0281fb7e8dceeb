"""A small media store with known answers, for `nsfwscan demo` and for the tests.

`build` writes about eighty files: photographs, drawings, odd but valid uploads and broken or foreign files. For each
file it declares what a scan must report, so that a test compares a scan with declarations and not with itself.

The photographs come from the scikit-image package (public domain or CC0). `build` reads them from the installed package
and writes them only to the new store; this repository holds no copy of them. This module draws or assembles all other
files.
"""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms, ImageFont
from skimage.data import data_dir

from nsfwscan.demo.drawings import DRAWN, Size, blend, canvas, draw_gradient

NEUTRAL = "neutral"
DRAWINGS = "drawings"
UPLOADS = "uploads/2026/11"
BROKEN = "broken"

EXIF_MAKE, EXIF_MODEL, EXIF_ORIENTATION, EXIF_SOFTWARE = 0x010F, 0x0110, 0x0112, 0x0131

Tags = dict[int, int | str]
Picture = tuple[str, Image.Image, str, dict[str, Any], str]
"""Name, image, format, options of the encoder, and note."""


@dataclass(frozen=True)
class DemoObject:
    """A file of the store, with what a scan should report about it.

    `width` and `height` are pixels as displayed, that is after the EXIF orientation. `format`, `width`, `height` and
    `frames` are None if a reader cannot know them: a damaged file may still have a readable header, but its frame
    count is never certain.
    """

    path: str
    status: str
    format: str | None
    width: int | None
    height: int | None
    frames: int | None
    truth: str | None
    camera: str | None
    software: str | None
    note: str


Item = tuple[DemoObject, bytes]


def build(root: Path) -> list[DemoObject]:
    """Write the store under `root` and return its objects sorted by path.

    A file that already holds the right bytes stays unchanged, so that a second build keeps its modification time and
    an incremental scan sees nothing new. Files of other names under `root` stay, too.
    """
    items = sorted(_all_items(), key=lambda item: item[0].path)
    for demo, data in items:
        target = root / demo.path
        if target.is_file() and target.read_bytes() == data:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return [demo for demo, _ in items]


def _all_items() -> Iterator[Item]:
    """Return every object with its bytes, in no particular order."""
    groups = (
        *(_neutral, _drawings, _uploads_formats, _uploads_pixel_modes, _uploads_metadata, _uploads_many_frames),
        *(_uploads_names, _uploads_shapes, _uploads_duplicates, _broken_unsupported, _broken_images),
    )
    return chain.from_iterable(group() for group in groups)


def _good(
    path: str,
    data: bytes,
    fmt: str,
    size: Size,
    note: str,
    *,
    frames: int = 1,
    camera: str | None = None,
    software: str | None = None,
) -> Item:
    """Return an object that every reader can read; its truth is the name of its class folder, if it is in one."""
    folder = path.split("/", 1)[0]
    truth = folder if folder in (NEUTRAL, DRAWINGS) else None
    return DemoObject(path, "ok", fmt, *size, frames, truth, camera, software, note), data


def _bad(path: str, data: bytes, status: str, note: str, fmt: str | None = None, size: Size | None = None) -> Item:
    """Return a damaged or foreign object; `fmt` and `size` are what its header still tells."""
    width, height = size or (None, None)
    return DemoObject(path, status, fmt, width, height, None, None, None, None, note), data


def _pictures(folder: str, rows: Iterable[Picture]) -> Iterator[Item]:
    """Yield good pictures as files of a folder."""
    for name, image, fmt, options, note in rows:
        yield _good(f"{folder}/{name}", _encode(image, fmt, **options), fmt, image.size, note)


def _encode(image: Image.Image, fmt: str, **options: Any) -> bytes:
    """Encode `image` in Pillow's format `fmt`."""
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


# --- neutral: photographs -------------------------------------------------------------------------------------------


def _photo_path(name: str) -> Path:
    """Return the path of photograph `name` in the installed scikit-image."""
    return Path(data_dir) / name


@cache
def _photo(name: str, size: Size | None = None, crop: tuple[int, int, int, int] | None = None) -> Image.Image:
    """Return a scikit-image photograph in its own mode, first cropped, then resized. It is cached: never draw on it."""
    with Image.open(_photo_path(name)) as opened:
        image = opened.crop(crop) if crop else opened.copy()
    return image.resize(size, Image.Resampling.BICUBIC) if size else image


@dataclass(frozen=True)
class _PhotoRow:
    """A photograph of the neutral class: its source, crop, size and JPEG quality."""

    name: str
    source: str
    note: str
    quality: int = 85
    size: Size | None = None
    crop: tuple[int, int, int, int] | None = None


_PHOTOS = (
    _PhotoRow("astronaut.jpg", "astronaut.png", "A portrait at high quality, short side over 448 px.", 92),
    _PhotoRow("astronaut_crop.jpg", "astronaut.png", "Head only, small.", 70, (192, 192), (130, 0, 330, 200)),
    _PhotoRow("camera.jpg", "camera.png", "A photograph that is black and white, stored as greyscale JPEG."),
    _PhotoRow("chelsea.jpg", "chelsea.png", "A cat at the source's size."),
    _PhotoRow("chelsea_thumbnail.jpg", "chelsea.png", "A thumbnail at low quality.", 40, (96, 64)),
    _PhotoRow("coffee_large.jpg", "coffee.png", "Upscaled by half, short side 600 px.", 80, (900, 600)),
    _PhotoRow("coins.jpg", "coins.png", "Grey coins on a dark ground.", 75),
    _PhotoRow("hubble_14_megapixels.jpg", "hubble_deep_field.jpg", "Upscaled to 14 megapixels.", 60, (4000, 3488)),
    _PhotoRow("retina_small.jpg", "retina.jpg", "A round, reddish medical photograph.", 80, (512, 512)),
    _PhotoRow("rocket_strip.jpg", "rocket.jpg", "A wide crop.", 80, None, (0, 60, 640, 260)),
)

_PHOTOS_AS_THEY_ARE = (
    ("coffee.png", "PNG", "The source file, byte for byte."),
    ("rocket.jpg", "JPEG", "The source file, byte for byte; copies of it are elsewhere in the store."),
)


def _neutral() -> Iterator[Item]:
    """Yield real photographs of harmless things."""
    for row in _PHOTOS:
        image = _photo(row.source, row.size, row.crop)
        yield _good(f"{NEUTRAL}/{row.name}", _encode(image, "JPEG", quality=row.quality), "JPEG", image.size, row.note)
    for name, fmt, note in _PHOTOS_AS_THEY_ARE:
        yield _good(f"{NEUTRAL}/{name}", _photo_path(name).read_bytes(), fmt, _photo(name).size, note)


# --- drawings ---------------------------------------------------------------------------------------------------------


def _drawings() -> Iterator[Item]:
    return _pictures(DRAWINGS, ((name, draw(), fmt, {}, note) for name, fmt, draw, note in DRAWN))


# --- uploads: odd, but good -----------------------------------------------------------------------------------------


def _uploads_formats() -> Iterator[Item]:
    """Yield one small photograph in each readable format, and a vector drawing."""
    image = _photo("chelsea.png", (225, 150))
    rows: tuple[tuple[str, str, dict[str, Any], str], ...] = (
        ("cat.jpg", "JPEG", {"quality": 85}, "Plain baseline JPEG."),
        ("cat_progressive.jpg", "JPEG", {"quality": 85, "progressive": True}, "Progressive JPEG."),
        ("cat.png", "PNG", {}, "Plain 8-bit RGB PNG."),
        ("cat_lossy.webp", "WEBP", {"quality": 80}, "Lossy WebP."),
        ("cat_lossless.webp", "WEBP", {"lossless": True}, "Lossless WebP."),
        ("cat.gif", "GIF", {}, "A photograph squeezed into the 256 colours of a GIF."),
        ("cat.avif", "AVIF", {"quality": 60, "speed": 8, "max_threads": 1}, "AVIF."),
        ("cat.bmp", "BMP", {}, "Uncompressed BMP."),
        ("cat.tiff", "TIFF", {"compression": "tiff_lzw"}, "TIFF with LZW compression."),
    )
    yield from _pictures(f"{UPLOADS}/formats", ((name, image, fmt, options, note) for name, fmt, options, note in rows))
    yield _good(f"{UPLOADS}/formats/icon.svg", _SVG, "SVG", (1024, 768), "A vector drawing.")
    heic = _encode_heic(image)
    if heic is not None:
        yield _good(f"{UPLOADS}/formats/cat.heic", heic, "HEIF", image.size, "HEIC as phones write it.")


_SVG = b"""<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 24">
  <rect width="32" height="24" fill="#9cf"/><path d="M2 22 12 6l6 9 4-5 8 12z" fill="#593"/>
  <circle cx="25" cy="6" r="3" fill="#fd3"/>
</svg>
"""


def _encode_heic(image: Image.Image) -> bytes | None:
    """Encode `image` as HEIC; return None if pillow-heif, which only this function needs, is not installed."""
    try:
        import pillow_heif
    except ImportError:
        return None
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=60)
    return out.getvalue()


def _uploads_pixel_modes() -> Iterator[Item]:
    """Yield files whose pixels are not 8-bit RGB, so that a scan must convert them before it classifies them."""
    colour = _photo("coffee.png", (240, 160))
    grey = _photo("camera.png", (200, 200))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    fading = colour.convert("RGBA")
    fading.putalpha(Image.linear_gradient("L").resize(colour.size))
    grey_fading = grey.convert("LA")
    grey_fading.putalpha(Image.radial_gradient("L").resize(grey.size))
    palette = colour.quantize(64, dither=Image.Dither.NONE)
    rows: tuple[Picture, ...] = (
        ("cmyk.jpg", colour.convert("CMYK"), "JPEG", {"quality": 85}, "CMYK JPEG, inverted, with an Adobe marker."),
        ("cmyk.tif", colour.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"}, "CMYK TIFF."),
        ("grey.jpg", grey, "JPEG", {"quality": 85}, "Greyscale JPEG of one component."),
        ("grey16.png", deep, "PNG", {}, "16 bits a pixel; a careless conversion to 8 bits turns it white."),
        ("grey16.tif", deep, "TIFF", {}, "16 bits a pixel, TIFF."),
        ("one_bit.png", grey.convert("1"), "PNG", {}, "Black and white dots only."),
        ("palette.png", palette, "PNG", {}, "Palette of 64 colours."),
        ("palette_transparent.png", palette, "PNG", {"transparency": 0}, "Palette with one transparent colour."),
        ("rgba.png", fading, "PNG", {}, "RGBA, transparent at the top and opaque at the bottom."),
        ("grey_alpha.png", grey_fading, "PNG", {}, "Greyscale with an alpha channel, transparent in the middle."),
    )
    return _pictures(f"{UPLOADS}/modes", rows)


def _exif(tags: Tags) -> Image.Exif:
    """Return an EXIF block of exactly these tags."""
    exif = Image.Exif()
    exif.update(tags)
    return exif


def _uploads_metadata() -> Iterator[Item]:
    """Yield files with EXIF tags or a colour profile that change how they are displayed or reported."""
    folder = f"{UPLOADS}/phone"
    scene = _photo("rocket.jpg", (320, 214))
    upright = _photo("rocket.jpg", (214, 320), (180, 0, 460, 420))
    phone: Tags = {EXIF_MAKE: "Demo", EXIF_MODEL: "Phone 1", EXIF_SOFTWARE: "DemoOS 4.2", EXIF_ORIENTATION: 6}
    data = _encode(upright.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=85, exif=_exif(phone))
    note = "A phone photo held upright: stored on its side, with Orientation 6."
    name, size = f"{folder}/IMG_0001.jpg", upright.size
    yield _good(name, data, "JPEG", size, note, camera="Demo Phone 1", software="DemoOS 4.2")
    padded: Tags = {EXIF_MAKE: "DEMO CORP   ", EXIF_MODEL: "  D-100  ", EXIF_ORIENTATION: 5}
    data = _encode(upright.transpose(Image.Transpose.TRANSPOSE), "JPEG", quality=85, exif=_exif(padded))
    note = "Upper-case extension, camera names padded with blanks, Orientation 5 (mirrored and turned)."
    yield _good(f"{folder}/DSC_0002.JPG", data, "JPEG", size, note, camera="DEMO CORP D-100")
    data = _encode(scene, "WEBP", quality=80, exif=_exif({EXIF_SOFTWARE: "Demo Editor 2.1"}))
    note = "WebP with an EXIF Software tag and no camera."
    yield _good(f"{folder}/edited.webp", data, "WEBP", scene.size, note, software="Demo Editor 2.1")
    profile = _wide_gamut_profile()
    data = _encode(_into_profile(scene, profile), "JPEG", quality=85, icc_profile=profile)
    note = "Embedded profile with the primaries and gamma of Adobe RGB (1998); looks dull if the profile is ignored."
    yield _good(f"{folder}/wide_gamut.jpg", data, "JPEG", scene.size, note)


def _into_profile(image: Image.Image, profile: bytes) -> Image.Image:
    """Convert an sRGB picture into `profile`, so that a reader that honours the profile shows the same colours."""
    target = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    converted = ImageCms.profileToProfile(image, ImageCms.createProfile("sRGB"), target)
    if converted is None:
        raise AssertionError("profileToProfile returns a picture unless it works in place")
    return converted


def _wide_gamut_profile() -> bytes:
    """Return a minimal ICC v2 display profile, assembled by hand.

    Pillow can create only LAB, XYZ and sRGB profiles, and writes the time of day into them; this one differs from sRGB
    and is the same in each build.
    """

    def s15(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + s15(*values)

    white = (0.9642, 1.0, 0.8249)
    name = b"Demo wide gamut RGB\0"
    curve = b"curv" + struct.pack(">IIH", 0, 1, 0x0233) + b"\0\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78),
        b"cprt": b"text\0\0\0\0No copyright, use freely\0",
        b"wtpt": xyz(*white),
        b"rXYZ": xyz(0.60974, 0.31111, 0.01947),
        b"gXYZ": xyz(0.20528, 0.62567, 0.06087),
        b"bXYZ": xyz(0.14919, 0.06322, 0.74457),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    table, body = struct.pack(">I", len(tags)), b""
    body_start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        table += struct.pack(">4sII", tag, body_start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    header = struct.pack(">I4xI4s4s4s", body_start + len(body), 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    header += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + s15(*white)
    return header.ljust(128, b"\0") + table + body


def _ball_frames(count: int, size: Size = (120, 80)) -> list[Image.Image]:
    """Draw a ball that crosses the picture in `count` frames, no two alike."""
    frames = []
    for number in range(count):
        image, pen = canvas(size, (30, 60, 90))
        x = round((size[0] - 30) * number / max(1, count - 1))
        pen.ellipse((x, 25, x + 30, 55), fill=(240, 180, 40))
        frames.append(image)
    return frames


def _uploads_many_frames() -> Iterator[Item]:
    """Yield files that hold more than one picture."""
    animated: dict[str, Any] = {"duration": 120, "loop": 0}
    rows: tuple[tuple[str, str, int, dict[str, Any], str], ...] = (
        ("ball.gif", "GIF", 5, animated, "Animated GIF."),
        ("ball.webp", "WEBP", 4, animated | {"lossless": True}, "Animated WebP."),
        ("ball.png", "PNG", 6, animated, "Animated PNG; readers that do not know APNG see its first frame."),
        ("pages.tif", "TIFF", 3, {"compression": "tiff_lzw"}, "TIFF of three pages."),
        ("stereo.mpo", "MPO", 2, {"quality": 85}, "Two JPEGs in one file, as stereo cameras write."),
    )
    for name, fmt, count, options, note in rows:
        first, *others = _ball_frames(count)
        data = _encode(first, fmt, save_all=True, append_images=others, **options)
        yield _good(f"{UPLOADS}/frames/{name}", data, fmt, first.size, note, frames=count)


_NAMES = (
    ("no_extension", "JPEG", "A JPEG without an extension."),
    ("really_a_png.jpg", "PNG", "A PNG under the extension of a JPEG."),
    ("really_a_jpeg.txt", "JPEG", "A JPEG under the extension of a text file."),
    (".hidden.jpg", "JPEG", "A hidden name."),
    ("_underscore.png", "PNG", "A leading underscore, which some readers of folders skip."),
    ("two words  and two blanks.jpg", "JPEG", "Blanks, two of them in a row."),
    ("каф\u00e9 写真 \U0001f4f7.jpg", "JPEG", "Letters of several scripts, a composed accent and an emoji."),
    ("number #1.jpg", "JPEG", "A '#', which starts the fragment of a URL."),
    ("100%25 real.jpg", "JPEG", "A '%25', which must not be decoded to '%'."),
    ("what?size=big.jpg", "JPEG", "A '?', which starts the query of a URL and is a wildcard."),
    ('it\'s "quoted".jpg', "JPEG", "Both kinds of quotation marks."),
    ("line\nbreak.jpg", "JPEG", "A line break in the name, which breaks naive listings."),
)


def _uploads_names() -> Iterator[Item]:
    """Yield good pictures under awkward names, each with its own colour, so that none duplicates another."""
    rows: Iterator[Picture] = ((name, _name_tile(i), fmt, {}, note) for i, (name, fmt, note) in enumerate(_NAMES))
    return _pictures(f"{UPLOADS}/names", rows)


def _name_tile(number: int) -> Image.Image:
    """Draw a small tile that shows its number."""
    image, pen = canvas((96, 96), blend((20, 120, 160), (220, 120, 80), number / len(_NAMES)))
    pen.text((24, 20), str(number + 1), fill=(255, 255, 255), font=ImageFont.load_default(44))
    return image


def _uploads_shapes() -> Iterator[Item]:
    """Yield pictures of extreme proportions."""
    rows: tuple[tuple[str, Size, str], ...] = (
        ("one_pixel.png", (1, 1), "A single pixel, such as a tracking pixel."),
        ("very_wide.png", (2000, 20), "A hundred times as wide as tall."),
        ("very_tall.png", (20, 2000), "A hundred times as tall as wide."),
    )
    images: Iterator[Picture] = ((name, draw_gradient().resize(size), "PNG", {}, note) for name, size, note in rows)
    return _pictures(f"{UPLOADS}/shapes", images)


def _uploads_duplicates() -> Iterator[Item]:
    """Yield byte-for-byte copies of a file of the neutral class: a scan needs to classify them only once."""
    data, size = _photo_path("rocket.jpg").read_bytes(), _photo("rocket.jpg").size
    for path in (f"{UPLOADS}/copies/rocket.jpg", "uploads/2026/12/launch.jpg"):
        yield _good(path, data, "JPEG", size, "The same bytes as neutral/rocket.jpg.")


# --- broken: damaged or no pictures at all --------------------------------------------------------------------------

_PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj\n<< /Type /Catalog >>\nendobj\n%%EOF\n"
_HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
_MP4 = struct.pack(">I4s4sI4s4sI4s", 24, b"ftyp", b"M4A ", 0x200, b"M4A ", b"mp42", 8, b"mdat")


def _broken_unsupported() -> Iterator[Item]:
    """Yield files that are no picture of a known format, whatever their names say."""
    rows: tuple[tuple[str, bytes, str], ...] = (
        ("empty.jpg", b"", "No bytes at all."),
        ("notes.jpg", b"This is a note, not a picture.\n", "Text under the extension of a JPEG."),
        ("document.pdf", _PDF, "The beginning of a PDF."),
        ("album.zip", _zip_of_text(), "A zip archive."),
        ("not_found.html", _HTML, "A web page."),
        ("clip.mp4", _MP4, "A sound's ftyp box, of the same family as those of HEIC and AVIF."),
        ("noise.bin", random.Random(13).randbytes(2048), "Random bytes."),
    )
    for name, data, note in rows:
        yield _bad(f"{BROKEN}/{name}", data, "unsupported", note)


def _zip_of_text() -> bytes:
    """Return a zip archive of one text file with a fixed date."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(zipfile.ZipInfo("readme.txt", (2026, 1, 1, 0, 0, 0)), "nothing here\n")
    return out.getvalue()


def _broken_images() -> Iterator[Item]:
    """Yield pictures with a good header whose pixels cannot be decoded, or only in part."""
    image = _photo("chelsea.png", (300, 200))
    jpeg, png = _encode(image, "JPEG", quality=85), _encode(image, "PNG")
    rows: tuple[tuple[str, bytes, str, str, str], ...] = (
        ("truncated.jpg", _cut(jpeg), "ok", "JPEG", "A JPEG cut off at 60 %, as after a failed upload."),
        ("truncated.png", _cut(png), "ok", "PNG", "A PNG cut off at 60 %."),
        ("garbage.jpg", _spoiled(jpeg), "decode_error", "JPEG", "A JPEG's header with garbage for tables and pixels."),
    )
    for name, data, status, fmt, note in rows:
        demo, _ = _bad(f"{BROKEN}/{name}", data, status, note, fmt, image.size)
        yield replace(demo, frames=1 if status == "ok" else None), data
    huge = 30_000, 30_000
    note = "Claims 900 megapixels in a hundred bytes: a decompression bomb."
    yield _bad(f"{BROKEN}/bomb.png", _png_that_claims(huge), "too_large", note, "PNG", huge)


def _cut(data: bytes) -> bytes:
    """Return the first 60 % of `data`."""
    return data[: len(data) * 6 // 10]


def _spoiled(jpeg: bytes) -> bytes:
    """Overwrite the first Huffman table and all coded pixels with garbage; the headers stay readable.

    Garbage in the coded pixels alone is no error to libjpeg, which paints that part grey; a bad table is an error.
    """
    table, scan = jpeg.index(b"\xff\xc4"), jpeg.index(b"\xff\xda")
    length = int.from_bytes(jpeg[table + 2 : table + 4])
    tables_end, scan_start = table + 2 + length, scan + 2 + int.from_bytes(jpeg[scan + 2 : scan + 4])
    noise = random.Random(14).randbytes(len(jpeg) - scan_start)
    return jpeg[: table + 4] + b"\xee" * (length - 2) + jpeg[tables_end:scan_start] + noise


def _png_that_claims(size: Size) -> bytes:
    """Return a PNG whose valid header claims `size`, followed by almost no pixels."""

    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    header = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
