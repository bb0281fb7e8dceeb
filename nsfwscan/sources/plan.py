"""The plan: the listing, distinct by URI, sorted, and cut into shards.

In: tables of `LISTING_SCHEMA` in any order and with repetitions. Out: `listing/*.parquet` in the run's folder, one row
group a shard, and the list of shards. Sorting spills to disk (DuckDB), so memory stays bounded however long the
listing is. An empty listing is a `SourceError`.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.errors import SourceError
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.sources.truth import TRUTH_SCHEMA
from nsfwscan.store import Store

_SHARDS_PER_FILE = 64
_FIRST_SHARDS = (16, 16, 32, 32, 64, 64, 128, 128)
"""Rows of the first shards: small, so that rows come soon and a small store is spread over all actors."""

_DISTINCT = """
    SELECT uri, max(size), max(etag), max(modified_at), coalesce(max(given), min(truth))
    FROM read_parquet($listed)
    LEFT JOIN (SELECT uri, min(truth) AS given FROM read_parquet($truth) GROUP BY uri) USING (uri)
    GROUP BY uri ORDER BY uri
"""


@dataclass(frozen=True)
class Shard:
    """The unit of work, retry and resume: one row group of one listing file."""

    file: int
    group: int
    rows: int

    @property
    def name(self) -> str:
        """E.g. `00003-0017`; sorts in the order of the URIs."""
        return f"{self.file:05d}-{self.group:04d}"


@dataclass(frozen=True)
class Plan:
    """What was to be scanned: counts, and the shards in the order of their URIs."""

    listed: int
    """Objects as the sources listed them, repetitions included."""
    distinct: int
    bytes: int
    shards: tuple[Shard, ...]

    @property
    def repeated(self) -> int:
        """Objects that were listed again, by an overlapping source or a manifest; each counts once."""
        return self.listed - self.distinct

    def handed_out(self, seed: int) -> list[Shard]:
        """The shards in the order of work: the small first ones, then a seeded random order: S3 throttles by prefix."""
        head, rest = list(self.shards[: len(_FIRST_SHARDS)]), list(self.shards[len(_FIRST_SHARDS) :])
        random.Random(seed).shuffle(rest)
        return head + rest


def listing_name(file: int) -> str:
    """The name of a listing file within its run."""
    return f"listing/part-{file:05d}.parquet"


def make_plan(tables: Iterable[pa.Table], truth: Iterable[pa.RecordBatch], run: Store, shard_rows: int) -> Plan:
    """Sorts and cuts a listing, and writes it to the run's folder.

    Args:
        tables: `LISTING_SCHEMA`, in any order.
        truth: `TRUTH_SCHEMA`; overrides what path or manifest said.
        run: the run's folder.
        shard_rows: rows of a full shard.

    Raises:
        SourceError: nothing was listed, or the truth file names none of the listed objects.
    """
    with tempfile.TemporaryDirectory(prefix="nsfwscan-plan-") as folder:
        listed_path, truth_path = Path(folder, "listed.parquet"), Path(folder, "truth.parquet")
        listed = _spool(listed_path, LISTING_SCHEMA, tables)
        judged = _spool(truth_path, TRUTH_SCHEMA, (pa.Table.from_batches([batch]) for batch in truth))
        if not listed:
            raise SourceError("nothing to scan: the sources list no object (or --include/--exclude leave none)")
        with duckdb.connect(config={"memory_limit": "1GB", "temp_directory": folder}) as connection:
            paths = {"listed": str(listed_path), "truth": str(truth_path)}
            if (
                judged
                and not connection.execute(
                    "SELECT count(*) FROM read_parquet($listed) SEMI JOIN read_parquet($truth) USING (uri)", paths
                ).fetchall()[0][0]
            ):
                raise SourceError(
                    f"none of the {judged:,} URIs in the truth file is among those listed: are they written alike?"
                )
            reader = connection.sql(_DISTINCT, params=paths).to_arrow_reader(4096)
            return _write(reader, listed, run, shard_rows)


def _spool(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    with pq.ParquetWriter(path, schema) as writer:
        rows = 0
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
        return rows


def _write(reader: pa.RecordBatchReader, listed: int, run: Store, shard_rows: int) -> Plan:
    shards: list[Shard] = []
    total_bytes = 0
    sizes = chain((min(rows, shard_rows) for rows in _FIRST_SHARDS), repeat(shard_rows))
    tables = _cut(reader, sizes)
    for file in range(1_000_000):
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, LISTING_SCHEMA, compression="zstd") as writer:
            group = 0
            for group, table in enumerate(tables, start=1):
                writer.write_table(table, row_group_size=table.num_rows)
                shards.append(Shard(file, group - 1, table.num_rows))
                total_bytes += sum(size or 0 for size in table["size"].to_pylist())
                if group == _SHARDS_PER_FILE:
                    break
        if group:
            run.write(listing_name(file), buffer.getvalue())
        if group < _SHARDS_PER_FILE:
            break
    return Plan(listed, sum(shard.rows for shard in shards), total_bytes, tuple(shards))


def _cut(reader: pa.RecordBatchReader, sizes: Iterator[int]) -> Iterator[pa.Table]:
    """The stream in tables of the given sizes; the last may be smaller."""
    waiting = LISTING_SCHEMA.empty_table()
    size = next(sizes)
    for batch in reader:
        rows = pa.Table.from_batches([batch]).rename_columns(LISTING_SCHEMA.names).cast(LISTING_SCHEMA)
        waiting = pa.concat_tables([waiting, rows])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting, size = waiting.slice(size), next(sizes)
    if waiting.num_rows:
        yield waiting.combine_chunks()


class ShardReader:
    """Reads shards of one run, keeping the last listing file at hand: neighbouring shards share it."""

    def __init__(self, run: Store) -> None:
        self._run = run
        self._file = -1
        self._data = b""

    def __call__(self, shard: Shard) -> pa.Table:
        """The rows of a shard, as `LISTING_SCHEMA`."""
        if shard.file != self._file:
            self._data, self._file = self._run.read(listing_name(shard.file)), shard.file
        return pq.ParquetFile(io.BytesIO(self._data)).read_row_group(shard.group)
