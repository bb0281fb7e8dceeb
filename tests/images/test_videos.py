"""Videos, made with PyAV: which frames are looked at, whatever a container says of them."""

from __future__ import annotations

import io
import os
import random
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.execution.second_look import frames_around
from nsfwscan.images.formats import containers
from nsfwscan.images.formats.containers import container_of
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.images.views import ViewLimits

av = pytest.importorskip("av", reason="the extra nsfwscan[video]")
from nsfwscan.images import video_views as looking  # noqa: E402
from nsfwscan.images.formats import videos as decoding  # noqa: E402

SIZE = (96, 64)
GEOMETRY = Geometry((24, 36), Image.Resampling.BILINEAR)
LIMITS = ViewLimits(8, 300_000_000, 60.0)
RED = np.array([230, 20, 20], np.uint8)
Picture = NDArray[np.uint8]


def moving(place: int) -> Picture:
    """A blue ball on grey, which moves little."""
    picture = np.full((SIZE[1], SIZE[0], 3), 190, np.uint8)
    picture[20:40, 10 + place % 30 : 30 + place % 30] = (40, 80, 200)
    return picture


def red(_: int = 0) -> Picture:
    """Return what must be found."""
    return np.broadcast_to(RED, (SIZE[1], SIZE[0], 3)).copy()


@contextmanager
def as_scheduled() -> Iterator[None]:
    """Leave the process scheduled as it was. SVT-AV1 makes root's calling thread one of real time (SCHED_FIFO, 99), and so
    the browsers, servers and children that the process starts later: all else on the machine then waits for them."""
    if not hasattr(os, "sched_getscheduler"):  # macOS
        yield
        return
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, priority)


def video(
    pictures: Sequence[Picture],
    container: str = "mp4",
    codec: str = "libx264",
    *,
    times: Sequence[int] | None = None,
    keys: int = 1000,
    rotation: int = 0,
    **options: str,
) -> bytes:
    """A video of 10 frames a second, or with frames shown at the given tenths of a second."""
    buffer = io.BytesIO()
    with as_scheduled(), av.open(buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuvj420p" if codec == "mjpeg" else "yuv420p", keys
        stream.options = {"preset": "ultrafast", "sc_threshold": "0"} if codec == "libx264" else {}
        if rotation:
            stream.set_display_rotation(rotation)
        for place, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = place if times is None else times[place]
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def views_of(data: bytes, limits: ViewLimits = LIMITS, **how: Any) -> tuple[dict[str, Any], list[dict[str, Any]], Any]:
    container = container_of(data)
    assert container is not None
    facts, views, pixels = looking.video_views(
        io.BytesIO(data), container, GEOMETRY, limits=limits, **{"max_pixels": 10**8, **how}
    )
    return facts, views, np.frombuffer(pixels, np.uint8).reshape(-1, 24, 36, 3)


def seen_red(pixels: Any) -> list[bool]:
    """Return which views are red."""
    return [bool(np.abs(one.mean((0, 1)) - RED).max() < 40) for one in pixels]


def refusal(data: bytes, **how: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        views_of(data, **how)
    return caught.value


@pytest.mark.parametrize("boxes", [b"\0\0\0\x08free", b"\0\0\0\x0cskipabcd" * 3])
def test_a_video_may_begin_with_spare_boxes(boxes: bytes) -> None:
    """Players pass over them; the index of a fragmented video counts from its fragments, so that nothing moves."""
    pictures = [np.full((64, 96, 3), RED, np.uint8)] * 3
    facts, _, pixels = views_of(boxes + video(pictures, movflags="frag_keyframe+empty_moov+default_base_moof"))
    assert (facts["format"], facts["frames"], seen_red(pixels)) == ("MP4", 3, [True])


@pytest.mark.parametrize(
    ("container", "codec", "name"),
    [
        ("mp4", "libx264", "MP4"),
        ("mp4", "libx265", "MP4"),
        ("mp4", "libsvtav1", "MP4"),
        ("mov", "libx264", "MOV"),
        ("3gp", "mpeg4", "MP4"),
        ("webm", "libvpx", "WEBM"),
        ("webm", "libvpx-vp9", "WEBM"),
        ("matroska", "libx264", "MKV"),
        ("avi", "mpeg4", "AVI"),
        ("mpegts", "libx264", "TS"),
        ("mpegts", "mpeg2video", "TS"),
        ("ogg", "libvpx", "OGG"),
    ],
)
def test_a_video_is_read_in_the_sandbox(container: str, codec: str, name: str) -> None:
    """Every container and codec: its frames and its duration, and the odd frame in it, at its time."""
    rate = {"mpeg2video": 25}.get(codec, 10)
    pictures = [moving(i) for i in range(30)]
    pictures[17] = red()
    data = video(pictures, container, codec) if rate == 10 else _at_25(pictures, container, codec)
    child = DecodeChild(Settings((GEOMETRY,), False, True, False, 10**8, {}, 20.0, 2**29, views=8, view_pixels=10**9))
    try:
        facts, views, pixels = child.decode_views(data)
        found = seen_red(pixels.reshape(-1, 24, 36, 3))
    finally:
        child.close()
    assert (facts["format"], facts["media"], facts["width"], facts["height"]) == (name, "video", *SIZE)
    assert facts["frames"] == pytest.approx(30, abs=1) and facts["duration_s"] == pytest.approx(30 / rate, abs=0.15)
    assert any(found) and views[found.index(True)]["at_s"] == pytest.approx(17 / rate, abs=0.06)
    assert len(child.sandbox) in (0, 3) and len(views[0]["pdq"]) == 64


def _at_25(pictures: Sequence[Picture], container: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("in_order", [True, False])
def test_a_scene_between_two_keyframes_is_found(in_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seconds of sixty, none of them a keyframe: whether there is time to decode everything or not."""
    if not in_order:
        monkeypatch.setattr(looking._Walk, "_in_order", lambda walk: False)
    pictures = [moving(i) for i in range(600)]
    pictures[317:337] = [red()] * 20
    data = video(pictures, keys=100)
    with av.open(io.BytesIO(data)) as opened:
        keys = [packet.pts * packet.time_base for packet in opened.demux(video=0) if packet.is_keyframe]
    assert [float(key) for key in keys] == [0, 10, 20, 30, 40, 50]
    facts, views, pixels = views_of(data, ViewLimits(8, 128 * 2**16, 60.0))
    found = [view for view, is_red in zip(views, seen_red(pixels), strict=True) if is_red]
    assert found and all(31.7 <= view["at_s"] <= 33.7 for view in found)
    assert sum(view["weight"] for view in found) == pytest.approx(20, abs=6)
    assert facts["duration_s"] == pytest.approx(60) and "signals" not in facts


def test_a_second_look_finds_both_ends_of_a_spike() -> None:
    """Nine frames of sixty seconds are looked at, and one of them is red: it stands for seven seconds. A second look
    finds that it lasts a second, its darkest frame, and all that the first look had."""
    pictures = [moving(i) for i in range(600)]
    pictures[130:140] = [red()] * 10
    pictures[138] = red() // 2
    data, limits = video(pictures, keys=40), ViewLimits(8, 9 * 2**16, 60.0)
    _, first, pixels = views_of(data, limits)
    [spike] = [view for view, is_red in zip(first, seen_red(pixels), strict=True) if is_red]
    assert spike["weight"] > 50
    facts, views, pixels = views_of(
        data, replace(limits, closer=tuple(frames_around([spike["index"]], 600)), further=4)
    )
    assert {view["index"] for view in first} <= {view["index"] for view in views} and len(views) <= 12
    [known] = [view for view in views if view["index"] == spike["index"]]
    assert known["weight"] == pytest.approx(10, abs=4)
    assert [view["reason"] for view in views if view["index"] == 138] == ["spike"]
    assert facts["looked"] == 21 and facts["views"] == len(views) == len(pixels)


def test_frames_that_are_known_are_drawn_alone() -> None:
    """For covers: just these frames are decoded, each from the keyframe before it."""
    data = video([moving(i) for i in range(200)], keys=20)
    facts, views, pixels = views_of(data, replace(LIMITS, closer=(150, 31, 32, 900), only=True))
    assert [(view["index"], view["at_s"]) for view in views] == [(31, 3.1), (32, 3.2), (150, 15.0)]
    assert facts["looked"] == 3 and len(pixels) == facts["views"] == 3


@pytest.mark.parametrize("index", ["used", "broken"])
@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("mpegts", "libx264")]
)
def test_a_large_video_is_read_again_instead_of_kept(
    container: str, codec: str, index: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets that memory does not hold are read once more, whether the file's index leads to them or not: the views
    are the same, of a first look and of a closer one."""
    monkeypatch.setattr(looking._Walk, "_in_order", lambda walk: False)
    pictures = [moving(i) for i in range(200)]
    pictures[131:135] = [red()] * 4
    data, limits = (
        video(pictures, container, codec, keys=30),
        ViewLimits(8, 300_000_000, 60.0, False, tuple(frames_around([133], 200)), 4),
    )
    kept = views_of(data, limits)
    monkeypatch.setattr(decoding, "_HELD_BYTES", 0)
    if index == "broken":
        monkeypatch.setattr(decoding.Video, "_sought", lambda video, stamp: None)
    again = views_of(data, limits)
    assert again[:2] == kept[:2] and np.array_equal(again[2], kept[2]) and any(seen_red(kept[2]))


@pytest.mark.parametrize("place", [0, 99])
def test_the_first_and_the_last_frame_are_looked_at(place: int) -> None:
    """An odd frame at an end, however few frames are looked at."""
    pictures = [moving(i) for i in range(100)]
    pictures[place] = red()
    _, views, pixels = views_of(video(pictures), ViewLimits(8, 11 * 2**16, 60.0))
    assert [view["index"] for view, is_red in zip(views, seen_red(pixels), strict=True) if is_red] == [place]


def test_frames_that_look_alike_are_one_view() -> None:
    """A picture that stands still is one view, and needs no table of views; it counts as long as it is shown."""
    facts, views, pixels = views_of(video([red()] * 30))
    assert (facts["frames"], facts["views"], views, len(pixels)) == (30, 1, [], 1)
    _, views, _ = views_of(video([red()] * 30 + [moving(0)] * 10))
    assert [(view["index"], view["reason"], view["weight"]) for view in views] == [(0, "first", 30), (39, "last", 10)]


def test_one_frame_is_a_video() -> None:
    """A single frame: one view."""
    facts, views, pixels = views_of(video([red()]))
    assert (facts["media"], facts["frames"], facts["views"], views) == ("video", 1, 1, []) and seen_red(pixels) == [
        True
    ]


def test_a_view_knows_its_time_where_the_rate_varies() -> None:
    """Frames count for the time that they are shown, and views have the times at which they are."""
    pictures = [moving(0), red(), moving(29)]
    facts, views, _ = views_of(video(pictures, "matroska", times=[0, 10, 12]))
    assert [view["at_s"] for view in views] == pytest.approx([0, 1.0, 1.2])
    assert [view["weight"] for view in views] == [10, 2, 1]
    assert facts["frames"] == 3


@pytest.mark.parametrize(("rotation", "corner"), [(90, "left bottom"), (-90, "right top"), (180, "right bottom")])
def test_a_video_is_turned_as_players_show_it(rotation: int, corner: str) -> None:
    """Phones store videos sideways, with a matrix that turns them."""
    picture = moving(0)
    picture[:] = 200
    picture[:32, :48] = RED  # the upper left corner
    facts, _, pixels = views_of(video([picture] * 3, rotation=rotation))
    assert (facts["width"], facts["height"]) == (SIZE if rotation == 180 else SIZE[::-1])
    halves = {"left": slice(0, 18), "right": slice(18, 36), "top": slice(0, 12), "bottom": slice(12, 24)}
    across, down = (halves[word] for word in corner.split())
    assert np.abs(pixels[0][down, across].mean((0, 1)) - RED).max() < 50


def test_what_an_edit_list_hides_is_not_looked_at() -> None:
    """Frames before the beginning are in the file, and no player shows them."""
    data = video([red()] * 10 + [moving(i) for i in range(20)], times=range(-10, 20))
    facts, views, pixels = views_of(data)
    assert b"elst" in data and not any(seen_red(pixels))
    assert views[0]["at_s"] == 0 and facts["frames"] == 20 and facts["duration_s"] == pytest.approx(2, abs=0.11)


@pytest.mark.parametrize("container", ["matroska", "mpegts", "mp4"])
def test_of_a_video_that_is_cut_off_the_rest_is_scored(container: str) -> None:
    """Half of the bytes: what they show is looked at, and only that is counted."""
    pictures = [moving(i) for i in range(20)] + [red()] * 5 + [moving(i) for i in range(75)]
    noise = np.random.default_rng(1)
    pictures = [np.clip(one + noise.integers(0, 9, one.shape), 0, 255).astype(np.uint8) for one in pictures]
    data = video(
        pictures, container, keys=10, **({"movflags": "frag_keyframe+empty_moov"} if container == "mp4" else {})
    )
    facts, views, pixels = views_of(data[: len(data) // 2])
    assert 25 < facts["frames"] < 75 and facts["duration_s"] < 7.5
    assert any(seen_red(pixels)) and len(views) == facts["views"]


def test_a_video_without_its_index_is_damaged() -> None:
    """An MP4 whose end is missing has no index, and nothing can be shown."""
    data = video([moving(i) for i in range(20)])
    error = refusal(data[: len(data) - 200])
    assert error.code == ErrorCode.TRUNCATED and error.values["format"] == "MP4"
    assert error.message == "the MP4 data is damaged: Invalid data found when processing input"


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_claim_of_ten_hours_is_not_believed(container: str) -> None:
    """The duration is that of the frames that are there."""
    data = bytearray(video([moving(i) for i in range(20)], container))
    if container == "mp4":
        for box, at in ((b"mvhd", 16), (b"tkhd", 20), (b"mdhd", 16)):
            start = data.index(box) + 4 + at
            data[start : start + 4] = (36_000_000).to_bytes(4, "big")
    else:
        start = data.index(b"\x44\x89\x88") + 3
        data[start : start + 8] = struct.pack(">d", 36e6)
        with av.open(io.BytesIO(bytes(data))) as opened:
            assert opened.duration == 36_000 * 10**6
    facts, _, _ = views_of(bytes(data))
    assert facts["duration_s"] == pytest.approx(2, abs=0.11) and facts["frames"] == 20


def test_time_that_is_used_up_is_said() -> None:
    """The first frame is always looked at; what was not is a signal."""
    facts, views, pixels = views_of(video([red()] * 300), ViewLimits(8, 10**9, 0.0))
    assert seen_red(pixels) == [True] and views == [] and facts["duration_s"] is None
    assert facts["signals"]["view.unseen"] >= 0.5


def test_few_looks_of_a_long_video_are_spread_and_said() -> None:
    """Five minutes, a few frames: looks in even distances, and the share of the time that is far from all of them."""
    data = video([moving(i) for i in range(300)], times=range(0, 3000, 10))
    facts, views, _ = views_of(data, ViewLimits(8, 31 * 2**16, 60.0))
    assert facts["signals"]["view.unseen"] == pytest.approx(0.7, abs=0.05) and views[-1]["at_s"] > 290


def test_a_frame_is_seen_as_long_as_it_is_shown() -> None:
    """Slides of a minute each, all of which were looked at, leave nothing unseen."""
    facts, _, _ = views_of(video([moving(0), red(), moving(20)], times=[0, 600, 1200]))
    assert facts["frames"] == 3 and facts["duration_s"] > 120 and "signals" not in facts


def test_only_the_first_frame_where_one_view_is_asked_for() -> None:
    """`views.most` of 1."""
    facts, views, pixels = views_of(video([moving(0), red(), red()]), ViewLimits(1, 10**9, 60.0))
    assert facts["views"] == 1 and views == [] and seen_red(pixels) == [False]


def test_too_many_pixels_are_refused_before_decoding() -> None:
    """`--max-pixels` holds for a frame of a video."""
    error = refusal(video([moving(0)]), max_pixels=1000)
    assert error.code == ErrorCode.TOO_MANY_PIXELS and error.values["width"] == SIZE[0]


def test_what_is_no_video_within_a_container_is_named() -> None:
    """Sound alone, and a codec that is not scanned."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48_000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    assert refusal(buffer.getvalue()).code == ErrorCode.AUDIO
    error = refusal(video([moving(0)] * 3, "matroska", "mjpeg"))
    assert error.code == ErrorCode.CODEC_MISSING and "mjpeg" in error.message


def test_odd_pixels_are_shown_square() -> None:
    """A picture that is stored squeezed is looked at as players show it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        output.mux(stream.encode(av.VideoFrame.from_ndarray(red(), format="rgb24")))
        output.mux(stream.encode(None))
    facts, _, _ = views_of(buffer.getvalue())
    assert (facts["width"], facts["height"]) == (2 * SIZE[0], SIZE[1])


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("avi", "mpeg4"), ("mpegts", "libx264")]
)
def test_a_hostile_container_is_a_row(container: str, codec: str) -> None:
    """Bytes changed at random, ends cut, parts repeated: views, or a `RowError`; nothing else."""
    whole = video([moving(i) for i in range(20)], container, codec, keys=5)
    luck = random.Random(1)
    outcomes = set()
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(luck.choice((1, 5, 50))):
            data[luck.randrange(16, len(data))] = luck.randrange(256)
        if luck.random() < 0.3:
            at = luck.randrange(16, len(data))
            data[at:at] = data[at : at + luck.randrange(1, 5000)]
        cut = bytes(data[: luck.choice((len(data), luck.randrange(16, len(data))))])
        if container_of(cut) is None:  # its beginning is gone
            continue
        try:
            facts, views, pixels = views_of(cut, hashed=True)
            assert facts["views"] == len(pixels) >= len(views) and 0 <= facts["duration_s"] < float("inf")
            outcomes.add("views")
        except RowError as error:
            outcomes.add(error.code)
    assert outcomes > {"views"}


def test_an_index_that_names_the_same_bytes_again_is_cut() -> None:
    """Every frame of the index leads to the largest one: no more than twice the file is read."""
    rng = np.random.default_rng(2)
    noisy = [rng.integers(0, 256, (SIZE[1], SIZE[0], 3), np.uint8)]
    data = bytearray(video(noisy + [red()] * 200, bf="0"))
    at = data.index(b"stsz") + 4
    largest = int.from_bytes(data[at + 12 : at + 16], "big")
    data[at + 4 : at + 8] = largest.to_bytes(4, "big")  # one size for all
    facts, _, _ = views_of(bytes(data))
    assert facts["frames"] is None or facts["frames"] <= 2 * len(data) // largest + 1


def test_without_the_extra_a_row_says_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """`unsupported`, a code of its own, and the command."""
    monkeypatch.setattr(containers, "find_spec", lambda name: None)
    with pytest.raises(RowError) as caught:
        containers.refuse_without_extra(containers.READ[0])
    assert caught.value.code == ErrorCode.VIDEO and "pip install 'nsfwscan[video]'" in caught.value.message


@pytest.mark.parametrize("data", [b"GIF89a" + bytes(400), b"\xff\xd8\xff\xe0" + bytes(300), b"", b"RIFF1234WEBPVP8 "])
def test_an_image_is_no_video(data: bytes) -> None:
    """Nothing but a video is taken for one."""
    assert container_of(data) is None


def tracks(container: str, *pictures: Sequence[Picture], cover: bytes = b"") -> bytes:
    """A video of several tracks, 10 frames a second each, and a cover."""
    buffer = io.BytesIO()
    with as_scheduled(), av.open(buffer, "w", format=container) as output:
        streams = [output.add_stream("libx264", rate=10) for _ in pictures]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        if cover:
            still = output.add_stream("png", rate=1)
            still.width, still.height, still.pix_fmt = *SIZE, "rgb24"
            still.disposition = decoding.Disposition.attached_pic
            packet = av.Packet(cover)
            packet.stream, packet.pts, packet.dts = still, 0, 0
            output.mux(packet)
        for stream, shown in zip(streams, pictures, strict=True):
            for place, picture in enumerate(shown):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts = place
                output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize("container", ["mp4", "matroska"])
def test_a_further_track_is_said(container: str) -> None:
    """A player can be told to show it; one that nobody looked at is half of two."""
    facts, _, pixels = views_of(tracks(container, [moving(i) for i in range(5)], [red()] * 5))
    assert facts["signals"] == {"view.unseen": 0.5} and not any(seen_red(pixels))


def test_a_cover_is_a_view() -> None:
    """Galleries show it in place of the video: it counts as a page does, and a damaged one costs nothing else."""
    png = io.BytesIO()
    Image.fromarray(red()).save(png, "PNG")
    facts, views, pixels = views_of(tracks("mp4", [moving(0)] * 5, cover=png.getvalue()))
    assert (facts["frames"], facts["views"], seen_red(pixels)) == (5, 2, [False, True])
    assert (views[1]["at_s"], views[1]["reason"], views[1]["weight"]) == (None, "page", 1000)
    assert views_of(tracks("mp4", [moving(0)] * 5, cover=png.getvalue()[:60]))[0]["views"] == 1
    many = [np.full((*SIZE[::-1], 3), level, np.uint8) for level in range(0, 250, 10)]
    facts, _, pixels = views_of(tracks("mp4", many, cover=png.getvalue()))
    assert facts["views"] == LIMITS.most and seen_red(pixels)[-1]


def test_pictures_in_what_is_called_a_recording_are_looked_at() -> None:
    """An Ogg with Theora, whatever stands before it, and an MPEG-4 recording with a track of pictures. theora.ogv was
    made by FFmpeg, since PyAV has no encoder: a tenth of a second of red."""
    theora = Path(__file__).with_name("theora.ogv").read_bytes()
    assert any(seen_red(views_of(theora)[2])) and views_of(theora)[0]["format"] == "OGG"
    sound = b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis" + bytes(22)
    assert container_of(sound) is None and container_of(sound + theora) is not None
    m4a = tracks("mp4", [red()] * 5).replace(b"ftypisom", b"ftypM4A ", 1)
    facts, _, pixels = views_of(m4a)
    assert facts["format"] == "MP4" and any(seen_red(pixels))
