"""What a file holds beside the picture that it shows is looked at, or said."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.images.enclosed import enclosed_in
from nsfwscan.images.formats.file_end import end_of
from nsfwscan.images.formats.registry import register_formats
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.images.views import ViewLimits, to_views
from tests.images.provenance.test_signals import with_thumbnail

register_formats()
_GEOMETRY = Geometry((24, 24), Image.Resampling.BILINEAR)
_LIMITS = ViewLimits(8, 300_000_000, 60.0)
_SHOWN = Image.linear_gradient("L").resize((160, 120)).convert("RGB")
_HIDDEN = Image.new("RGB", (160, 120), (220, 0, 0))
_NAMES = ["JPEG", "PNG", "GIF", "WEBP", "BMP", "AVIF", "HEIF"]


def saved(image: Image.Image, name: str, **how: Any) -> bytes:
    buffer = io.BytesIO()
    if name == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=90)
    else:
        image.save(buffer, name, **how)
    return buffer.getvalue()


def looked_at(data: bytes, limits: ViewLimits = _LIMITS, **how: Any) -> tuple[dict[str, Any], list[bool]]:
    """Return a file's facts, and which of its views are red."""
    facts, _, pixels = to_views(
        data, how.pop("geometry", _GEOMETRY), limits=limits, **{"max_pixels": 10**8, "examined": True, **how}
    )
    means = np.frombuffer(pixels, np.uint8).reshape(facts["views"], -1, 3).mean(axis=1)
    return facts, [bool(red > 150 and green < 60) for red, green, _ in means]


JPEG, RED_JPEG, RED_PNG = saved(_SHOWN, "JPEG"), saved(_HIDDEN, "JPEG"), saved(_HIDDEN, "PNG")
MP4 = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0\0\0\x08free" + bytes(range(256)) * 4


@pytest.mark.parametrize("name", _NAMES)
@pytest.mark.parametrize("hidden", _NAMES)
def test_a_picture_after_the_end_is_a_view(name: str, hidden: str) -> None:
    """One of any format behind one of any other, straight away or after something else; it counts as a page does."""
    if name == "HEIF" and hidden in ("AVIF", "HEIF"):
        return  # libheif takes both for one file, and refuses it: the row is a `decode_error`
    for between in (b"", b"\0\0 nothing, "):
        facts, red = looked_at(saved(_SHOWN, name) + between + saved(_HIDDEN, hidden))
        assert (facts["format"], facts["frames"], red) == (name, 2, [False, True])
        assert facts["media"] == "image" and "view.unseen" not in (facts["signals"] or {})


def test_a_picture_after_an_animation_is_a_page_of_it() -> None:
    """The animation keeps its times, and the picture has none."""
    frames = [_SHOWN, _SHOWN.rotate(90), _SHOWN.rotate(180)]
    data = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=200) + RED_PNG
    facts, views, _ = to_views(data, _GEOMETRY, limits=_LIMITS, max_pixels=10**8)
    assert (facts["media"], facts["frames"], facts["duration_s"]) == ("animation", 4, pytest.approx(0.6))
    assert [view["at_s"] for view in views] == [0, pytest.approx(0.2), pytest.approx(0.4), None]
    assert views[3]["weight"] == 1000 > views[0]["weight"]


def test_pictures_of_an_mpo_are_views() -> None:
    """The second picture of a stereo camera, and a third; no index is needed to find them."""
    data = saved(_SHOWN, "MPO", save_all=True, append_images=[_SHOWN.rotate(180), _HIDDEN])
    facts, red = looked_at(data)
    assert (facts["format"], facts["frames"], red) == ("MPO", 3, [False, False, True])


@pytest.mark.parametrize("marked", [True, False])
def test_a_gain_map_is_no_picture(marked: bool) -> None:
    """It says how much brighter a photograph is on an HDR screen. It must say so itself: what the photograph says of it
    hides nothing."""
    mark = b"\xff\xe1\0\x1curn:iso:std:iso:ts:21496-1"[: 2 + 0x1C].ljust(2 + 0x1C, b"\0")
    shown, behind = JPEG[:2] + mark + JPEG[2:], RED_JPEG[:2] + mark + RED_JPEG[2:]
    facts, red = looked_at(shown + (behind if marked else RED_JPEG))
    assert (facts["frames"], red) == ((1, [False]) if marked else (2, [False, True]))
    assert ("file.gain_map" in facts["signals"]) == marked


@pytest.mark.parametrize(
    ("after", "kinds"),
    [
        (MP4, ["video"]),
        (b"MotionPhoto_Data" + MP4, ["video"]),
        (b"PK\3\4" + bytes(500), ["archive"]),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", ["document"]),
        (b"\x01\x02\x03\x04\x05" * 20, []),
    ],
)
def test_what_nobody_looks_at_is_said(after: bytes, kinds: list[str]) -> None:
    """A motion photo's film, an archive, anything: how many bytes, and of which kind; the picture has its row."""
    facts, red = looked_at(JPEG + after)
    said = {name: value for name, value in facts["signals"].items() if name.startswith("file.")}
    assert red == [False] and facts["frames"] == 1
    share = len(after) / len(JPEG + after)
    assert said == {"file.after_end": share, **{f"file.after_end.{kind}": 1 for kind in kinds}}


def test_what_is_enclosed_is_found_in_the_sandbox() -> None:
    """The process of a scan takes the same from its decode child."""
    child = DecodeChild(Settings((_GEOMETRY,), False, True, True, 10**8, {}, 20.0, 2**29, views=8, view_pixels=10**9))
    try:
        facts, views, _ = child.decode_views(JPEG + RED_PNG + MP4)
    finally:
        child.close()
    assert len(views) == 2 and facts["signals"]["file.after_end.video"] == 1 > facts["signals"]["file.after_end"] > 0


@pytest.mark.parametrize("name", _NAMES)
def test_an_ordinary_file_has_nothing_after_its_end(name: str) -> None:
    """Nor has one that is filled up with zeros, or ends in a line feed."""
    for padding in (b"", bytes(5000), b"\n"):
        facts, _ = looked_at(saved(_SHOWN, name) + padding)
        assert facts["frames"] == 1 and not any(one.startswith("file.") for one in facts["signals"] or {})


def test_the_end_of_a_jpeg_is_not_that_of_a_scan() -> None:
    """A progressive file has tables between its scans, and those may have any bytes."""
    data = saved(_SHOWN, "JPEG", progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    comment = b"\xff\xfe\0\x08" + b"\xff\xd9\xff\xd8\xff\xe0"
    for file in (data, data[:second] + comment + data[second:]):
        assert end_of(file + RED_PNG, "JPEG") == len(file)


def test_a_thumbnail_of_another_picture_is_a_view() -> None:
    """Folders and galleries show it in place of the picture, whatever its size; its own thumbnail is none."""
    for shown, size, found in [(_HIDDEN, (160, 120), 2), (_HIDDEN, (900, 700), 2), (_SHOWN, (160, 120), 1)]:
        facts, red = looked_at(with_thumbnail(_SHOWN, saved(shown.resize(size), "JPEG")))
        assert "thumbnail.distance" in facts["signals"]
        assert (facts["frames"], red) == (found, [False, True][:found])


def test_the_default_image_of_an_animation_is_a_view() -> None:
    """Browsers never show it; a program that knows no animations shows nothing else."""
    frames = [_SHOWN, _SHOWN.rotate(180)]
    how = {"save_all": True, "append_images": frames, "default_image": True, "duration": 200}
    facts, red = looked_at(saved(_HIDDEN, "PNG", **how))
    assert (facts["media"], facts["frames"], facts["duration_s"]) == ("animation", 3, pytest.approx(0.4))
    assert red == [False, False, True]


def _icon(*pictures: tuple[int, Image.Image]) -> bytes:
    """An icon of PNGs, each with the edge that the directory claims."""
    files = [saved(image, "PNG") for _, image in pictures]
    at, lines = 6 + 16 * len(files), b""
    for (edge, _), file in zip(pictures, files, strict=True):
        lines += struct.pack("<BBBBHHII", edge % 256, edge % 256, 0, 0, 1, 32, len(file), at)
        at += len(file)
    return struct.pack("<3H", 0, 1, len(files)) + lines + b"".join(files)


def test_other_pictures_of_an_icon_are_views() -> None:
    """Those of 64 pixels and more, whatever the directory says of them; smaller ones are drawn otherwise on purpose."""
    facts, red = looked_at(_icon((256, _SHOWN), (16, _HIDDEN), (32, _HIDDEN.resize((32, 32)))))
    assert (facts["format"], facts["frames"], red) == ("ICO", 2, [False, True])


def test_pages_of_pages_of_a_tiff_are_views() -> None:
    """SubIFDs, which programs write for previews and channels; in either order of bytes, of any page."""
    for size in (3, 1):
        pages = [_SHOWN, *[_SHOWN.rotate(90 * i, expand=True) for i in range(1, size)]]
        shown = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
        hidden = saved(_HIDDEN, "TIFF")
        data = bytearray(shown)
        for tag_at in range(len(data) - 12, 0, -1):  # the last page's software tag becomes a pointer to the red page
            if data[tag_at : tag_at + 2] == struct.pack("<H", 284):  # PlanarConfiguration, always 1
                break
        offset = len(data) + len(data) % 2
        moved = bytearray(hidden)
        first = struct.unpack_from("<I", hidden, 4)[0]
        for entry in range(struct.unpack_from("<H", hidden, first)[0]):
            line = first + 2 + 12 * entry
            tag, kind, count = struct.unpack_from("<HHI", hidden, line)
            if tag == 273 or count * {1: 1, 2: 1, 3: 2, 4: 4, 5: 8}[kind] > 4:
                struct.pack_into("<I", moved, line + 8, struct.unpack_from("<I", hidden, line + 8)[0] + offset)
        struct.pack_into("<HHII", data, tag_at, 330, 4, 1, first + offset)
        facts, red = looked_at(bytes(data).ljust(offset, b"\0") + bytes(moved))
        assert facts["frames"] == size + 1 and red[-1] and not any(red[:-1])


def test_one_that_is_too_large_or_too_many_are_said() -> None:
    """Over `--max-pixels`, it is counted, and not looked at; of more than can be looked at, half is unseen."""
    large = saved(_HIDDEN.resize((400, 300)), "PNG")
    facts, red = looked_at(JPEG + large, max_pixels=20_000)
    assert (facts["frames"], red, facts["signals"]["view.unseen"]) == (2, [False], 0.5)
    sliver = saved(_HIDDEN.resize((1, 2_000)), "PNG")
    shortest = Geometry(24, Image.Resampling.BILINEAR, (24, 24))
    facts, red = looked_at(JPEG + sliver + RED_PNG, max_pixels=10**6, geometry=shortest)
    assert (facts["frames"], red) == (3, [False, True]) and "view.unseen" not in facts["signals"]  # both are red
    facts, red = looked_at(JPEG + RED_PNG * 40)
    assert (facts["frames"], facts["signals"]["view.unseen"]) == (None, 0.5) and any(red)


def test_the_search_costs_an_ordinary_photograph_little() -> None:
    """Its share of what decoding takes, hash and signals included, of CPU time: 0.3 to 1.4 % of JPEGs of 12 megapixels to
    500 x 375 pixels when it was written."""
    noise = np.random.default_rng(0).normal(128, 12, (1200, 1600, 3)).clip(0, 255).astype(np.uint8)
    photo = saved(Image.fromarray(noise), "JPEG", quality=85)

    def median_s(call: Callable[[], object]) -> float:
        def once() -> float:
            begun = time.process_time()
            call()
            return time.process_time() - begun

        return sorted(once() for _ in range(9))[4]

    whole = median_s(lambda: looked_at(photo, hashed=True))
    assert median_s(lambda: enclosed_in(photo, {"format": "JPEG"}, 10**8)) < 0.05 * whole


def test_one_view_is_one_view() -> None:
    """With `views.most: 1` nothing but the picture itself is looked for."""
    facts, red = looked_at(JPEG + RED_PNG, ViewLimits(1))
    assert (facts["frames"], red) == (1, [False])


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_no_file_breaks_the_search(drawn: st.DataObject) -> None:
    """Whatever the bytes: an end within the file or none, and pictures or none."""
    name = drawn.draw(st.sampled_from([*_NAMES, "MPO", "TIFF", "ICO"]))
    data = bytearray(saved(_SHOWN, name) + drawn.draw(st.sampled_from([RED_PNG, RED_JPEG, MP4, b""])))
    for _ in range(drawn.draw(st.integers(0, 8))):
        data[drawn.draw(st.integers(0, len(data) - 1))] = drawn.draw(st.integers(0, 255))
    cut = bytes(data[: drawn.draw(st.integers(0, len(data)))])
    end = end_of(cut, name)
    assert end is None or 0 <= end <= len(cut)
    enclosed_in(cut, {"format": name, "signals": {"thumbnail.distance": 1.0}}, 10**6)
