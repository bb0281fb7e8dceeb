"""Draw the same few items for all reviewers, on which they can see whether they mean the same by the policy's words.

Half of them are contents that people decided otherwise than each other before; the others lie where the policy would
decide otherwise if their scores moved a little (`label_sample.uncertainty`). Each is of another asset, and none was in
an earlier norming. What matches an illegal bank, or looks like it, and what the policy hides, is never drawn.

A draw is kept in the store, `norming/<id>.parquet`. Each reviewer gets the same items in an order of their own. A
report that cannot be read is a `StoreError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import ConfigError, Status
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.reports.export import json_line
from nsfwscan.review.audit_sample import keep, read_kept
from nsfwscan.review.label_sample import uncertainty
from nsfwscan.review.queues import file_name, shown_item
from nsfwscan.review.ranking import Item, ranked
from nsfwscan.review.selection import rows_named
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.run import Run
from nsfwscan.schema import BankKind, Shield
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.standing import counting, unjudged
from nsfwscan.verdicts.verdict import DECIDING, Kind, VerdictWord

FOLDER = "norming"
DISPUTED, THRESHOLD = "disputed", "threshold"
NORMING_SCHEMA = pa.schema([pa.field(name, pa.string()) for name in ("uri", "sha256", "why")])
"""One row an item: the object that stands for its asset, and why it was drawn."""
_COLUMNS = ("uri", "sha256", "cluster", "status", "shield", "match_kind", "nsfw_score", "signals")
_TABLE = """
    CREATE TABLE candidates (
        uri VARCHAR, sha256 VARCHAR, asset VARCHAR, near DOUBLE, disputed BOOLEAN, shown BOOLEAN, barred BOOLEAN
    )
"""
_INSERT = f"""
    INSERT INTO candidates
    SELECT uri, sha256, coalesce('c' || cluster, 's' || sha256), near, disputed,
           status = '{Status.OK}' AND coalesce(shield, '') <> '{Shield.HIDDEN}',
           asked OR coalesce(match_kind = '{BankKind.ILLEGAL}', false)
    FROM part WHERE sha256 IS NOT NULL AND (near > 0 OR disputed OR asked OR match_kind = '{BankKind.ILLEGAL}')
"""
_CHOSEN = f"""
    WITH assets AS (
        SELECT asset, bool_or(disputed) AS disputed, max(near) AS near,
               arg_max(uri, (disputed, near, md5(concat($seed::VARCHAR, ':', uri)))) FILTER (shown) AS uri
        FROM candidates GROUP BY asset HAVING NOT bool_or(barred)
    ), turns AS (
        SELECT *, row_number() OVER (
            PARTITION BY disputed ORDER BY CASE WHEN disputed THEN 1 ELSE near END DESC,
                                           md5(concat($seed::VARCHAR, ':', asset))
        ) AS turn
        FROM assets WHERE uri IS NOT NULL AND (disputed OR near > 0)
    ), chosen AS (FROM turns ORDER BY turn, disputed DESC LIMIT $n)
    SELECT c.uri, c.sha256, CASE WHEN chosen.disputed THEN '{DISPUTED}' ELSE '{THRESHOLD}' END AS why
    FROM chosen JOIN candidates c USING (uri) ORDER BY uri
"""


@dataclass(frozen=True)
class Norming:
    """Items that all reviewers decide.

    Attributes:
        rows: `NORMING_SCHEMA`, by URI.
        drawn_at: ISO 8601.
    """

    norming_id: str
    run_id: str
    seed: int
    reviewers: tuple[str, ...]
    drawn_at: str
    rows: pa.Table

    @classmethod
    def read(cls, store: Store, norming_id: str) -> Norming:
        """Return a draw. Raises ConfigError where there is none of that id, BrokenRecord for another content."""
        rows = read_kept(store, FOLDER, "norming", norming_id)
        told = {key.decode(): value.decode() for key, value in (rows.schema.metadata or {}).items()}
        people = tuple(told["reviewers"].split("\n"))
        drawn = rows.cast(NORMING_SCHEMA)
        return cls(norming_id, told["run_id"], int(told["seed"]), people, told["drawn_at"], drawn)


def draw_norming(run: Run, reviewers: Sequence[str], n: int, seed: int, out: Output) -> Norming:
    """Draw items, keep the draw in the store, and write a file of the items for each reviewer into a folder.

    Raises:
        ConfigError: fewer than two reviewers; nothing to draw; or a file cannot be written here.
    """
    if len({name.casefold() for name in reviewers}) < max(2, len(reviewers)):
        raise ConfigError(
            "a norming needs two reviewers at least, each with another name: --reviewer ann --reviewer ben"
        )
    with spilling("norming", threads=2) as (tables, _):
        _fill(tables, run)
        rows = tables.sql(_CHOSEN, params={"n": n, "seed": seed}).to_arrow_table().cast(NORMING_SCHEMA)
    if not rows.num_rows:
        raise ConfigError(
            f"run {run.run_id} has nothing that people disagreed on or that is near a threshold, and that was in no "
            "norming yet"
        )
    at = datetime.now(UTC).isoformat(timespec="seconds")
    told = {"run_id": run.run_id, "seed": str(seed), "reviewers": "\n".join(reviewers), "drawn_at": at}
    norming_id = keep(run.store, FOLDER, run.run_id, rows.replace_schema_metadata(told))
    found = Norming(norming_id, run.run_id, seed, tuple(reviewers), at, rows)
    _write(run, found, out)
    return found


def _fill(tables: duckdb.DuckDBPyConnection, run: Run) -> None:
    """Fill the table `candidates`."""
    record = run.record()
    decider = Decider(parse_policy(record.policy.content(), f"the policy of run {run.run_id}"))
    disputed, asked = disputed_contents(run.store), _asked_before(run.store)
    tables.execute(_TABLE)
    for rows in read_rows(run, record, list(dict.fromkeys([*_COLUMNS, *decider.columns]))):
        part = rows.select(_COLUMNS).append_column("near", pa.array(uncertainty(unjudged(rows), decider)))
        part = part.append_column("disputed", pc.is_in(part["sha256"], disputed))
        tables.register("part", part.append_column("asked", pc.is_in(part["sha256"], asked)))
        tables.execute(_INSERT)


def disputed_contents(store: Store) -> pa.Array:
    """Return the SHA-256 of contents that one person approved and another one removed."""
    rows = counting(all_verdicts(store), store)
    rows = rows.filter(pc.is_in(rows["kind"], pa.array(list(map(str, DECIDING)))))
    words = pa.array([str(VerdictWord.APPROVE), str(VerdictWord.REMOVE)])
    said = rows.filter(pc.is_in(rows["verdict"], words)).group_by("sha256").aggregate(
        [("verdict", "count_distinct"), ("reviewer", "count_distinct")]
    )  # fmt: skip
    unlike = pc.and_(pc.greater(said["verdict_count_distinct"], 1), pc.greater(said["reviewer_count_distinct"], 1))
    return said.filter(unlike)["sha256"].combine_chunks()


def _asked_before(store: Store) -> pa.Array:
    ids = [name.removesuffix(".parquet") for name in store.names(FOLDER)]
    found = [Norming.read(store, one).rows["sha256"].combine_chunks() for one in ids]
    return pa.concat_arrays([pa.array([], pa.string()), *found])


def items_of(run: Run, norming: Norming) -> list[Item]:
    """Return the items of a norming that the run's report still has."""
    choice = rows_named(norming.rows["uri"].to_pylist())
    with ranked(run, earlier_runs=0, choice=choice) as found:
        return list(found.items)


def _write(run: Run, norming: Norming, out: Output) -> None:
    items, taken = items_of(run, norming), set[str]()
    try:
        out.make_folder()
        with ExitStack() as files:
            for name in norming.reviewers:
                path = files.enter_context(out.child(file_name(name, taken)).appearing())
                path.write_text("".join(_lines(items, norming, name)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror or error}") from error


def _lines(items: Sequence[Item], norming: Norming, reviewer: str) -> Iterator[str]:
    """Yield the items of a reviewer, in an order that says nothing of why they were drawn."""

    def turn(item: Item) -> bytes:
        return hashlib.md5(f"{norming.seed}:{reviewer}:{item.row['uri']}".encode()).digest()

    for rank, item in enumerate(sorted(items, key=turn), start=1):
        shown: dict[str, Any] = shown_item(item._replace(row={**item.row, "queue": FOLDER, "rank": rank}))
        blind = dict.fromkeys(("verdict", "verdict_at", "near_verdicts"))
        said = {"kind": str(Kind.NORMING), "reviewer": reviewer, "norming": norming.norming_id}
        yield json_line({**shown, **blind, **said})
