"""Decoding: the pixels that a person would see, what the file says about itself, and an error for everything else."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms

from nsfwscan.demo.media import (
    EXIF_MAKE,
    EXIF_MODEL,
    EXIF_ORIENTATION,
    EXIF_SOFTWARE,
    UPLOADS,
    _ball_frames,
    _into_profile,
    _photo,
    _wide_gamut_profile,
)
from nsfwscan.errors import RowError
from nsfwscan.images.decoder import decode, header, to_pixels
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.views import ViewLimits, to_views
from tests.bombs import many_pages_tiff
from tests.images.decoding import EXIF_HEAD, PLENTY, SCENE, TINY, Demo, difference, encode, encode_heif, pixels, rgb

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
    decoded = decode(encode(SCENE, fmt, exif=EXIF_HEAD + _BROKEN_EXIF[broken]), max_pixels=PLENTY)
    assert difference(rgb(decoded.image), pixels(clean)) == 0
    assert decoded.facts["camera"] is None


@settings(max_examples=150, deadline=None)
@given(block=st.binary(max_size=120), order=st.sampled_from([b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b""]))
def test_no_exif_fails_a_picture(block: bytes, order: bytes) -> None:
    """Whatever bytes stand where EXIF should be, the picture is decoded; at most it is turned."""
    for fmt in ("JPEG", "PNG"):
        decoded = decode(encode(TINY, fmt, exif=EXIF_HEAD + order + block), max_pixels=PLENTY)
        assert sorted(decoded.image.size) == sorted(TINY.size)


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


# --- the model's pixels ---------------------------------------------------------------------------------------------


def test_pixels_are_the_geometry_of_the_decoded_image() -> None:
    """The pixels are what the geometry makes of the upright picture."""
    geometry = Geometry(20, Image.Resampling.BICUBIC, (16, 18))
    facts, found = to_pixels(encode(SCENE), geometry, max_pixels=PLENTY)
    assert found == geometry.apply(SCENE)
    assert facts == decode(encode(SCENE), max_pixels=PLENTY).facts
    with pytest.raises(RowError, match="plain text"):
        to_pixels(b"no", geometry, max_pixels=PLENTY)
