"""Order of review queues: the queued rows of a run as `Item`s, one per asset, by queue and rank.

DuckDB holds the tables on local disk, in a gigabyte of memory; beside them there is one batch of rows in memory. A
report that cannot be read is a `StoreError`.

An asset is a cluster of near-duplicates, else the objects with the same bytes, else one object. A queue holds one item
per asset, made from the first of its objects in that queue. What one person looks at holds one item per asset over all
queues (`across`): nobody decides the same contents twice. The order is by

    severity        the rule's; the highest first
    reach           number of places where the asset was seen, the most first: in the whole store where clusters were
                    counted, else in the report
    uncertainty     1 less the margin between the two most probable categories (margin sampling: Scheffer et al. 2001,
                    Active Hidden Markov Models for Information Extraction), the highest first; 1 without two scores
    uri             so that the order is the same every time

An audit of false positives is ordered by confidence. An item has the other contents of its asset (`members`), and says
whether any object of the asset is an illegal match: then the item is treated as one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.knowing import Knowing
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.schema import REPORT_SCHEMA, BankKind, Category, Decision, score_column
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.forgotten import TOMBSTONE

PLACES = 20
"""Largest number of an asset's other places that an item names; the rest are counted."""
EARLIER_RUNS = 30
"""Default number of runs before this one that are searched for decisions on the same asset."""
MEMBERS = 24
"""Largest number of an asset's other contents that an item names."""
CONTEXT_SCHEMA = pa.schema([("uri", pa.string()), ("number", pa.int64()), ("context", pa.string())])
"""Context of objects: URI, number of the row in the file, and JSON."""

MATCHED = (
    *("match_bank", "match_id", "match_kind", "match_hash", "match_distance"),
    *("match_view", "match_at_s", "match_share"),
)
"""Columns of a match that an item shows."""
SHOWN = (
    *("uri", "object_id", "sha256", "md5", "format", "width", "height", "frames", "status", "error"),
    *("media", "duration_s", "views", "model", "policy", "confidence", "truth", "false_positive"),
    *("decision", "rule", "queue", "skill", "shield", "severity", "decided_by"),
    *("label", "nsfw_score", *map(score_column, Category), "signals"),
    *("text_language", "link_host"),
    *MATCHED,
    *("duplicate_of", "cluster", "cluster_size", "cluster_places", "scanned_at"),
    *("verdict", "verdict_at", "appeals"),
)
_SEEN = ("uri", "sha256", "cluster", "match_kind", "verdict")
_BATCH = 1024
_THREADS = 4
"""Each thread takes part of the gigabyte."""

_ASSET = "coalesce('c' || cluster, 's' || sha256, 'u' || uri)"
_ALL_SCORES = ", ".join(map(score_column, Category))
_SCORES = f"list_sort(list_filter([{_ALL_SCORES}], lambda score: isfinite(score)), 'DESC')"
_QUEUED = f"""
    CREATE TABLE queued AS
    SELECT * EXCLUDE scores, coalesce(1 - (scores[1]::DOUBLE - scores[2]::DOUBLE), 1) AS uncertainty
    FROM (SELECT *, {_ASSET} AS asset, {_SCORES} AS scores FROM incoming)
"""
_PLACES = f"""
    CREATE TABLE places AS
    SELECT asset, uri, sha256, verdict, coalesce(match_kind = '{BankKind.ILLEGAL}', false) AS illegal
    FROM (SELECT *, {_ASSET} AS asset FROM incoming) SEMI JOIN queued USING (asset)
"""
BY_URGENCY = "coalesce(severity, 0) DESC, reach DESC, uncertainty DESC, uri"
BY_CONFIDENCE = "confidence DESC NULLS LAST, uri"
_KNOWN_FIRST = f"coalesce(match_kind = '{BankKind.ILLEGAL}', false) DESC"
"""An asset with an illegal match is in that one's queue, whatever looks like it."""
_ITEMS = """
    CREATE TABLE items AS
    WITH counted AS (
        SELECT asset, count(*) AS places, count(DISTINCT sha256) AS contents, bool_or(illegal) AS illegal
        FROM places GROUP BY asset
    ), weighed AS (
        SELECT uri, sha256, queue, asset, severity, uncertainty, confidence, places, contents, illegal, match_kind,
               greatest(coalesce(cluster_places, 0), places) AS reach
        FROM queued JOIN counted USING (asset)
    ), turns AS (
        SELECT *, row_number() OVER (PARTITION BY {within} ORDER BY {first}, {order}) AS turn,
               count(*) OVER (PARTITION BY {within}) AS objects
        FROM weighed
    )
    SELECT uri, sha256, asset, reach, places, contents, illegal, objects,
           row_number() OVER (PARTITION BY queue ORDER BY {order}) AS rank,
           row_number() OVER (ORDER BY {before}{order}) AS item
    FROM turns WHERE turn = 1
"""
_EARLIER = """
    INSERT INTO earlier
    WITH found AS MATERIALIZED (
        SELECT * FROM incoming
        WHERE uri IN (SELECT uri FROM items) OR sha256 IN (SELECT sha256 FROM items WHERE sha256 IS NOT NULL)
    ), said AS (
        SELECT item, decision, rule, true AS same_uri FROM found JOIN (SELECT item, uri FROM items) USING (uri)
        UNION ALL
        SELECT item, decision, rule, false FROM found JOIN (SELECT item, sha256 FROM items) USING (sha256)
    )
    SELECT item, $age::INTEGER, decision, rule, bool_or(same_uri) FROM said GROUP BY item, decision, rule
"""
_CONTEXT = """
    CREATE TABLE context AS
    SELECT uri, context FROM incoming SEMI JOIN items USING (uri)
    QUALIFY row_number() OVER (PARTITION BY uri ORDER BY number DESC) = 1
"""

_RANKED = """
    SELECT i.* EXCLUDE (asset, sha256), q.* EXCLUDE (uri, asset), context
    FROM items i JOIN queued q USING (uri) LEFT JOIN context USING (uri) ORDER BY item
"""
_ELSEWHERE = f"""
    SELECT item, p.uri FROM items i JOIN places p USING (asset) WHERE p.uri <> i.uri
    QUALIFY row_number() OVER (PARTITION BY item ORDER BY p.uri) <= {PLACES} ORDER BY item, p.uri
"""
_NEAR = """
    SELECT item, verdict, count(DISTINCT p.sha256) AS contents FROM items i JOIN places p USING (asset)
    WHERE verdict IS NOT NULL AND p.sha256 <> i.sha256 GROUP BY item, verdict ORDER BY item, verdict
"""
_MEMBERS = f"""
    SELECT item, p.sha256, min(p.uri) AS uri
    FROM items i JOIN places p USING (asset) WHERE p.sha256 <> i.sha256 GROUP BY item, p.sha256
    QUALIFY row_number() OVER (PARTITION BY item ORDER BY min(p.uri)) <= {MEMBERS} ORDER BY item, min(p.uri)
"""
_PRIOR = """
    SELECT item, decision, rule, min(age) AS age, count(*) AS runs, bool_or(same_uri) AS same_uri
    FROM earlier GROUP BY item, decision, rule ORDER BY item, age, decision, rule
"""
"""Python groups these rows into lists while it reads them: as aggregates, the lists would have to fit into memory."""

Row = dict[str, Any]


class Item(NamedTuple):
    """An item of a review queue: a row of the report, the asset's other places, earlier decisions, and context."""

    row: Row
    """Columns of the report, and `rank` (from 1), `reach`, `uncertainty` (0 to 1), `objects` (number of the asset's
    objects in this queue), `contents` (number of its contents in the report), `illegal` (one of them is an illegal
    match)."""
    elsewhere: list[str]
    """Up to `PLACES` other URIs of the asset in the report."""
    others: int
    """Number of the asset's other objects in the report."""
    prior: list[Row]
    """Earlier runs' decisions on the same URI or the same bytes, the latest first: for each `decision` and `rule` the
    latest `run_id`, its commit time (`decided_at`), the number of `runs`, and `by`: `uri` or `sha256`."""
    context: str | None
    """JSON."""
    near: dict[str, int]
    """Other contents of the asset that people gave a verdict on, by what stands."""
    members: list[Row]
    """Up to `MEMBERS` other contents of the asset in the report: the `sha256`, and the `uri` of one object each."""


@dataclass(frozen=True)
class Ranked:
    """Items of a run, which can be read once, and the number of objects that go to no queue."""

    items: Iterator[Item]
    unassigned: int
    """Objects that rules without a queue send to review or escalation."""


Choice = Callable[[pa.Table], pa.Table]
"""A function that returns the rows of a table that become items, with their `queue`."""


@contextmanager
def ranked(
    run: Run,
    queues: Collection[str] = (),
    context: Iterable[pa.RecordBatch] = (),
    earlier_runs: int = EARLIER_RUNS,
    *,
    choice: Choice | None = None,
    order: str = BY_URGENCY,
    across: bool = False,
) -> Iterator[Ranked]:
    """Open the items of a run, by queue and rank; they can be read within the block. Raises StoreError where the report
    of this run or of an earlier one cannot be read.

    Args:
        queues: only these queues; if empty, all.
        context: batches of `CONTEXT_SCHEMA`; of several rows for a URI, the last one counts.
        earlier_runs: number of runs before this one to search; each takes as long to read as this one.
        choice: takes tables with all columns of the report, and chooses the items in place of `queues`.
        order: within a queue, `BY_URGENCY` or `BY_CONFIDENCE`.
        across: in this order over all queues, with one item an asset, in the queue of its first object, or of an
            illegal match.
    """
    record, unassigned = run.record(), _Unassigned(queues)
    knowing = Knowing(run, record)
    asked = SHOWN if choice is None else REPORT_SCHEMA.names
    with spilling("queues", threads=_THREADS) as (tables, _):
        tables.execute("SET preserve_insertion_order = false")
        there = map(_remembered, read_rows(run, record, knowing.columns(asked)))
        shown = (knowing.decided(rows, asked) for rows in there)
        chosen = (rows.select(SHOWN) for rows in map(choice or unassigned, shown))
        _fill(tables, _QUEUED, chosen, _schema(SHOWN))
        seen = map(knowing.verdicts.onto, read_rows(run, record, _SEEN))
        _fill(tables, _PLACES, seen, _schema((*_SEEN, "verdict_at", "appeals")))
        within, before = ("asset", "") if across else ("queue, asset", "queue, ")
        tables.execute(_ITEMS.format(order=order, within=within, before=before, first=_KNOWN_FIRST))
        runs = _look_back(tables, run, record, earlier_runs)
        _fill(tables, _CONTEXT, map(pa.Table.from_batches, ([batch] for batch in context)), CONTEXT_SCHEMA)
        yield Ranked(_items(tables, runs), unassigned.count)


def _look_back(tables: duckdb.DuckDBPyConnection, run: Run, record: RunRecord, most: int) -> list[RunRecord]:
    """Fill the table `earlier`, and return the records of its runs; a run's index is its `age`."""
    tables.execute("CREATE TABLE earlier (item BIGINT, age INTEGER, decision TEXT, rule TEXT, same_uri BOOL)")
    if not most or not tables.execute("SELECT count(*) FROM items").fetchall()[0][0]:
        return []
    asked = ("uri", "sha256", "decision", "rule")
    runs = _earlier_runs(run, record)[:most]
    for age, (earlier, theirs) in enumerate(runs):
        _fill(tables, _EARLIER, read_rows(earlier, theirs, asked), _schema(asked), {"age": age})
    return [theirs for _, theirs in runs]


def _earlier_runs(run: Run, record: RunRecord) -> Sequence[tuple[Run, RunRecord]]:
    """Return the store's committed runs before this one, the latest first; skip runs with a broken record."""
    others = [other for other in runs_of(run.store) if other.run_id != run.run_id]
    before = [
        (other, theirs)
        for other, theirs in read_records(others)
        if not isinstance(theirs, BrokenRecord) and theirs.committed_at < record.committed_at
    ]
    return sorted(before, key=lambda pair: pair[1].committed_at, reverse=True)


def _schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([REPORT_SCHEMA.field(name).remove_metadata() for name in columns])


def _fill(
    tables: duckdb.DuckDBPyConnection,
    statement: str,
    rows: Iterable[pa.Table],
    schema: pa.Schema,
    values: dict[str, int] | None = None,
) -> None:
    """Run a statement over rows as they come. Raises errors of reading them unchanged; DuckDB would hide their type."""
    failed: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table in rows:
                yield from table.cast(schema).to_batches()
        except Exception as error:
            failed.append(error)
            raise

    tables.register("incoming", pa.RecordBatchReader.from_batches(schema, batches()))
    try:
        tables.execute(statement, values or {})
    except duckdb.Error:
        if not failed:
            raise
        raise failed[0] from None
    finally:
        tables.unregister("incoming")


def _remembered(rows: pa.Table) -> pa.Table:
    """Return the rows but those of objects that were forgotten: nobody can look at them any more."""
    return rows.filter(pc.invert(pc.starts_with(rows["uri"], TOMBSTONE)))


class _Unassigned:
    """A function that keeps a table's rows of the wanted queues, and counts review and escalate rows without one."""

    def __init__(self, queues: Collection[str]) -> None:
        self._queues = pa.array(sorted(queues), pa.string())
        self.count = 0

    def __call__(self, rows: pa.Table) -> pa.Table:
        rows = rows.cast(_schema(rows.column_names))
        for_people = pc.is_in(rows["decision"], pa.array([str(Decision.REVIEW), str(Decision.ESCALATE)]))
        self.count += pc.sum(pc.and_(for_people, pc.is_null(rows["queue"]))).as_py() or 0
        return rows.filter(pc.is_in(rows["queue"], self._queues) if len(self._queues) else pc.is_valid(rows["queue"]))


def _items(tables: duckdb.DuckDBPyConnection, runs: Sequence[RunRecord]) -> Iterator[Item]:
    queries = (_ELSEWHERE, _PRIOR, _NEAR, _MEMBERS)
    elsewhere, prior, near, members = (_Beside(_stream(tables, query)) for query in queries)
    for row in _stream(tables, _RANKED):
        number, others, context = row.pop("item"), row.pop("places") - 1, row.pop("context")
        said = [
            {
                "decision": found["decision"],
                "rule": found["rule"],
                "run_id": runs[found["age"]].run_id,
                "decided_at": runs[found["age"]].committed_at,
                "runs": found["runs"],
                "by": "uri" if found["same_uri"] else "sha256",
            }
            for found in prior.of(number)
        ]
        decided = {found["verdict"]: found["contents"] for found in near.of(number)}
        places = [place["uri"] for place in elsewhere.of(number)]
        yield Item(row, places, others, said, context, decided, members.of(number))


def _stream(tables: duckdb.DuckDBPyConnection, query: str) -> Iterator[Row]:
    with tables.cursor() as cursor:
        for batch in cursor.sql(query).to_arrow_reader(_BATCH):
            yield from batch.to_pylist()


class _Beside:
    """Rows grouped by item, in the items' order, to be fetched item by item."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self._groups = groupby(rows, key=itemgetter("item"))
        self._next: tuple[int, list[Row]] | None = None

    def of(self, item: int) -> list[Row]:
        """Return the rows of an item, perhaps none; each call must name a later item than the last one."""
        if self._next is None:
            number, rows = next(self._groups, (sys.maxsize, iter(())))
            self._next = number, list(rows)
        if self._next[0] != item:
            return []
        found, self._next = self._next[1], None
        return found
