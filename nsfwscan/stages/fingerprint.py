"""What identifies the content, apart from what it shows.

In: `bytes`. Out: `sha256` and `md5`, for every object that could be read, corrupt ones too: a broken file can still
match a list. The perceptual hash needs pixels, and comes from decoding.
"""

from __future__ import annotations

import hashlib

import pyarrow as pa

from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.stages.base import Row, map_rows


class Digest:
    """SHA-256 and MD5 of the bytes as they were read."""

    name = "digest"
    needs: tuple[str, ...] = ("bytes",)
    adds = pa.schema([REPORT_SCHEMA.field("sha256"), REPORT_SCHEMA.field("md5")])
    drops: tuple[str, ...] = ()

    def open(self) -> None:
        """Nothing to build."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with `sha256` and `md5`."""
        return map_rows(self, table, _digests)


def _digests(row: Row) -> Row:
    data = row["bytes"]
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "md5": hashlib.md5(data, usedforsecurity=False).hexdigest(),  # broken as a digest, and what older banks hold
    }
