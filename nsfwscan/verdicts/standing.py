"""Find what the verdicts on each content come to: which one stands, since when, and how many appeals there were.

Of the verdicts that count, the latest of each reviewer has a voice; from an appeal on, only what was said then and
later. The majority of `approve` and `remove` stands; a tie is `disputed`, and is for a third person. `escalate` stands
until somebody decides after it. A verdict counts unless a verdict that counts supersedes it, or takes it back; what
people said of norming and golden items decides nothing (`DECIDING`).

DuckDB folds the files on local disk, one file after the other; memory holds the result, about 0.2 KiB a content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import BrokenRecord
from nsfwscan.schema import VERDICT_COLUMNS, StandingVerdict
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import FOLDER, part_names, read_part
from nsfwscan.verdicts.verdict import DECIDING, VERDICT_SCHEMA, Kind, VerdictWord

_ASKED = ("id", "sha256", "verdict", "category", "reason", "kind", "reviewer", "decided_at", "supersedes")
STANDING_SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        *VERDICT_COLUMNS,
        pa.field("category", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("people", pa.int32()),
        pa.field("ids", pa.list_(pa.string())),
    ]
)
"""One row a content: the report's columns; category and reason of the latest verdict that agrees with what stands; how
many people say so, and the ids of their verdicts."""
_DECIDING = ", ".join(f"'{kind}'" for kind in DECIDING)
_COUNTING = f"""
    CREATE TABLE counting AS
    SELECT * FROM (FROM given QUALIFY row_number() OVER (PARTITION BY id) = 1) ANTI JOIN dead USING (id)
    WHERE verdict <> '{VerdictWord.UNDO}' AND kind IN ({_DECIDING})
"""
_VOICES = f"""
    CREATE TABLE voices AS
    WITH appealed AS (
        SELECT sha256, count(*) AS appeals, max(decided_at) AS last_appeal FROM counting WHERE kind = '{Kind.APPEAL}'
        GROUP BY sha256
    )
    SELECT c.*, coalesce(appeals, 0) AS appeals FROM counting c LEFT JOIN appealed USING (sha256)
    WHERE last_appeal IS NULL OR decided_at >= last_appeal
    QUALIFY row_number() OVER (PARTITION BY sha256, reviewer ORDER BY decided_at DESC, id) = 1
"""
_STANDING = f"""
    WITH counted AS (
        SELECT sha256, any_value(appeals) AS appeals,
               count(*) FILTER (verdict = '{VerdictWord.APPROVE}') AS approving,
               count(*) FILTER (verdict = '{VerdictWord.REMOVE}') AS removing,
               max(decided_at) FILTER (verdict = '{VerdictWord.ESCALATE}') AS escalated,
               max(decided_at) FILTER (verdict <> '{VerdictWord.ESCALATE}') AS decided
        FROM voices GROUP BY sha256
    ), settled AS (
        SELECT sha256, appeals,
               CASE WHEN decided IS NULL OR escalated > decided THEN '{StandingVerdict.ESCALATE}'
                    WHEN approving > removing THEN '{StandingVerdict.APPROVE}'
                    WHEN removing > approving THEN '{StandingVerdict.REMOVE}'
                    ELSE '{StandingVerdict.DISPUTED}' END AS verdict
        FROM counted
    )
    SELECT s.sha256, s.verdict, max(decided_at) AS verdict_at, any_value(s.appeals)::INTEGER AS appeals,
           arg_max(category, decided_at) FILTER (category <> '') AS category,
           arg_max(reason, decided_at) FILTER (reason <> '') AS reason,
           count(*)::INTEGER AS people, list(id ORDER BY decided_at, id) AS ids
    FROM settled s JOIN voices v ON v.sha256 = s.sha256
     AND (v.verdict = s.verdict OR (s.verdict = '{StandingVerdict.DISPUTED}' AND v.verdict <> '{VerdictWord.ESCALATE}'))
    GROUP BY s.sha256, s.verdict ORDER BY s.sha256
"""


@dataclass(frozen=True)
class StandingVerdicts:
    """The verdicts that stand in a store.

    Attributes:
        contents: `STANDING_SCHEMA`, sorted by SHA-256.
        parts: SHA-256 of the files that it comes from.
    """

    contents: pa.Table = field(default_factory=STANDING_SCHEMA.empty_table)
    parts: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 that stands for these files."""
        return hashlib.sha256("\n".join(self.parts).encode()).hexdigest()

    def onto(self, rows: pa.Table) -> pa.Table:
        """Return rows with `sha256` with the columns of the verdicts on their contents, whatever these were before."""
        place = pc.index_in(rows["sha256"], self.contents["sha256"].combine_chunks(), skip_nulls=True)
        for column in VERDICT_COLUMNS:
            found = self.contents[column.name].combine_chunks().take(place.combine_chunks())
            at = rows.schema.get_field_index(column.name)
            rows = rows.append_column(column, found) if at < 0 else rows.set_column(at, column, found)
        return rows


def standing(store: Store) -> StandingVerdicts:
    """Return what stands in a store. Raises BrokenRecord where a file of verdicts was changed."""
    parts = tuple(part_names(store))
    if not parts:
        return StandingVerdicts()
    return StandingVerdicts(folded((read_part(store, part, _ASKED) for part in parts), store), parts)


def folded(rows: Iterable[pa.Table], store: Store) -> pa.Table:
    """Return what verdicts come to, as `STANDING_SCHEMA`.

    Args:
        rows: with the columns of `VERDICT_SCHEMA`, or those that are asked for.
        store: that they are of, for the message.
    """
    with spilling("verdicts", threads=2) as (tables, _):
        tables.register("incoming", pa.schema([VERDICT_SCHEMA.field(name) for name in _ASKED]).empty_table())
        tables.execute("CREATE TABLE given AS FROM incoming")
        for part in rows:
            tables.register("incoming", part.select(_ASKED))
            tables.execute("INSERT INTO given FROM incoming")
        named = tables.execute("SELECT id, supersedes FROM given WHERE supersedes <> ''").fetchall()
        tables.register("dead", pa.table({"id": pa.array(_dead(named, store), pa.string())}))
        tables.execute(_COUNTING)
        tables.execute(_VOICES)
        found = tables.sql(_STANDING).to_arrow_table()
    return found.cast(STANDING_SCHEMA)


def _dead(named: Iterable[tuple[str, str]], store: Store) -> list[str]:
    """Return the ids that do not count: those that one that counts supersedes.

    Args:
        named: ids with the id that each supersedes.
    """
    by: dict[str, set[str]] = {}
    for one, other in named:
        by.setdefault(other, set()).add(one)
    dead: set[str] = set()
    try:
        for one in TopologicalSorter(by).static_order():  # first those that nothing supersedes
            if by.get(one, set()) - dead:
                dead.add(one)
    except CycleError:
        where = store.locate(FOLDER)
        raise BrokenRecord(where, "has verdicts that supersede each other in a circle") from None
    return sorted(dead)


def counting(rows: pa.Table, store: Store) -> pa.Table:
    """Return the verdicts (`VERDICT_SCHEMA`) that count, of all kinds: not undone, not superseded, and no undo."""
    named = rows.filter(pc.not_equal(rows["supersedes"], "")).select(["id", "supersedes"])
    dead = _dead(zip(named["id"].to_pylist(), named["supersedes"].to_pylist(), strict=True), store)
    gone = pc.or_(pc.is_in(rows["id"], pa.array(dead, pa.string())), pc.equal(rows["verdict"], str(VerdictWord.UNDO)))
    return rows.filter(pc.invert(gone))


def is_decided(rows: pa.Table) -> pa.ChunkedArray:
    """Return a mask of the rows whose content people approved or removed; never null."""
    words = pa.array([str(StandingVerdict.APPROVE), str(StandingVerdict.REMOVE)])
    return pc.is_in(rows["verdict"], words)


def unjudged(rows: pa.Table) -> pa.Table:
    """Return rows as if nobody had decided them."""
    for column in VERDICT_COLUMNS:
        place = rows.schema.get_field_index(column.name)
        if place >= 0:
            rows = rows.set_column(place, column.name, pa.nulls(rows.num_rows, column.type))
    return rows
