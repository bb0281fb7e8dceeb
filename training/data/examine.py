"""Stage that examines each image once: decodes it, hashes it and measures its quality.

Files are decoded as in a scan, in child processes with its limits. A file that does not decode is a row with a status.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
from PIL import Image

from nsfwscan.images.preprocessing import Geometry
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.stages.base import Row, Stage, map_rows
from training.data.decoding import DecodePool
from training.data.perceptual import HASH_BYTES, SIDE, VARIANTS, hashes_of
from training.data.quality import measure

GEOMETRY = Geometry((SIDE, SIDE), Image.Resampling.BILINEAR)

EXAMINED = pa.schema(
    [
        *(REPORT_SCHEMA.field(name) for name in ("format", "width", "height", "frames", "camera", "software")),
        pa.field("pixels_sha256", pa.string()),
        pa.field("pdq", pa.binary(HASH_BYTES)),
        pa.field("pdq_quality", pa.int32()),
        pa.field("pdq_variants", pa.binary(HASH_BYTES * VARIANTS)),
        *(pa.field(name, pa.float32()) for name in ("sharpness", "brightness", "contrast")),
        pa.field("jpeg_quality", pa.int32()),
    ]
)


class Examine(Stage):
    """Examine every image that was read, by a pool of `GEOMETRY`."""

    name = "examine"
    needs: tuple[str, ...] = ("bytes",)
    adds = EXAMINED

    def __init__(self, pool: DecodePool) -> None:
        self._pool = pool

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with the columns of `EXAMINED`."""
        files = [data for data in table["bytes"].to_pylist() if data is not None]
        ahead = iter([self._pool.threads.submit(self._examine, data) for data in files])
        return map_rows(self, table, lambda row: next(ahead).result())

    def _examine(self, data: bytes) -> Row:
        facts, raw = self._pool.decode(data)
        pixels = np.frombuffer(raw, np.uint8).reshape(GEOMETRY.shape)
        measures = measure(pixels, data, facts.get("format"))
        return {**facts, "pixels_sha256": hashlib.sha256(raw).hexdigest(), **hashes_of(pixels), **measures}
