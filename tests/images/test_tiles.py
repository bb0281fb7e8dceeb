"""How a picture is cut into tiles, and what becomes of them."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.tiles import tiles_of
from nsfwscan.images.views import ViewLimits, to_views

GEOMETRY = Geometry((24, 24), Image.Resampling.BILINEAR)


@given(size=st.tuples(st.integers(1, 9000), st.integers(1, 9000)), most=st.integers(0, 63))
def test_tiles_cover_the_picture(size: tuple[int, int], most: int) -> None:
    """No more than may be, within the picture, and every column and row of it is in one; neighbours overlap."""
    tiles = tiles_of(size, most)
    assert len(tiles) <= most and len(tiles) != 1
    for edge, (first, last) in zip(size, ((0, 2), (1, 3)), strict=True):
        spans = sorted({(tile[first], tile[last]) for tile in tiles})
        assert all(0 <= begin < end <= edge for begin, end in spans)
        assert not spans or (spans[0][0], spans[-1][1]) == (0, edge)
        assert all(after[0] <= before[1] for before, after in pairwise(spans))


@pytest.mark.parametrize(
    ("size", "count"),
    [((500, 500), 0), ((1000, 1000), 4), ((4000, 3000), 6), ((3000, 4000), 6), ((300, 100), 3), ((100, 5000), 7)],
)
def test_large_pictures_and_strips_are_cut(size: tuple[int, int], count: int) -> None:
    """A small picture is looked at as a whole, as without tiles."""
    assert len(tiles_of(size, 7)) == count


def views_of(image: Image.Image, *, tiles: bool = True, **how: Any) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=how.pop("exif", b""))
    limits = ViewLimits(8, 300_000_000, 60.0, tiles, how.pop("closer", None))
    facts, views, pixels = to_views(buffer.getvalue(), GEOMETRY, limits=limits, max_pixels=10**8, **how)
    return facts, views, np.frombuffer(pixels, np.uint8).reshape(-1, 24, 24, 3)


@pytest.mark.parametrize("fast", [False, True])
def test_a_small_thing_fills_a_tile(fast: bool) -> None:
    """What is in a corner of a large picture, turned as it is shown, is large in a tile that says where it lies; the
    picture itself counts in full, so that no score falls."""
    picture = Image.new("RGB", (2400, 1600), "white")
    picture.paste((230, 20, 20), (0, 0, 500, 500))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    facts, views, pixels = views_of(picture, hashed=not fast, fast=fast, exif=exif.tobytes())
    assert (facts["frames"], facts["views"], facts["media"], len(pixels)) == (1, 7, "image", 7)
    assert [(view["reason"], view["weight"]) for view in views] == [("first", 1000), *[("tile", 1)] * 6]
    red = [float((np.abs(one.astype(int) - (230, 20, 20)).max(axis=2) < 40).mean()) for one in pixels]
    assert int(np.argmax(red)) == 6 and red[6] > 4 * red[0] and views[6]["place"] == "1440,686,2400,1600"
    assert (views[0]["pdq"] is None) == fast and (views[6]["pdq"] is None) == fast


def test_a_second_look_cuts_small_pictures() -> None:
    """In a second look a picture of any size is cut, but an icon."""
    assert [view["reason"] for view in views_of(Image.new("RGB", (300, 200)), tiles=False, closer=())[1]] == [
        "first",
        *["tile"] * 6,
    ]
    assert views_of(Image.new("RGB", (64, 64)), closer=())[1] == []


def test_nothing_is_cut_unless_asked_for() -> None:
    """Without `--tiles`, or where the picture is small, there is one view and no list of them."""
    assert views_of(Image.new("RGB", (2400, 1600)), tiles=False)[1] == []
    facts, views, pixels = views_of(Image.new("RGB", (300, 200)))
    assert (facts["views"], views, len(pixels)) == (1, [], 1)
