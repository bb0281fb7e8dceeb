"""Digest the bytes of every object that could be read, corrupt ones too: a broken file can still match a hash list.

The perceptual hash needs pixels, and comes from decoding.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.stages.base import Row, Stage, map_rows


class Digest(Stage):
    """SHA-256 and MD5 of the bytes as they were read."""

    name = "digest"
    needs: tuple[str, ...] = ("bytes",)
    adds = pa.schema([REPORT_SCHEMA.field("sha256"), REPORT_SCHEMA.field("md5")])

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with `sha256` and `md5`."""
        return map_rows(self, table, _digests)


def _digests(row: Row) -> Row:
    data = row["bytes"]
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),  # broken as a digest, but older hash lists hold it
    }
