"""HEIF files of several pictures, and those whose pictures move."""

from __future__ import annotations

import io
import struct
import sys
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.views import ViewLimits, to_views

GEOMETRY = Geometry((24, 24), Image.Resampling.BILINEAR)
SIZE = (96, 64)


def pictures(*colours: str, primary: int = 0) -> bytes:
    """An HEIF with an item of each colour."""
    file, out = pillow_heif.HeifFile(), io.BytesIO()
    for colour in colours:
        file.add_from_pillow(Image.new("RGB", SIZE, colour))
    file.save(out, primary_index=primary)
    return out.getvalue()


def sequence(*colours: str) -> bytes:
    """An HEIF with a track of ten frames a second, and no item: an MP4 by other names."""
    pytest.importorskip("av", reason="the extra nsfwscan[video]")
    from tests.images.test_videos import video

    frames = [np.asarray(Image.new("RGB", SIZE, colour)) for colour in colours]
    mp4 = bytearray(video(frames, codec="libx265").replace(b"hev1", b"hvc1"))
    handler = mp4.rfind(b"hdlr") + 12
    mp4[handler : handler + 4] = b"pict"
    return _behind(struct.pack(">I", 32) + b"ftyphevc\0\0\0\0mif1hevcmsf1iso8", bytes(mp4))


def _behind(head: bytes, mp4: bytes) -> bytes:
    """Return what comes after the first box of an MP4 behind another head."""
    rest = bytearray(mp4[int.from_bytes(mp4[:4], "big") :])
    at = rest.rfind(b"stco") + 8
    for entry in range(at + 4, at + 4 + 4 * int.from_bytes(rest[at : at + 4], "big"), 4):
        place = int.from_bytes(rest[entry : entry + 4], "big") + len(head) - len(mp4) + len(rest)
        rest[entry : entry + 4] = struct.pack(">I", place)
    return head + bytes(rest)


def views_of(data: bytes) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Return the facts, the views, and the name of the nearest colour of each view's pixels."""
    facts, views, pixels = to_views(data, GEOMETRY, limits=ViewLimits(8, 10**8, 60.0), max_pixels=10**8, hashed=True)
    means = np.frombuffer(pixels, np.uint8).reshape(-1, 24 * 24, 3).mean(axis=1)
    named = {"red": (255, 0, 0), "white": (255, 255, 255), "blue": (0, 0, 255)}
    return facts, views, [min(named, key=lambda name: np.abs(np.array(named[name]) - mean).sum()) for mean in means]


def test_the_picture_that_is_shown_is_the_first_view() -> None:
    """The primary item comes first, wherever it stands in the file, and the others are looked at, too."""
    facts, views, colours = views_of(pictures("red", "white", "blue", primary=1))
    assert (facts["format"], facts["media"], facts["frames"]) == ("HEIF", "image", 3)
    assert [view["index"] for view in views] == [0, 1, 2] and colours == ["white", "red", "blue"]


def test_an_image_sequence_is_an_animation() -> None:
    """A file with a track alone: its frames, their times, and the first of them as the picture."""
    facts, views, colours = views_of(sequence(*["white"] * 4, *["red"] * 3))
    assert (facts["format"], facts["media"], facts["frames"], facts["width"]) == ("HEIF", "animation", 7, SIZE[0])
    assert facts["duration_s"] == pytest.approx(0.7) and colours == ["white", "red"]
    assert [(view["index"], view["at_s"]) for view in views] == [(0, 0.0), (6, pytest.approx(0.6))]
    assert [view["weight"] for view in views] == [4, 3]


def test_a_picture_does_not_hide_a_sequence() -> None:
    """A file with an item, which is what most programs show, and a track behind it: the item counts in full."""
    data = _behind(pictures("blue"), sequence(*["white"] * 2, "red"))
    facts, views, colours = views_of(data)
    assert (facts["media"], facts["frames"], colours) == ("animation", 4, ["blue", "white", "red"])
    assert [(view["at_s"], view["weight"]) for view in views] == [(None, 1000), (0.0, 2), (pytest.approx(0.2), 1)]


def test_a_sequence_that_is_not_decoded_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra, a track alone names what to install; a picture is looked at, and the rest counts as unseen."""
    alone = sequence("white", "red", "red")  # of two frames alone, x265 makes what FFmpeg cannot mux
    both = _behind(pictures("blue"), alone)
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("nsfwscan.images.formats.containers.find_spec", lambda name: None)
    with pytest.raises(RowError) as refused:
        views_of(alone)
    assert refused.value.code == ErrorCode.VIDEO and "pip install 'nsfwscan[video]'" in refused.value.message
    facts, views, colours = views_of(both)
    assert (facts["frames"], views, colours, facts["signals"]) == (None, [], ["blue"], {"view.unseen": 0.5})


def avif() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", SIZE, "blue").save(out, "AVIF")
    return out.getvalue()


@pytest.mark.parametrize("brand", [b"miaf", b"abcd", b"1pic", b"mif2"])
@pytest.mark.parametrize("fmt", ["HEIF", "AVIF"])
def test_the_brand_that_tells_may_be_any(fmt: str, brand: bytes) -> None:
    """Browsers and phones go by all brands of a file, not by the first alone."""
    data = avif() if fmt == "AVIF" else pictures("blue")
    facts, _, colours = views_of(data[:8] + brand + data[12:])
    assert (facts["format"], colours) == (fmt, ["blue"])


@pytest.mark.parametrize("brand", [b"abcd", b"isom", b"crx "])
def test_other_brands_are_no_picture(brand: bytes) -> None:
    """A file of the same boxes that says something else is named, not decoded."""
    with pytest.raises(RowError) as caught:
        views_of(struct.pack(">I", 20) + b"ftyp" + brand + bytes(4) + brand + pictures("blue")[28:])
    assert caught.value.status == "unsupported"


@pytest.mark.parametrize("behind", ["HEIF", "AVIF"])
@pytest.mark.parametrize("before", ["HEIF", "AVIF"])
def test_a_file_behind_another_hides_neither(before: str, behind: str) -> None:
    """Of two files in one, the first is shown, and the second is looked at."""
    made = {"HEIF": pictures("red"), "AVIF": avif()}
    facts, _, colours = views_of(made[before] + made[behind])
    assert (facts["format"], facts["frames"]) == (before, 2)
    first, second = ({"HEIF": "red", "AVIF": "blue"}[name] for name in (before, behind))
    assert colours == ([first] if before == behind else [first, second])


def test_a_part_that_is_not_decoded_is_not_called_damaged() -> None:
    """libheif 1.23.0 refuses a whole picture of which a small part is shown. One that decodes it makes this test fail, and
    the kind needless."""
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.new("RGB", (201, 151), "blue")).save(out)  # of odd numbers, and so with a part
    data = out.getvalue()
    assert views_of(data)[2] == ["blue"]
    at = data.index(b"clap") + 4
    with pytest.raises(RowError) as caught:
        views_of(data[:at] + struct.pack(">8i", 8, 1, 6, 1, 0, 1, 0, 1) + data[at + 32 :])
    assert caught.value.status == "unsupported"
    assert caught.value.message == "an HEIF image of which a small part is shown (clap) is not supported"
