"""Decode the frames of a video with PyAV: FFmpeg's decoders, in one thread, fed from memory or from an open file.

What a container says of itself is not believed. All packets are read first: they are the frames, the duration and the
keyframes. Then any frame can be reached from the keyframe before it, whatever the container's index says: the packets
of a video of ordinary size stay in memory, and those of a larger one are read again. Nothing here knows which frames
are wanted; `video_views.py` does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, islice
from typing import IO, Any

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

_CODECS = ("h264", "hevc", "vp8", "vp9", "libdav1d", "mpeg4", "mpeg2video", "theora")
"""FFmpeg's names of the decoders that are used."""
_HELD_BYTES = 64 * 2**20
"""Packets of more bytes than these are not kept in memory."""
_ODD_ASPECT = 16
"""A pixel that claims to be wider, or higher, by this is taken for a square one."""
_MOST_BYTES, _MOST_PIXELS = 2**27, 2**27
"""Of a track that is walked through from its beginning to its end: packets of all frames, and pixels of each."""
_MOST_COVERS = 4
_LARGEST_LOOK = 4096
"""Edge above which FFmpeg's scaler does not go down to a look in one step."""


class Video:
    """A video whose packets were read, up to a time, and no more than twice the file's bytes of them: a hostile index
    may name the same bytes again and again.

    Args:
        opening: opens the container anew.
        max_bytes: of all packets.
        max_pixels: of a frame.

    Attributes:
        size: width and height in pixels, as they are stored.
        times: float64, ascending: seconds at which each frame is shown, from the first one on.
        end_s: seconds at which the last one ends.
        cut: whether there are more packets than were read.
        covers: number of covers.
        others: number of further tracks with pictures that move, which are not looked at.
    """

    def __init__(
        self, opening: Callable[[], tuple[InputContainer, VideoStream]], max_bytes: int, max_pixels: int
    ) -> None:
        self._opening = opening
        self._opened, stream = opening()
        tracks = self._opened.streams.video
        self.covers = sum(map(_is_cover, tracks))
        self.others = len(tracks) - self.covers - 1
        self._stream, self._context = stream, stream.codec_context
        self._context.thread_count = 1
        self._context.thread_type = "NONE"
        self._context.options = {"max_pixels": str(max_pixels)}
        self._most_bytes = max_bytes
        self._packets: list[Packet[VideoStream]] | None = []
        self.size = self._context.width, self._context.height
        aspect = float(stream.sample_aspect_ratio or 1)
        self._aspect = aspect if 1 / _ODD_ASPECT <= aspect <= _ODD_ASPECT else 1.0
        self.cut = self._begun = False

    def close(self) -> None:
        """Close the container."""
        self._opened.close()

    def read(self, until: float) -> None:
        """Read the packets, up to the end of the file, or to where it is damaged."""
        left, at, shown = self._most_bytes, 0, 0
        stamps: list[int] = []
        keys: list[tuple[int, int]] = []
        for packet in _packets_of(self._opened, self._stream):
            left -= packet.size
            if left < 0 or (at and time.monotonic() > until):
                self.cut = True
                break
            self._hold(packet, self._most_bytes - left)
            if (stamp := _stamp(packet)) is not None:
                stamps += [] if packet.is_discard else [stamp]
                keys += [(stamp, at)] if packet.is_keyframe else []
            at, shown = at + 1, packet.duration or 0
        unit = float(self._stream.time_base or 0)
        self._stamps = np.unique(np.array(stamps, np.int64))
        self._keys = np.array(keys, np.int64).reshape(-1, 2)
        self.times = (self._stamps.astype(np.float64) - self._stamps[:1]) * unit
        self.end_s = float(self.times[-1]) + max(0.0, shown * unit) if len(self.times) else 0.0

    def _hold(self, packet: Packet[VideoStream], so_far: int) -> None:
        if so_far > _HELD_BYTES:
            self._packets = None
        if self._packets is not None:
            self._packets.append(packet)

    def _packets_from(self, at: int) -> Iterator[Packet[VideoStream]]:
        """Yield the packets from a keyframe's, or from the first one, on."""
        if self._packets is not None:
            yield from self._packets[at:]
            return
        wanted = next((int(stamp) for stamp, key in self._keys if key == at), None)
        packets = self._sought(wanted) if wanted is not None else None
        if packets is None:
            self._opened.close()
            self._opened, self._stream = self._opening()
            packets = islice(_packets_of(self._opened, self._stream), at, None)
        yield from packets

    def _sought(self, stamp: int) -> Iterator[Packet[VideoStream]] | None:
        """Return the packets from a keyframe at a stamp, or before it, on; None where the index does not lead there."""
        try:
            self._opened.seek(stamp, stream=self._stream)
        except av.FFmpegError:
            return None
        packets = _packets_of(self._opened, self._stream)
        for packet in packets:
            found = _stamp(packet)
            if packet.is_keyframe and found is not None:
                return chain([packet], packets) if found <= stamp else None
        return None

    def frames_from(self, place: int, until: float) -> Iterator[tuple[int, VideoFrame]]:
        """Yield frames with their places, from the keyframe before a place on: until a time, but the first frame of all
        in any case. Damaged ones are left out."""
        self._context.flush_buffers()
        for packet in chain(self._packets_from(self._key_before(place)), [None]):
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


def opened(file: IO[bytes], container: Container) -> tuple[InputContainer, VideoStream]:
    """Open a video for nothing but its own bytes, no other file or address that it may name, and return the pictures
    that a player shows first. Raises ValueError, `RowError` (`unsupported`)."""
    file.seek(0)
    options = {"protocol_whitelist": "none", "codec_whitelist": ",".join(_CODECS)}
    try:
        source = av.open(file, "r", format=container.demuxer, options=options)
    except MemoryError:
        raise
    except av.FFmpegError as error:  # whose own words name files and numbers that nobody knows
        if container.is_sound:  # nothing says that there are pictures in it
            words = f"not a format that is scanned: looks like {container.called}"
            raise RowError(ErrorCode.AUDIO, words) from error
        raise ValueError(error.strerror) from error
    return source, _stream_of(source, container)


def _stream_of(opened: InputContainer, container: Container) -> VideoStream:
    for stream in opened.streams.video:
        if _is_cover(stream):
            continue
        name = stream.codec_context.name if stream.codec_context is not None else "an unknown codec"
        if name not in _CODECS:
            words = f"{container.called}, coded as {name}, which is not scanned"
            raise RowError(ErrorCode.CODEC_MISSING, words, {"format": container.name})
        return stream
    words = f"{container.called} without pictures that move"
    raise RowError(ErrorCode.AUDIO, words, {"format": container.name})


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def covers_of(file: IO[bytes], container: Container) -> list[bytes]:
    """Return the covers of a video, encoded, a few at most: a folder or a gallery shows one in place of the video."""
    source, _ = opened(file, container)
    with closing(source):
        covers = [stream for stream in source.streams.video if _is_cover(stream)][:_MOST_COVERS]
        found = [next((bytes(packet) for packet in source.demux(stream) if packet.size), b"") for stream in covers]
    return [cover for cover in found if cover]


def pictures_of(frame: VideoFrame, rotation: int) -> tuple[Image.Image, Image.Image]:
    """Return a frame as RGB as it is stored, and as it is shown: turned by quarters, as its display matrix says."""
    stored = Image.fromarray(frame.reformat(format="rgb24", threads=1).to_ndarray())
    return stored, stored.rotate(90 * round(rotation / 90), expand=True)


def length_of(file: IO[bytes], container: Container) -> int:
    """Return the number of a track's frames, whatever the container says; 0 where it cannot be read."""
    try:
        with closing(Video(partial(opened, file, container), _MOST_BYTES, _MOST_PIXELS)) as video:
            video.read(float("inf"))
            return len(video.times)
    except (ValueError, RowError):
        return 0


def pictures_in_order(file: IO[bytes], container: Container) -> Iterator[tuple[Image.Image, float]]:
    """Yield all frames of a track as they are shown, and the seconds that each is."""
    with closing(Video(partial(opened, file, container), _MOST_BYTES, _MOST_PIXELS)) as video:
        video.read(float("inf"))
        limits = np.append(video.times, video.end_s)
        for place, frame in video.frames_from(0, float("inf")):
            yield pictures_of(video.within(frame, _MOST_PIXELS), frame.rotation)[1], float(np.diff(limits)[place])


def _packets_of(opened: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    try:
        yield from (packet for packet in opened.demux(stream) if packet.size)  # the last ones only say that it ends
    except MemoryError:
        raise
    except av.FFmpegError:
        return


def _stamp(found: Packet[Any] | VideoFrame) -> int | None:
    stamp: int | None = found.dts if found.pts is None else found.pts
    return stamp
