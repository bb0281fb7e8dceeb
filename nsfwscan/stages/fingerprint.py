"""What identifies the content, apart from what it shows.

In: `bytes`. Out: `sha256`, for every object that could be read, corrupt ones too: a broken file can still match a list.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.stages.base import Row, map_rows


class Digest:
    """SHA-256 of the bytes as they were read."""

    name = "digest"
    needs: tuple[str, ...] = ("bytes",)
    adds = pa.schema([REPORT_SCHEMA.field("sha256")])
    drops: tuple[str, ...] = ()

    def open(self) -> None:
        """Nothing to build."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with `sha256`."""
        return map_rows(self, table, _sha256)


def _sha256(row: Row) -> Row:
    return {"sha256": hashlib.sha256(row["bytes"]).hexdigest()}
