"""How often a JPEG that was one before is told from one that was not: rates, measured here."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import skimage.data
from PIL import Image

from nsfwscan.images.provenance.quantisation import double_quantisation

_LIMIT = 0.25
"""What the documentation says that one once-compressed photograph in fifty is over."""
_PHOTOS: tuple[Callable[[], object], ...] = (
    skimage.data.astronaut,
    skimage.data.chelsea,
    skimage.data.coffee,
    skimage.data.rocket,
    skimage.data.camera,
    skimage.data.brick,
    skimage.data.grass,
    skimage.data.gravel,
    skimage.data.retina,
    skimage.data.hubble_deep_field,
)


@cache
def pictures() -> list[Image.Image]:
    """Photographs, shrunk a little: none of the blocks of an earlier JPEG is left."""
    found = []
    for load in _PHOTOS:
        image = Image.fromarray(np.asarray(load())).convert("RGB")
        width = min(900, round(image.width * 0.83))
        found.append(image.resize((width, round(image.height * width / image.width)), Image.Resampling.BICUBIC))
    return found


def saved(image: Image.Image, quality: int, subsampling: str = "4:2:0") -> Image.Image:
    out = io.BytesIO()
    image.convert("RGB").save(out, "JPEG", quality=quality, subsampling=subsampling)
    opened = Image.open(out)
    opened.load()
    return opened


def measured(image: Image.Image) -> float:
    found = double_quantisation(image, image.size)
    return -1.0 if found is None else found


def test_few_that_were_compressed_once_are_over_the_limit() -> None:
    """At most one in fifty of photographs that were saved once, at any quality."""
    found = [measured(saved(image, quality)) for image in pictures() for quality in (50, 60, 70, 75, 80, 85, 90, 95)]
    assert np.mean([value > _LIMIT for value in found]) <= 0.02
    assert np.mean([value >= 0 for value in found]) > 0.95


@pytest.mark.parametrize(("before", "after"), [(50, 75), (60, 80), (70, 90), (75, 85), (80, 95), (90, 95)])
def test_most_that_were_saved_at_a_lower_quality_are_over_it(before: int, after: int) -> None:
    """Nine in ten, where the quality before was clearly lower."""
    found = [measured(saved(saved(image, before), after)) for image in pictures()]
    assert np.mean([value > _LIMIT for value in found]) >= 0.9


@pytest.mark.parametrize(("before", "after"), [(95, 75), (90, 60), (75, 74)])
def test_what_it_cannot_see_looks_as_once_compressed(before: int, after: int) -> None:
    """A better quality before, or nearly the same, leaves no trace that counts: the limits that are documented."""
    found = [measured(saved(saved(image, before), after)) for image in pictures()]
    assert np.mean([value > _LIMIT for value in found]) <= 0.1


def test_resizing_wipes_it_out() -> None:
    """Shrunk in between, the blocks of the first JPEG are no longer those of the second."""
    once = [saved(image, 60) for image in pictures()]
    again = [saved(image.resize((image.width * 4 // 5, image.height * 4 // 5)), 90) for image in once]
    assert np.mean([measured(image) > _LIMIT for image in again]) <= 0.1


def test_nothing_is_said_without_enough_to_go_by() -> None:
    """A plain, a tiny, a reduced or a CMYK picture has no number."""
    assert double_quantisation(saved(Image.new("RGB", (256, 256), "teal"), 80), (256, 256)) is None
    assert double_quantisation(saved(pictures()[0].resize((7, 7)), 80), (7, 7)) is None
    out = io.BytesIO()
    pictures()[0].save(out, "JPEG")
    reduced = Image.open(out)
    reduced.draft(None, (200, 200))
    reduced.load()
    assert double_quantisation(reduced, pictures()[0].size) is None
    cmyk = io.BytesIO()
    pictures()[0].convert("CMYK").save(cmyk, "JPEG")
    opened = Image.open(cmyk)
    opened.load()
    assert double_quantisation(opened, opened.size) is None


@pytest.mark.parametrize("size", [(8, 640), (640, 8), (3000, 64), (129, 431)])
def test_any_shape_is_measured_or_not(size: tuple[int, int]) -> None:
    """Slivers and odd sizes raise nothing, and give a share or nothing."""
    image = saved(pictures()[0].resize(size), 85)
    found = double_quantisation(image, size)
    assert found is None or 0 <= found <= 1
