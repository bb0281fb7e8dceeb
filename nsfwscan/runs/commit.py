"""Turn staged shards and carried rows into a report.

`write_report` needs a run whose shards are all staged, and the previous reports that its plan was made from. It writes
`report/`, `views/`, `detections/`, `embeddings/`, `text/`, `false_positives/`, `escalations/`, `changes/` and
`known_illegal/`, a few ranges at a time, so memory never holds all rows; what they come to is counted in their order,
so that a report is the same on any number of cores. `workflows/finalize.py` then writes `summary.html`, `run.json` and
`_SUCCESS`. A shard without a part, a part that does not hold exactly its listed objects, or a carried row that is gone
is a `BalanceError`: nothing is committed.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import MATCH, BankSet
from nsfwscan.config import ScanConfig
from nsfwscan.errors import POISON, BalanceError, ErrorCode, RowError, Status
from nsfwscan.location import Location
from nsfwscan.policy.compare import Comparison
from nsfwscan.policy.decide import Decider, Indices
from nsfwscan.policy.rules import Policy
from nsfwscan.runs.balance import Balance, check_uris
from nsfwscan.runs.beside import ALL, PREVIOUS_SCHEMA, TEXT, miscounted
from nsfwscan.runs.calibrations import Calibration, calibrated
from nsfwscan.runs.changes import (
    CHANGES_SCHEMA,
    EARLIER,
    FACTS,
    Behind,
    Facts,
    compared,
    deleted_among,
    outcome_differs,
)
from nsfwscan.runs.drift import FOLDER as DRIFT
from nsfwscan.runs.drift import Night, compare, earlier_nights
from nsfwscan.runs.duplicates import Duplicates, find_duplicates
from nsfwscan.runs.effects import Cascade, Costs, Detections, Media
from nsfwscan.runs.escalations import select_escalations
from nsfwscan.runs.false_positives import is_false_positive, select_false_positives
from nsfwscan.runs.known_illegal import FOLDER, KnownIllegal, contents_of, once
from nsfwscan.runs.plan import Plan, Range, Shard, ShardReader, read_carried
from nsfwscan.runs.previous import PreviousReports
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.figures import DriftRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import read_part, to_parquet
from nsfwscan.runs.summary import Summary
from nsfwscan.schema import (
    CALIBRATED,
    DUPLICATE_COLUMNS,
    REPORT_SCHEMA,
    STAGED_SCHEMA,
    VERDICT_COLUMNS,
    Accounted,
    as_schema,
)
from nsfwscan.storage.objects import fetch
from nsfwscan.text import redacted
from nsfwscan.verdicts.standing import StandingVerdicts, standing

_PARTS_AT_ONCE = 16
_RANGES_AT_ONCE = max(1, min(8, os.cpu_count() or 1))
"""Ranges that are worked on at a time, a thread each; a range of 50,000 rows takes about 200 MB."""
_WORKED = ["reused", "cost", "media", "views", "duration_s", "sandbox"]
"""Staged columns that say what was done with an object."""
_LONGEST = 1024
"""Characters of a URI that `run.json` repeats; a part whose first or last URI is longer is opened to read them."""
ROW_SCHEMA = pa.schema(
    [*STAGED_SCHEMA, REPORT_SCHEMA.field("carried_from"), *DUPLICATE_COLUMNS, *VERDICT_COLUMNS, CALIBRATED]
)
"""A row before the policy decides it, staged or carried over."""


@dataclass
class Report:
    """Files written, and their counts."""

    balance: Balance = field(default_factory=Balance)
    summary: Summary = field(default_factory=Summary)
    changes: Counter[str] = field(default_factory=Counter)
    """Objects by `Change`."""
    causes: Counter[str] = field(default_factory=Counter)
    """Changed objects by `Cause`; an object with several causes counts for each."""
    duplicates: dict[str, Any] = field(default_factory=dict)
    """`duplicates.Found` as JSON types, and `reused`: copies that the model did not see again."""
    costs: Costs = field(default_factory=Costs)
    media: Media = field(default_factory=Media)
    cascade: Cascade = field(default_factory=Cascade)
    night: Night = field(default_factory=Night)
    drift: tuple[DriftRecord, ...] = ()
    detections: Detections | None = None
    """What detectors looked at; None before anything is counted."""
    sandbox: Counter[str] = field(default_factory=Counter)
    """Decoded files by the layers of the sandbox."""
    known: dict[str, Any] | None = None
    """Known illegal contents, counted, and the runs that they come from (`KnownIllegal.as_json`)."""
    verdicts: StandingVerdicts = field(default_factory=StandingVerdicts)
    """People's verdicts that the rows were joined with."""
    calibration: Calibration | None = None
    """That `calibrated_score` was made by."""
    shadows: tuple[Comparison, ...] = ()
    """Comparisons with the decisions of shadow policies."""
    files: list[FileRecord] = field(default_factory=list)
    """Report parts first, ordered by URI."""

    def paths(self, folder: str) -> list[str]:
        """Return the paths of the files under one folder."""
        return [file.path for file in self.files if file.path.startswith(folder + "/")]


def write_report(
    run: Run,
    plan: Plan,
    previous: PreviousReports,
    decider: Decider,
    config: ScanConfig,
    shadows: Sequence[Policy] = (),
    banks: BankSet | None = None,
    known: KnownIllegal | None = None,
    behind: Behind | None = None,
    calibration: Calibration | None = None,
) -> Report:
    """Write the report and its side files range by range, and count the report again from its files.

    Args:
        previous: previous reports of the runs in `plan.previous_runs`.
        config: gives the sources, the report mode, and the limits for reading images again to copy them.
        shadows: shadow policies: their decisions are counted beside the decider's, and no row holds them.
        banks: banks to match carried rows with again; unset: carried rows keep their matches.
        known: illegal contents that the store knows; a row with one of them is illegal, whatever its banks say.
        behind: the settings behind this run's rows, as a cause of changes; unset: those of the newest previous run,
            with this policy.
        calibration: fills `calibrated_score`, of carried rows, too; unset: it is null.

    Raises:
        BalanceError: a listed object lacks its row, or has two.
        StoreError: the store fails.
    """
    report = Report(shadows=tuple(Comparison(Decider(policy)) for policy in shadows), night=Night(config.source.uris))
    report.balance.repeated = plan.repeated
    report.detections, report.calibration = Detections(config.detectors, decider), calibration
    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
        facts = _facts(previous, behind, decider)
        verdicts, known = standing(run.store), known or KnownIllegal()
        commit = _Commit(run, plan, previous, decider, config, banks, known, threads, report, facts, verdicts)
        ranges = map(commit.counted, _at_once(commit.gather, commit.listed()))
        with find_duplicates(ranges, config.duplicates, compared=_compared(previous, config)) as duplicates:
            for written in _at_once(partial(commit.write, duplicates), plan.ranges):
                commit.count(written)
        commit.write_known()
        commit.write_drift()
        report.duplicates = {**duplicates.found.as_dict(), "reused": commit.reused}
    report.files.sort(key=lambda file: not file.path.startswith("report/"))
    report.balance.settle()
    report.verdicts = verdicts
    return report


def _facts(previous: PreviousReports, behind: Behind | None, decider: Decider) -> Facts:
    """Return the settings behind the previous rows and behind those of this run."""
    earlier = {base.run.run_id: Behind.of(base.record) for base in previous.runs}
    newest = next(iter(earlier.values()), Behind("", (), "", ""))
    return Facts(earlier, behind or replace(newest, policy=decider.policy.identity))


_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


def _at_once(function: Callable[[_Given], _Made], items: Iterable[_Given]) -> Iterator[_Made]:
    """Yield the results of a function in the order of the items, of which threads work on a few at a time."""
    with ThreadPoolExecutor(_RANGES_AT_ONCE, thread_name_prefix="range") as threads:
        pending: deque[Future[_Made]] = deque()
        try:
            for item in items:
                pending.append(threads.submit(function, item))
                if len(pending) > _RANGES_AT_ONCE:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # after an error
                future.cancel()


_OF_EARLIER = list(dict.fromkeys(["failed_decodes", *EARLIER, *FACTS]))
"""Columns of an object's earlier row that its new row is compared with."""
_GATHERED = pa.schema(
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
class _Listed:
    """Listing of a range.

    Attributes:
        todo, unchanged: objects that were read in this run, and those that are carried over.
        after, upto: URIs between which the earlier rows lie; None: no bound.
    """

    part: Range
    todo: pa.Table
    unchanged: pa.Table
    after: str | None
    upto: str | None


@dataclass(frozen=True)
class _Gathered:
    """Rows of a range.

    Attributes:
        rows: of `_GATHERED`, one for each listed object.
        flagged: a mask of the flagged ones.
        worked: `_WORKED` of the objects that were read in this run.
        gone: `CHANGES_SCHEMA` of the objects that are deleted.
    """

    part: Range
    rows: pa.Table
    flagged: pa.Array
    worked: pa.Table
    gone: pa.Table


@dataclass(frozen=True)
class _Written:
    """A range that is written.

    Attributes:
        rows: all of its rows, decided.
        false_positives: those among them.
        changes: `CHANGES_SCHEMA`.
        illegal: `KNOWN_SCHEMA`.
        left: number of carried rows that a delta report leaves to the runs that hold them.
        files: in the order in which they are recorded.
        expected: URIs of the report's part.
    """

    rows: pa.Table
    false_positives: pa.Table
    changes: pa.Table
    illegal: pa.Table
    left: int
    files: list[FileRecord]
    expected: pa.ChunkedArray


@dataclass
class _Commit:
    """Gathers all ranges, then writes them.

    `listed`, `counted` and `count` take one range after the other. `gather` and `write` change nothing here, so that
    threads may work on several ranges.
    """

    run: Run
    plan: Plan
    previous: PreviousReports
    decider: Decider
    config: ScanConfig
    banks: BankSet | None
    known: KnownIllegal
    threads: ThreadPoolExecutor
    report: Report
    facts: Facts
    verdicts: StandingVerdicts
    reused: int = 0
    _illegal: list[pa.Table] = field(default_factory=list)

    def listed(self) -> Iterator[_Listed]:
        """Yield the listings of all ranges."""
        after: str | None = None
        for part in self.plan.ranges:
            todo = ShardReader(self.run.folder).together(part.shards)
            unchanged = read_carried(self.run.folder, part)
            ends = pa.array([pc.max(rows["uri"]).as_py() for rows in (todo, unchanged)], pa.string())
            upto = None if part is self.plan.ranges[-1] else pc.max(ends).as_py()
            yield _Listed(part, todo, unchanged, after, upto)
            after = upto

    def gather(self, listed: _Listed) -> _Gathered:
        """Read a range's staged, carried and earlier rows, once."""
        part, unchanged = listed.part, listed.unchanged
        staged = pa.concat_tables([STAGED_SCHEMA.empty_table(), *self.threads.map(self._staged, part.shards)])
        staged = staged.combine_chunks()  # each step that follows would pay for each shard's chunk of each column
        check_uris(listed.todo["uri"], staged["uri"])
        uris = pa.concat_arrays([*staged["uri"].chunks, *unchanged["uri"].chunks])
        earlier, place, gone = self._earlier(uris, listed.after, listed.upto)
        looked_at = earlier.select(_OF_EARLIER).take(place[: staged.num_rows])
        carried = earlier.take(place[staged.num_rows :])
        check_uris(unchanged["uri"], carried["uri"].drop_null())
        rows = pa.concat_tables(
            [_with_failures(as_schema(staged, ROW_SCHEMA), looked_at), self._carried_over(unchanged, carried)]
        )
        rows = calibrated(self.verdicts.onto(rows), self.report.calibration)
        rows = _with_matches(rows, BankSet((), self.config.storage, known=self.known.contents).remembered(rows, rows))
        before = pa.concat_tables([looked_at, carried.select(_OF_EARLIER)])
        facts = pa.array(self.facts.causes(rows, before))
        rows = _clustered_as_before(rows, before)
        chosen = self.decider.choose(rows)
        columns = [*rows.columns, pa.array(chosen), facts, *(before[name] for name in EARLIER)]
        flagged = pa.array(self.decider.flagged(chosen))
        return _Gathered(part, pa.table(columns, schema=_GATHERED), flagged, staged.select(_WORKED), gone)

    def counted(self, gathered: _Gathered) -> tuple[pa.Table, pa.Array]:
        """Count the work on a range, write which objects are deleted, and return its rows and the mask."""
        worked = gathered.worked
        self.reused += pc.sum(worked["reused"]).as_py() or 0
        self.report.costs.add(worked)
        self.report.media.add(worked)
        self.report.sandbox.update(worked["sandbox"].drop_null().to_pylist())
        self._count_changes(gathered.gone)
        self.report.files += self._write("changes", gathered.part, gathered.gone)
        return gathered.rows, gathered.flagged

    def _earlier(self, listed: pa.Array, after: str | None, upto: str | None) -> tuple[pa.Table, pa.Array, pa.Table]:
        """Read the earlier rows of a range's objects.

        Returns:
            The rows; for each listed object the index of its row among them, null where it has none; and the changes of
            those that are not listed any more.

        Raises:
            BalanceError: an object has two rows.
        """
        found, gone = [PREVIOUS_SCHEMA.empty_table()], [CHANGES_SCHEMA.empty_table()]
        places = [np.empty(0, np.int32)]
        for piece in self.previous.rows(after, upto):
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

    def write(self, duplicates: Duplicates, part: Range) -> _Written:
        """Write a range's files."""
        gathered = duplicates.rows(part.number)
        rows = duplicates.settled(gathered.select(ROW_SCHEMA.names))
        rows = calibrated(rows, self.report.calibration)  # a copy has the score of its original now
        beside = {one.folder: one.rows_of(rows) for one in ALL}
        rows = decided(rows, self.decider, self.run.run_id, self._chosen(gathered, rows))
        earlier = gathered.select([f"earlier_{name}" for name in EARLIER]).rename_columns(EARLIER)
        facts = gathered["facts"].to_numpy()
        del gathered  # the rows would be in memory twice
        changes = CHANGES_SCHEMA.empty_table()
        if self.previous.runs:
            changes = compared(rows, earlier, facts, self.facts, self.decider.columns)
        written = rows if self.config.report.mode == "snapshot" else _differing(rows, earlier)
        false_positives = shown = select_false_positives(rows, self.decider.policy.rules_beside_the_model)
        if written is not rows:
            shown = shown.filter(pc.is_in(shown["uri"], written["uri"]))
            beside = {name: some.filter(pc.is_in(some["uri"], written["uri"])) for name, some in beside.items()}
        for wrong in miscounted(written, beside):
            raise BalanceError(f"range {part.number}: {wrong}")
        tables = {
            "changes": changes,
            "report": written.sort_by([("decision", "ascending"), ("uri", "ascending")]),
            **beside,
            "escalations": select_escalations(written),
            "false_positives": self._with_images(shown) if self.config.report.save_images else shown,
        }
        files = [file for folder, some in tables.items() for file in self._write(folder, part, some)]
        left, uris = rows.num_rows - written.num_rows, tables["report"]["uri"]
        return _Written(rows, false_positives, changes, contents_of(rows), left, files, uris)

    def count(self, written: _Written) -> None:
        """Count a range, its report from the written file."""
        rows = written.rows
        self.report.files += written.files
        self._count_changes(written.changes)
        self._illegal = [once([*self._illegal, written.illegal])]
        self.report.balance.leave(written.left)
        for file in written.files:
            if file.path.startswith("report/"):
                self.report.balance.add(written.expected, self.run.folder.read(file.path), file.sha256)
        self.report.summary.add(rows, written.false_positives)
        self.report.cascade.add(rows)
        self.report.night.add(rows)
        if self.report.detections is not None:
            self.report.detections.add(rows)
        for shadow in self.report.shadows:
            shadow.add(rows)

    def _chosen(self, gathered: pa.Table, rows: pa.Table) -> Indices:
        """Return the policy's choices: made again for rows whose columns changed with the search for duplicates."""
        chosen: Indices = gathered["chosen"].to_numpy().copy()
        changed = pc.is_valid(rows["duplicate_of"])  # its scores may be those of its original
        for name in {column.name for column in DUPLICATE_COLUMNS} & set(self.decider.columns):
            changed = pc.or_(changed, pc.invert(_same(rows[name], gathered[name])))
        if pc.any(changed).as_py():
            again = rows.select(self.decider.columns).filter(changed)
            chosen[changed.to_numpy()] = self.decider.choose(again)
        return chosen

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

    def _count_changes(self, rows: pa.Table) -> None:
        self.report.changes.update(rows["change"].to_pylist())
        self.report.causes.update(pc.list_flatten(rows["causes"]).to_pylist())

    def write_known(self) -> None:
        """Write all illegal contents that the store knows after this run."""
        known = once([*self._illegal, self.known.contents])  # this run's match wins over an earlier one
        self.report.files += self._write(FOLDER, Range(0, (), None), known)
        self.report.known = self.known.as_json(known.num_rows)

    def write_drift(self) -> None:
        """Write what the run looked at by source, and compare it with earlier nights."""
        found = self.report.night.as_table()
        if found.num_rows:
            self.report.files += self._write(DRIFT, Range(0, (), None), found)
            self.report.drift = tuple(compare(self.report.night.counts, earlier_nights(self.run.store)))

    def _write(self, kind: str, part: Range, table: pa.Table) -> list[FileRecord]:
        """Write one file, named by its content's SHA-256, and return its record; none for a table without rows."""
        if not table.num_rows:
            return []
        data = to_parquet(table)
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"{kind}/part-{part.number:05d}-{sha256}.parquet"
        self.run.folder.write(path, data, private=kind == TEXT.folder)
        span = _span_of(table) if kind in ("report", "changes") else {}
        return [FileRecord(path=path, rows=table.num_rows, bytes=len(data), sha256=sha256, **span)]

    def _with_images(self, rows: pa.Table) -> pa.Table:
        """Copy the images, and return the rows with the names of the copies.

        The name is null where the object is gone, has changed since it was scored, or was not read in this run.
        """
        asked = rows.select(["uri", "sha256", "object_id", "format", "carried_from"]).to_pylist()
        images = pa.array(list(self.threads.map(self._copy, asked)), pa.string())
        return rows.set_column(rows.schema.get_field_index("image"), "image", images)

    def _copy(self, row: dict[str, Any]) -> str | None:
        limits = self.config.read
        if row["carried_from"] is not None:
            return None
        try:
            found = fetch(
                Location.of(row["uri"]),
                self.config.storage,
                max_bytes=limits.max_bytes,
                timeout_s=limits.timeout_s,
                attempts=limits.attempts,
            )
        except RowError:
            return None
        if hashlib.sha256(found.data).hexdigest() != row["sha256"]:
            return None
        # The object's id, not its name: a key may hold `../`, NUL or a thousand characters.
        name = str(PurePosixPath("false_positives", "images", f"{row['object_id']}.{row['format'].lower()}"))
        self.run.folder.write(name, found.data)
        return name


def _span_of(table: pa.Table) -> dict[str, str]:
    """Return the `first` and `last` URI; nothing where one is too long, or would be redacted."""
    span = pc.min_max(table["uri"]).as_py()
    if any(len(uri) > _LONGEST or redacted(uri) != uri for uri in span.values()):
        return {}
    return {"first": span["min"], "last": span["max"]}


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


def _compared(previous: PreviousReports, config: ScanConfig) -> bool:
    """Return whether near-duplicates among all carried rows are already known.

    They are where each previous run looked for them among all contents, with the same settings and the same sources.
    """
    records = [base.record for base in previous.runs]
    return (
        all(record.duplicates.looked_for_all for record in records)
        and all(record.config.duplicates == config.duplicates for record in records)
        and len({record.config.source.uris for record in records}) <= 1
    )


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


def decided(rows: pa.Table, decider: Decider, run_id: str, chosen: Indices | None = None) -> pa.Table:
    """Return report rows (`REPORT_SCHEMA`) from staged or carried ones.

    Args:
        chosen: the decider's choices for the rows; unset: it chooses now.
    """
    decisions = decider(rows, chosen)
    columns = {
        **{name: rows[name] for name in rows.column_names},
        **{name: decisions[name] for name in decisions.column_names},
        "error_code": _error_codes(rows),
        "false_positive": is_false_positive(rows),
        "run_id": pa.repeat(run_id, rows.num_rows),
    }
    return as_schema(pa.table(columns), REPORT_SCHEMA)


def _error_codes(rows: pa.Table) -> pa.ChunkedArray:
    """Return `error_code`, null exactly where `error` is; by the status where an older nsfwscan made the row."""
    by_status = pc.if_else(pc.equal(rows["status"], str(Status.OK)), str(ErrorCode.NO_SCORE), rows["status"])
    return pc.if_else(
        pc.is_valid(rows["error"]), pc.coalesce(rows["error_code"], by_status), pa.scalar(None, pa.string())
    )


def _differing(rows: pa.Table, earlier: pa.Table) -> pa.Table:
    """Return the rows of a delta report: read in this run, or with another outcome, rule, bank, original, cluster,
    verdict or calibrated score."""
    same = pc.and_(pc.is_valid(rows["carried_from"]), pa.array(~outcome_differs(rows, earlier)))
    for name in ("rule", "match_bank", "duplicate_of", "cluster", "verdict", "appeals", CALIBRATED.name):
        same = pc.and_(same, _same(rows[name], earlier[name]))
    return rows.filter(pc.invert(same))


def _same(now: pa.ChunkedArray, before: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return where two columns are equal; a null equals a null alone."""
    return pc.if_else(pc.is_null(before), pc.is_null(now), pc.fill_null(pc.equal(now, before), False))
