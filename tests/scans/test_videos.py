"""Videos from scan to report: unsupported without the extra, and read as soon as it is there."""

from __future__ import annotations

import os
import struct
import sys
import time
from pathlib import Path

import pytest

from tests.scans.test_views import frames, night, read, run_of, save

pytest.importorskip("av", reason="the extra nsfwscan[video]")
from nsfwscan.runs.verify import verify
from tests.images.test_videos import moving, red, video


def test_a_video_is_read_again_once_the_extra_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first night names what to install; the second scores the video, and carries the picture over."""
    media, out, hidden = tmp_path / "media", tmp_path / "out", tmp_path / "hidden"
    save(media / "still.png", frames(6))
    (media / "clip.mp4").write_bytes(video([moving(0)] * 10 + [red()] * 5))
    os.utime(media / "clip.mp4", (time.time() - 3600,) * 2)  # what has just changed is not carried over
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['av'] = None\n")
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "av", None)
        without.syspath_prepend(hidden)  # the decode child imports what we do
        night(media, out, "1")
        rows, _ = read(out, "1")
        assert (rows["clip.mp4"]["status"], rows["clip.mp4"]["error_code"]) == ("unsupported", "video")
        assert "pip install 'nsfwscan[video]'" in rows["clip.mp4"]["error"]
        assert night(media, out, "2").record.balance.carried == 2
    assert night(media, out, "3").record.balance.carried == 1
    rows, views = read(out, "3")
    row, [first, last] = rows["clip.mp4"], views["clip.mp4"]
    assert (row["status"], row["media"], row["format"], row["frames"]) == ("ok", "video", "MP4", 15)
    assert (row["views"], row["duration_s"]) == (2, pytest.approx(1.5))
    assert row["worst_at_s"] in (first["at_s"], last["at_s"])
    assert (first["weight"], last["weight"]) == (10, 5)
    assert list(verify(run_of(out, "3"))) == []


def test_a_video_may_be_larger_than_a_picture(tmp_path: Path) -> None:
    """Over `read.max_bytes` a video is read all the same, up to its own limit, and carried over; a picture is not."""
    media, out = tmp_path / "media", tmp_path / "out"
    save(media / "large.png", frames(6))
    clip = video([moving(0)] * 10 + [red()] * 5)
    for name, more in (("clip.mp4", 50_000), ("huge.mp4", 500_000)):
        (media / name).write_bytes(clip + struct.pack(">I4s", 8 + more, b"free") + bytes(more))
        os.utime(media / name, (time.time() - 3600,) * 2)
    limits = {"max_bytes": 2000, "max_video_bytes": 100_000}
    night(media, out, "1", read=limits)
    rows, _ = read(out, "1")
    assert {name: (row["status"], row["views"]) for name, row in rows.items()} == {
        "large.png": ("too_large", None),
        "clip.mp4": ("ok", 2),
        "huge.mp4": ("too_large", None),
    }
    assert rows["clip.mp4"]["size"] > 50_000 and rows["clip.mp4"]["sha256"] is not None
    assert night(media, out, "2", read=limits).record.balance.carried == 3
    assert night(media, out, "3", read={**limits, "max_video_bytes": 10**6}).record.balance.carried < 3
    assert read(out, "3")[0]["huge.mp4"]["status"] == "ok"
