"""Decoding: the pixels that a person would see, what the file says about itself, and an error for everything else."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from nsfwscan.demo.drawings import draw_gradient
from nsfwscan.demo.media import (
    EXIF_MAKE,
    EXIF_MODEL,
    EXIF_ORIENTATION,
    EXIF_SOFTWARE,
    UPLOADS,
    DemoObject,
    _ball_frames,
    _into_profile,
    _photo,
    _wide_gamut_profile,
)
from nsfwscan.errors import ErrorCode, RowError, Status
from nsfwscan.images.decoder import Decoded, decode, header, to_pixels
from nsfwscan.images.formats.endings import is_cut_off
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.views import ViewLimits, to_views
from tests.bombs import many_pages_tiff

Demo = tuple[Path, list[DemoObject]]

PLENTY = 100_000_000
SCENE = draw_gradient().crop((0, 0, 440, 330)).resize((64, 48))
"""No two of its orientations look alike."""


def encode(image: Image.Image, fmt: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, fmt, **options)
    return out.getvalue()


def encode_heif(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(image).save(out, quality=95, **options)
    return out.getvalue()


def pixels(data: bytes) -> NDArray[np.int16]:
    """Decoded pixels, int16 [H, W, 3], for differences."""
    image = decode(data, max_pixels=PLENTY).image
    assert image.mode == "RGB"
    return np.asarray(image).astype(np.int16)


def rgb(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image.convert("RGB")).astype(np.int16)


def difference(first: NDArray[np.int16], second: NDArray[np.int16]) -> float:
    """Mean absolute difference, in levels of 255."""
    assert first.shape == second.shape
    return float(np.abs(first - second).mean())


def failure(data: bytes, max_pixels: int = PLENTY) -> RowError:
    with pytest.raises(RowError) as caught:
        decode(data, max_pixels=max_pixels)
    assert caught.value.status != Status.OK
    return caught.value


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_a_file_that_was_cut_off_says_so(name: str) -> None:
    """A file whose end is missing, and of which nothing can be shown, is `truncated`; one that is broken otherwise is
    not."""
    out = io.BytesIO()
    picture = Image.effect_noise((64, 64), 80).convert("RGB")
    (pillow_heif.from_pillow(picture) if name == "HEIF" else picture).save(out, format=name)
    whole = out.getvalue()
    assert not is_cut_off(whole, name)
    assert all(is_cut_off(whole[:size], name) for size in (24, 60, 100))
    lost = [e for size in (24, 30) if isinstance(e := _tried(whole[:size]), RowError)]
    assert lost and all(error.code == ErrorCode.TRUNCATED for error in lost)


def _tried(data: bytes) -> object:
    try:
        return decode(data, max_pixels=PLENTY)
    except RowError as error:
        return error


def test_a_broken_file_is_not_called_cut_off() -> None:
    """Its end is there."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "JPEG")
    data = out.getvalue()
    broken = failure(data[:20] + bytes(len(data) - 22) + data[-2:])
    assert (broken.status, broken.code) == (Status.DECODE_ERROR, ErrorCode.DECODE_ERROR)


# --- the demo store -------------------------------------------------------------------------------------------------


def test_every_object_is_as_declared(demo: Demo) -> None:
    """Status, format, displayed size, frames, camera and software of every object of the demo store are right."""
    root, objects = demo
    facts = ("format", "width", "height", "frames", "camera", "software")
    for declared in objects:
        data = (root / declared.path).read_bytes()
        try:
            status, found = "ok", to_views(data, limits=ViewLimits(8, PLENTY, 60.0), max_pixels=PLENTY)[0]
        except RowError as error:
            status, found = error.status, error.values
        assert status == declared.status, declared
        for name in facts:
            expected = getattr(declared, name)
            if expected is not None or status == "ok":
                assert found.get(name) == expected, (declared, name)


# --- pixels as a person sees them -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grey16.png", "grey16.tif"])
def test_sixteen_bits_are_scaled(demo: Demo, name: str) -> None:
    """A picture of 16 bits a pixel looks exactly like its 8-bit original, instead of turning white."""
    original = rgb(_photo("camera.png", (200, 200)))
    assert difference(pixels((demo[0] / UPLOADS / "modes" / name).read_bytes()), original) == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 0x00FF, 0x0100, 0x7FFF, 0xFFFF]], np.uint16), [0, 0, 1, 127, 255]),
        (np.array([[0, 0x0100, 0xFFFF]], ">u2"), [0, 1, 255]),
        (np.array([[-5, 0, 128, 255]], np.int32), [0, 0, 128, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0, 2**30, 2**31 - 1]], np.int32), [0, 127, 255]),
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 127, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32), [0, 0, 0, 255]),
    ],
)
def test_deep_greys_are_scaled_to_the_range_they_stand_for(values: NDArray[Any], expected: list[int]) -> None:
    """Greys of 16 and 32 bits and floats keep their order and never wrap round or clip to white."""
    found = pixels(encode(Image.fromarray(values), "TIFF"))
    assert found[0].tolist() == [[level] * 3 for level in expected]


def test_alpha_lies_over_white() -> None:
    """What is transparent shows white, what is half transparent half of it, in every mode that has transparency."""
    half = Image.new("RGBA", (3, 1), (0, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 127))
    half.putpixel((2, 0), (255, 0, 0, 0))
    assert pixels(encode(half))[0].tolist() == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    grey = Image.new("LA", (1, 1), (10, 0))
    assert pixels(encode(grey)).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    for fmt in ("PNG", "GIF"):
        assert pixels(encode(palette, fmt, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    keyed = encode(Image.new("RGB", (1, 1), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixels(keyed).tolist() == [[[255, 255, 255]]]
    assert pixels(encode(half, "WEBP", lossless=True, exact=True))[0, 2].tolist() == [255, 255, 255]


def test_one_bit_and_palette_are_as_drawn() -> None:
    """Dots are black and white, and palette colours come out as they were chosen."""
    dots = Image.fromarray(np.array([[True, False]]))
    for fmt in ("PNG", "TIFF", "BMP"):
        assert pixels(encode(dots, fmt)).tolist() == [[[255] * 3, [0] * 3]]


def test_cmyk_looks_like_its_original(demo: Demo) -> None:
    """CMYK pictures, inverted as Adobe writes JPEGs or not, come out as the photograph and not as its negative."""
    original = rgb(_photo("coffee.png", (240, 160)))
    for name in ("cmyk.jpg", "cmyk.tif"):
        assert difference(pixels((demo[0] / UPLOADS / "modes" / name).read_bytes()), original) < 6, name


def test_a_wide_gamut_profile_is_converted() -> None:
    """The embedded profile changes pixels exactly as ImageCms says, which brings back the colours meant."""
    scene, profile = _photo("rocket.jpg", (320, 214)), _wide_gamut_profile()
    stored = _into_profile(scene, profile)
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    meant = ImageCms.profileToProfile(stored, source, ImageCms.createProfile("sRGB"))
    assert meant is not None
    found = pixels(encode(stored, icc_profile=profile))
    assert difference(found, rgb(meant)) == 0
    assert difference(found, rgb(stored)) > 2
    assert difference(found, rgb(scene)) < 1
    clear = stored.convert("RGBA")
    assert difference(pixels(encode(clear, icc_profile=profile)), rgb(meant)) == 0


def test_an_srgb_profile_changes_nothing() -> None:
    """A file that says it is sRGB has the very pixels of one that says nothing."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert difference(pixels(encode(SCENE, icc_profile=srgb)), rgb(SCENE)) == 0


@pytest.mark.parametrize(
    "profile", [b"", b"no profile", _wide_gamut_profile()[:200], bytes(128)], ids=["empty", "text", "cut", "zeros"]
)
def test_a_broken_profile_is_ignored(profile: bytes) -> None:
    """A profile that cannot be read leaves the pixels as they are."""
    assert difference(pixels(encode(SCENE, "TIFF", icc_profile=profile)), rgb(SCENE)) == 0


def test_a_profile_for_other_pixels_is_ignored() -> None:
    """A colour profile in a grey picture, or in a CMYK one, does not fail it."""
    profile = _wide_gamut_profile()
    grey = SCENE.convert("L")
    assert difference(pixels(encode(grey, icc_profile=profile)), rgb(grey)) == 0
    cmyk = SCENE.convert("CMYK")
    assert difference(pixels(encode(cmyk, "TIFF", icc_profile=profile)), rgb(cmyk)) == 0


def test_lab_is_converted() -> None:
    """CIELAB pixels come out as the colours that they stand for."""
    lab = ImageCms.profileToProfile(
        SCENE, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert lab is not None
    assert difference(pixels(encode(lab, "TIFF")), rgb(SCENE)) < 3


# --- orientation ----------------------------------------------------------------------------------------------------

# How to lay down an upright picture so that each value's turn (EXIF 2.3, 4.6.4: where the 0th row and column belong)
# brings it back.
_LAID: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation: int, fmt: str) -> None:
    """Each of the eight orientations, in each format that carries one, is shown upright, and the size is as shown."""
    stored = Image.fromarray(np.ascontiguousarray(_LAID[orientation](np.asarray(SCENE))))
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    options = {"quality": 95} if fmt in ("JPEG", "WEBP", "AVIF") else {}
    data = encode_heif(stored, exif=exif.tobytes()) if fmt == "HEIF" else encode(stored, fmt, exif=exif, **options)
    decoded = decode(data, max_pixels=PLENTY)
    assert (decoded.facts["width"], decoded.facts["height"]) == decoded.image.size == SCENE.size
    assert difference(rgb(decoded.image), rgb(SCENE)) < 6


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation: int) -> None:
    """Values that the standard does not know leave the picture as it is stored."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    assert difference(pixels(encode(SCENE, exif=exif)), rgb(SCENE)) == 0


# --- frames ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "tolerance"),
    [("ball.gif", 5, 1), ("ball.webp", 4, 0), ("ball.png", 6, 0), ("pages.tif", 3, 0), ("stereo.mpo", 2, 4)],
)
def test_the_first_frame_is_decoded(demo: Demo, name: str, count: int, tolerance: float) -> None:
    """Of an animation, of pages and of a stereo pair the first picture is taken, after all were counted."""
    data = (demo[0] / UPLOADS / "frames" / name).read_bytes()
    first, second, *_ = (rgb(frame) for frame in _ball_frames(count))
    assert difference(pixels(data), first) <= tolerance < difference(pixels(data), second) + 1
    assert difference(pixels(data), first) < difference(pixels(data), second)


def test_a_broken_later_frame_does_not_matter() -> None:
    """An animation cut off in a later frame still shows that frame."""
    first, *others = _ball_frames(4)
    data = encode(first, "GIF", save_all=True, append_images=others, duration=100)
    last = data.rindex(b"\x21\xf9\x04")  # its graphic control extension
    assert difference(pixels(data[: last + 25]), pixels(data)) == 0


def test_frames_beyond_counting_are_not_counted() -> None:
    """Of a file with more frames or pages than are worth walking through, the first is decoded and no number given."""
    for few, many in ((_gif_of(1000), _gif_of(100_000)), (many_pages_tiff(1000), many_pages_tiff(20_000))):
        assert decode(few, max_pixels=PLENTY).facts["frames"] == 1001
        endless = decode(many, max_pixels=PLENTY)
        assert endless.facts["frames"] is None
        assert difference(rgb(endless.image), pixels(few)) == 0


def _gif_of(frames: int) -> bytes:
    data = encode(SCENE, "GIF", save_all=True, append_images=[SCENE.rotate(90)], duration=10)
    last = data.rindex(b"\x21\xf9\x04")
    return data[:last] + data[last:-1] * frames + data[-1:]


# --- what the file says ---------------------------------------------------------------------------------------------


def facts_of(tags: dict[int, Any], fmt: str = "JPEG") -> dict[str, Any]:
    exif = Image.Exif()
    exif.update(tags)
    return decode(encode(SCENE, fmt, exif=exif), max_pixels=PLENTY).facts


def test_camera_and_software_are_text_for_a_person() -> None:
    """EXIF names lose padding and control characters, are cut, and are null where they are no text."""
    found = facts_of({EXIF_MAKE: "  Demo\x00\x1b[31m ", EXIF_MODEL: "Phone\n1", EXIF_SOFTWARE: "x" * 500})
    assert (found["camera"], found["software"]) == ("Demo[31m Phone1", "x" * 120)
    found = facts_of({EXIF_MAKE: "  ", EXIF_MODEL: "Only a model", EXIF_SOFTWARE: " \x00"})
    assert (found["camera"], found["software"]) == ("Only a model", None)
    assert facts_of({EXIF_SOFTWARE: b"caf\xe9 \xff"})["software"] is not None
    assert facts_of({}, "PNG")["camera"] is None


_EXIF_HEAD = b"Exif\0\0"
_BROKEN_EXIF = {
    "noise": b"\xff\xee\xdd" * 40,
    "empty": b"",
    "cut": b"II*\0\x08\0\0\0\x05\0",
    "offset": b"II*\0\xff\xff\xff\x7f",
    "loop": b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
    "type": b"II*\0\x08\0\0\0\x01\0\x12\x01\x63\0\x01\0\0\0\x06\0\0\0\0\0\0\0",
    "text": b"II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x04\0\0\0six\0\0\0\0\0",
    "count": b"II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\xff\xff\x08\0\0\0\0\0\0\0",
    "rational": b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x05\0\0\0\x01\0\0\0\x1a\0\0\0\0\0\0\0\x06\0\0\0\0",
}


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("broken", _BROKEN_EXIF)
def test_malformed_exif_is_ignored(broken: str, fmt: str) -> None:
    """A picture with a damaged EXIF block is shown like the one without, and names no camera."""
    clean = encode(SCENE, fmt)
    decoded = decode(encode(SCENE, fmt, exif=_EXIF_HEAD + _BROKEN_EXIF[broken]), max_pixels=PLENTY)
    assert difference(rgb(decoded.image), pixels(clean)) == 0
    assert decoded.facts["camera"] is None


@settings(max_examples=150, deadline=None)
@given(block=st.binary(max_size=120), order=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b""]))
def test_no_exif_fails_a_picture(block: bytes, order: bytes) -> None:
    """Whatever bytes stand where EXIF should be, the picture is decoded; at most it is turned."""
    for fmt in ("JPEG", "PNG"):
        decoded = decode(encode(_TINY, fmt, exif=_EXIF_HEAD + order + block), max_pixels=PLENTY)
        assert sorted(decoded.image.size) == sorted(_TINY.size)


def test_the_header_alone() -> None:
    """The header says format and size as they are stored, and fails as decoding it would."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    data = encode(SCENE, "JPEG", exif=exif)
    assert header(data[:-40], max_pixels=PLENTY) == {"format": "JPEG", "width": 64, "height": 48}
    with pytest.raises(RowError, match="over the limit of 100"):
        header(data, max_pixels=100)


def test_too_little_memory_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory runs out, no file is called damaged for it."""

    def none_left(*_: Any, **__: Any) -> Any:
        raise MemoryError

    for step in ("PIL.PngImagePlugin.PngImageFile._open", "PIL.Image.core.new", "PIL.Image.Image.getexif"):
        with monkeypatch.context() as patched:
            patched.setattr(step, none_left)
            with pytest.raises(MemoryError):
                decode(encode(SCENE), max_pixels=PLENTY)


# --- limits ---------------------------------------------------------------------------------------------------------


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(bytes(64))) + chunk(b"IEND", b"")


def claiming(fmt: str, width: int, height: int) -> bytes:
    """A small valid file whose header was changed to promise another size."""
    data = bytearray(encode(SCENE, fmt))
    if fmt == "GIF":
        data[6:10] = struct.pack("<HH", width, height)
    elif fmt == "BMP":
        data[18:26] = struct.pack("<ii", width, height)
    elif fmt == "JPEG":
        start = data.index(b"\xff\xc0")
        data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    else:
        return png_that_claims(width, height)
    return bytes(data)


@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "GIF", "BMP"])
@pytest.mark.parametrize("size", [(60_000, 60_000), (12_000, 10_000)], ids=["more than Pillow takes", "over the limit"])
def test_a_huge_header_is_too_large(fmt: str, size: tuple[int, int]) -> None:
    """A file that claims more pixels than allowed is not decoded, and its row says how large it claims to be."""
    error = failure(claiming(fmt, *size))
    assert error.status == Status.TOO_LARGE
    assert error.values == {"format": fmt, "width": size[0], "height": size[1]}
    assert f"{size[0]:,} × {size[1]:,} pixels" in str(error)


def test_a_frame_larger_than_its_file_is_too_large() -> None:
    """A GIF of 8 × 8 whose first frame claims 4 gigapixels is an object's fault like any other."""
    data = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    frame = data.index(b"\x2c")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    error = failure(bytes(data))
    assert (error.status, error.values) == (Status.TOO_LARGE, {"format": "GIF"})
    assert "4294836225 pixels" in str(error)


def test_the_limit_is_inclusive() -> None:
    """A picture of exactly as many pixels as allowed is decoded, one more is not."""
    data = encode(Image.new("RGB", (10, 10)))
    assert decode(data, max_pixels=100).image.size == (10, 10)
    assert failure(data, max_pixels=99).status == Status.TOO_LARGE


def test_the_limit_may_be_above_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the configuration allows is decoded, even where Pillow on its own would refuse it as a bomb."""
    for fmt in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert failure(encode(SCENE, fmt), max_pixels=200).status == Status.TOO_LARGE
        assert Image.MAX_IMAGE_PIXELS == 100
        assert decode(encode(SCENE, fmt), max_pixels=64 * 48).image.size == SCENE.size


# --- no images ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty.jpg", "empty: 0 bytes"),
        ("notes.jpg", "plain text"),
        ("document.pdf", "portable document format"),
        ("album.zip", "zip archive"),
        ("not_found.html", "html"),
        ("clip.mp4", "mpeg-4"),
        ("noise.bin", "unknown binary data"),
    ],
)
def test_what_is_no_image_is_named(demo: Demo, name: str, words: str) -> None:
    """A file that is no image is `unsupported`, and its error says what it looks like."""
    error = failure((demo[0] / "broken" / name).read_bytes())
    assert (error.status, error.values) == (Status.UNSUPPORTED, {})
    assert words in str(error).lower()


@pytest.mark.parametrize("fmt", ["JPEG2000", "PPM", "TGA", "SGI", "PCX", "EPS", "PDF", "DDS"])
def test_formats_off_the_list_are_not_opened(fmt: str) -> None:
    """Formats that Pillow reads, but that are not on the allow-list, never reach their decoders."""
    assert fmt not in FORMATS
    assert failure(encode(SCENE, fmt)).status == Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("head", "fmt"), [(b"\xff\xd8\xff\xe0junk", "JPEG"), (b"\x89PNG\r\n\x1a\njunk", "PNG"), (b"GIF89a", "GIF")]
)
def test_a_damaged_header_is_an_image_that_failed(head: bytes, fmt: str) -> None:
    """A file that begins like an image counts as a broken image, not as something else."""
    error = failure(head + bytes(40))
    assert (error.status, error.values.get("format")) == (Status.DECODE_ERROR, fmt)


@pytest.mark.parametrize(
    ("fmt", "old", "new", "words"),
    [
        ("JPEG", b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c", "a JPEG of 12 bits a sample"),
        ("JPEG", b"\xff\xc0", b"\xff\xc3", "a lossless JPEG"),
        ("JPEG", b"\xff\xc0", b"\xff\xc5", "a hierarchical JPEG"),
        ("JPEG", b"\xff\xc0", b"\xff\xf7", "a JPEG-LS image"),
        ("HEIF", b"hvc1", b"vvc1", "an HEIF image coded as VVC"),
        ("HEIF", b"hvc1", b"j2k1", "an HEIF image coded as JPEG 2000"),
    ],
)
def test_a_kind_that_is_not_decoded_is_not_called_damaged(fmt: str, old: bytes, new: bytes, words: str) -> None:
    """A JPEG or HEIF that is coded in a way which nobody here decodes is `unsupported`, with that way in words."""
    data = encode_heif(SCENE) if fmt == "HEIF" else encode(SCENE, fmt)
    assert old in data
    error = failure(data.replace(old, new))
    assert (error.status, error.message) == (Status.UNSUPPORTED, f"{words} is not supported")
    assert error.values["format"] == fmt


# --- anything at all ------------------------------------------------------------------------------------------------

_TINY = SCENE.resize((24, 16))
_VALID: dict[str, bytes] = {
    "JPEG": encode(_TINY, "JPEG"),
    "progressive JPEG": encode(_TINY.convert("CMYK"), "JPEG", progressive=True, exif=_EXIF_HEAD + b"II*\0\x08\0\0\0"),
    "PNG": encode(_TINY.convert("RGBA"), icc_profile=_wide_gamut_profile()),
    "palette PNG": encode(_TINY.quantize(8), transparency=0),
    "WEBP": encode(_TINY, "WEBP"),
    "animated WEBP": encode(_TINY, "WEBP", save_all=True, append_images=[_TINY.rotate(90)], lossless=True),
    "GIF": encode(_TINY, "GIF", save_all=True, append_images=[_TINY.rotate(90)]),
    "BMP": encode(_TINY.quantize(8), "BMP"),
    "TIFF": encode(_TINY, "TIFF", compression="tiff_lzw"),
    "MPO": encode(_TINY, "MPO", save_all=True, append_images=[_TINY.rotate(90)]),
    "AVIF": encode(_TINY, "AVIF", speed=10, max_threads=1),
    "HEIF": encode_heif(_TINY),
}


_GEOMETRY = Geometry((16, 16), Image.Resampling.BILINEAR)


def check(data: bytes) -> Decoded | RowError:
    """Decode in a small limit, and see to it that the outcome can be written into a row."""
    try:
        facts, found = to_pixels(data, _GEOMETRY, max_pixels=100_000)
    except RowError as error:
        return _writable(error)
    assert len(found) == _GEOMETRY.nbytes
    decoded = decode(data, max_pixels=100_000)
    assert decoded.facts == facts
    assert to_pixels(data, _GEOMETRY, fast=True, max_pixels=100_000)[0] == facts
    return decoded


def _writable(error: RowError) -> RowError:
    assert error.status in ("unsupported", "too_large", "decode_error")
    assert error.message and "\n" not in error.message
    return error


@settings(max_examples=300, deadline=None)
@given(
    head=st.sampled_from([b"", *(data[:16] for data in _VALID.values()), b"BM", b"II*\0", b"MM\0*", b"RIFF"]),
    tail=st.binary(max_size=400),
)
def test_any_bytes_end_in_an_error_of_the_row(head: bytes, tail: bytes) -> None:
    """Arbitrary bytes, with or without an image's beginning, decode or fail as their row's error, never otherwise."""
    check(head + tail)


@pytest.mark.parametrize("kind", _VALID)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_damage_ends_in_an_error_of_the_row(kind: str, data: st.DataObject) -> None:
    """A valid file cut off, with bytes changed, dropped or doubled, decodes or fails as its row's error."""
    whole = _VALID[kind]
    assert isinstance(check(whole), Decoded)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        match data.draw(st.sampled_from(["cut", "set", "drop", "double", "insert"])):
            case "cut":
                del damaged[at:]
            case "set":
                damaged[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
            case "drop":
                del damaged[at : at + data.draw(st.integers(1, 40))]
            case "double":
                damaged[at:at] = damaged[at : at + data.draw(st.integers(1, 200))]
            case "insert":
                damaged[at:at] = data.draw(st.binary(max_size=40))
    check(bytes(damaged))


# --- the model's pixels ---------------------------------------------------------------------------------------------


def test_pixels_are_the_geometry_of_the_decoded_image() -> None:
    """The pixels are what the geometry makes of the upright picture."""
    geometry = Geometry(20, Image.Resampling.BICUBIC, (16, 18))
    facts, found = to_pixels(encode(SCENE), geometry, max_pixels=PLENTY)
    assert found == geometry.apply(SCENE)
    assert facts == decode(encode(SCENE), max_pixels=PLENTY).facts
    with pytest.raises(RowError, match="plain text"):
        to_pixels(b"no", geometry, max_pixels=PLENTY)
