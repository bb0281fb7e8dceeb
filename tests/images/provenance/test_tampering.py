"""What maps of tampering show of photographs with a piece of another in them, and of harmless ones: measured here."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.config import DecodeConfig
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance import tampering
from nsfwscan.images.provenance.tampering import (
    DOUBLE_QUANTISATION,
    ERROR_LEVELS,
    double_quantisation_map,
    error_levels,
)
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.stages.decode import settings_of
from tests.images.provenance.test_quantisation import pictures, saved
from tests.later import later

stats = later("scipy.stats")

_GRASS = 6
"""Its number among the photographs."""


@cache
def spliced(number: int, before: int, after: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A photograph of a quality before, with a piece of its uncompressed mirror image off the grid of blocks, saved again;
    and where the piece is."""
    image = pictures()[number]
    made, (width, height) = saved(image, before).convert("RGB"), image.size
    left, top = width // 32 * 8 + 3, height // 32 * 8 + 5
    box = left, top, left + width // 4, top + height // 4
    made.paste(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).crop(box), box)
    return saved(made, after), box


def lighter(levels: NDArray[np.uint8], box: tuple[int, int, int, int], size: tuple[int, int]) -> float:
    """How often a pixel in the box is lighter than one outside it: the AUC."""
    down, across = levels.shape
    left, right = (round(edge * across / size[0]) for edge in box[::2])
    top, bottom = (round(edge * down / size[1]) for edge in box[1::2])
    inside = np.zeros(levels.shape, bool)
    inside[top + 1 : bottom - 1, left + 1 : right - 1] = True
    found = stats.mannwhitneyu(levels[inside], levels[~inside]).statistic
    return float(found / inside.sum() / (~inside).sum())


@pytest.mark.parametrize(("before", "after"), [(60, 80), (70, 90), (85, 95)])
def test_a_piece_that_was_put_in_is_light(before: int, after: int) -> None:
    """Among blocks that were compressed twice, those that were compressed once stand out."""
    for number in range(0, len(pictures()), 2):
        image, box = spliced(number, before, after)
        found = double_quantisation_map(image)
        assert found is not None and lighter(np.asarray(found), box, image.size) > 0.96, number


def test_what_has_one_history_shows_nothing_or_little() -> None:
    """Photographs that were compressed once have no map of double compression, but for one in twenty; of those that were
    compressed twice as a whole, it has few light places; after a higher quality, or off the grid, it tells nothing."""
    once = [double_quantisation_map(saved(image, q)) for image in pictures()[::2] for q in (60, 80, 95)]
    assert sum(one is not None for one in once) <= 1
    for image in pictures()[::3]:
        whole = double_quantisation_map(saved(saved(image, 70), 90))
        assert whole is not None and np.mean(np.asarray(whole) > 160) < 0.17
        cropped = saved(image, 70).crop((3, 5, image.width, image.height))
        assert double_quantisation_map(saved(cropped, 90)) is None
        assert double_quantisation_map(saved(saved(image, 95), 80)) is None


def test_error_levels_of_a_piece() -> None:
    """A piece of texture that was never compressed is lighter than the same texture around it, which was."""
    image, box = spliced(_GRASS, 60, 95)
    assert lighter(np.asarray(error_levels(image)), box, image.size) > 0.7
    plain = Image.new("RGB", (256, 256), (90, 90, 90))
    assert np.asarray(error_levels(plain)).max() == 0
    assert max(error_levels(Image.new("RGB", (3000, 1000))).size) == 1024


def encoded(image: Image.Image, kind: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def test_maps_lie_as_the_picture_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are turned as EXIF says; drawings, animations, broken files and very large pictures have none."""
    exif = Image.Exif()
    exif[0x0112] = 6
    before = saved(pictures()[0], 60)
    limits: dict[str, Any] = {"max_pixels": 10**8, "formats": FORMATS}
    found = tampering.maps_of(encoded(before, "JPEG", quality=90, exif=exif), **limits)
    assert list(found) == [ERROR_LEVELS, DOUBLE_QUANTISATION]
    assert all((one.width < one.height) == (before.height < before.width) for one in found.values())
    assert list(tampering.maps_of(encoded(before, "PNG"), **limits)) == [ERROR_LEVELS]
    assert list(tampering.maps_of(encoded(before.convert("CMYK"), "JPEG"), **limits)) == [ERROR_LEVELS]
    for none in (encoded(before, "GIF"), encoded(before, "JPEG")[:2000], b"", b"<svg/>"):
        assert tampering.maps_of(none, **limits) == {}
    monkeypatch.setattr(tampering, "_MOST_PIXELS", 1000)
    assert tampering.maps_of(encoded(before, "PNG"), **limits) == {}


def test_the_decode_child_draws_them_as_further_views() -> None:
    """Where they are asked for; an animation has its frames alone."""
    settings = settings_of(DecodeConfig(), Geometry((32, 32), Image.Resampling.BILINEAR))
    child = DecodeChild(replace(settings, views=2, view_pixels=10**8, maps=True))
    twice = encoded(saved(pictures()[0], 60), "JPEG", quality=90)
    facts, views, pixels = child.decode_views(twice)
    assert [view["reason"] for view in views] == ["first", ERROR_LEVELS, DOUBLE_QUANTISATION]
    assert facts["views"] == len(pixels) == 3 and pixels[0].std() > 10
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100)
    assert [view["reason"] for view in child.decode_views(moving)[1]] == ["first", "last"]
    child.close()
