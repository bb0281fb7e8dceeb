"""Turn staged shards and carried rows into a report.

`write_report` needs a run whose shards are all staged, and the previous reports that its plan was made from. It writes
`report/`, `views/`, `detections/`, `embeddings/`, `text/`, `false_positives/`, `escalations/`, `changes/` and
`known_illegal/`, a few ranges at a time, so memory never holds all rows. Each range is gathered (`gathering.py`) and
put on local disk; once all are there, duplicates are found (`duplicates.py`), and each range is written (`writing.py`).
What ranges come to is counted in their order, so that a report is the same on any number of cores. Threads work on the
ranges: nearly all of it is done by Arrow and DuckDB, which do not hold Python's lock. `workflows/finalize.py` then
writes `summary.html`, `run.json` and `_SUCCESS`. A shard without a part, a part that does not hold exactly its listed
objects, or a carried row that is gone is a `BalanceError`: nothing is committed.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import ScanConfig
from nsfwscan.policy.compare import Comparison
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy
from nsfwscan.runs.balance import Balance
from nsfwscan.runs.calibrations import Calibration
from nsfwscan.runs.changes import Behind, Facts
from nsfwscan.runs.counts import counts_of
from nsfwscan.runs.drift import FOLDER as DRIFT
from nsfwscan.runs.drift import Night, compare, earlier_nights
from nsfwscan.runs.duplicates import Spool, find_duplicates, spooling
from nsfwscan.runs.effects import Cascade, Costs, Detections, Media
from nsfwscan.runs.gathering import Bounded, Gatherer, bounded
from nsfwscan.runs.known_illegal import FOLDER, KnownIllegal, once
from nsfwscan.runs.plan import Plan
from nsfwscan.runs.previous import PreviousReports
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.figures import DriftRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.summary import Summary
from nsfwscan.runs.writing import Writer, Written, write_part
from nsfwscan.verdicts.standing import StandingVerdicts, standing

_PARTS_AT_ONCE = 16
_RANGES_AT_ONCE = max(1, min(16, os.cpu_count() or 1))
"""Ranges that are worked on at a time, a thread each; a range of 50,000 rows takes about 140 MB."""


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
    facts, verdicts, known = _facts(previous, behind, decider), standing(run.store), known or KnownIllegal()
    commit = _Commit(run, plan, report)
    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads, spooling() as spool:
        commit.gather(
            Gatherer(run, previous, decider, config, threads, facts, verdicts, known, banks, calibration), spool
        )
        duplicates = find_duplicates(spool, config.duplicates, compared=_compared(previous, config))
        commit.write(Writer(run, decider, config, threads, duplicates, facts, calibration))
    commit.write_known(known)
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


@dataclass(frozen=True)
class _Spooled:
    """A gathered range whose rows are in the spool: what remains to be counted."""

    worked: pa.Table
    gone: pa.Table
    files: list[FileRecord]


@dataclass
class _Commit:
    """Works on all ranges of a run, a few at a time, and counts them one after the other."""

    run: Run
    plan: Plan
    report: Report
    reused: int = 0
    _illegal: list[pa.Table] = field(default_factory=list)

    def gather(self, gatherer: Gatherer, spool: Spool) -> None:
        """Put the rows of all ranges into the spool."""

        def spooled(one: Bounded) -> _Spooled:
            found, number = gatherer.gather(one), one.listed.part.number
            spool.write(number, found.rows, found.flagged)
            return _Spooled(found.worked, found.gone, write_part(self.run, "changes", number, found.gone))

        listings = _at_once(gatherer.listed, self.plan.ranges)
        for one in _at_once(spooled, bounded(listings, len(self.plan.ranges))):
            self._count_work(one)

    def _count_work(self, spooled: _Spooled) -> None:
        worked = spooled.worked
        self.reused += pc.sum(worked["reused"]).as_py() or 0
        self.report.costs.add(worked)
        self.report.media.add(worked)
        self.report.sandbox.update(counts_of(worked["sandbox"]))
        self._count_changes(spooled.gone)
        self.report.files += spooled.files

    def write(self, writer: Writer) -> None:
        """Write the files of all ranges, and those of the whole run."""
        for written in _at_once(writer.write, [part.number for part in self.plan.ranges]):
            self._count(written)

    def _count(self, written: Written) -> None:
        report, rows = self.report, written.rows
        report.files += written.files
        self._count_changes(written.changes)
        self._illegal.append(written.illegal)
        report.balance.include(written.balance)
        report.summary.include(written.summary)
        report.cascade.include(written.cascade)
        report.night.include(written.night)
        if report.detections is not None:
            report.detections.add(rows)
        for shadow in report.shadows:
            shadow.add(rows)

    def _count_changes(self, rows: pa.Table) -> None:
        self.report.changes.update(counts_of(rows["change"]))
        self.report.causes.update(counts_of(pc.list_flatten(rows["causes"])))

    def write_known(self, known: KnownIllegal) -> None:
        """Write all illegal contents that the store knows after this run."""
        found = once([*self._illegal, known.contents])  # this run's match wins over an earlier one
        self.report.files += write_part(self.run, FOLDER, 0, found)
        self.report.known = known.as_json(found.num_rows)

    def write_drift(self) -> None:
        """Write what the run looked at by source, and compare it with earlier nights."""
        found = self.report.night.as_table()
        if found.num_rows:
            self.report.files += write_part(self.run, DRIFT, 0, found)
            self.report.drift = tuple(compare(self.report.night.counts, earlier_nights(self.run.store)))


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
