"""The plan: the listing, distinct by URI, sorted, less what is carried over, and cut into ranges of shards.

In: tables of `LISTING_SCHEMA` in any order and with repetitions, and what earlier runs know (`LEDGER_SCHEMA`). Out:
`listing/*.parquet` in the run's folder (one row group a shard, and a file of carried objects a range), and the ranges.
Sorting and joining spill to disk (DuckDB), so memory stays bounded however long the listing and the ledger are. An
empty listing is a `SourceError`.
"""

from __future__ import annotations

import hashlib
import io
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, repeat
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord, SourceError
from nsfwscan.runs.record import FileRecord, ListingRecord, RangeRecord, WarningRecord
from nsfwscan.schema import LISTING_SCHEMA, as_schema
from nsfwscan.sources.truth import TRUTH_SCHEMA
from nsfwscan.sources.truth_join import Meeting, TruthBound, meet
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.warning import Warnings

_SHARDS_PER_FILE = 64
_SHA256 = re.compile(r"-([0-9a-f]{64})\.parquet$")
_LOST = "put it back from a backup, or begin a run of another name"
_FIRST_SHARDS = (8, 8, 16, 16, 32, 32, 64, 64, 128, 128)
"""Rows of the first shards: small, so that rows come soon and a small store is spread over all actors."""
RANGE_ROWS = 50_000
"""Objects of a range, and so rows of a report part: the driver holds one range at a time, about 4 KiB a row."""


class Reusability(StrEnum):
    """What an earlier run's row is worth now, should its object be unchanged."""

    GOOD = "good"
    FAILED = "failed"
    """The object could not be read, or killed its decoder; it may be better tonight."""
    STALE = "stale"
    """Another model, preprocessing, limit or bank stood behind it, or it lacks a hash that tonight's banks hold."""
    UNUSED = "read_again"
    """Every object is to be read again (--full)."""


class PlanAction(StrEnum):
    """What the plan does with an object, and why."""

    CARRIED = "carried"
    NEW = "new"
    CHANGED = "changed"
    FAILED = "failed"
    STALE = "stale"
    READ_AGAIN = "read_again"


def describe_actions(actions: Mapping[str, int]) -> str:
    """What a plan does with the listed objects, in words."""
    words = {
        PlanAction.CARRIED: "unchanged and carried over",
        PlanAction.NEW: "new",
        PlanAction.CHANGED: "changed",
        PlanAction.FAILED: "tried again",
        PlanAction.STALE: "stale (another model, preprocessing, limit or bank)",
        PlanAction.READ_AGAIN: "unchanged and read again (--full)",
    }
    return ", ".join(f"{actions[action]:,} {word}" for action, word in words.items() if actions.get(action))


LEDGER_SCHEMA = pa.schema(
    [
        *(LISTING_SCHEMA.field(name) for name in ("uri", "size", "etag", "modified_at")),
        pa.field("standing", pa.string()),
        pa.field("age", pa.int32()),
    ]
)
"""What the earlier runs know of objects; of several rows of one URI the one with the smallest `age` counts. Without a
`standing`, the object was gone then."""

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
"""Looks at what earlier runs know: `uri`, and whether it is `listed` still."""


@dataclass(frozen=True)
class Shard:
    """The unit of work, retry and resume: one row group of one listing file."""

    file: int
    group: int
    rows: int
    listing: str
    """The file's name within the run's folder."""

    @property
    def name(self) -> str:
        """E.g. `00003-0017`; sorts in the order of the URIs."""
        return f"{self.file:05d}-{self.group:04d}"


@dataclass(frozen=True)
class Range:
    """Consecutive objects of the listing: the unit of the commit."""

    number: int
    shards: tuple[Shard, ...]
    carried: str | None
    """The file that lists the objects whose rows are carried over, within the run's folder."""


@dataclass(frozen=True)
class Plan:
    """What was to be scanned."""

    listed: int
    """Objects as the sources listed them, repetitions included."""
    bytes: int
    """Of the objects that are read."""
    actions: dict[str, int]
    """How many objects, by `PlanAction`."""
    ranges: tuple[Range, ...]
    files: tuple[FileRecord, ...]
    """The listing files."""
    listed_at: str
    """When listing began, ISO 8601: a run knows the store as of then, whenever it was committed."""
    bases: tuple[str, ...] = ()
    """The runs that rows are carried from, newest first."""
    warnings: Warnings = field(default_factory=Warnings)
    """What was noticed while listing and planning."""
    truth: Meeting | None = None
    """How much of the truth file was listed; None where there is none."""

    @property
    def distinct(self) -> int:
        """Objects, each counted once."""
        return sum(self.actions.values())

    @property
    def repeated(self) -> int:
        """Objects that were listed again, by an overlapping source or a manifest; each counts once."""
        return self.listed - self.distinct

    @property
    def carried(self) -> int:
        """Objects that are not looked at, since nothing changed."""
        return self.actions.get(PlanAction.CARRIED, 0)

    @property
    def shards(self) -> tuple[Shard, ...]:
        """All shards, in the order of their URIs."""
        return tuple(shard for part in self.ranges for shard in part.shards)

    @property
    def counts(self) -> dict[str, Any]:
        """The plan in numbers, as `run.json` has it."""
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
        """The shards in the order of work: the small first ones, then a seeded random order: S3 throttles by prefix."""
        head, rest = list(self.shards[: len(_FIRST_SHARDS)]), list(self.shards[len(_FIRST_SHARDS) :])
        random.Random(seed).shuffle(rest)
        return head + rest

    def as_record(self) -> ListingRecord:
        """Return what `plan.json` says; `from_record` reads it."""
        return ListingRecord(
            listed=self.listed,
            bytes=self.bytes,
            listed_at=self.listed_at,
            actions=self.actions,
            previous_runs=self.bases,
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
        """Return the plan that `as_record` gave."""
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
    """How many shards that many objects are cut into, where all of them lie in one range."""
    small = 0
    for first in _FIRST_SHARDS:
        if rows <= 0:
            break
        rows, small = rows - min(first, shard_rows), small + 1
    return small + max(0, -(-rows // shard_rows))


@dataclass(frozen=True)
class Known:
    """What earlier runs know of the listed objects."""

    bases: tuple[str, ...] = ()
    tables: Iterable[pa.Table] = ()
    """Of `LEDGER_SCHEMA`, in any order."""


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
    """Sorts and cuts a listing, and writes it to the run's folder.

    Args:
        tables: `LISTING_SCHEMA`, in any order.
        truth: `TRUTH_SCHEMA`; overrides what path or manifest said.
        known: what need not be read again.
        run: the run's folder.
        shard_rows: rows of a full shard.
        warnings: what those who make `tables` and `truth` notice meanwhile; the plan keeps them.
        check: called before anything is written; what it raises stops the plan.
        bound: how much of the truth may not be listed; unset: all but one.

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
        _spool(paths["known"], LEDGER_SCHEMA, known.tables)
        met = meet(connection, paths["listed"], paths.pop("truth"), given, bound or TruthBound(), warnings)
        if check is not None:
            check(connection.sql(_STILL_LISTED, params=paths).to_arrow_reader(65536))
        reader = connection.sql(_ACTIONS, params=paths).to_arrow_reader(4096)
        plan = _Writer(run, shard_rows).write(reader, listed, listed_at, known.bases)
        return replace(plan, warnings=warnings, truth=met)


def carry_all(ranges: Iterable[pa.Table], listed_at: str, bases: tuple[str, ...], run: Store) -> Plan:
    """A plan that reads nothing: every object's row is carried over from the bases. Writes it to the run's folder.

    Args:
        ranges: of an earlier listing, as `LISTING_SCHEMA`, sorted by URI from the first to the last.
        listed_at: when that was.
        bases: newest first.
        run: the run's folder.
    """
    writer = _Writer(run, shard_rows=1)
    actions = (
        rows.append_column("action", pa.array([str(PlanAction.CARRIED)] * rows.num_rows, pa.string()))
        for rows in ranges
    )
    parts = tuple(writer.range(number, rows, iter(())) for number, rows in enumerate(actions))
    return Plan(writer.actions.total(), 0, dict(writer.actions), parts, tuple(writer.files), listed_at, bases)


def _spool(path: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    with pq.ParquetWriter(path, schema) as writer:
        rows = 0
        for table in tables:
            writer.write_table(table)
            rows += table.num_rows
        return rows


@dataclass
class _Writer:
    """Cuts the sorted listing and writes its files, each under its content's SHA-256: of two processes that plan the
    same run at once, neither can harm the other's."""

    run: Store
    shard_rows: int
    files: list[FileRecord] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    _parts: int = 0

    def write(self, reader: pa.RecordBatchReader, listed: int, listed_at: str, bases: tuple[str, ...]) -> Plan:
        sizes = chain((min(rows, self.shard_rows) for rows in _FIRST_SHARDS), repeat(self.shard_rows))
        ranges = tuple(self.range(number, rows, sizes) for number, rows in enumerate(_ranges(reader)))
        return Plan(listed, self.bytes, dict(self.actions), ranges, tuple(self.files), listed_at, bases)

    def range(self, number: int, rows: pa.Table, sizes: Iterator[int]) -> Range:
        """One range's files, from rows with their actions."""
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
    """The stream in tables of `RANGE_ROWS` rows; the last may be smaller."""
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
    """Reads shards of one run, keeping the last listing file at hand: neighbouring shards share it."""

    def __init__(self, run: Store) -> None:
        self._run = run
        self._file = ""
        self._data = b""

    def __call__(self, shard: Shard) -> pa.Table:
        """The rows of a shard, as `LISTING_SCHEMA`."""
        if shard.listing != self._file:
            self._data, self._file = _read_listing(self._run, shard.listing), shard.listing
        rows = pq.ParquetFile(io.BytesIO(self._data)).read_row_group(shard.group, use_threads=False)
        return as_schema(rows, LISTING_SCHEMA)


def read_carried(run: Store, part: Range) -> pa.Table:
    """The objects of a range whose rows are carried over, as `LISTING_SCHEMA`; empty where there are none."""
    if part.carried is None:
        return LISTING_SCHEMA.empty_table()
    return as_schema(from_parquet(_read_listing(run, part.carried)), LISTING_SCHEMA)


def _read_listing(run: Store, path: str) -> bytes:
    """A listing file. Raises BrokenRecord where it is absent, or not the one that its name says."""
    try:
        data = run.read(path)
    except FileNotFoundError:
        raise BrokenRecord(run.locate(path), "is absent, although the plan names it", _LOST) from None
    named = _SHA256.search(path)
    if named is not None and hashlib.sha256(data).hexdigest() != named[1]:
        raise BrokenRecord(run.locate(path), "is damaged: it has not the SHA-256 of its name", _LOST)
    return data
