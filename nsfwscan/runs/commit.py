"""Staged shards and carried rows to a report.

In: a run whose shards are all staged, and the ledger that its plan was made from. Out: `report/`, `false_positives/`,
`escalations/`, `changes/` and `known_illegal/`; `finalize.py` then writes `summary.html`, `run.json` and `_SUCCESS`. A
map over ranges of the listing: nothing holds all rows at once. A shard without a part, a part that does not hold
exactly its listed objects, or a carried row that is gone, is a `BalanceError`, and nothing is committed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import MATCH, BankSet
from nsfwscan.config import ScanConfig
from nsfwscan.errors import POISON, BalanceError, RowError
from nsfwscan.location import Location
from nsfwscan.policy.compare import Comparison
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy
from nsfwscan.runs.balance import Balance, check_uris
from nsfwscan.runs.changes import CHANGES_SCHEMA, deleted_among, flags_changed
from nsfwscan.runs.duplicates import Duplicates, find_duplicates
from nsfwscan.runs.effects import Cascade, Costs
from nsfwscan.runs.escalations import select_escalations
from nsfwscan.runs.false_positives import is_false_positive, select_false_positives
from nsfwscan.runs.known_illegal import FOLDER, KnownIllegal, contents_of, once
from nsfwscan.runs.plan import Plan, Range, Shard, ShardReader, read_carried
from nsfwscan.runs.previous import PreviousReports
from nsfwscan.runs.record import FileRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import read_part, to_parquet
from nsfwscan.runs.summary import Summary
from nsfwscan.schema import (
    DUPLICATE_COLUMNS,
    FLAGGED,
    LISTING_SCHEMA,
    REPORT_SCHEMA,
    STAGED_SCHEMA,
    Accounted,
    as_schema,
)
from nsfwscan.storage.objects import fetch
from nsfwscan.text import redacted

_PARTS_AT_ONCE = 16
_LONGEST = 1024
"""Of a URI that `run.json` repeats; a part with longer ones at its ends is opened to know them."""
ROW_SCHEMA = pa.schema([*STAGED_SCHEMA, REPORT_SCHEMA.field("carried_from"), *DUPLICATE_COLUMNS])
"""A row before it is decided: as it was staged, or carried over."""


@dataclass
class Report:
    """What was written, and what it adds up to."""

    balance: Balance = field(default_factory=Balance)
    summary: Summary = field(default_factory=Summary)
    changes: Counter[str] = field(default_factory=Counter)
    """How many objects, by `Change`."""
    duplicates: dict[str, Any] = field(default_factory=dict)
    """How much is the same (`duplicates.Found`), and how many images the model did not see again (`reused`)."""
    costs: Costs = field(default_factory=Costs)
    cascade: Cascade = field(default_factory=Cascade)
    sandbox: Counter[str] = field(default_factory=Counter)
    """How many files were decoded under which layers of the sandbox."""
    known: dict[str, Any] | None = None
    """What is known of illegal contents, and from where (`KnownIllegal.as_json`)."""
    shadows: tuple[Comparison, ...] = ()
    """What policies that decide nothing would have decided."""
    files: list[FileRecord] = field(default_factory=list)
    """Report parts first, in the order of their URIs."""

    def paths(self, folder: str) -> list[str]:
        """The files under one folder."""
        return [file.path for file in self.files if file.path.startswith(folder + "/")]


def write_report(
    run: Run,
    plan: Plan,
    ledger: PreviousReports,
    decider: Decider,
    config: ScanConfig,
    shadows: Sequence[Policy] = (),
    banks: BankSet | None = None,
    known: KnownIllegal | None = None,
) -> Report:
    """Writes report, false positives and changes range by range, and recounts the report from its files.

    Args:
        ledger: of the runs in `plan.bases`.
        config: its sources, report mode, and how to read again what is copied.
        shadows: policies whose decisions are counted beside the decider's, and stand in no row.
        banks: what carried rows are matched with again; unset: their matches stay as they are.
        known: illegal contents that the store knows of; a row with one of them is illegal, whatever was matched.

    Raises:
        BalanceError: a listed object lacks its row, or has two.
        StoreError: the store fails.
    """
    report = Report(shadows=tuple(Comparison(Decider(policy)) for policy in shadows))
    report.balance.repeated = plan.repeated
    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
        commit = _Commit(run, ledger, decider, config, banks, known or KnownIllegal(), threads, report)
        spans = list(commit.spans(plan))
        compared = _compared(ledger, config)
        with find_duplicates(map(commit.facts, spans), config.duplicates, compared=compared) as duplicates:
            for span in spans:
                commit.write(span, duplicates)
        commit.write_known()
        report.duplicates = {**duplicates.found.as_dict(), "reused": commit.reused}
    report.balance.settle()
    return report


@dataclass(frozen=True)
class _Span:
    """A range, and what it speaks for: the URIs with `after < uri <= upto`; None: no bound."""

    part: Range
    after: str | None
    upto: str | None


@dataclass(frozen=True)
class _Gathered:
    """What is known of a range before anything is decided."""

    span: _Span
    rows: pa.Table
    """`ROW_SCHEMA`, one for each listed object."""
    earlier: pa.Table
    """Their rows in earlier reports."""
    deleted: pa.Table
    """Objects that are gone since then, as `CHANGES_SCHEMA`."""
    worked: pa.Table
    """`reused, cost, sandbox` of the rows that were staged."""


@dataclass
class _Commit:
    """One range after the other."""

    run: Run
    ledger: PreviousReports
    decider: Decider
    config: ScanConfig
    banks: BankSet | None
    known: KnownIllegal
    threads: ThreadPoolExecutor
    report: Report
    reused: int = 0
    _held: _Gathered | None = None
    _illegal: list[pa.Table] = field(default_factory=list)

    def spans(self, plan: Plan) -> Iterator[_Span]:
        """The ranges, with the URIs that they speak for."""
        after: str | None = None
        for part in plan.ranges:
            upto = self._last_of(part) if part is not plan.ranges[-1] else None
            yield _Span(part, after, upto)
            after = upto

    def _last_of(self, part: Range) -> str:
        last = [read_carried(self.run.folder, part)]
        if part.shards:
            last.append(ShardReader(self.run.folder)(part.shards[-1]))
        return str(max(table["uri"][-1].as_py() for table in last if table.num_rows))

    def facts(self, span: _Span) -> tuple[pa.Table, pa.ChunkedArray]:
        """The rows of a range, and which of them are flagged."""
        gathered = self.gather(span)
        rows = _clustered_as_before(gathered.rows, gathered.earlier)
        return rows, pc.is_in(self.decider(rows)["decision"], pa.array(sorted(FLAGGED)))

    def gather(self, span: _Span) -> _Gathered:
        """Reads a range: what was staged, what is carried over, and what was known before."""
        if self._held is not None and self._held.span == span:
            return self._held
        part, read_listing = span.part, ShardReader(self.run.folder)
        todo = pa.concat_tables([LISTING_SCHEMA.empty_table(), *map(read_listing, part.shards)])
        staged = pa.concat_tables([STAGED_SCHEMA.empty_table(), *self.threads.map(self._staged, part.shards)])
        check_uris(todo["uri"], staged["uri"])
        unchanged = read_carried(self.run.folder, part)
        listed = pa.concat_arrays([*todo["uri"].chunks, *unchanged["uri"].chunks])
        earlier, deleted = self._earlier(span, listed)
        looked_at = _with_failures(as_schema(staged, ROW_SCHEMA), earlier)
        rows = pa.concat_tables([looked_at, self._carried_over(unchanged, earlier)])
        rows = _with_matches(rows, BankSet((), self.config.storage, known=self.known.contents).remembered(rows, rows))
        self._held = _Gathered(span, rows, earlier, deleted, staged.select(["reused", "cost", "sandbox"]))
        return self._held

    def _carried_over(self, unchanged: pa.Table, earlier: pa.Table) -> pa.Table:
        """As `carried_over`; matched again where today's banks are not those that the rows were matched with."""
        rows = carried_over(unchanged, earlier)
        if self.banks is None or not rows.num_rows:
            return rows
        alike = [base.run.run_id for base in self.ledger.bases if base.banks == self.banks.identities]
        by_run = earlier.filter(pc.is_in(earlier["uri"], unchanged["uri"])).sort_by("uri")["run_id"]
        other = pc.invert(pc.is_in(by_run, pa.array(alike, pa.string()))).combine_chunks()
        if not pc.any(other).as_py():
            return rows
        found = self.banks.matched_again(rows.filter(other))
        columns = [
            pc.replace_with_mask(rows[n].combine_chunks(), other, found[n].combine_chunks()) for n in MATCH.names
        ]
        return _with_matches(rows, pa.table(columns, schema=MATCH))

    def write(self, span: _Span, duplicates: Duplicates) -> None:
        """Writes a range's files."""
        gathered, self._held = self.gather(span), None
        part, earlier = span.part, gathered.earlier
        self.reused += pc.sum(gathered.worked["reused"]).as_py() or 0
        self.report.costs.add(gathered.worked)
        self.report.sandbox.update(gathered.worked["sandbox"].drop_null().to_pylist())
        self._write_changes(part, gathered.deleted)
        rows = decided(duplicates.settled(gathered.rows), self.decider, self.run.run_id)
        del gathered  # the rows would be in memory twice
        if self.ledger.bases:
            self._write_changes(part, flags_changed(rows, earlier))
        self._illegal = [once([*self._illegal, contents_of(rows)])]
        written = rows if self.config.report.mode == "snapshot" else _differing(rows, earlier)
        false_positives = select_false_positives(rows)
        self._write_report(part, written, left=rows.num_rows - written.num_rows)
        self._write_escalations(part, select_escalations(written))
        self._write_false_positives(part, false_positives.filter(pc.is_in(false_positives["uri"], written["uri"])))
        self.report.summary.add(rows, false_positives)
        self.report.cascade.add(rows)
        for shadow in self.report.shadows:
            shadow.add(rows)

    def _staged(self, shard: Shard) -> pa.Table:
        try:
            return read_part(self.run.staging, shard)
        except FileNotFoundError:
            raise BalanceError(
                f"shard {shard.name} ({shard.rows} objects) was never finished; run the same command again"
            ) from None
        except (pa.ArrowException, OSError) as error:
            raise BalanceError(
                f"the staged part of shard {shard.name} is damaged: delete it from {self.run.staging.uri}, then run "
                "the same command again"
            ) from error

    def _earlier(self, span: _Span, listed: pa.Array) -> tuple[pa.Table, pa.Table]:
        """The earlier rows of the listed objects; and those of objects that are gone, as changes."""
        found, gone = [REPORT_SCHEMA.empty_table()], [CHANGES_SCHEMA.empty_table()]
        for piece in self.ledger.rows(span.after, span.upto):
            gone.append(deleted_among(piece, listed, self.config.source))
            found.append(piece.filter(pc.is_in(piece["uri"], listed)))
        return pa.concat_tables(found), pa.concat_tables(gone)

    def _write_report(self, part: Range, rows: pa.Table, *, left: int) -> None:
        """Writes the report part of a range, and counts it as it lies there.

        Args:
            left: carried rows that a delta report leaves to the runs that hold them.
        """
        self.report.balance.leave(left)
        if rows.num_rows:
            ordered = rows.sort_by([("decision", "ascending"), ("uri", "ascending")])
            path, sha256 = self._write("report", part, ordered)
            self.report.balance.add(rows["uri"], self.run.folder.read(path), sha256)

    def _write_false_positives(self, part: Range, rows: pa.Table) -> None:
        if rows.num_rows:
            copied = self._with_images(rows) if self.config.report.save_images else rows
            self._write("false_positives", part, copied)

    def _write_escalations(self, part: Range, rows: pa.Table) -> None:
        if rows.num_rows:
            self._write("escalations", part, rows)

    def write_known(self) -> None:
        """Writes what is known of illegal contents from now on."""
        known = once([*self._illegal, self.known.contents])  # today's match before that of then
        if known.num_rows:
            self._write(FOLDER, Range(0, (), None), known)
        self.report.known = self.known.as_json(known.num_rows)

    def _write_changes(self, part: Range, rows: pa.Table) -> None:
        if rows.num_rows:
            self.report.changes.update(rows["change"].to_pylist())
            self._write("changes", part, rows)

    def _write(self, kind: str, part: Range, table: pa.Table) -> tuple[str, str]:
        """Writes one file under its content's SHA-256, and records it."""
        data = to_parquet(table)
        sha256 = hashlib.sha256(data).hexdigest()
        path = f"{kind}/part-{part.number:05d}-{sha256}.parquet"
        self.run.folder.write(path, data)
        span = _span_of(table) if kind == "report" else {}
        self.report.files.append(FileRecord(path=path, rows=table.num_rows, bytes=len(data), sha256=sha256, **span))
        return path, sha256

    def _with_images(self, rows: pa.Table) -> pa.Table:
        """The rows with the names of their copies; null where the object is gone or has changed since it was scored,
        and where it was not looked at in this run."""
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
    """`first` and `last` URI, where they may be written down as they are."""
    span = pc.min_max(table["uri"]).as_py()
    if any(len(uri) > _LONGEST or redacted(uri) != uri for uri in span.values()):
        return {}
    return {"first": span["min"], "last": span["max"]}


def _with_matches(rows: pa.Table, found: pa.Table) -> pa.Table:
    """The rows with other match columns."""
    for name in MATCH.names:
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), found[name])
    return rows


def _with_failures(rows: pa.Table, earlier: pa.Table) -> pa.Table:
    """Rows of this run with `failed_decodes`: one more than before, where the same bytes failed then, too."""
    place = pc.index_in(rows["uri"], earlier["uri"])
    alike = pc.fill_null(pc.equal(rows["sha256"], earlier["sha256"].take(place)), False)
    before = pc.if_else(alike, pc.fill_null(earlier["failed_decodes"].take(place), 0), 0)
    failed = pc.and_(pc.is_in(rows["status"], pa.array(list(map(str, POISON)))), pc.is_valid(rows["sha256"]))
    field = rows.schema.field("failed_decodes")
    counted = pc.if_else(failed, pc.add(before, 1), pa.scalar(None, pa.int64())).cast(field.type)
    return rows.set_column(rows.schema.get_field_index(field.name), field, counted)


def _clustered_as_before(rows: pa.Table, earlier: pa.Table) -> pa.Table:
    """The rows with the clusters that their contents had, also those that were read anew, as by another model."""
    place = pc.index_in(rows["uri"], earlier["uri"])
    alike = pc.equal(rows["sha256"], earlier["sha256"].take(place))
    cluster = pc.if_else(alike, earlier["cluster"].take(place), pa.scalar(None, pa.string()))
    return rows.set_column(rows.schema.get_field_index("cluster"), rows.schema.field("cluster"), cluster)


def _compared(ledger: PreviousReports, config: ScanConfig) -> bool:
    """Whether the near-duplicates among all carried rows were found before: each run that they are from looked for them
    among all contents of the same sources, as this one does."""
    records = [base.record for base in ledger.bases]
    return (
        all(record.duplicates.looked_for_all for record in records)
        and all(record.config.duplicates == config.duplicates for record in records)
        and len({record.config.source.uris for record in records}) <= 1
    )


def carried_over(unchanged: pa.Table, earlier: pa.Table) -> pa.Table:
    """The earlier rows of unchanged objects as staged ones, with `carried_from`; time and truth as they are known now.

    Args:
        unchanged: `LISTING_SCHEMA`.
        earlier: report rows, one for each URI.

    Raises:
        BalanceError: an unchanged object has no earlier row.
    """
    rows = earlier.filter(pc.is_in(earlier["uri"], unchanged["uri"])).sort_by("uri")
    unchanged = unchanged.sort_by("uri")
    check_uris(unchanged["uri"], rows["uri"])
    columns = {
        "modified_at": unchanged["modified_at"],
        "truth": unchanged["truth"],
        "accounted_as": pa.array([str(Accounted.CARRIED)] * rows.num_rows, pa.string()),
        "carried_from": pc.coalesce(rows["carried_from"], rows["run_id"]),
    }
    kept = {name: rows[name] for name in rows.column_names} | columns
    return as_schema(pa.table(kept), ROW_SCHEMA)


def decided(rows: pa.Table, decider: Decider, run_id: str) -> pa.Table:
    """Report rows from those that were staged or carried over."""
    decisions = decider(rows)
    columns = {
        **{name: rows[name] for name in rows.column_names},
        **{name: decisions[name] for name in decisions.column_names},
        "false_positive": is_false_positive(rows),
        "run_id": pa.array([run_id] * rows.num_rows, pa.string()),
    }
    return as_schema(pa.table(columns), REPORT_SCHEMA)


def _differing(rows: pa.Table, earlier: pa.Table) -> pa.Table:
    """The rows that say something new: looked at in this run, decided differently, or alike to others than before."""
    place = pc.index_in(rows["uri"], earlier["uri"])
    same = pc.is_valid(rows["carried_from"])
    for name in ("decision", "duplicate_of", "cluster"):
        now, before = (pc.fill_null(column, "") for column in (rows[name], earlier[name].take(place)))
        same = pc.and_(same, pc.equal(now, before))
    return rows.filter(pc.invert(same))
