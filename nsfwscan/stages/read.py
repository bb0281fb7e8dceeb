"""Read objects concurrently: `bytes` (null where the read failed), and `size` and `etag` as the read returned them.

A failed read becomes the row's `status` and `error`. An object over the size limit is not read, unless it begins as a
video and is within the limit of those; nor is one that the listing refuses (`refused`), which becomes `denied`. Refused
credentials stop the run.

Every read ends. Reads from S3 and other asynchronous filesystems end by themselves; one that hangs in a blocking
filesystem leaves its thread behind and becomes a `timeout`. Where too many hang, the run stops.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, partial
from math import inf

import pyarrow as pa

from nsfwscan.config import ReadConfig, StorageConfig
from nsfwscan.errors import ErrorCode, NsfwscanError, RowError
from nsfwscan.images.formats.containers import container_of, videos_are_decoded
from nsfwscan.location import Location
from nsfwscan.schema import BYTES
from nsfwscan.stages.base import Row, Stage, map_rows
from nsfwscan.storage.objects import fetch, read_head, too_large
from nsfwscan.storage.rate_limit import UNPACED, Pace
from nsfwscan.storage.threads import Call, Hung, Threads

_LISTED = ("uri", "size", "etag", "refused")
_HEAD_BYTES = 65_536
"""Of an object that is too large for an image: they tell whether it is a video."""
_GRACE_S = 1.0
"""A read is given up so much later than its time-out: one that ends by itself says why."""
_MAX_HUNG = 64
"""So many threads of one worker may hang at a time."""


class Read(Stage):
    """Fetches every object of a table, `config.concurrency` at a time, at the `pace` of this worker's requests."""

    name = "read"
    needs: tuple[str, ...] = ("uri",)
    adds = pa.schema([BYTES])

    def __init__(
        self, config: ReadConfig, storage: StorageConfig, pace: Pace = UNPACED, held: Mapping[str, bytes] | None = None
    ) -> None:
        self._config = config
        self._held = {} if held is None else held
        self._storage = storage
        self._pace = pace

    def open(self) -> None:
        """Start the reading threads."""
        _ = self._threads

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with `bytes`."""
        listed = table.select([name for name in _LISTED if name in table.column_names]).to_pylist()
        reads = [self._threads.submit(partial(self._fetch, row)) for row in listed]
        in_order = iter(reads)
        try:
            return map_rows(self, table, lambda row: self._result(row["uri"], next(in_order)))
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
        most = limits.max_bytes
        if row["size"] is not None and row["size"] > most:
            wait()
            if row["uri"] in self._held or not self._is_video(row):
                raise too_large(row["size"], most)
            most = limits.max_video_bytes
        if row["uri"] in self._held:
            data = self._held[row["uri"]]
            if len(data) > limits.max_bytes:
                raise too_large(len(data), limits.max_bytes)
            return {"bytes": data, "size": len(data)}
        found = fetch(
            Location.of(row["uri"]),
            self._storage,
            max_bytes=most,
            timeout_s=limits.timeout_s,
            attempts=limits.attempts,
            size=row["size"],
            etag=row["etag"],
            wait=wait,
        )
        known = {} if found.etag is None else {"etag": found.etag}
        return {"bytes": found.data, "size": len(found.data), **known}

    def _is_video(self, row: Row) -> bool:
        """Return whether an object over the limit is a video, which may be larger, and is decoded here."""
        if row["size"] > self._config.max_video_bytes or not videos_are_decoded():
            return False
        return container_of(read_head(Location.of(row["uri"]), self._storage, _HEAD_BYTES)) is not None

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
