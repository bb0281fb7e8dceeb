"""JPEGs are decoded straight into Pillow's memory: the same pixels, and the same verdict on every file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.errors import RowError
from nsfwscan.images.decoder import decode, to_pixels
from nsfwscan.images.formats import jpeg, registry
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.raster import blank, memory_of

PLENTY = 10**8


def picture(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Noise over a gradient: every coefficient and every edge of a block counts."""
    random = np.random.default_rng(width * 5000 + height)
    noise = random.integers(0, 90, (height, width, 3)) + np.linspace(0, 165, width)[None, :, None]
    return Image.fromarray(noise.astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


@contextmanager
def pillow_alone() -> Iterator[None]:
    """Decode as if there were no way but Pillow's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.jpeg.simplejpeg, "decode_jpeg", _refuse)
        yield


def _refuse(*given: object, **how: object) -> None:
    raise ValueError


def verdict(data: bytes) -> object:
    """Return what becomes of a file: its facts, and its pixels or its error."""
    try:
        found = decode(data, max_pixels=PLENTY, hashed=True, examined=True)
    except RowError as error:
        return error.status, error.message, error.values
    return found.facts, found.image.size, found.image.tobytes()


def both(data: bytes) -> object:
    """Return the verdict; it is the same with Pillow alone."""
    found = verdict(data)
    with pillow_alone():
        assert found == verdict(data)
    return found


def taken(data: bytes, edge: int | None = None) -> bool:
    """Return whether the fast way decodes a file, and to what Pillow decodes it to."""
    image, other = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(data))
    if edge:
        image.draft(None, (edge, edge)), other.draft(None, (edge, edge))
    if not jpeg.load(image, data):
        return False
    assert image.size == other.size and image.mode == other.mode
    assert image.tobytes() == other.tobytes()
    image.load()  # changes nothing any more
    assert image.tobytes() == other.tobytes()
    return True


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 8), (17, 33), (130, 67), (512, 384), (640, 1)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
@pytest.mark.parametrize("quality", [3, 60, 97])
def test_pixels_are_pillows(size: tuple[int, int], subsampling: str, quality: int) -> None:
    """Whatever the size, the subsampling and the quality: equal to the bit."""
    assert taken(encoded(picture(*size), quality=quality, subsampling=subsampling))


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"optimize": True},
        {"restart_marker_rows": 1},
        {"restart_marker_blocks": 3},
        {"keep_rgb": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_other_ways_to_encode(options: dict[str, Any], mode: str) -> None:
    """Progressive, restart markers, channels stored as RGB, grey: equal to the bit."""
    assert taken(encoded(picture(211, 173, mode), **options))


@pytest.mark.parametrize("edge", [900, 450, 200, 90, 10])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_reduced_scale(edge: int, mode: str) -> None:
    """What `draft` asked for is decoded at that scale: equal to the bit."""
    for size in ((1003, 707), (704, 1000)):
        assert taken(encoded(picture(*size, mode), quality=80), edge)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_whole_decoder(orientation: int) -> None:
    """Orientation, profile, hash and signals follow as they do from Pillow's pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    both(encoded(picture(300, 200), exif=exif, icc_profile=b"no profile"))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_what_pillow_knows_better(mode: str) -> None:
    """CMYK is left to Pillow."""
    data = encoded(picture(200, 140, mode))
    assert taken(data) == (mode != "CMYK")
    both(data)


def test_two_pictures_in_one_file() -> None:
    """Of an MPO the first one is decoded; the second is a picture after its end (test_enclosed.py)."""
    out, first = io.BytesIO(), picture(120, 80)
    first.save(out, "MPO", save_all=True, append_images=[picture(90, 60)])
    assert taken(out.getvalue())
    facts, size, _ = both(out.getvalue())  # type: ignore[misc]
    assert (facts["format"], facts["frames"], size) == ("MPO", 1, (120, 80))


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([{}, {"progressive": True}, {"restart_marker_rows": 1}]),
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=3),
    st.floats(0.02, 1),
)
def test_damaged_files(options: dict[str, Any], changes: list[tuple[float, int]], kept: float) -> None:
    """Bytes changed anywhere, or cut off: status, message, facts and pixels are those of Pillow alone."""
    data = bytearray(encoded(picture(72, 56), quality=70, **options))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    both(bytes(data[: int(kept * len(data))]))


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan decodes an ordinary JPEG without Pillow's decoder."""
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load_prepare", None)
    geometry = Geometry((64, 64), Image.Resampling.BILINEAR)
    for mode in ("RGB", "L"):
        assert to_pixels(encoded(picture(300, 200, mode)), geometry, max_pixels=PLENTY, hashed=True)


def test_memory_belongs_to_its_image() -> None:
    """An image and a view of its memory see each other's changes, and each outlives the other."""
    image, memory = blank("RGB", (5, 3))
    own = memory_of(image)
    assert own is not None and own.shape == memory.shape == (3, 5, 4) and np.shares_memory(own, memory)
    memory[2, 4] = 7, 8, 9, 255
    assert image.getpixel((4, 2)) == (7, 8, 9)
    image.putpixel((0, 0), (1, 2, 3))
    del image, own
    assert memory[0, 0, :3].tolist() == [1, 2, 3]
    assert memory_of(Image.new("RGB", (4000, 3000))) is None  # in several pieces
    assert memory_of(Image.new("CMYK", (4, 3))) is None
