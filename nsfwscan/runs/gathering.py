"""Gather the rows of a range before its duplicates are known: staged, carried and earlier ones, each read once.

In go a run's plan, its staged parts and the reports of previous runs; out come rows of `GATHERED_SCHEMA`, one for each
listed object. A `Gatherer` is for several threads. A shard without a part, a part that does not hold exactly its listed
objects, an object with two earlier rows, or a carried row that is gone is a `BalanceError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import MATCH, BankSet
from nsfwscan.config import ScanConfig
from nsfwscan.errors import POISON, BalanceError
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.balance import check_uris
from nsfwscan.runs.beside import PREVIOUS_SCHEMA
from nsfwscan.runs.calibrations import Calibration, calibrated
from nsfwscan.runs.changes import CHANGES_SCHEMA, EARLIER, FACTS, Facts, deleted_among
from nsfwscan.runs.known_illegal import KnownIllegal
from nsfwscan.runs.plan import Range, Shard, ShardReader, read_carried
from nsfwscan.runs.previous import PreviousReports
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import read_part
from nsfwscan.schema import (
    CALIBRATED,
    DUPLICATE_COLUMNS,
    REPORT_SCHEMA,
    STAGED_SCHEMA,
    VERDICT_COLUMNS,
    Accounted,
    as_schema,
)
from nsfwscan.verdicts.standing import StandingVerdicts

_WORKED = ["reused", "cost", "media", "views", "duration_s", "sandbox"]
"""Staged columns that say what was done with an object."""
_OF_EARLIER = list(dict.fromkeys(["failed_decodes", *EARLIER, *FACTS]))
"""Columns of an object's earlier row that its new row is compared with."""
ROW_SCHEMA = pa.schema(
    [*STAGED_SCHEMA, REPORT_SCHEMA.field("carried_from"), *DUPLICATE_COLUMNS, *VERDICT_COLUMNS, CALIBRATED]
)
"""A row before the policy decides it, staged or carried over."""
GATHERED_SCHEMA = pa.schema(
    [
        *ROW_SCHEMA,
        pa.field("chosen", pa.int32()),
        pa.field("facts", pa.int16()),
        *(REPORT_SCHEMA.field(n).with_name(f"earlier_{n}") for n in EARLIER),
    ]
)
"""A row before duplicates are known: `ROW_SCHEMA`, the policy's choice for it so far, the causes that it may have
changed for, and columns of its object's earlier row."""


@dataclass(frozen=True)
class Listed:
    """Listing of a range.

    Attributes:
        todo, unchanged: objects that were read in this run, and those that are carried over; `LISTING_SCHEMA`.
    """

    part: Range
    todo: pa.Table
    unchanged: pa.Table

    @property
    def last(self) -> str | None:
        """The last URI; None where nothing is listed."""
        ends = pa.array([pc.max(rows["uri"]).as_py() for rows in (self.todo, self.unchanged)], pa.string())
        found: str | None = pc.max(ends).as_py()
        return found


@dataclass(frozen=True)
class Bounded:
    """A listed range, and the bounds of the earlier rows that belong to it.

    Attributes:
        after, upto: `after < uri <= upto`; None: no bound.
    """

    listed: Listed
    after: str | None
    upto: str | None


@dataclass(frozen=True)
class Gathered:
    """Rows of a range.

    Attributes:
        rows: of `GATHERED_SCHEMA`, one for each listed object.
        flagged: a mask of the flagged ones.
        worked: of the objects that were read in this run, what was done with them.
        gone: `CHANGES_SCHEMA` of the objects that are deleted.
    """

    rows: pa.Table
    flagged: pa.Array
    worked: pa.Table
    gone: pa.Table


@dataclass(frozen=True)
class Gatherer:
    """Gathers the ranges of a run.

    Attributes:
        threads: read the parts of shards.
        banks: to match carried rows with again; None: carried rows keep their matches.
        known: illegal contents that the store knows.
        facts: the settings behind the previous rows and behind those of this run.
        calibration: fills `calibrated_score`; None: it is null.
    """

    run: Run
    previous: PreviousReports
    decider: Decider
    config: ScanConfig
    threads: ThreadPoolExecutor
    facts: Facts
    verdicts: StandingVerdicts
    known: KnownIllegal
    banks: BankSet | None
    calibration: Calibration | None

    def listed(self, part: Range) -> Listed:
        """Read the listing of a range."""
        return Listed(part, ShardReader(self.run.folder).together(part.shards), read_carried(self.run.folder, part))

    def gather(self, bounded: Bounded) -> Gathered:
        """Read a range's staged, carried and earlier rows. Raises BalanceError, StoreError."""
        listed = bounded.listed
        unchanged = listed.unchanged
        staged = pa.concat_tables([STAGED_SCHEMA.empty_table(), *self.threads.map(self._staged, listed.part.shards)])
        staged = staged.combine_chunks()  # each step that follows would pay for each shard's chunk of each column
        check_uris(listed.todo["uri"], staged["uri"])
        uris = pa.concat_arrays([*staged["uri"].chunks, *unchanged["uri"].chunks])
        earlier, place, gone = self._earlier(uris, bounded)
        looked_at = earlier.select(_OF_EARLIER).take(place[: staged.num_rows])
        carried = earlier.take(place[staged.num_rows :])
        check_uris(unchanged["uri"], carried["uri"].drop_null())
        rows = pa.concat_tables(
            [_with_failures(as_schema(staged, ROW_SCHEMA), looked_at), self._carried_over(unchanged, carried)]
        )
        rows = calibrated(self.verdicts.onto(rows), self.calibration)
        rows = _with_matches(rows, BankSet((), self.config.storage, known=self.known.contents).remembered(rows, rows))
        before = pa.concat_tables([looked_at, carried.select(_OF_EARLIER)])
        facts = pa.array(self.facts.causes(rows, before))
        rows = _clustered_as_before(rows, before)
        chosen = self.decider.choose(rows)
        columns = [*rows.columns, pa.array(chosen), facts, *(before[name] for name in EARLIER)]
        flagged = pa.array(self.decider.flagged(chosen))
        return Gathered(pa.table(columns, schema=GATHERED_SCHEMA), flagged, staged.select(_WORKED), gone)

    def _earlier(self, listed: pa.Array, bounded: Bounded) -> tuple[pa.Table, pa.Array, pa.Table]:
        """Read the earlier rows of a range's objects.

        Returns:
            The rows; for each listed object the index of its row among them, null where it has none; and the changes of
            those that are not listed any more.

        Raises:
            BalanceError: an object has two rows.
        """
        found, gone = [PREVIOUS_SCHEMA.empty_table()], [CHANGES_SCHEMA.empty_table()]
        places = [np.empty(0, np.int32)]
        for piece in self.previous.rows(bounded.after, bounded.upto):
            place = pc.index_in(piece["uri"], listed)
            if place.null_count:
                gone.append(deleted_among(piece, listed, self.config.source))
                piece, place = piece.filter(pc.is_valid(place)), place.drop_null()  # noqa: PLW2901
            found.append(piece)
            places.append(place.to_numpy())
        of_listed, earlier = np.concatenate(places), pa.concat_tables(found)
        at = np.full(len(listed), -1)
        at[of_listed] = np.arange(len(of_listed))
        if np.count_nonzero(at >= 0) < len(of_listed):
            check_uris(earlier["uri"].unique(), earlier["uri"])
        return earlier, pa.array(at, mask=at < 0), pa.concat_tables(gone)

    def _carried_over(self, unchanged: pa.Table, earlier: pa.Table) -> pa.Table:
        """Return `carried_over` rows, matched again where this run's banks differ from those of the earlier match."""
        rows = carried_over(unchanged, earlier)
        if self.banks is None or not rows.num_rows:
            return rows
        alike = [base.run.run_id for base in self.previous.runs if base.banks == self.banks.identities]
        other = pc.invert(pc.is_in(earlier["run_id"], pa.array(alike, pa.string()))).combine_chunks()
        if not pc.any(other).as_py():
            return rows
        found = self.banks.matched_again(rows.filter(other))
        columns = [
            pc.replace_with_mask(rows[n].combine_chunks(), other, found[n].combine_chunks()) for n in MATCH.names
        ]
        return _with_matches(rows, pa.table(columns, schema=MATCH))

    def _staged(self, shard: Shard) -> pa.Table:
        try:
            return read_part(self.run.staging, shard)
        except FileNotFoundError:
            raise BalanceError(
                f"shard {shard.name} ({shard.rows} objects) was never finished; run the same command again"
            ) from None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise BalanceError(
                f"the staged part of shard {shard.name} is damaged: delete it from {self.run.staging.uri}, then run "
                "the same command again"
            ) from error


def bounded(listings: Iterable[Listed], ranges: int) -> Iterator[Bounded]:
    """Yield the listings of all ranges, so many, with their bounds, which together leave no URI out."""
    after: str | None = None
    for listed in listings:
        upto = None if listed.part.number == ranges - 1 else listed.last
        yield Bounded(listed, after, upto)
        after = upto


def _with_matches(rows: pa.Table, found: pa.Table) -> pa.Table:
    """Return the rows with the match columns of `found`."""
    for name in MATCH.names:
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), found[name])
    return rows


def _with_failures(rows: pa.Table, earlier: pa.Table) -> pa.Table:
    """Return rows of this run with `failed_decodes`: one more than before where the same bytes failed before.

    Args:
        earlier: rows of the same objects in previous reports, in the same order; null for new objects.
    """
    alike = pc.fill_null(pc.equal(rows["sha256"], earlier["sha256"]), False)
    before = pc.if_else(alike, pc.fill_null(earlier["failed_decodes"], 0), 0)
    failed = pc.and_(pc.is_in(rows["status"], pa.array(list(map(str, POISON)))), pc.is_valid(rows["sha256"]))
    field = rows.schema.field("failed_decodes")
    counted = pc.if_else(failed, pc.add(before, 1), pa.scalar(None, pa.int64())).cast(field.type)
    return rows.set_column(rows.schema.get_field_index(field.name), field, counted)


def _clustered_as_before(rows: pa.Table, earlier: pa.Table) -> pa.Table:
    """Return the rows with the earlier clusters of their contents, also where an unchanged object was read again.

    Args:
        earlier: rows of the same objects in previous reports, in the same order; null for new objects.
    """
    alike = pc.equal(rows["sha256"], earlier["sha256"])
    cluster = pc.if_else(alike, earlier["cluster"], pa.scalar(None, pa.string()))
    return rows.set_column(rows.schema.get_field_index("cluster"), rows.schema.field("cluster"), cluster)


def carried_over(unchanged: pa.Table, earlier: pa.Table) -> pa.Table:
    """Return earlier rows of unchanged objects as `ROW_SCHEMA`, with `carried_from` and the listing's time and truth.

    Args:
        unchanged: table of `LISTING_SCHEMA`.
        earlier: earlier report rows of these objects, in the same order.
    """
    columns = {
        "modified_at": unchanged["modified_at"],
        "truth": unchanged["truth"],
        "accounted_as": pa.repeat(str(Accounted.CARRIED), earlier.num_rows),
        "carried_from": pc.coalesce(earlier["carried_from"], earlier["run_id"]),
    }
    kept = {name: earlier[name] for name in earlier.column_names} | columns
    return as_schema(pa.table(kept), ROW_SCHEMA)
