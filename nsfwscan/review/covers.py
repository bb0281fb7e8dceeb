"""Make covers: small, grey, blurred pictures of objects, by which a person knows what an item is without looking at it.

The originals are read again and decoded in a child process, with all of a scan's limits. An object that is gone, has
other bytes than the scan saw, or cannot be decoded, has no cover, and its `problem` says why. Refused credentials, and
a child that cannot be started, raise `NsfwscanError`.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from nsfwscan.config import ScanConfig, StorageConfig
from nsfwscan.errors import Status
from nsfwscan.execution.machine import usable_cpus
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.tampering import MAPS
from nsfwscan.models.views import images_of
from nsfwscan.schema import EACH_VIEW, LISTING_SCHEMA, LOOK_CLOSER
from nsfwscan.stages.base import Stage, fresh, run
from nsfwscan.stages.decode import Decode
from nsfwscan.stages.fingerprint import Digest
from nsfwscan.stages.read import Read

EDGE, SHOWN_EDGE = 64, 1024
"""Pixels of the longer side: of a cover, and of a picture that is shown on demand."""
_BLUR = 2.0
"""Standard deviation of the blur, in pixels of the cover: what is left is as fine as sixteen pixels a side."""
_LONGEST_ASPECT = 4.0
_AT_ONCE, _LARGE_AT_ONCE = 64, 8
_COVER, _SHOWN = "cover", "shown"


class Content(NamedTuple):
    """An object to draw, and the SHA-256 that the scan saw."""

    uri: str
    sha256: str | None


@dataclass(frozen=True)
class View:
    """A frame or page of an object.

    Attributes:
        index: from 0.
        at_s: seconds from the beginning; None where it has no time.
        cover: a data URI.
        picture: where the picture lies that is shown on demand, where such are asked for.
        maps: where maps of it lie, by their names (`images/provenance/tampering.py`), where such are asked for.
    """

    index: int
    at_s: float | None
    cover: str
    picture: str | None = None
    maps: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DrawnViews:
    """The views of an object; none where there is a problem."""

    views: tuple[View, ...] = ()
    problem: str | None = None


Save = Callable[[Content, int | str, bytes], str]
"""A function that keeps the picture of a content's view, or a map of it by its name, a JPEG, and returns its place."""


class Artist:
    """Draws objects, on all cores.

    Args:
        config: of the scan: limits of reading and decoding, and the number of views.
        storage: how to reach the originals.
        save: also draw what is shown on demand, and keep it so; may be called from several threads.
        pictures, maps: what is kept.
    """

    def __init__(
        self,
        config: ScanConfig,
        storage: StorageConfig,
        save: Save | None = None,
        *,
        pictures: bool = True,
        maps: bool = False,
    ) -> None:
        self._save, self._pictures, self._maps = save, pictures, maps
        edges = {_COVER: EDGE} | ({_SHOWN: SHOWN_EDGE} if save else {})
        self._geometries = {Geometry((e, e), Image.Resampling.BILINEAR): name for name, e in edges.items()}
        self._idle: SimpleQueue[list[Stage]] = SimpleQueue()
        self._workers = usable_cpus()
        asked = dict.fromkeys(("provenance", "c2pa", "screenshots"), False)  # which the report has
        looked = config.decode.model_copy(update=asked)
        for _ in range(self._workers):
            decode = Decode(looked, self._geometries, views=config.views, maps=maps)
            self._idle.put([Read(config.read, storage), Digest(), decode])

    def draw(
        self,
        contents: Sequence[Content],
        only: Mapping[str, Sequence[int]] | None = None,
        mapped: Collection[Content] = (),
    ) -> Iterator[DrawnViews]:
        """Yield what each object looks like, in order.

        Args:
            only: by URI, the views to draw, as `views/` numbers them; of another object, those of a first look.
            mapped: contents of which maps are kept, where such are asked for.
        """
        rows = _LARGE_AT_ONCE if self._save else _AT_ONCE
        chunks = [contents[start : start + rows] for start in range(0, len(contents), rows)]
        with ThreadPoolExecutor(self._workers, thread_name_prefix="draw") as threads:
            for drawn in threads.map(partial(self._chunk, only or {}, mapped), chunks):
                yield from drawn

    def _chunk(
        self, only: Mapping[str, Sequence[int]], mapped: Collection[Content], contents: Sequence[Content]
    ) -> list[DrawnViews]:
        stages = self._idle.get()
        try:
            listing = pa.Table.from_pylist([{"uri": one.uri} for one in contents], schema=LISTING_SCHEMA)
            wanted = [{"frames": only[one.uri], "only": True} if one.uri in only else None for one in contents]
            table = run(stages, fresh(listing.append_column(LOOK_CLOSER, pa.array(wanted, LOOK_CLOSER.type))))
        finally:
            self._idle.put(stages)
        asked = ["status", "error", "sha256", "width", "height", EACH_VIEW.name]
        rows = table.select(asked).to_pylist()
        covers, limits = images_of(table[_COVER].combine_chunks())
        shown = images_of(table[_SHOWN].combine_chunks())[0] if self._save else None
        drawn = []
        for number, (content, row) in enumerate(zip(contents, rows, strict=True)):
            views = slice(limits[number], limits[number + 1])
            kept = None if shown is None else shown[views]
            drawn.append(self._drawn(content, row, covers[views], kept, content in mapped))
        return drawn

    def _drawn(
        self,
        content: Content,
        row: dict[str, Any],
        covers: NDArray[np.uint8],
        shown: NDArray[np.uint8] | None,
        mapped: bool,
    ) -> DrawnViews:
        if row["sha256"] is not None and row["sha256"] != content.sha256:
            return DrawnViews(problem="it has changed since the scan")
        if row["status"] != Status.OK:
            return DrawnViews(problem=f"{row['status']}: {row['error']}")
        size = row["width"], row["height"]
        views, maps = list[View](), dict[str, str]()
        for number, known in enumerate(row[EACH_VIEW.name] or [{"index": 0, "at_s": None, "reason": None}]):
            a_map = known["reason"] if known["reason"] in MAPS else None
            kept = None
            if shown is not None and self._save is not None and (mapped if a_map else self._pictures):
                kept = self._save(content, a_map or number, _picture(shown[number], size))
            if a_map is None:
                views.append(View(known["index"], known["at_s"], _cover(covers[number], size), kept))
            elif kept:
                maps[a_map] = kept
        return DrawnViews((replace(views[0], maps=maps), *views[1:]))


def _cover(pixels: NDArray[np.uint8], size: tuple[int, int]) -> str:
    image = Image.frombytes("RGB", (EDGE, EDGE), pixels.tobytes()).convert("L")
    image = image.filter(ImageFilter.GaussianBlur(_BLUR)).resize(fitted(size, EDGE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=40, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def _picture(pixels: NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    image = Image.frombytes("RGB", (SHOWN_EDGE, SHOWN_EDGE), pixels.tobytes())
    buffer = io.BytesIO()
    image.resize(fitted(size, min(SHOWN_EDGE, max(size))), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def fitted(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """Return width and height of a picture whose longer side has `edge` pixels; slivers are squeezed."""
    aspect = min(_LONGEST_ASPECT, max(1 / _LONGEST_ASPECT, size[0] / size[1]))
    return (edge, max(1, round(edge / aspect))) if aspect >= 1 else (max(1, round(edge * aspect)), edge)
