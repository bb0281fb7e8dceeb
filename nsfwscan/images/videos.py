"""Decode the frames of a video with PyAV: FFmpeg's decoders, in one thread, fed from memory.

What a container says of itself is not believed. All packets are read first: they are the frames, the duration and the
keyframes. Then any frame can be reached from the keyframe before it, whatever the container's index says. Nothing here
knows which frames are wanted; `video_views.py` does.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.formats.containers import Container

_CODECS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "mpeg2video")
"""FFmpeg's names of the decoders that are used."""
_ODD_ASPECT = 16
"""A pixel that claims to be wider, or higher, by this is taken for a square one."""
_LARGEST_LOOK = 4096
"""Edge above which FFmpeg's scaler does not go down to a look in one step."""


class Video:
    """A video whose packets were read, up to a time, and no more than twice the file's bytes of them: a hostile index
    may name the same bytes again and again.

    Attributes:
        size: width and height in pixels, as they are stored.
        times: float64, ascending: seconds at which each frame is shown, from the first one on.
        end_s: seconds at which the last one ends.
        cut: whether there are more packets than were read.
    """

    def __init__(self, opened: InputContainer, stream: VideoStream, max_bytes: int, max_pixels: int) -> None:
        self._opened, self._stream, self._context = opened, stream, stream.codec_context
        self._context.thread_count = 1
        self._context.thread_type = "NONE"
        self._context.options = {"max_pixels": str(max_pixels)}
        self._most_bytes = max_bytes
        self._packets: list[Packet[VideoStream]] = []
        self.size = self._context.width, self._context.height
        aspect = float(stream.sample_aspect_ratio or 1)
        self._aspect = aspect if 1 / _ODD_ASPECT <= aspect <= _ODD_ASPECT else 1.0
        self.cut = self._begun = False

    def read(self, until: float) -> None:
        """Read the packets, up to the end of the file, or to where it is damaged."""
        left = self._most_bytes
        for packet in _packets_of(self._opened, self._stream):
            left -= packet.size
            if left < 0 or (self._packets and time.monotonic() > until):
                self.cut = True
                break
            if packet.size:  # the last ones have none: they tell the decoder to end
                self._packets.append(packet)
        unit = float(self._stream.time_base or 0)
        stamps = [stamp for packet in self._packets if not packet.is_discard and (stamp := _stamp(packet)) is not None]
        self._stamps = np.unique(np.array(stamps, np.int64))
        keys = [(stamp, at) for at, packet in enumerate(self._packets)
                if packet.is_keyframe and (stamp := _stamp(packet)) is not None]  # fmt: skip
        self._keys = np.array(keys, np.int64).reshape(-1, 2)
        self.times = (self._stamps.astype(np.float64) - self._stamps[:1]) * unit
        shown_s = max(0.0, float(self._packets[-1].duration or 0) * unit) if self._packets else 0.0
        self.end_s = float(self.times[-1]) + shown_s if len(self.times) else 0.0

    def frames_from(self, place: int, until: float) -> Iterator[tuple[int, VideoFrame]]:
        """Yield frames with their places, from the keyframe before a place on: until a time, but the first frame of all
        in any case. Damaged ones are left out."""
        self._context.flush_buffers()
        for packet in [*self._packets[self._key_before(place) :], None]:
            if self._begun and time.monotonic() > until:
                return
            try:
                frames = self._context.decode(packet)
            except MemoryError:
                raise
            except av.FFmpegError:
                continue
            for frame in frames:
                self._begun = True
                yield self._place_of(frame), frame

    def runs(self, places: Sequence[int]) -> list[list[int]]:
        """Return places in groups that are decoded from one keyframe each, in the order of each group's first."""
        found: dict[int, list[int]] = {}
        for place in places:
            found.setdefault(self._key_before(place), []).append(place)
        return list(found.values())

    def look_of(self, frame: VideoFrame, edge: int) -> Any:
        """Return a small picture of a frame, uint8 [edge, edge, 3]."""
        if max(frame.width, frame.height) > _LARGEST_LOOK:
            half = min(frame.width, _LARGEST_LOOK // 2), min(frame.height, _LARGEST_LOOK // 2)
            frame = frame.reformat(*half, interpolation="AREA", threads=1)
        return frame.reformat(edge, edge, format="rgb24", interpolation="AREA", threads=1).to_ndarray()

    def within(self, frame: VideoFrame, pixels: int) -> VideoFrame:
        """Return a frame with square pixels, of so many at most."""
        width, height = self._squared(frame.width, frame.height)
        scale = min(1.0, (pixels / (width * height)) ** 0.5)
        return frame.reformat(max(1, round(width * scale)), max(1, round(height * scale)), threads=1)

    def shown_size(self, rotation: int) -> tuple[int, int]:
        """Return width and height of the picture that a player shows."""
        width, height = self._squared(*self.size)
        return (width, height) if rotation % 180 == 0 else (height, width)

    def _squared(self, width: int, height: int) -> tuple[int, int]:
        return round(width * max(1.0, self._aspect)), round(height / min(1.0, self._aspect))

    def _key_before(self, place: int) -> int:
        """Return where in the packets the decoder begins for a place."""
        if not place:
            return 0
        before = self._keys[self._keys[:, 0] <= self._stamps[place], 1]
        return int(before[-1]) if len(before) else 0

    def _place_of(self, frame: VideoFrame) -> int:
        stamp = _stamp(frame)
        at = int(np.searchsorted(self._stamps, 0 if stamp is None else stamp))
        return max(0, min(at, len(self._stamps) - 1))


def opened(data: bytes, container: Container) -> InputContainer:
    """Open a video for nothing but its own bytes: no other file or address that it may name. Raises ValueError."""
    options = {"protocol_whitelist": "none", "codec_whitelist": ",".join(_CODECS)}
    try:
        return av.open(io.BytesIO(data), "r", format=container.demuxer, options=options)
    except MemoryError:
        raise
    except av.FFmpegError as error:  # whose own words name files and numbers that nobody knows
        raise ValueError(error.strerror) from error


def stream_of(opened: InputContainer, container: Container) -> VideoStream:
    """Return the pictures that a player shows first. Raises `RowError` (`unsupported`)."""
    for stream in opened.streams.video:
        if stream.disposition & Disposition.attached_pic:  # a cover
            continue
        name = stream.codec_context.name if stream.codec_context is not None else "an unknown codec"
        if name not in _CODECS:
            words = f"{container.called}, coded as {name}, which is not scanned"
            raise RowError(ErrorCode.CODEC_MISSING, words, {"format": container.name})
        return stream
    words = f"{container.called} without pictures that move"
    raise RowError(ErrorCode.AUDIO, words, {"format": container.name})


def pictures_of(frame: VideoFrame, rotation: int) -> tuple[Image.Image, Image.Image]:
    """Return a frame as RGB as it is stored, and as it is shown: turned by quarters, as its display matrix says."""
    stored = Image.fromarray(frame.reformat(format="rgb24", threads=1).to_ndarray())
    return stored, stored.rotate(90 * round(rotation / 90), expand=True)


def _packets_of(opened: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    try:
        yield from opened.demux(stream)
    except MemoryError:
        raise
    except av.FFmpegError:
        return


def _stamp(found: Packet[Any] | VideoFrame) -> int | None:
    stamp: int | None = found.dts if found.pts is None else found.pts
    return stamp
