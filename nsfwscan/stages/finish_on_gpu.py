"""Decode the JPEGs that the CPU actors described and left to this process's GPU.

Their pixels join the columns of pixels, beside those that are there already. What the GPU does not decode goes through
the stage that decodes everything, with its child, its limits and its verdicts: its row is the one that it would have
had without a GPU. A row that the GPU decoded says so by its sandbox, which is none.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models.views import pixels_column
from nsfwscan.schema import BYTES, COST, LEFT_TO_GPU, SANDBOX
from nsfwscan.stages.base import Stage, cut, put, values_of, with_cost

if TYPE_CHECKING:
    from nsfwscan.models.jpegs import JpegDecoder

LARGEST_BATCH = 128, 100_000_000
"""Files and pixels that are decoded at once: 300 MB on the device."""


class FinishOnGpu(Stage):
    """Decodes what was left to a GPU.

    Args:
        columns: the names of the columns of pixels, by their geometry.
        otherwise: decodes what the GPU does not.
        device: `cpu` in tests.
    """

    name = "decode-gpu"
    needs: tuple[str, ...] = (LEFT_TO_GPU.name,)
    adds = pa.schema([])
    drops: tuple[str, ...] = (LEFT_TO_GPU.name,)

    def __init__(
        self, columns: Mapping[Geometry, str], otherwise: Stage, device: Literal["cuda", "cpu"] = "cuda"
    ) -> None:
        self._columns, self._otherwise, self._device = columns, otherwise, device
        self._decoder: JpegDecoder | None = None

    def open(self) -> None:
        """Load the library. Raises ConfigError where it, or a GPU, is missing."""
        from nsfwscan.models.jpegs import JpegDecoder

        self._decoder = JpegDecoder(list(self._columns), self._device)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with all pixels."""
        left, table = table[LEFT_TO_GPU.name].combine_chunks(), table.drop_columns([LEFT_TO_GPU.name])
        rows = np.flatnonzero(left.is_valid())
        if not len(rows):
            return table
        began = time.perf_counter()
        done, made = self._decode(table.take(rows), left.take(pa.array(rows)))
        seconds = time.perf_counter() - began
        is_done, is_refused = (np.zeros(table.num_rows, np.bool_) for _ in range(2))
        is_done[rows[done]], is_refused[rows[~done]] = True, True
        for name, images in zip(self._columns.values(), made, strict=True):
            found = pixels_column(images, is_done.astype(int).tolist())
            table = put(table, table.schema.field(name), pc.coalesce(table[name], found))
        held = pc.if_else(pa.array(is_done), "none", table[SANDBOX.name])
        table = with_cost(put(table, SANDBOX, held), self.name, is_done, seconds)
        return self._without_gpu(table, left, is_refused) if is_refused.any() else table

    def _decode(self, table: pa.Table, left: pa.StructArray) -> tuple[Any, list[Any]]:
        """Return which files the GPU decoded, and their pixels by geometry, batch by batch."""
        from nsfwscan.models.jpegs import EncodedJpeg

        assert self._decoder is not None
        files, turns = values_of(pa.chunked_array([left.field("file")])), left.field("orientation").to_pylist()
        sizes = list(zip(table["width"].to_pylist(), table["height"].to_pylist(), strict=True))
        jpegs = [EncodedJpeg(*one) for one in zip(files, turns, sizes, strict=True)]
        batches = cut([width * height for width, height in sizes], *LARGEST_BATCH)
        dones, mades = zip(*(self._decoder(jpegs[batch]) for batch in batches), strict=True)
        return np.concatenate(dones), [np.concatenate(parts) for parts in zip(*mades, strict=True)]

    def _without_gpu(self, table: pa.Table, left: pa.StructArray, refused: Any) -> pa.Table:
        """Return the table with these rows decoded as if nothing had been left."""
        rows, others = np.flatnonzero(refused), np.flatnonzero(~refused)
        added = [name for name in self._otherwise.adds.names if name != COST.name]
        again = table.take(rows).drop_columns(added).append_column(BYTES, left.field("file").take(pa.array(rows)))
        again = self._otherwise(again).select(table.column_names)
        order = np.argsort(np.concatenate([others, rows]), kind="stable")
        return pa.concat_tables([table.take(others), again]).take(order).combine_chunks()
