"""Which frames of a file are looked at, and what each counts."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from nsfwscan.errors import RowError, Status
from nsfwscan.execution.second_look import frames_around
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.views import ViewLimits, choose, choose_closer, to_views, weights_of

_GEOMETRY = Geometry((24, 24), Image.Resampling.BILINEAR)
_LIMITS = ViewLimits(8, 300_000_000, 60.0)
_ODD = 517


def animation(frames: list[Image.Image], fmt: str = "GIF", **how: Any) -> bytes:
    buffer = io.BytesIO()
    frames[0].save(buffer, fmt, save_all=True, append_images=frames[1:], **how)
    return buffer.getvalue()


def moving(count: int) -> list[Image.Image]:
    """A ball that wanders over a grey ground."""
    frames = []
    for i in range(count):
        image = Image.new("RGB", (60, 40), (200, 200, 210))
        ImageDraw.Draw(image).ellipse((i % 50, 10, i % 50 + 10, 20), fill=(30, 90, 200))
        frames.append(image)
    return frames


def photo() -> Image.Image:
    """Colours that are in no other frame."""
    return Image.linear_gradient("L").resize((60, 40)).convert("RGB").rotate(30, fillcolor="red")


def views_of(
    data: bytes, limits: ViewLimits = _LIMITS, **how: Any
) -> tuple[dict[str, Any], list[dict[str, Any]], bytes]:
    return to_views(data, _GEOMETRY, limits=limits, **{"max_pixels": 10**8, "hashed": True, **how})


def test_one_odd_frame_in_a_thousand_is_found() -> None:
    """A thousand frames that move a little, and one that is another picture: it is a view, at its own time."""
    frames = moving(1000)
    frames[_ODD] = photo()
    facts, views, pixels = views_of(animation(frames, duration=40))
    assert (
        (facts["frames"], facts["media"], facts["views"]) == (1000, "animation", 8) == (1000, "animation", len(views))
    )
    assert facts["duration_s"] == pytest.approx(40)
    [odd] = [view for view in views if view["index"] == _ODD]
    assert (odd["reason"], odd["weight"]) == ("distinct", 1)
    assert odd["at_s"] == pytest.approx(_ODD * 0.04)
    assert (views[0]["index"], views[0]["reason"], views[-1]["index"]) == (0, "first", 999)
    assert len(pixels) == 8 * _GEOMETRY.nbytes
    assert pixels[views.index(odd) * _GEOMETRY.nbytes :][: _GEOMETRY.nbytes] != pixels[: _GEOMETRY.nbytes]
    assert sum(view["weight"] for view in views) >= 999


def test_a_second_look_is_closer_around_a_frame() -> None:
    """Frames around what scored high become further views, the nearest first; those of the first look stay."""
    frames = moving(60)
    for i in range(30, 34):
        frames[i] = photo().rotate(10 * i)
    data = animation(frames, duration=100)
    limits = ViewLimits(3, 300_000_000, 60.0)
    first = views_of(data, limits)[1]
    [spike] = [view["index"] for view in first if 30 <= view["index"] < 34]
    facts, views, pixels = views_of(data, replace(limits, closer=tuple(frames_around([spike], 60)), further=5))
    assert {view["index"] for view in first} < {view["index"] for view in views}
    close = [view for view in views if view["reason"] == "spike"]
    assert len(close) == 5 and {30, 31, 32} <= {spike, *(view["index"] for view in close)}
    assert sum(view["weight"] for view in views if 30 <= view["index"] < 34) == 4
    assert facts["views"] == len(views) == 8 and len(pixels) == 8 * _GEOMETRY.nbytes


def test_frames_around_reach_as_far_as_the_file() -> None:
    """However long a spike is, some of the frames are beside it; of those that look alike one becomes a view."""
    assert frames_around((5,), 20) == [5, 4, 6, 3, 7, 1, 9, 13]
    assert frames_around((0, 2), 4) == [0, 2, 1, 3]
    looks = np.repeat(np.array([0, 0, 90, 90, 200, 0], np.uint8), 32 * 32 * 3).reshape(6, 32, 32, 3)
    assert choose_closer(looks, {0: "first"}, [2, 3, 1, 4, 5], 8) == {0: "first", 2: "spike", 4: "spike"}
    assert choose_closer(looks, {0: "first"}, [4, 2], 1) == {0: "first", 4: "spike"}


def test_frames_that_are_known_are_drawn_alone() -> None:
    """For covers: just these frames, also those that look alike, and one that is not there any more is left out."""
    data = animation(moving(20), duration=100)
    facts, views, pixels = views_of(data, replace(_LIMITS, closer=(7, 3, 4, 99), only=True))
    assert [(view["index"], view["at_s"]) for view in views] == [
        (3, pytest.approx(0.3)),
        (4, pytest.approx(0.4)),
        (7, 0.7),
    ]
    assert facts["views"] == 3 and len(pixels) == 3 * _GEOMETRY.nbytes
    assert views_of(data, replace(_LIMITS, closer=(0,), only=True))[2] == views_of(data, ViewLimits())[2]


def test_a_blank_first_frame_hides_nothing() -> None:
    """An animation that begins with white has the picture behind it as a view, in each format."""
    frames = [Image.new("RGB", (60, 40), "white"), photo(), photo()]
    for fmt in ("GIF", "PNG", "WEBP"):
        facts, views, pixels = views_of(animation(frames, fmt, duration=100))
        assert (facts["views"], views[1]["reason"], views[1]["weight"]) == (2, "last", 2), fmt
        assert np.frombuffer(pixels, np.uint8)[: _GEOMETRY.nbytes].min() >= 254
        assert np.frombuffer(pixels, np.uint8)[_GEOMETRY.nbytes :].min() < 100


def test_frames_that_look_alike_are_one_view() -> None:
    """An animation that does not move is a picture: one view, and no rows of views."""
    facts, views, pixels = views_of(
        animation([photo()] * 3 + [moving(1)[0], photo()], "WEBP", lossless=True, duration=50)
    )
    assert [(view["index"], view["weight"]) for view in views] == [(0, 2), (1, 1)]  # WebP joins equal neighbours
    facts, views, pixels = views_of(animation([photo(), photo().point(lambda level: min(255, level + 1))], "PNG"))
    assert (facts["media"], facts["frames"], facts["views"], views) == ("animation", 2, 1, [])
    assert len(pixels) == _GEOMETRY.nbytes


def test_pages_count_in_full() -> None:
    """Forty pages that differ: eight of them are views, as many as may be, and each is a verdict by itself."""
    pages = [photo().rotate(9 * i, fillcolor=(6 * i, 0, 255 - 6 * i)) for i in range(40)]
    facts, views, _ = views_of(animation(pages, "TIFF"))
    assert (facts["frames"], facts["media"], facts["views"], facts["duration_s"]) == (40, "image", 8, None)
    assert {view["reason"] for view in views} == {"first", "last", "page", "distinct"}
    assert {(view["at_s"], view["weight"]) for view in views} == {(None, 1000)}
    assert "signals" not in facts


def test_a_photograph_is_one_view() -> None:
    """A file of one frame costs nothing more, and says so."""
    facts, views, pixels = views_of(animation([photo()], "PNG"))
    assert (facts["media"], facts["views"], facts["duration_s"], views) == ("image", 1, None, [])
    assert len(pixels) == _GEOMETRY.nbytes


def test_only_the_first_frame_where_nothing_else_is_asked_for() -> None:
    """With `views.most: 1` no other frame is looked at."""
    facts, views, _ = views_of(animation([photo(), *moving(3)]), ViewLimits(1, 10**9, 60))
    assert (facts["frames"], facts["views"], views) == (4, 1, [])


@pytest.mark.parametrize("limits", [ViewLimits(8, 40 * 2**16, 60.0), ViewLimits(8, 10**9, 0.0)])
def test_what_is_not_looked_at_is_said(limits: ViewLimits) -> None:
    """Where the frames are too many, or the time is over, the share that nobody has seen is a signal."""
    facts, _, _ = views_of(animation(moving(100)), limits)
    seen = 40 if limits.seconds else 0
    assert facts["signals"]["view.unseen"] == pytest.approx(1 - seen / 100)
    assert facts["duration_s"] is None and facts["views"] >= 1


def test_frames_that_are_too_large_are_not_decoded() -> None:
    """A page over the limit costs only what comes from it on."""
    pages = [photo(), photo().resize((600, 400)), moving(1)[0]]
    facts, views, _ = views_of(animation(pages, "TIFF"), max_pixels=10_000)
    assert (facts["frames"], facts["views"], views) == (3, 1, [])
    assert facts["signals"]["view.unseen"] == pytest.approx(2 / 3)
    with pytest.raises(RowError) as caught:
        views_of(animation(pages[::-1][1:], "TIFF"), max_pixels=10_000)
    assert caught.value.status == Status.TOO_LARGE


def test_more_frames_than_can_be_counted_are_an_animation() -> None:
    """A hundred thousand frames of 3 x 3 pixels: within the limits, and frames count for the time that they are shown."""
    data = animation([Image.new("L", (3, 3), level) for level in (0, 255, 0)], duration=50)
    first, _, third = (match.start() for match in re.finditer(b"\x21\xf9\x04", data))
    facts, views, _ = views_of(data[:first] + data[first:third] * 50_000 + b";", ViewLimits(8, 40 * 2**16, 60.0))
    assert (facts["frames"], facts["media"], facts["looked"], facts["signals"]) == (
        None,
        "animation",
        40,
        {"view.unseen": 0.5},
    )
    assert [(view["at_s"], view["weight"]) for view in views] == [(0.0, 20), (pytest.approx(1.95), 20)]


def test_a_damaged_frame_costs_what_follows_it() -> None:
    """A GIF that is cut off in its third frame has the first two."""
    data = animation([photo(), *moving(3)], duration=100)
    fourth = [match.start() for match in re.finditer(b"\x21\xf9\x04", data)][3]
    facts, views, _ = views_of(data[: fourth - 10])
    assert [view["index"] for view in views] == [0, 1]
    assert (facts["frames"], facts["signals"]["view.unseen"]) == (3, pytest.approx(1 / 3))


@pytest.mark.parametrize(("fmt", "share"), [("WEBP", 0.2), ("AVIF", 0.2), ("TIFF", 0.5)])
def test_a_file_that_is_cut_off_hides_nothing_before_the_cut(fmt: str, share: float) -> None:
    """An upload that broke off: the frames that are there are looked at, and the row says that there were more; where
    nobody knows how many, half of them."""
    random = np.random.default_rng(0)
    noise = [Image.fromarray(random.integers(0, 255, (40, 60, 3), np.uint8)) for _ in range(5)]
    data = animation(noise, fmt, **({"compression": "tiff_lzw"} if fmt == "TIFF" else {"duration": 300}))
    facts, views, _ = views_of(data[:-500])
    assert [view["index"] for view in views] == [0, 1, 2, 3] and facts["views"] == 4
    assert facts["signals"]["view.unseen"] == pytest.approx(share)
    assert facts["media"] == ("image" if fmt == "TIFF" else "animation")


def test_views_turn_upright_as_their_file_says() -> None:
    """The orientation of a page is that of the first: as it is shown."""
    pages = [Image.new("RGB", (60, 40), "white"), photo()]
    exif = Image.Exif()
    exif[0x0112] = 6
    _, _, pixels = views_of(animation(pages, "PNG", exif=exif, duration=100))
    turned = _GEOMETRY.apply(photo().transpose(Image.Transpose.ROTATE_270))
    assert (
        np.abs(np.frombuffer(pixels[_GEOMETRY.nbytes :], np.uint8).astype(int) - np.frombuffer(turned, np.uint8)).max()
        <= 1
    )


# --- the choice -----------------------------------------------------------------------------------------------------


def looks(levels: list[int]) -> NDArray[np.uint8]:
    return np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels])


@settings(deadline=None)
@given(levels=st.lists(st.integers(0, 255), max_size=40), most=st.integers(2, 10))
def test_a_choice(levels: list[int], most: int) -> None:
    """The first frame is always chosen, no two chosen ones look alike, there are no more than may be, and what is not
    chosen looks like a chosen one, or there was no room."""
    chosen = choose(looks(levels) if levels else np.empty((0, 32, 32, 3), np.uint8), most, "spread")
    assert len(chosen) <= most and list(chosen) == sorted(chosen)
    assert (0 in chosen) == bool(levels)
    kept = [levels[index] for index in chosen]
    assert all(abs(a - b) >= 2 for i, a in enumerate(kept) for b in kept[:i])
    if len(chosen) < most:
        assert all(any(abs(level - one) < 2 for one in kept) for level in levels)


def test_weights_are_tenths_of_a_second() -> None:
    """A view weighs the tenths that it and its like are shown, a frame once at least."""
    shown = np.array([0.04, 0.04, 0.3, 0.0])
    assert weights_of(looks([0, 1, 100, 200]), [0, 2, 3], shown) == [2, 3, 1]
    assert weights_of(looks([0, 100]), [0, 1], np.array([1e9, 0.1])) == [1000, 1]
