"""Decode files to the models' pixels, and to the facts of the content columns.

There is a column of pixels for each geometry: a list of views, each H*W*3 uint8; null where a file could not be
decoded. Files are decoded in a child process (`images/sandbox/child.py`); whatever is wrong with a file, and whatever
it does to that process, becomes its row's status. A content that crashed or stalled the child does so once: its copies
are not tried. A child that cannot be started stops the run. A row with `look_closer` gets its second look, which fails
without anybody else's harm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.config import DecodeConfig, ViewsConfig
from nsfwscan.errors import POISON, RowError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.wire import Settings
from nsfwscan.models.views import pixels_column, pixels_type
from nsfwscan.schema import (
    COST,
    DECODING,
    DECODING_CLOSER,
    EACH_VIEW,
    LEFT_TO_GPU,
    LOOK_CLOSER,
    LOOKED,
    LOOKED_CLOSER,
    REPORT_SCHEMA,
    SANDBOX,
)
from nsfwscan.stages.base import Row, Stage, map_rows, values_of, with_signals

_CONTENT = (
    "format", "width", "height", "frames", "media", "duration_s", "views", "camera", "software", "pdq", "pdq_quality",
    "signals",
)  # fmt: skip

_ONE_VIEW = ViewsConfig(most=1, closer=0)
_MOST_POISON = 10_000
"""Contents that a process remembers, at some hundred bytes each."""


class Poison(Protocol):
    """Contents, by their SHA-256, that crashed or stalled a decoder."""

    def look(self) -> None:
        """Learn what other workers have met."""

    def find(self, sha256: str) -> RowError | None:
        """Return what became of a content before."""

    def add(self, sha256: str, error: RowError) -> None:
        """Remember a content where it failed so."""


class OwnPoison:
    """Contents that this process has met, for a few images without a run."""

    def __init__(self) -> None:
        self._known: dict[str, RowError] = {}

    def look(self) -> None:
        """Do nothing: there is nobody else."""

    def find(self, sha256: str) -> RowError | None:
        """Return what became of a content before."""
        return self._known.get(sha256)

    def add(self, sha256: str, error: RowError) -> None:
        """Remember a content where it crashed or stalled its decoder."""
        if error.status in POISON and len(self._known) < _MOST_POISON:
            self._known[sha256] = error


class Decode(Stage):
    """Decodes every object that was read, once for all models.

    Args:
        columns: the names of the columns of pixels, by their geometry.
        poison: contents not to try again; unset, those that this process has met.
        trust: certificates that are trusted where C2PA manifests are verified, PEM.
        maps: further views of a picture are maps of where it may have been changed (`images/provenance/tampering.py`).
        leaves: ordinary JPEGs are described, and left to a GPU (`LEFT_TO_GPU`); all others have no such value.
        moved: called before each file: a video takes seconds.
    """

    name = "decode"
    needs: tuple[str, ...] = ("bytes",)
    drops: tuple[str, ...] = ("bytes",)

    def __init__(
        self,
        config: DecodeConfig,
        columns: Mapping[Geometry, str],
        poison: Poison | None = None,
        views: ViewsConfig = _ONE_VIEW,
        trust: str = "",
        maps: bool = False,
        leaves: bool = False,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        settings = settings_of(config, *columns, views=views, trust=trust)
        self._child = DecodeChild(replace(settings, maps=maps, leaves=leaves))
        self._leaves, self._moved = leaves, moved
        self._poison = OwnPoison() if poison is None else poison
        self._pixels = {name: geometry.nbytes for geometry, name in columns.items()}
        self._content = pa.schema([*(REPORT_SCHEMA.field(name) for name in _CONTENT), EACH_VIEW])
        fields = [pa.field(name, pixels_type(nbytes)) for name, nbytes in self._pixels.items()]
        self.adds = pa.schema([*self._content, SANDBOX, COST, *fields, *([LEFT_TO_GPU] if leaves else [])])

    def open(self) -> None:
        """Start the child; later stages load their models while it gets ready."""
        self._child.start()

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with pixels and the content columns, without `bytes`."""
        pixels = _Pixels(list(self._pixels.values()), table.num_rows)
        held: list[str | None] = [None] * table.num_rows
        costs: list[dict[str, float] | None] = [None] * table.num_rows
        turns: list[int | None] = [None] * table.num_rows
        encoded = table["bytes"]

        self._poison.look()
        unknown = [None] * table.num_rows
        contents, closer = (
            table[name].to_pylist() if name in table.column_names else unknown for name in ("sha256", LOOK_CLOSER.name)
        )
        files = values_of(encoded)
        wanted = [i for i, file in enumerate(files) if file is not None]
        poisoned = [one is not None and self._poison.find(one) is not None for one in contents]
        after = {one: files[then] for one, then in pairwise(wanted) if closer[then] is None and not poisoned[then]}

        def decode(row: Row) -> Row:
            self._moved()
            content, second = contents[row["index"]], closer[row["index"]]
            self._refuse_poison(content)
            began, looked = time.perf_counter(), 0
            try:
                facts, views, found = self._child.decode_views(files[row["index"]], second, after.get(row["index"]))
                looked, turns[row["index"]] = facts.pop("looked", None) or 1, facts.pop("orientation", None)
            except RowError as error:
                if content and second is None:
                    self._poison.add(content, error)
                raise
            finally:
                held[row["index"]] = ", ".join(self._child.sandbox) or "none"
                names = (DECODING, LOOKED) if second is None else (DECODING_CLOSER, LOOKED_CLOSER)
                costs[row["index"]] = dict(zip(names, (time.perf_counter() - began, looked), strict=True))
            pixels.put(row["index"], found)
            return {**facts, EACH_VIEW.name: views or None}

        table = map_rows(self, table, decode, adds=self._content).append_column(SANDBOX, pa.array(held, SANDBOX.type))
        table = with_signals(table, costs, COST)
        for name, images in zip(self._pixels, pixels.images(), strict=True):
            table = table.append_column(name, pixels_column(images, pixels.counts))
        return table.append_column(LEFT_TO_GPU, _left(encoded, turns)) if self._leaves else table

    def _refuse_poison(self, content: str | None) -> None:
        """Raise the RowError of a content that cost a decoder its life or its time before: a copy would do the same."""
        before = self._poison.find(content) if content else None
        if before is not None:
            raise RowError(before.code, f"{before.message} (the same bytes, tried before)", before.values)


def _left(files: pa.ChunkedArray, turns: list[int | None]) -> pa.StructArray:
    """Return the files that have an orientation, and it, as `LEFT_TO_GPU` has them."""
    orientations = pa.array(turns, pa.int8())
    kept = pc.if_else(orientations.is_valid(), files, None)
    values = [kept.combine_chunks() if isinstance(kept, pa.ChunkedArray) else kept, orientations]
    return pa.StructArray.from_arrays(values, fields=[*LEFT_TO_GPU.type], mask=orientations.is_null())


class _Pixels:
    """Pixels of the views of a table's rows, in their order: an array for each geometry.

    Args:
        widths: bytes of a view, of each geometry.
    """

    def __init__(self, widths: list[int], rows: int) -> None:
        self.counts = [0] * rows
        self._arrays = [np.empty((rows, width), np.uint8) for width in widths]
        self._filled = 0

    def put(self, row: int, views: NDArray[np.uint8]) -> None:
        """Take over the views of the next row: uint8 [views, all widths]."""
        end = self._filled + len(views)
        if end > len(self._arrays[0]):
            room = max(end, 2 * len(self._arrays[0]))
            self._arrays = [np.concatenate([one, np.empty((room - len(one), one.shape[1]), np.uint8)])
                            for one in self._arrays]  # fmt: skip
        start = 0
        for array in self._arrays:
            array[self._filled : end] = views[:, start : start + array.shape[1]]
            start += array.shape[1]
        self.counts[row], self._filled = len(views), end

    def images(self) -> list[NDArray[np.uint8]]:
        """Return the arrays, [views, width]."""
        return [array[: self._filled] for array in self._arrays]


def settings_of(
    config: DecodeConfig, *geometries: Geometry, views: ViewsConfig = _ONE_VIEW, trust: str = ""
) -> Settings:
    """Return the settings of a decode child."""
    limits = config.model_dump(include={"max_pixels", "plugins", "timeout_s", "max_memory_bytes", "sandbox"})
    hashed, examined = config.pdq != "off", config.provenance
    how: dict[str, Any] = {"fast": config.reduces, "hashed": hashed, "examined": examined, **limits}
    how |= {"views": views.most, "view_pixels": views.max_pixels, "tiles": views.tiles, "closer": views.closer}
    return Settings(geometries=geometries, verified=config.c2pa, trust=trust, screens=config.screenshots, **how)
