"""Bytes to the model's pixels, and what the file says about itself.

In: `bytes`. Out: `pixels` (H*W*3 uint8 of the model's geometry, null where there are none) and `format, width, height,
frames, camera, software, pdq, pdq_quality`. Files are decoded in a child process (`images/child.py`); whatever is wrong
with a file, and whatever it does to that process, becomes its row's status. A child that cannot be started stops the
run.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.config import DecodeConfig
from nsfwscan.images.child import DecodeChild
from nsfwscan.images.wire import Settings
from nsfwscan.models.geometry import Geometry
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.stages.base import Row, map_rows

_CONTENT = ("format", "width", "height", "frames", "camera", "software", "pdq", "pdq_quality")


class Decode:
    """Decodes every object that was read, for one model geometry."""

    name = "decode"
    needs: tuple[str, ...] = ("bytes",)
    drops: tuple[str, ...] = ("bytes",)

    def __init__(self, config: DecodeConfig, geometry: Geometry) -> None:
        self._child = DecodeChild(settings_of(config, geometry))
        self._pixels = pa.field("pixels", pa.binary(geometry.nbytes))
        self._content = pa.schema([REPORT_SCHEMA.field(name) for name in _CONTENT])
        self.adds = self._content.append(self._pixels)

    def open(self) -> None:
        """Starts the child; later stages load their models while it gets ready."""
        self._child.start()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with `pixels` and the content columns, without `bytes`."""
        pixels = np.empty((table.num_rows, self._pixels.type.byte_width), np.uint8)
        decoded = np.zeros(table.num_rows, np.bool_)

        def decode(row: Row) -> Row:
            facts = self._child.decode_into(pixels[row["index"]], row["bytes"])
            decoded[row["index"]] = True
            return facts

        table = map_rows(self, table, decode, adds=self._content)
        return table.append_column(self._pixels, _as_column(pixels, decoded, self._pixels.type))


def settings_of(config: DecodeConfig, geometry: Geometry) -> Settings:
    """What a decode child is told."""
    limits = config.model_dump(include={"max_pixels", "plugins", "timeout_s", "max_memory_bytes"})
    return Settings(geometry=geometry, fast=config.reduces, hashed=config.pdq != "off", **limits)


def _as_column(pixels: NDArray[np.uint8], there: NDArray[np.bool_], type_: pa.DataType) -> pa.Array:
    """Pixels [rows, bytes] as an array without a copy, null where they are not there."""
    validity = pa.array(there).buffers()[1]
    return pa.Array.from_buffers(type_, len(pixels), [validity, pa.py_buffer(pixels)])
