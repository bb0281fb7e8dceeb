"""Decode the views of a video: of the frames that were looked at, those that look different.

If there is time to decode all of it, frames are looked at in even distances; otherwise at places each of which halves a
gap between those before, until the time is used up. Never only at keyframes, since whoever makes a video chooses them.
In a second look, which knows what scored high, frames around that are looked at, too. The signal:

    view.unseen     share of the duration that is further than a second from all that shows a frame that was looked at;
                    a further track counts as a whole one that was not
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import ceil
from typing import IO

import numpy as np
from av.video.frame import VideoFrame

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.decoder import Decoded, decode
from nsfwscan.images.formats.containers import Container
from nsfwscan.images.formats.endings import ends_early
from nsfwscan.images.formats.videos import Video, covers_of, opened, pictures_of
from nsfwscan.images.opening import Facts, as_row_error, check_pixels
from nsfwscan.images.pdq import pdq_of
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.views import (
    ALIKE,
    LEAST_COST,
    LOOK,
    WHOLE,
    Looks,
    ViewLimits,
    choose,
    choose_closer,
    weights_of,
)

_KEPT_PIXELS = 2**21
"""Frames of more than 1920 x 1080 are kept at reduced scale."""
_NEAR_S = 1.0
"""How far around itself a frame tells what a video shows."""


@dataclass(frozen=True)
class _Kept:
    """A frame that may become a view."""

    place: int
    look: Looks
    frame: VideoFrame
    rotation: int


@dataclass
class _Walk:
    """Looks at frames of a video, within the limits, and keeps those that differ most.

    Args:
        left: frames that may still be looked at.
        step: frames from one to the next.
        until: when to end.
        most_kept: number of frames in memory.

    Attributes:
        looks: by place.
        kept: ascending by place.
        close: likewise, of those around what scored high.
    """

    video: Video
    left: int
    step: int
    until: float
    most_kept: int
    looks: dict[int, Looks] = field(default_factory=dict)
    kept: list[_Kept] = field(default_factory=list)
    close: list[_Kept] = field(default_factory=list)

    def walk(self) -> None:
        """Look at frames in even distances, or, where that takes too long, at fewer."""
        if self._in_order():
            return
        for place in _spread(len(self.video.times), self.step):
            if not self.left or time.monotonic() > self.until:
                return
            if all(abs(place - known) >= self.step for known in self.looks):
                self._visit(place)

    def _in_order(self) -> bool:
        """Return False as soon as there is no time to go on so."""
        begun, due, last = time.monotonic(), 0, len(self.video.times) - 1
        for place, frame in self.video.frames_from(0, self.until):
            if place >= due or place == last:
                self._look(place, frame)
                due = place + self.step
            spent, left = time.monotonic() - begun, self.until - time.monotonic()
            if not self.left:
                return True
            if spent > left / 20 and spent / (place + 1) * (last - place) > left:
                return False
        return True

    def look_closer(self, places: Sequence[int], until: float) -> None:
        """Look at the frames at some places, the first ones first, until a time, and keep those that look different."""
        for run in self.video.runs(places):
            for place, frame in self.video.frames_from(min(run), until):
                if place in run:
                    self._note(place, frame, self.close)
                if place >= max(run):
                    break

    def only(self, places: Sequence[int]) -> list[tuple[_Kept, str]]:
        """Look at the frames at some places and at nothing else; return them, ascending. Raises ValueError if there are
        none."""
        found: dict[int, _Kept] = {}
        for run in self.video.runs([place for place in places if place < len(self.video.times)]):
            for place, frame in self.video.frames_from(min(run), self.until):
                if place in run:
                    self.looks[place] = self.video.look_of(frame, LOOK)
                    found[place] = self._kept(place, frame)
                if place >= max(run):
                    break
        if not found:
            raise ValueError("no frame can be decoded")
        return [(found[place], "spike") for place in sorted(found)]

    def _kept(self, place: int, frame: VideoFrame) -> _Kept:
        return _Kept(place, self.looks[place], self.video.within(frame, _KEPT_PIXELS), frame.rotation)

    def _visit(self, wanted: int) -> None:
        """Look at the frame at a place, and on the way there at the keyframe before it and those at each step."""
        due = 0
        for place, frame in self.video.frames_from(wanted, self.until):
            if place >= min(due, wanted):
                self._look(place, frame)
                due = place + self.step
            if place >= wanted or not self.left:
                return

    def _look(self, place: int, frame: VideoFrame) -> None:
        if place in self.looks or not self.left:
            return
        self.left -= 1
        self._note(place, frame, self.kept)

    def _note(self, place: int, frame: VideoFrame, kept: list[_Kept]) -> None:
        look = self.looks[place] = self.video.look_of(frame, LOOK)
        if _nearest(look, kept) < ALIKE and (kept is self.close or place < len(self.video.times) - 1):
            return
        kept.append(self._kept(place, frame))
        kept.sort(key=lambda one: one.place)
        if len(kept) > self.most_kept:
            others = [[other for other in kept if other is not one] for one in kept]
            distances = [_nearest(one.look, rest) for one, rest in zip(kept, others, strict=True)]
            del kept[1 + int(np.argmin(distances[1:-1]))]


def _nearest(look: Looks, kept: list[_Kept]) -> float:
    if not kept:
        return float("inf")
    others = np.stack([one.look for one in kept]).astype(np.int16)
    return float(np.abs(others - look).mean(axis=(1, 2, 3)).min())


def _spread(frames: int, step: int) -> Iterator[int]:
    """Yield places, each of which halves a gap between those before: the last, the middle, a quarter, three quarters,
    an eighth … (van der Corput's sequence), until the gaps are no wider than a step."""
    yield frames - 1
    for number in count(1):
        bits = number.bit_length()
        if frames >> (bits - 1) <= step:
            return
        yield frames * int(f"{number:b}"[::-1], 2) >> bits


def video_views(
    file: IO[bytes],
    container: Container,
    *geometries: Geometry,
    limits: ViewLimits,
    max_pixels: int,
    hashed: bool = False,
) -> tuple[Facts, list[Facts], bytes]:
    """Return what a video is, its views, and the models' pixels of each view: as `to_views` does for an image.

    Args:
        file: open, in memory or on disk, which is read here and there.

    Raises:
        RowError: `unsupported`, `too_large` or `decode_error`.
        MemoryError: the video needs more memory than this process may have.
    """
    begun = time.monotonic()
    facts: Facts = {"format": container.name, "media": "video"}
    damage = ErrorCode.TRUNCATED if ends_early(file, container.name) else ErrorCode.DECODE_ERROR
    size = file.seek(0, os.SEEK_END)
    with (
        as_row_error(facts, damage),
        closing(Video(partial(opened, file, container), 2 * size, max_pixels)) as video,
    ):
        facts |= check_pixels(container.name, video.size, max_pixels)
        video.read(begun + limits.seconds / 2)
        several = limits.most > 1
        looks = max(1, limits.pixels // max(LEAST_COST, video.size[0] * video.size[1])) if several else 1
        until = begun + limits.seconds if several else float("inf")  # then the deadline of the file holds
        walk = _Walk(video, looks, max(1, ceil(len(video.times) / looks)), until, 4 * limits.most)
        if limits.only and limits.closer:
            return _made(walk, facts, geometries, walk.only(limits.closer), hashed=False)
        covers = _covers(file, container, max_pixels, hashed=hashed) if several and video.covers else []
        covers = covers[: limits.most // 2]
        walk.walk()
        if not walk.kept:
            raise ValueError("no frame can be decoded")
        closer = [place for place in limits.closer or () if place < len(video.times)][: looks + limits.further]
        walk.look_closer(closer, time.monotonic() + limits.seconds / 2)
        chosen = _chosen(walk, closer, limits.most - len(covers), limits.further)
        return _made(walk, facts, geometries, chosen, hashed=hashed, covers=covers)


def _covers(file: IO[bytes], container: Container, max_pixels: int, *, hashed: bool) -> list[Decoded]:
    """Return the covers that can be decoded."""
    found = []
    for cover in covers_of(file, container):
        with suppress(RowError):
            found.append(decode(cover, max_pixels=max_pixels, hashed=hashed))
    return found


def _chosen(walk: _Walk, closer: list[int], most: int, further: int) -> list[tuple[_Kept, str]]:
    """Return the frames that become views, ascending by place, and the reason of each.

    Args:
        most: number of them.
        further: number of further ones, of those that were looked at closer.
    """
    frames = [*walk.kept, *walk.close]
    looks = np.stack([one.look for one in frames])
    chosen = choose(looks[: len(walk.kept)], most, "spread")
    if walk.close:
        ranks = {place: rank for rank, place in enumerate(closer)}
        close = sorted(range(len(walk.kept), len(frames)), key=lambda index: ranks[frames[index].place])
        chosen = choose_closer(looks, chosen, close, further)
    return sorted(((frames[index], reason) for index, reason in chosen.items()), key=lambda one: one[0].place)


def _made(
    walk: _Walk,
    facts: Facts,
    geometries: tuple[Geometry, ...],
    chosen: list[tuple[_Kept, str]],
    *,
    hashed: bool,
    covers: Sequence[Decoded] = (),
) -> tuple[Facts, list[Facts], bytes]:
    """Return what `video_views` does.

    Args:
        chosen: frames that become views, and the reason of each.
        covers: further views, which count as pages do, after the last frame.
    """
    video, places = walk.video, sorted(walk.looks)
    weights = _weights(walk, [one.place for one, _ in chosen])
    views: list[Facts] = []
    pixels: list[bytes] = []
    for (one, reason), weight in zip(chosen, weights, strict=True):
        stored, image = pictures_of(one.frame, one.rotation)
        pdq, quality = pdq_of(stored) if hashed else (None, None)
        if not views:
            width, height = video.shown_size(one.rotation)
            facts |= {"width": width, "height": height, "pdq": pdq, "pdq_quality": quality}
        at_s = float(video.times[one.place])
        views.append({"index": one.place, "at_s": at_s, "reason": reason, "weight": weight, "pdq": pdq,
                      "pdq_quality": quality})  # fmt: skip
        pixels.append(b"".join(geometry.apply(image) for geometry in geometries))
    for index, cover in enumerate(covers, start=len(video.times)):
        known = {name: cover.facts.get(name) for name in ("width", "height", "pdq", "pdq_quality")}
        views.append({"index": index, "at_s": None, "reason": "page", "weight": WHOLE, **known})
        pixels.append(b"".join(geometry.apply(cover.image) for geometry in geometries))
    facts |= {"looked": len(places), "views": len(views), "frames": None if video.cut else len(video.times)}
    facts["duration_s"] = None if video.cut else video.end_s
    if unseen := _unseen(video, places):
        facts["signals"] = {"view.unseen": unseen}
    return facts, views if len(views) > 1 else [], b"".join(pixels)


def _weights(walk: _Walk, chosen: list[int]) -> list[int]:
    """Return the weights of chosen places: each frame that was looked at stands for the time until the next one."""
    places = sorted(walk.looks)
    times = walk.video.times[places]
    limits = np.append(times, max(walk.video.end_s, times[-1]))
    looks = np.stack([walk.looks[place] for place in places])
    return weights_of(looks, [places.index(place) for place in chosen], np.diff(limits).tolist())


def _unseen(video: Video, places: list[int]) -> float:
    least = 0.5 if video.cut else 0.0  # of a length that nobody knows
    if not video.end_s:
        return _with_others(video, least)
    limits = np.append(video.times, video.end_s)  # a frame is shown until the next one, however long
    begin, end = np.append(-_NEAR_S, limits[np.array(places) + 1]), np.append(limits[places], limits[-1] + _NEAR_S)
    gaps = end - begin - 2 * _NEAR_S
    return _with_others(video, float(min(1.0, max(least, gaps.clip(0).sum() / video.end_s))))


def _with_others(video: Video, unseen: float) -> float:
    """Return the share of all tracks; none of the further ones was looked at."""
    return (unseen + video.others) / (1 + video.others)
