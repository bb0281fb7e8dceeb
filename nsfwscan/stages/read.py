"""Objects to bytes: bounded concurrent reads, each failure kept as what it was.

In: `uri, size` of the listing. Out: `bytes` (null where the read failed), and `size` and `etag` as the read returned
them. An object over the size limit is not read. Refused credentials stop the run.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import pyarrow as pa

from nsfwscan.config import ReadConfig, StorageConfig
from nsfwscan.schema import BYTES
from nsfwscan.stages.base import Row, map_rows
from nsfwscan.storage import fetch, too_large


class Read:
    """Fetches every object of a table, `config.concurrency` at a time."""

    name = "read"
    needs: tuple[str, ...] = ("uri",)
    adds = pa.schema([BYTES])
    drops: tuple[str, ...] = ()

    def __init__(self, config: ReadConfig, storage: StorageConfig) -> None:
        self._config = config
        self._storage = storage

    def open(self) -> None:
        """Starts the reading threads."""
        _ = self._threads

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with `bytes`."""
        return map_rows(self, table, self._fetch, self._threads)

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="read")

    def _fetch(self, row: Row) -> Row:
        limits = self._config
        if row["size"] is not None and row["size"] > limits.max_bytes:
            raise too_large(row["size"], limits.max_bytes)
        found = fetch(
            row["uri"], self._storage, max_bytes=limits.max_bytes, timeout_s=limits.timeout_s, attempts=limits.attempts
        )
        known = {} if found.etag is None else {"etag": found.etag}
        return {"bytes": found.data, "size": len(found.data), **known}
