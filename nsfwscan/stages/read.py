"""Read objects concurrently: `bytes` (null where the read failed), and `size` and `etag` as the read returned them.

A failed read becomes the row's `status` and `error`. An object over the size limit is not read, unless it begins as a
video and is within the limit of those: it is copied to a temporary file, range by range, which is mapped into memory.
Nor is one that the listing refuses (`refused`), or a local file to which a link must not lead (`check`): they become
`denied`. Refused credentials stop the run.

Every read ends. Reads from S3 and other asynchronous filesystems end by themselves; one that hangs in a blocking
filesystem leaves its thread behind and becomes a `timeout`. Where too many hang, the run stops.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from math import inf
from mmap import mmap
from typing import Any

import numpy as np
import pyarrow as pa

from nsfwscan.config import ReadConfig, StorageConfig
from nsfwscan.errors import ErrorCode, NsfwscanError, RowError
from nsfwscan.images.formats.containers import HEAD_BYTES, container_of, videos_are_decoded
from nsfwscan.location import Location
from nsfwscan.schema import BYTES
from nsfwscan.stages.base import Row, Stage, map_rows, put
from nsfwscan.storage.objects import Check, fetch, read_head, too_large, unchecked
from nsfwscan.storage.rate_limit import UNPACED, Pace
from nsfwscan.storage.spool import spool
from nsfwscan.storage.threads import Call, Hung, Threads

_LISTED = ("uri", "size", "etag", "refused")
_GRACE_S = 1.0
"""A read is given up so much later than its time-out: one that ends by itself says why."""
_MAX_HUNG = 64
"""So many threads of one worker may hang at a time."""


class Read(Stage):
    """Fetches every object of a table, `config.concurrency` at a time, at the `pace` of this worker's requests; `check`
    is that of `fetch`."""

    name = "read"
    needs: tuple[str, ...] = ("uri",)
    adds = pa.schema([BYTES])

    def __init__(
        self,
        config: ReadConfig,
        storage: StorageConfig,
        pace: Pace = UNPACED,
        held: Mapping[str, bytes] | None = None,
        check: Check = unchecked,
    ) -> None:
        self._config = config
        self._held = {} if held is None else held
        self._storage = storage
        self._pace = pace
        self._check = check

    def open(self) -> None:
        """Start the reading threads."""
        _ = self._threads

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with `bytes`."""
        listed = table.select([name for name in _LISTED if name in table.column_names]).to_pylist()
        reads = [self._threads.submit(partial(self._fetch, row)) for row in listed]
        in_order = iter(reads)
        mapped: dict[int, mmap] = {}

        def result(row: Row) -> Row:
            found = self._result(row["uri"], next(in_order))
            if isinstance(found["bytes"], mmap):
                mapped[row["index"]] = found["bytes"]
            return {**found, "bytes": None} if row["index"] in mapped else found

        try:
            return _with_mapped(map_rows(self, table, result), mapped)
        finally:
            for read in reads:
                read.cancel()

    @cached_property
    def _threads(self) -> Threads:
        return Threads(self._config.concurrency, "read")

    def _fetch(self, row: Row, read: Call[Row]) -> Row:
        limits = self._config

        def wait(after_s: float = 0.0) -> None:
            read.expect_within(inf)
            self._pace.wait(after_s)
            read.expect_within(limits.timeout_s + _GRACE_S)

        if row.get("refused") is not None:
            raise RowError(ErrorCode.OUT_OF_REACH, row["refused"])
        if row["uri"] in self._held:
            data = self._held[row["uri"]]
            if len(data) > limits.max_bytes:
                raise too_large(len(data), limits.max_bytes)
            return {"bytes": data, "size": len(data)}
        if row["size"] is not None and row["size"] > limits.max_bytes:
            wait()
            return self._fetch_large(row, too_large(row["size"], limits.max_bytes), wait)
        try:
            found = fetch(
                Location.of(row["uri"]),
                self._storage,
                max_bytes=limits.max_bytes,
                timeout_s=limits.timeout_s,
                attempts=limits.attempts,
                size=row["size"],
                etag=row["etag"],
                wait=wait,
                check=self._check,
            )
        except RowError as error:
            if error.code != ErrorCode.TOO_MANY_BYTES:
                raise
            return self._fetch_large(row, error, wait)  # a list of URIs tells no size, and an object may have grown
        return _read(found.data, found.etag)

    def _fetch_large(self, row: Row, error: RowError, wait: Callable[..., None]) -> Row:
        """Copy an object over the limit if it is a video, and videos are decoded here; else raise `error`."""
        limits, place = self._config, Location.of(row["uri"])
        if error.values.get("size", 0) > limits.max_video_bytes or not videos_are_decoded():
            raise error
        if container_of(read_head(place, self._storage, HEAD_BYTES, self._check)) is None:
            raise error
        how: Any = {"timeout_s": limits.timeout_s, "attempts": limits.attempts, "wait": wait, "check": self._check}
        copy = spool(place, self._storage, max_bytes=limits.max_video_bytes, **how)
        return _read(copy.data, copy.etag)

    def _result(self, uri: str, read: Call[Row]) -> Row:
        try:
            return read.result()
        except Hung:
            hanging = self._threads.replace(read)
        if hanging > _MAX_HUNG:
            raise NsfwscanError(
                f"{hanging} reads hang, the last of them {uri}: bring its file system back, then run the same command "
                "again"
            )
        raise RowError(ErrorCode.READ_TIMEOUT, f"the read hangs: it did not end within {self._config.timeout_s:g} s")


def _read(data: bytes | mmap, etag: str | None) -> Row:
    return {"bytes": data, "size": len(data), **({} if etag is None else {"etag": etag})}


def _with_mapped(table: pa.Table, mapped: Mapping[int, mmap]) -> pa.Table:
    """Return the table with further bytes, which are not copied: each is a chunk of the column."""
    if not mapped:
        return table
    column, chunks, end = table[BYTES.name], [], 0
    for row, data in mapped.items():
        offsets = pa.py_buffer(np.array([0, len(data)], np.int64))
        whole = pa.Array.from_buffers(BYTES.type, 1, [None, offsets, pa.py_buffer(data)])
        chunks += [*column.slice(end, row - end).chunks, whole]
        end = row + 1
    return put(table, BYTES, pa.chunked_array([*chunks, *column.slice(end).chunks], BYTES.type))
