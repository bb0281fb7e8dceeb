"""Draw a stratified random sample of a run's objects, the safe side too, that people look at to know what is out there.

Every object whose bytes are known is in the population: allowed, filtered, carried and copied ones too. What matches
an illegal bank is not drawn, since it is known, and nobody needs to see it; the draw counts it, and the objects whose
bytes were never read. Strata are formed by decision, score and source. Each gets a number of objects by Neyman's
allocation, in proportion to its size and to the standard deviation that its mean score suggests, and at least a floor.
Within a stratum, objects are drawn at random by the seed: the probability of each is the share of its stratum that is
drawn. Other strata can be drawn from in the same way (`drawn_from`; see `label_sample.py`).

A draw is kept in the store, `audits/<id>.parquet`, created only if it is not there, so that an estimate knows what was
drawn with which probability. A report that cannot be read is a `StoreError`.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord, ConfigError
from nsfwscan.review.ranking import CONTEXT_SCHEMA
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import FLAGGED, BankKind, StandingVerdict
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.forgotten import TOMBSTONE, is_known
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.verdicts.standing import standing

FOLDER = "audits"
AUDIT, LABEL = "audit", "label"
FLOOR = 10
"""Default least number of objects of a stratum."""
_EDGES = (0.05, 0.2, 0.5, 0.8)
"""Scores between which strata are cut: the safe side is by far the largest, and is cut finely."""
_SOURCES = 8
"""Most sources that are told apart."""
_LEAST = 0.005
"""A mean score is taken for at least this probability, and at most for one less this: a model is never that sure."""
_UNKNOWN = 0.5
"""What is taken where a stratum has no score."""

DRAW_SCHEMA = pa.schema(
    [
        pa.field("uri", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("stratum", pa.string()),
        pa.field("flagged", pa.bool_()),
        pa.field("size", pa.int64()),
        pa.field("drawn", pa.int64()),
        pa.field("probability", pa.float64()),
    ]
)
"""One row for each drawn object: its stratum, the objects and the drawn ones of that, the probability to be drawn."""
_COLUMNS = ("uri", "sha256", "decision", "nsfw_score", "match_kind")
_ORDERED = """
    CREATE TABLE ordered AS
    SELECT *, row_number() OVER (PARTITION BY stratum ORDER BY md5(concat($seed::VARCHAR, ':', uri)), uri) AS turn
    FROM population
"""
_STRATA = """
    SELECT stratum, count(*) AS size, avg(value) FILTER (isfinite(value)) AS value
    FROM population GROUP BY stratum ORDER BY stratum
"""
POPULATION = "CREATE TABLE population (uri VARCHAR, sha256 VARCHAR, stratum VARCHAR, flagged BOOLEAN, value DOUBLE)"
"""What may be drawn; the mean `value` of a stratum says how much of it is."""
Weigh = Callable[[pa.Table], npt.NDArray[np.float64]]
"""A function that returns the weight of an object of each stratum, of a table with their `size` and mean `value`."""


@dataclass(frozen=True)
class Draw:
    """A sample that was drawn.

    Attributes:
        rows: `DRAW_SCHEMA`, by URI.
        design: `audit`, or `label`: what it was drawn for, and by which strata.
        objects: the population.
        illegal: objects that match an illegal bank: known, and not drawn.
        unread: objects whose bytes are not known: not drawn.
    """

    audit_id: str
    run_id: str
    seed: int
    rows: pa.Table
    objects: int
    illegal: int
    unread: int
    design: str = AUDIT

    @classmethod
    def read(cls, store: Store, audit_id: str) -> Draw:
        """Return a draw. Raises ConfigError where there is none of that id, BrokenRecord for another content."""
        rows = read_kept(store, FOLDER, "audit", audit_id)
        told = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
        counts = {name: int(told[name]) for name in ("objects", "illegal", "unread")}
        drawn, design = rows.cast(DRAW_SCHEMA), told.get("design", AUDIT)
        return cls(audit_id, told["run_id"], int(told["seed"]), drawn, **counts, design=design)


def draw_sample(run: Run, n: int, seed: int = 0, floor: int = FLOOR) -> Draw:
    """Draw objects of a run, and keep the draw in the store. The same run, number, floor and seed make the same draw.

    Raises:
        ConfigError: there is nothing to draw, or fewer objects are asked for than there are strata.
    """
    with spilling("audit", threads=2) as (tables, _):
        total = _fill(tables, run, run.record())
        return drawn_from(tables, run, n, seed, floor, _deviations, total)


def drawn_from(
    tables: duckdb.DuckDBPyConnection,
    run: Run,
    n: int,
    seed: int,
    floor: int,
    weigh: Weigh,
    total: dict[str, int],
    design: str = AUDIT,
) -> Draw:
    """Draw objects from the table `population`, and keep the draw in the store.

    Args:
        weigh: an object of a stratum is drawn in proportion to this, but for the floor.
        total: `objects`, `illegal` and `unread` ones.

    Raises:
        ConfigError: as `draw_sample`.
    """
    strata = tables.sql(_STRATA).to_arrow_table()
    if not strata.num_rows:
        raise ConfigError(f"run {run.run_id} has no object whose bytes are known: there is nothing to draw")
    sizes = strata["size"].to_numpy()
    if n < len(sizes):
        raise ConfigError(f"--n {n}: there are {len(sizes)} strata, and each needs an object: draw more")
    drawn = allocate(sizes, weigh(strata), min(n, int(sizes.sum())), floor)
    tables.register("allocation", pa.table({"stratum": strata["stratum"], "size": sizes, "drawn": drawn}))
    tables.execute(_ORDERED, {"seed": seed})
    rows = tables.sql(
        "SELECT uri, sha256, stratum, flagged, size, drawn, drawn / size AS probability FROM ordered "
        "JOIN allocation USING (stratum) WHERE turn <= drawn ORDER BY uri"
    ).to_arrow_table()
    told = {"run_id": run.run_id, "seed": str(seed), **{name: str(count) for name, count in total.items()}}
    told |= {"design": design} if design != AUDIT else {}
    rows = rows.cast(DRAW_SCHEMA).replace_schema_metadata(told)
    return Draw(keep(run.store, FOLDER, run.run_id, rows), run.run_id, seed, rows, **total, design=design)


def _fill(tables: duckdb.DuckDBPyConnection, run: Run, record: RunRecord) -> dict[str, int]:
    """Fill the table `population` with the objects that may be drawn, and return the counts of all."""
    sources = record.config.source.uris[:_SOURCES]
    place = " ".join(f"WHEN starts_with(uri, {_quoted(uri)}) THEN {i}" for i, uri in enumerate(sources, start=1))
    source = f"CASE {place} ELSE 0 END" if place else "0"
    score = " ".join(f"WHEN nsfw_score < {edge} THEN '<{edge}'" for edge in _EDGES)
    score = f"CASE WHEN nsfw_score IS NULL OR NOT isfinite(nsfw_score) THEN 'none' {score} ELSE '>={_EDGES[-1]}' END"
    flagged = ", ".join(f"'{decision}'" for decision in sorted(FLAGGED))
    tables.execute(POPULATION)
    statement = (
        f"INSERT INTO population SELECT uri, sha256, concat_ws(' ', decision, {score}, {source}), "
        f"decision IN ({flagged}), nsfw_score FROM part "
        f"WHERE sha256 IS NOT NULL AND match_kind IS DISTINCT FROM '{BankKind.ILLEGAL}'"
    )
    left_out: Counter[str] = Counter()
    for rows in read_rows(run, record, _COLUMNS):
        tables.register("part", rows)
        tables.execute(statement)
        left_out.update(not_drawn(rows))
    return counts_of(tables, left_out)


def not_drawn(rows: pa.Table) -> dict[str, int]:
    """Count the `illegal` and the `unread` rows among some, which are in no population."""
    illegal = pc.fill_null(pc.equal(rows["match_kind"], str(BankKind.ILLEGAL)), False)
    unread = pc.and_not(pc.is_null(rows["sha256"]), illegal)
    return {"illegal": pc.sum(illegal).as_py() or 0, "unread": pc.sum(unread).as_py() or 0}


def counts_of(tables: duckdb.DuckDBPyConnection, left_out: Counter[str]) -> dict[str, int]:
    """Return what a `Draw` counts: the population, and what is not in it."""
    objects = tables.execute("SELECT count(*) FROM population").fetchall()[0][0]
    return {"objects": objects, "illegal": left_out["illegal"], "unread": left_out["unread"]}


_SEEN = """
    CREATE TABLE seen AS
    SELECT uri, arg_max(try_cast(context ->> '$.views' AS DOUBLE), number) AS views FROM context GROUP BY uri
"""
_ALL_VIEWS = """
    SELECT stratum, sum(coalesce(views, 0)) FROM population LEFT JOIN seen USING (uri) GROUP BY stratum
"""
_DRAWN_VIEWS = "SELECT uri, coalesce(views, 0) FROM drawn LEFT JOIN seen USING (uri)"


def views_of(run: Run, draw: Draw, context: Iterable[pa.RecordBatch]) -> tuple[dict[str, float], dict[str, float]]:
    """Return the views of all objects of each stratum, and those of each drawn object by URI.

    Args:
        run: the one that was drawn from.
        context: batches of `CONTEXT_SCHEMA` with the key `views`; an object without it was not seen.

    Raises:
        ConfigError: no row has `views`, or one has fewer than none; no object of the population was seen; or the draw
            is one of `label`, whose strata go by what was known when it was drawn, so that views cannot be counted
            again.
    """
    if draw.design == LABEL:
        raise ConfigError(f"{draw.audit_id} was drawn by `nsfwscan label`: only an audit estimates by views")
    with spilling("views", threads=2) as (tables, _):
        tables.register("context", pa.RecordBatchReader.from_batches(CONTEXT_SCHEMA, context))
        tables.execute(_SEEN)
        least, number = tables.execute("SELECT min(views), count(views) FROM seen").fetchall()[0]
        if not number or least < 0:
            raise ConfigError("the context has no column `views` with numbers of views from 0 on")
        _fill(tables, run, run.record())
        of_strata = dict(tables.execute(_ALL_VIEWS).fetchall())
        if not sum(of_strata.values()):
            raise ConfigError(
                f"the context has no views of the objects of run {run.run_id}: are its URIs those of the report?"
            )
        tables.register("drawn", draw.rows.select(["uri"]))
        return of_strata, dict(
            tables.execute("SELECT uri, coalesce(views, 0) FROM drawn LEFT JOIN seen USING (uri)").fetchall()
        )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _deviations(strata: pa.Table) -> npt.NDArray[np.float64]:
    """Return the standard deviation of harm in each stratum, as its mean score suggests it."""
    scores = [_UNKNOWN if score is None else score for score in strata["value"].to_pylist()]
    p = np.clip(np.array(scores, np.float64), _LEAST, 1 - _LEAST)
    return np.asarray(np.sqrt(p * (1 - p)))


def allocate(
    sizes: npt.NDArray[np.int64], deviations: npt.NDArray[np.float64], n: int, floor: int
) -> npt.NDArray[np.int64]:
    """Return how many objects of each stratum to draw: `n` in all, in proportion to size times deviation (Neyman 1934),
    at least `floor` where there are so many, and never more than there are.

    Args:
        sizes: objects of each stratum.
        deviations: expected standard deviation in each.
        n: at least the number of strata, and at most the sum of the sizes.
        floor: lowered where `n` does not reach for it.
    """
    drawn = np.minimum(sizes, max(1, min(floor, n // len(sizes))))
    weights = sizes * deviations
    while (left := n - int(drawn.sum())) > 0:
        room = sizes - drawn
        share = np.where(room > 0, weights, 0)
        ideal = np.maximum(n * weights / weights.sum() - drawn, 0) * (room > 0)
        share = ideal if ideal.sum() > 0 else share
        more = np.minimum(np.floor(left * share / share.sum()).astype(np.int64), room)
        if not more.sum():
            more = np.zeros_like(drawn)
            more[np.argsort(-share, kind="stable")[: min(left, int((room > 0).sum()))]] = 1
            more = np.minimum(more, room)
        drawn = drawn + more
    return drawn


def keep(store: Store, folder: str, run_id: str, rows: pa.Table) -> str:
    """Write a draw, and return its id: that of the run, and the beginning of the digest of the file."""
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    draw_id = f"{run_id}-{hashlib.sha256(sink.getvalue()).hexdigest()[:16]}"
    with suppress(FileExistsError):  # drawn before, by the same seed
        store.create(f"{folder}/{draw_id}.parquet", sink.getvalue())
    return draw_id


def read_kept(store: Store, folder: str, what: str, draw_id: str) -> pa.Table:
    """Return the rows of a draw. Raises ConfigError where there is none of that id, BrokenRecord for another content.

    Args:
        what: the draw is, for the message: `audit`.
    """
    name = f"{folder}/{draw_id}.parquet"
    try:
        data = store.read(name)
    except FileNotFoundError:
        there = ", ".join(n.removesuffix(".parquet") for n in store.names(folder)) or "none"
        raise ConfigError(f"{store.uri} has no {what} {draw_id!r}; there are: {there}") from None
    named = hashlib.sha256(data).hexdigest().startswith(draw_id.rpartition("-")[2])
    if not named and not is_known(store, name, data):
        raise BrokenRecord(store.locate(name), "was changed: its content is not the one that its name says")
    return from_parquet(data)


def forgotten_among(rows: pa.Table) -> int:
    """Return how many drawn objects were forgotten since: the others of their strata stand for them."""
    return pc.sum(pc.starts_with(rows["uri"], TOMBSTONE)).as_py() or 0


def items_of(run: Run, draw: Draw, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Yield the report's rows of the drawn objects that people have not decided yet, in an order that tells nothing.

    Args:
        columns: of the report.
    """
    verdicts = standing(run.store)
    with spilling("items", threads=2) as (tables, _):
        tables.register("drawn", draw.rows.select(["uri", "probability"]))
        found: list[dict[str, Any]] = []
        for rows in read_rows(run, run.record(), columns):
            tables.register("part", verdicts.onto(rows))
            rows_here = tables.sql("SELECT part.*, probability FROM part JOIN drawn USING (uri)").to_arrow_table()
            found += rows_here.to_pylist()
    settled = (StandingVerdict.APPROVE, StandingVerdict.REMOVE)
    open_ = [row for row in found if row["verdict"] not in settled]
    yield from sorted(open_, key=lambda row: hashlib.md5(f"{draw.seed}:{row['uri']}".encode()).digest())
