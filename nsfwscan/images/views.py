"""Decode the views of a file: what a model looks at, and what a reviewer is shown of it.

A photograph is one view; where that is asked for, a large one is cut into tiles, too (`tiles.py`). Of an animation, or
of a file of several pages, the views are the first frame, the last one, some in even distances, and those that look
most different from them; frames that look alike are one view. All frames are looked at in small before any is chosen,
so that a single one in a thousand is found. The signal:

    view.unseen     share of the frames that were not looked at: too many, too large, damaged, or no time left
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.images.animations import Frame, frames_of
from nsfwscan.images.decoder import Decoded, decoded_pixels, frame_of
from nsfwscan.images.enclosed import Enclosed, enclosed_in
from nsfwscan.images.opening import Facts
from nsfwscan.images.pdq import pdq_of
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.signals import MOST_SIGNALS, Signals
from nsfwscan.images.tiles import LEAST_PIXELS, LEAST_PIXELS_CLOSER, tiles_of

LOOK = 32
"""Edge of the small pictures by which frames are compared."""
ALIKE = 2.0
"""Frames whose small pictures differ by fewer levels of 255 on average look alike: compression alone gives 1."""
_TENTH_S = 0.1
WHOLE, _WHOLE_S = 1000, 100.0
"""The weight of what is a verdict by itself: a page, which people look at for as long as they like."""
LEAST_COST = 2**16
"""Pixels that a frame counts as at least: 10⁵ frames of nine pixels take as long as some large ones."""

Looks = NDArray[np.uint8]


@dataclass(frozen=True)
class ViewLimits:
    """Limits of how much of an animation is looked at.

    Args:
        most: number of views; 1: the first frame alone.
        pixels: of all frames together.
        seconds: for looking; half of a file's time at most.
        tiles: cut large pictures, too.
        closer: in a second look, the frames to look at, the most important ones first; a picture is then cut, whatever
            its size.
        further: how many of these may become views.
        only: they alone are views, whatever they look like.
    """

    most: int = 1
    pixels: int = 0
    seconds: float = 0.0
    tiles: bool = False
    closer: tuple[int, ...] | None = None
    further: int = 0
    only: bool = False


def to_views(data: bytes, *geometries: Geometry, limits: ViewLimits, **how: Any) -> tuple[Facts, list[Facts], bytes]:
    """Return what a file says about itself; its views; and the models' pixels of each view, as `to_pixels` gives them.

    Args:
        data, *geometries, **how: as for `to_pixels`.

    Returns:
        Facts, with `media`, `views`, `duration_s` and `looked`, the number of frames that were looked at.
        The views: `index, at_s, reason, weight, pdq, pdq_quality`; none for a file of one view.
        Bytes: one view after the other.

    Raises:
        RowError, MemoryError: as `to_pixels`, of the first frame. What is wrong with later ones costs only them.
    """
    until = time.monotonic() + limits.seconds
    decoded, pixels = decoded_pixels(data, *geometries, **how)
    facts = decoded.facts
    facts |= {"media": "image", "views": 1, "duration_s": None, "looked": 1}
    enclosed = _enclosed(data, facts, how["max_pixels"]) if limits.most > 1 else Enclosed()
    if facts["frames"] == 1 and (limits.tiles or limits.closer is not None):
        return _with_tiles(decoded, pixels, geometries, limits, hashed=how.get("hashed", False))
    repaired = decoded.data
    del decoded
    if limits.most < 2 or facts["frames"] == 1:
        return facts, [], pixels
    still = facts["frames"] is not None and facts["frames"] - (enclosed.frames or 0) == 1
    walk = _Walk(repaired, facts["format"], enclosed.pictures, still, limits.pixels, how["max_pixels"], until)
    if limits.only and limits.closer:
        views = [{"index": index, "at_s": None, "reason": "spike", "weight": 1} for index in sorted(set(limits.closer))]
        return _made(walk.frames(), facts, views, pixels, geometries, hashed=False)
    looks = np.array([look_of(frame.image) for frame in walk.frames()], np.uint8).reshape(-1, LOOK, LOOK, 3)
    facts["looked"] = max(1, len(looks))
    times = [shown_s for shown_s in walk.shown_s if shown_s is not None]
    if times:
        facts |= {"media": "animation", "duration_s": None if walk.cut else sum(times)}
    if unseen := walk.unseen(facts["frames"]):
        _say(facts, {"view.unseen": unseen})
    chosen = choose(looks, limits.most, "spread" if times else "page")
    if limits.closer:
        chosen = choose_closer(looks, chosen, [one for one in limits.closer if one < len(looks)], limits.further)
    if len(chosen) < 2:
        return facts, [], pixels
    weights = weights_of(looks, list(chosen), [_WHOLE_S if shown_s is None else shown_s for shown_s in walk.shown_s])
    views = [
        {"index": index, "at_s": None, "reason": reason, "weight": weight}
        for (index, reason), weight in zip(chosen.items(), weights, strict=True)
    ]
    return _made(walk.again(), facts, views, pixels, geometries, hashed=how.get("hashed", False))


def _enclosed(data: bytes, facts: Facts, max_pixels: int) -> Enclosed:
    """Return what a file encloses, and add it to its facts."""
    found = enclosed_in(data, facts, max_pixels)
    none = facts["frames"] is None or found.frames is None
    facts["frames"] = None if none else facts["frames"] + found.frames
    if found.signals:
        _say(facts, found.signals)
    return found


def _say(facts: Facts, signals: Signals) -> None:
    """Add signals to a file's, in the place of others where these are too many."""
    known = islice((facts.get("signals") or {}).items(), MOST_SIGNALS - len(signals))
    facts["signals"] = {**dict(known), **signals}


def _with_tiles(
    decoded: Decoded, pixels: bytes, geometries: tuple[Geometry, ...], limits: ViewLimits, *, hashed: bool
) -> tuple[Facts, list[Facts], bytes]:
    """Return a picture and its tiles as views. The picture counts in full, a tile once: a single one is no verdict."""
    facts, image = decoded.facts, decoded.image
    known = {name: facts.get(name) for name in ("width", "height", "pdq", "pdq_quality")}
    views = [{"index": 0, "at_s": None, "reason": "first", "weight": WHOLE, "place": None, **known}]
    made = [pixels]
    across, down = image.size[0] / facts["width"], image.size[1] / facts["height"]  # it may have been reduced
    least = LEAST_PIXELS if limits.closer is None else LEAST_PIXELS_CLOSER
    for left, top, right, bottom in tiles_of((facts["width"], facts["height"]), limits.most - 1, least):
        tile = image.crop((round(left * across), round(top * down), round(right * across), round(bottom * down)))
        pdq, quality = pdq_of(tile) if hashed else (None, None)
        place = f"{left},{top},{right},{bottom}"
        view = {"index": len(views), "at_s": None, "reason": "tile", "weight": 1, "place": place}
        size = {"width": right - left, "height": bottom - top}
        views.append({**view, **size, "pdq": pdq, "pdq_quality": quality})
        made.append(b"".join(geometry.apply(tile) for geometry in geometries))
    facts["views"] = len(views)
    return facts, views if len(views) > 1 else [], b"".join(made)


@dataclass
class _Walk:
    """A walk through the frames, within the limits. It can be taken again, and then ends at the same frame.

    Args:
        still: the file itself has one frame, which is a page, too.

    Attributes:
        shown_s: seconds that each frame is shown that it came to; None for a page.
        cut: whether a limit ended it.
    """

    data: bytes
    name: str
    enclosed: list[tuple[bytes, str]]
    still: bool
    pixels: int
    max_pixels: int
    until: float
    shown_s: list[float | None] = field(default_factory=list)
    cut: bool = False

    def frames(self) -> Iterator[Frame]:
        """Yield the frames for the first time."""
        left = self.pixels
        for frame in self._all():
            width, height = frame.image.size
            left -= max(LEAST_COST, width * height)
            if left < 0 or time.monotonic() > self.until or width * height > self.max_pixels:
                self.cut = True
                return
            self.shown_s.append(frame.shown_s)
            yield frame

    def again(self) -> Iterator[Frame]:
        """Yield the frames that were seen once more."""
        return islice(self._all(), len(self.shown_s))

    def _all(self) -> Iterator[Frame]:
        found = frames_of(self.data, self.name, self.enclosed)
        return (replace(frame, at_s=None, shown_s=None) for frame in found) if self.still else found

    def unseen(self, frames: int | None) -> float:
        """Return the share of the frames that were not seen; of an unknown number, half."""
        if frames is None:
            return 0.5
        return max(0, frames - len(self.shown_s)) / max(1, frames)


def _made(
    frames: Iterator[Frame],
    facts: Facts,
    views: list[Facts],
    first: bytes,
    geometries: tuple[Geometry, ...],
    *,
    hashed: bool,
) -> tuple[Facts, list[Facts], bytes]:
    """Return what `to_views` does, of frames that are walked through.

    Args:
        views: ascending; those that the walk does not come to are left out.
        first: pixels of the first frame.
    """
    made: list[bytes] = []
    for frame in frames:
        if len(made) == len(views):
            break
        view = views[len(made)]
        if frame.index != view["index"]:
            continue
        view["at_s"] = frame.at_s
        if frame.index:
            image, hashes = frame_of(frame.image, frame.data, hashed=hashed)
            view |= {**hashes, "width": image.width, "height": image.height}
            made.append(b"".join(geometry.apply(image) for geometry in geometries))
        else:
            view |= {name: facts.get(name) for name in ("width", "height", "pdq", "pdq_quality")}
            made.append(first)
    facts["views"] = max(1, len(made))
    return facts, views[: len(made)], b"".join(made) or first


def weights_of(looks: Looks, chosen: list[int], shown_s: Sequence[float]) -> list[int]:
    """Return the weight of each chosen frame: how often it counts where a single frame is no verdict.

    Each frame counts for the chosen one that it looks like most: once for each tenth of a second that it is shown, and
    once at least.
    """
    flat = looks.reshape(len(looks), -1).astype(np.int16)
    distances = np.stack([np.abs(flat - flat[index]).mean(axis=1) for index in chosen])
    counts = np.maximum(1, np.rint(np.array(shown_s) / _TENTH_S)).clip(max=WHOLE)
    found = np.bincount(distances.argmin(axis=0), weights=counts, minlength=len(chosen))
    return [int(weight) for weight in found.clip(1, WHOLE)]


def look_of(image: Image.Image) -> Looks:
    """Return a small picture of a frame on white, uint8 [32, 32, 3]."""
    small = image.convert("RGBA" if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info else "RGB")
    small = small.resize((LOOK, LOOK), Image.Resampling.BOX)
    if small.mode == "RGBA":
        small = Image.alpha_composite(Image.new("RGBA", small.size, (255, 255, 255, 255)), small).convert("RGB")
    return np.asarray(small)


def choose(looks: Looks, most: int, between: str) -> dict[int, str]:
    """Return the frames to look at and the reason of each, by their places: first and last, some in even distances, and
    those that look most different from all that were chosen before.

    Args:
        looks: uint8 [frames, 32, 32, 3].
        between: reason of the frames in even distances.
    """
    if not len(looks):
        return {}
    flat = looks.reshape(len(looks), -1).astype(np.int16)
    nearest = np.full(len(looks), np.inf)
    chosen: dict[int, str] = {}

    def take(index: int, reason: str) -> None:
        if nearest[index] >= ALIKE and len(chosen) < most:
            chosen[index] = reason
            np.minimum(nearest, np.abs(flat - flat[index]).mean(axis=1), out=nearest)

    take(0, "first")
    take(len(looks) - 1, "last")
    spread = (most - 2) // 3
    for part in range(1, spread + 1):
        take(round(part * (len(looks) - 1) / (spread + 1)), between)
    while len(chosen) < most and nearest.max() >= ALIKE:
        take(int(nearest.argmax()), "distinct")
    return dict(sorted(chosen.items()))


def choose_closer(looks: Looks, chosen: dict[int, str], closer: Sequence[int], most: int) -> dict[int, str]:
    """Return the chosen frames and, with the reason `spike`, those of `closer` that look unlike all of them and each
    other, so many at most; the first ones first."""
    flat = looks.reshape(len(looks), -1).astype(np.int16)
    found = dict(chosen)
    for index in closer:
        if len(found) < len(chosen) + most and np.abs(flat[[*found]] - flat[index]).mean(axis=1).min() >= ALIKE:
            found[index] = "spike"
    return dict(sorted(found.items()))
