"""Files made to harm: each ends as the row it deserves, in its time and its memory, and the next picture is decoded."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from PIL import Image

from nsfwscan.errors import RowError
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.images.views import ViewLimits, to_views
from tests.bombs import BOMBS, Bomb, picture

_GEOMETRY = Geometry((32, 32), Image.Resampling.BILINEAR)
_AT_THE_START = 2**26
"""More than a worker has before it decodes anything."""


@pytest.fixture(scope="module")
def child_for() -> Iterator[Callable[[Bomb], DecodeChild]]:
    """A child with a bomb's limits."""

    @cache
    def start(max_pixels: int, timeout_s: float, max_memory_bytes: int) -> DecodeChild:
        return DecodeChild(Settings((_GEOMETRY,), False, True, True, max_pixels, {}, timeout_s, max_memory_bytes))

    yield lambda bomb: start(bomb.max_pixels, bomb.timeout_s, bomb.max_memory_bytes)
    start.cache_clear()


def _good() -> bytes:
    out = io.BytesIO()
    picture().save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_harms_nobody(name: str, child_for: Callable[[Bomb], DecodeChild]) -> None:
    """A bomb ends with the status that is right for it, in time and in bounds, and the picture after it is as ever."""
    bomb = BOMBS[name]
    data, child = bomb.make(), child_for(bomb)
    how = {"hashed": True, "examined": True, "max_pixels": bomb.max_pixels}
    facts, _, pixels = to_views(_good(), _GEOMETRY, limits=ViewLimits(), **how)
    good = facts, pixels
    assert child.decode(_good()) == good
    child.retire()
    child.peak_rss_bytes = 0

    started = time.monotonic()
    try:
        facts, _ = child.decode(data)
        status, words = "ok", ""
    except RowError as error:
        facts, status, words = error.values, error.status, error.message
    took = time.monotonic() - started

    assert status == bomb.ends, words
    assert took < bomb.timeout_s + 30  # the deadline holds, however late its end is noticed
    assert child.decode(_good()) == good
    child.retire()
    assert child.peak_rss_bytes < bomb.max_memory_bytes + _AT_THE_START
    assert facts.get("format") in (None, *FORMATS)
    if status == "crashed":
        assert "decode.max_memory_bytes" in words
    if status == "too_large":
        assert child.peak_rss_bytes < _AT_THE_START


@pytest.mark.full
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_largest_picture_fits(fmt: str) -> None:
    """As many pixels as are allowed, with transparency or in several scans, are decoded in the memory and the time that
    are allowed."""
    out = io.BytesIO()
    if fmt == "JPEG":
        picture((10_000, 10_000)).save(out, fmt, progressive=True, subsampling=0)
    elif fmt == "TIFF":
        picture((10_000, 10_000)).convert("F").save(out, fmt, compression="tiff_adobe_deflate")
    else:
        image = picture((10_000, 10_000)).convert("RGBA")
        image.putalpha(200)
        image.save(out, fmt, **({"compress_level": 1} if fmt == "PNG" else {"method": 0}))
    facts, _ = DecodeChild(Settings((_GEOMETRY,), False, True, True, 10**8, {}, 120.0, 2 * 2**30)).decode(
        out.getvalue()
    )
    assert (facts["width"], facts["height"]) == (10_000, 10_000)
