"""Make a run's plan: sort the listing, remove repeats, set aside carried objects, cut the rest into shards.

`make_plan` takes tables of `LISTING_SCHEMA`, in any order and with repeats, and the rows of previous runs
(`KNOWN_SCHEMA`). It writes `listing/*.parquet` into the run's folder: one row group per shard, and one file of carried
objects per range. DuckDB sorts and joins on disk, so memory stays bounded however long the listing and the previous
reports are. An empty listing is a `SourceError`.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, groupby, repeat
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord, SourceError
from nsfwscan.runs.record.beside import ListingRecord, RangeRecord
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.figures import WarningRecord
from nsfwscan.schema import LISTING_SCHEMA, as_schema
from nsfwscan.sources.truth import TRUTH_SCHEMA
from nsfwscan.sources.truth_join import Meeting, TruthBound, meet
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.forgotten import is_known_in
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.warning import Warnings

_SHARDS_PER_FILE = 64
_SHA256 = re.compile(r"-([0-9a-f]{64})\.parquet$")
PART_SUFFIX = ".arrow"
"""Ending of the file of a finished shard, in the run's staging folder."""
_LOST = "put it back from a backup, or begin a run of another name"
_FIRST_SHARDS = (8, 8, 16, 16, 32, 32, 64, 64, 128, 128)
"""Rows of the first shards: small, so that first rows come soon, a small store is spread over all actors, and these end
together (`Plan.handed_out`)."""
RANGE_ROWS = 50_000
"""Objects per range, and so rows per report part: the driver holds as many ranges as it works on at a time, about 4 KiB
a row."""


class Reusability(StrEnum):
    """Fitness of an earlier row for reuse, provided that the object is unchanged."""

    GOOD = "good"
    FAILED = "failed"
    """The object could not be read, or killed its decoder; another try may succeed."""
    STALE = "stale"
    """Another model, preprocessing, limit or bank made the row, or it lacks a hash that this run's banks hold."""
    UNUSED = "read_again"
    """This run reads every object again (--full)."""


class PlanAction(StrEnum):
    """Action of the plan for an object, with its reason."""

    CARRIED = "carried"
    NEW = "new"
    CHANGED = "changed"
    FAILED = "failed"
    STALE = "stale"
    READ_AGAIN = "read_again"


def describe_actions(actions: Mapping[str, int]) -> str:
    """Return the plan's actions for the listed objects, in words."""
    words = {
        PlanAction.CARRIED: "unchanged and carried over",
        PlanAction.NEW: "new",
        PlanAction.CHANGED: "changed",
        PlanAction.FAILED: "tried again",
        PlanAction.STALE: "stale (another model, preprocessing, limit or bank)",
        PlanAction.READ_AGAIN: "unchanged and read again (--full)",
    }
    return ", ".join(f"{actions[action]:,} {word}" for action, word in words.items() if actions.get(action))


KNOWN_SCHEMA = pa.schema(
    [
        *(LISTING_SCHEMA.field(name) for name in ("uri", "size", "etag", "modified_at")),
        pa.field("standing", pa.string()),
        pa.field("age", pa.int32()),
    ]
)
"""An object in previous reports. `age` is 0 for the newest run; of several rows of one URI, the smallest `age` counts.
`standing` is a `Reusability`; null: the object was deleted then."""

_ACTIONS = """
    WITH listed AS (
        SELECT uri, max(size) AS size, max(etag) AS etag, max(modified_at) AS modified_at,
               coalesce(max(given), min(truth)) AS truth,
               CASE WHEN count(refused) = count(*) THEN min(refused) END AS refused
        FROM read_parquet($listed)
        LEFT JOIN (SELECT listed AS uri, min(truth) AS given FROM met GROUP BY listed) USING (uri)
        GROUP BY uri
    ), known AS (
        FROM read_parquet($known) QUALIFY row_number() OVER (PARTITION BY uri ORDER BY age) = 1
    )
    SELECT l.uri, l.size, l.etag, l.modified_at, l.truth, l.refused,
           CASE WHEN k.standing IS NULL THEN 'new'
                WHEN k.standing = 'failed' THEN 'failed'
                WHEN CASE WHEN l.etag IS NOT NULL AND k.etag IS NOT NULL THEN l.etag = k.etag
                          ELSE coalesce(l.size = k.size AND l.modified_at = k.modified_at, false) END
                THEN CASE k.standing WHEN 'good' THEN 'carried' ELSE k.standing END
                ELSE 'changed' END AS action
    FROM listed l LEFT JOIN known k USING (uri)
    ORDER BY l.uri
"""


_STILL_LISTED = """
    WITH listed AS (SELECT DISTINCT uri FROM read_parquet($listed)), known AS (
        FROM read_parquet($known) QUALIFY row_number() OVER (PARTITION BY uri ORDER BY age) = 1
    )
    SELECT k.uri, l.uri IS NOT NULL AS listed FROM known k LEFT JOIN listed l USING (uri) WHERE k.standing IS NOT NULL
"""

Check = Callable[[Iterable[pa.RecordBatch]], None]
"""Takes the objects of previous reports: `uri`, and `listed` (whether it is still listed)."""


@dataclass(frozen=True)
class Shard:
    """One row group of one listing file: the unit of work, retry and resume."""

    file: int
    group: int
    rows: int
    listing: str
    """Path of the listing file within the run's folder."""

    @property
    def name(self) -> str:
        """File and row group, such as `00003-0017`; sorts like the URIs."""
        return f"{self.file:05d}-{self.group:04d}"

    @property
    def part(self) -> str:
        """File of the finished shard within the run's staging folder."""
        return f"{self.name}{PART_SUFFIX}"


@dataclass(frozen=True)
class Range:
    """Consecutive objects of the listing: the unit of the commit."""

    number: int
    shards: tuple[Shard, ...]
    carried: str | None
    """Path, within the run's folder, of the file that lists the carried objects; None: there are none."""


@dataclass(frozen=True)
class Plan:
    """Objects that a run scans or carries over, in ranges."""

    listed: int
    """Entries of the listing, repeats included."""
    bytes: int
    """Total size of the objects to read."""
    actions: dict[str, int]
    """Objects by `PlanAction`."""
    ranges: tuple[Range, ...]
    files: tuple[FileRecord, ...]
    """The listing files."""
    listed_at: str
    """Start of the listing, ISO 8601: a run knows the store as of then, whenever it was committed."""
    previous_runs: tuple[str, ...] = ()
    """Ids of the previous runs that rows are carried from, newest first."""
    warnings: Warnings = field(default_factory=Warnings)
    """Warnings of listing and planning."""
    truth: Meeting | None = None
    """Match of the truth file with the listing; None without a truth file."""

    @property
    def distinct(self) -> int:
        """Objects, each counted once."""
        return sum(self.actions.values())

    @property
    def repeated(self) -> int:
        """Entries that list an object again, from an overlapping source or a manifest; `distinct` counts it once."""
        return self.listed - self.distinct

    @property
    def carried(self) -> int:
        """Objects that are not read, since they are unchanged."""
        return self.actions.get(PlanAction.CARRIED, 0)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Return all shards, ordered by URI."""
        return tuple(shard for part in self.ranges for shard in part.shards)

    @property
    def counts(self) -> dict[str, Any]:
        """Counts of the plan, for `run.json`."""
        return {
            "listed_at": self.listed_at,
            "listed": self.listed,
            "distinct": self.distinct,
            "repeated": self.repeated,
            "shards": len(self.shards),
            "actions": self.actions,
            "truth": None if self.truth is None else self.truth.as_json(),
        }

    def handed_out(self, seed: int) -> list[Shard]:
        """Return the shards in work order: half of the small ones first, the rest shuffled, since S3 throttles by
        prefix, and the other small ones last, the largest before the smallest, so that all workers end together."""
        small, rest = list(self.shards[: len(_FIRST_SHARDS)]), list(self.shards[len(_FIRST_SHARDS) :])
        random.Random(seed).shuffle(rest)
        return [*small[::2], *rest, *reversed(small[1::2])]

    def as_record(self) -> ListingRecord:
        """Return the content of `plan.json`; `from_record` reads it."""
        return ListingRecord(
            listed=self.listed,
            bytes=self.bytes,
            listed_at=self.listed_at,
            actions=self.actions,
            previous_runs=self.previous_runs,
            warnings=tuple(WarningRecord(**warning) for warning in self.warnings.as_json()),
            truth=self.truth,
            files=self.files,
            ranges=tuple(
                RangeRecord(shards=tuple((s.file, s.group, s.rows) for s in part.shards), carried=part.carried)
                for part in self.ranges
            ),
        )

    @classmethod
    def from_record(cls, found: ListingRecord) -> Self:
        """Return the plan of a record that `as_record` made."""
        paths = [file.path for file in found.files if file.path.startswith("listing/part-")]
        ranges = tuple(
            Range(number, tuple(Shard(f, g, rows, paths[f]) for f, g, rows in part.shards), part.carried)
            for number, part in enumerate(found.ranges)
        )
        return cls(
            found.listed,
            found.bytes,
            found.actions,
            ranges,
            found.files,
            found.listed_at,
            found.previous_runs,
            Warnings.from_json(warning.model_dump() for warning in found.warnings),
            found.truth,
        )


def shard_count(rows: int, shard_rows: int) -> int:
    """Return the number of shards for this many objects of one range."""
    small = 0
    for first in _FIRST_SHARDS:
        if rows <= 0:
            break
        rows, small = rows - min(first, shard_rows), small + 1
    return small + max(0, -(-rows // shard_rows))


@dataclass(frozen=True)
class Known:
    """Objects in the reports of previous runs."""

    previous_runs: tuple[str, ...] = ()
    tables: Iterable[pa.Table] = ()
    """Tables of `KNOWN_SCHEMA`, in any order."""


def make_plan(
    tables: Iterable[pa.Table],
    truth: Iterable[pa.RecordBatch],
    known: Known,
    run: Store,
    shard_rows: int,
    warnings: Warnings | None = None,
    check: Check | None = None,
    bound: TruthBound | None = None,
) -> Plan:
    """Sort and cut a listing, and write it to the run's folder.

    Args:
        tables: tables of `LISTING_SCHEMA`, in any order.
        truth: batches of `TRUTH_SCHEMA`; overrides the truth from a path or a manifest.
        known: objects in previous reports.
        run: the run's folder.
        shard_rows: rows of a full shard.
        warnings: collects warnings while `tables` and `truth` are read; the plan keeps them.
        check: called before anything is written; an exception from it stops the plan.
        bound: how many objects of the truth may be absent from the listing; unset: all but one.

    Raises:
        SourceError: nothing was listed; or the truth file names none of the listed objects, or too few.
    """
    listed_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    warnings = Warnings() if warnings is None else warnings
    with spilling("plan") as (connection, folder):
        paths = {name: str(folder / f"{name}.parquet") for name in ("listed", "truth", "known")}
        listed = _spool(paths["listed"], LISTING_SCHEMA, tables)
        if not listed:
            raise SourceError("nothing to scan: the sources list no object (or --include/--exclude leave none)")
        given = _spool(paths["truth"], TRUTH_SCHEMA, (pa.Table.from_batches([batch]) for batch in truth))
        _spool(paths["known"], KNOWN_SCHEMA, known.tables)
        met = meet(connection, paths["listed"], paths.pop("truth"), given, bound or TruthBound(), warnings)
        if check is not None:
            check(connection.sql(_STILL_LISTED, params=paths).to_arrow_reader(65536))
        reader = connection.sql(_ACTIONS, params=paths).to_arrow_reader(4096)
        plan = _Writer(run, shard_rows).write(reader, listed, listed_at, known.previous_runs)
        return replace(plan, warnings=warnings, truth=met)


def carry_all(ranges: Iterable[pa.Table], listed_at: str, previous_runs: tuple[str, ...], run: Store) -> Plan:
    """Write and return a plan that reads nothing: it carries every object's row over from previous runs.

    Args:
        ranges: ranges of an earlier listing, as `LISTING_SCHEMA`, sorted by URI within and between ranges.
        listed_at: start of that listing.
        previous_runs: ids of the previous runs, newest first.
        run: the run's folder.
    """
    writer = _Writer(run, shard_rows=1)
    actions = (
        rows.append_column("action", pa.array([str(PlanAction.CARRIED)] * rows.num_rows, pa.string()))
        for rows in ranges
    )
    parts = tuple(writer.range(number, rows, iter(())) for number, rows in enumerate(actions))
    return Plan(writer.actions.total(), 0, dict(writer.actions), parts, tuple(writer.files), listed_at, previous_runs)


def _spool(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    with pq.ParquetWriter(path, schema) as writer:
        rows = 0
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
        return rows


@dataclass
class _Writer:
    """Cuts the sorted listing and writes its files.

    Each file is named by its content's SHA-256, so two processes that plan the same run at once cannot harm each other.
    """

    run: Store
    shard_rows: int
    files: list[FileRecord] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    _parts: int = 0

    def write(self, reader: pa.RecordBatchReader, listed: int, listed_at: str, previous_runs: tuple[str, ...]) -> Plan:
        sizes = chain((min(rows, self.shard_rows) for rows in _FIRST_SHARDS), repeat(self.shard_rows))
        ranges = tuple(self.range(number, rows, sizes) for number, rows in enumerate(_ranges(reader)))
        return Plan(listed, self.bytes, dict(self.actions), ranges, tuple(self.files), listed_at, previous_runs)

    def range(self, number: int, rows: pa.Table, sizes: Iterator[int]) -> Range:
        """Write one range's files from listing rows with the column `action`; `sizes` gives rows per shard."""
        self.actions.update(rows["action"].to_pylist())
        is_carried = pc.equal(rows["action"], str(PlanAction.CARRIED))
        objects = as_schema(rows, LISTING_SCHEMA)
        carried, todo = objects.filter(is_carried), objects.filter(pc.invert(is_carried))
        self.bytes += pc.sum(todo["size"]).as_py() or 0
        name = self._write("carried", number, [carried]) if carried.num_rows else None
        shards: list[Shard] = []
        tables = _cut(todo, sizes)
        while group := [table for _, table in zip(range(_SHARDS_PER_FILE), tables)]:  # noqa: B905  # the shorter ends it
            listing = self._write("part", self._parts, group)
            shards += [Shard(self._parts, i, table.num_rows, listing) for i, table in enumerate(group)]
            self._parts += 1
        return Range(number, tuple(shards), name)

    def _write(self, kind: str, number: int, tables: list[pa.Table]) -> str:
        buffer = io.BytesIO()
        with pq.ParquetWriter(buffer, LISTING_SCHEMA, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table, row_group_size=table.num_rows)
        data = buffer.getvalue()
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"listing/{kind}-{number:05d}-{sha256}.parquet"
        self.run.write(path, data)
        rows = sum(table.num_rows for table in tables)
        self.files.append(FileRecord(path=path, rows=rows, bytes=len(data), sha256=sha256))
        return path


def _ranges(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Yield the stream in tables of `RANGE_ROWS` rows; the last may be smaller."""
    held: list[pa.RecordBatch] = []
    rows = 0
    for batch in reader:
        while rows + batch.num_rows >= RANGE_ROWS:
            fits = RANGE_ROWS - rows
            yield pa.Table.from_batches([*held, batch.slice(0, fits)])
            batch, held, rows = batch.slice(fits), [], 0  # noqa: PLW2901
        held, rows = [*held, batch], rows + batch.num_rows
    if rows:
        yield pa.Table.from_batches(held)


def _cut(table: pa.Table, sizes: Iterator[int]) -> Iterator[pa.Table]:
    start = 0
    while start < table.num_rows:
        piece = table.slice(start, next(sizes)).combine_chunks()
        yield piece
        start += piece.num_rows


class ShardReader:
    """Reads shards of one run, and keeps the last listing file in memory: neighbouring shards share it."""

    def __init__(self, run: Store) -> None:
        self._run = run
        self._path = ""
        self._file: pq.ParquetFile | None = None

    def __call__(self, shard: Shard) -> pa.Table:
        """Return the rows of a shard, as `LISTING_SCHEMA`."""
        return self.together([shard])

    def together(self, shards: Sequence[Shard]) -> pa.Table:
        """Return the rows of several shards one after the other, as `LISTING_SCHEMA`."""
        rows = [LISTING_SCHEMA.empty_table()]
        for path, some in groupby(shards, lambda shard: shard.listing):
            groups = [shard.group for shard in some]
            rows.append(as_schema(self._opened(path).read_row_groups(groups, use_threads=False), LISTING_SCHEMA))
        return pa.concat_tables(rows)

    def _opened(self, path: str) -> pq.ParquetFile:
        if self._file is None or path != self._path:
            self._file, self._path = pq.ParquetFile(io.BytesIO(_read_listing(self._run, path))), path
        return self._file


def read_carried(run: Store, part: Range) -> pa.Table:
    """Return the carried objects of a range, as `LISTING_SCHEMA`; an empty table where there are none."""
    if part.carried is None:
        return LISTING_SCHEMA.empty_table()
    return as_schema(from_parquet(_read_listing(run, part.carried)), LISTING_SCHEMA)


def _read_listing(run: Store, path: str) -> bytes:
    """Return the bytes of a listing file. Raises BrokenRecord where it is absent or does not match its name."""
    try:
        data = run.read(path)
    except FileNotFoundError:
        raise BrokenRecord(run.locate(path), "is absent, although the plan names it", _LOST) from None
    named = _SHA256.search(path)
    differs = named is not None and hashlib.sha256(data).hexdigest() != named[1]
    if differs and not is_known_in(run, path, data):
        raise BrokenRecord(run.locate(path), "is damaged: it has not the SHA-256 of its name", _LOST)
    return data
