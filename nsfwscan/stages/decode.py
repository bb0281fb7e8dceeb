"""Bytes to the model's pixels, and what the file says about itself.

In: `bytes`. Out: `pixels` (H*W*3 uint8 of the model's geometry, null where there are none) and `format, width, height,
frames, camera, software`. Files are decoded in a child process (`images/child.py`); whatever is wrong with a file, and
whatever it does to that process, becomes its row's status. A child that cannot be started stops the run.
"""

from __future__ import annotations

import pyarrow as pa

from nsfwscan.config import DecodeConfig
from nsfwscan.images.child import DecodeChild
from nsfwscan.images.wire import Settings
from nsfwscan.models.geometry import Geometry
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.stages.base import Row, map_rows


class Decode:
    """Decodes every object that was read, for one model geometry."""

    name = "decode"
    needs: tuple[str, ...] = ("bytes",)
    drops: tuple[str, ...] = ("bytes",)

    def __init__(self, config: DecodeConfig, geometry: Geometry) -> None:
        self._child = DecodeChild(Settings(geometry=geometry, **config.model_dump()))
        content = [REPORT_SCHEMA.field(name) for name in ("format", "width", "height", "frames", "camera", "software")]
        self.adds = pa.schema([*content, pa.field("pixels", pa.binary(geometry.nbytes))])

    def open(self) -> None:
        """Starts the child; later stages load their models while it gets ready."""
        self._child.start()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with `pixels` and the content columns, without `bytes`."""
        return map_rows(self, table, self._decode)

    def _decode(self, row: Row) -> Row:
        facts, pixels = self._child.decode(row["bytes"])
        return {**facts, "pixels": pixels}
