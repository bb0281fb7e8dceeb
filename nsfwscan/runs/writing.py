"""Write the files of a range once its duplicates are known: decide its rows, and divide them among the run's folders.

Rows of `GATHERED_SCHEMA` go in; files under `report/`, `views/`, `detections/`, `embeddings/`, `text/`,
`false_positives/`, `escalations/` and `changes/` come out, each named by its content's SHA-256. The report's part is
read back and checked. A `Writer` is for several threads. Rows that do not fit together are a `BalanceError`, a store
that fails a `StoreError`.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import ScanConfig
from nsfwscan.errors import BalanceError, ErrorCode, RowError, Status
from nsfwscan.location import Location
from nsfwscan.policy.decide import Decider, Indices
from nsfwscan.runs.balance import Balance
from nsfwscan.runs.beside import ALL, TEXT, miscounted
from nsfwscan.runs.calibrations import Calibration, calibrated
from nsfwscan.runs.changes import CHANGES_SCHEMA, EARLIER, Facts, compared, outcome_differs
from nsfwscan.runs.drift import Night
from nsfwscan.runs.duplicates import Duplicates
from nsfwscan.runs.effects import Cascade
from nsfwscan.runs.escalations import select_escalations
from nsfwscan.runs.false_positives import is_false_positive, select_false_positives
from nsfwscan.runs.gathering import ROW_SCHEMA
from nsfwscan.runs.known_illegal import contents_of, once
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import to_parquet
from nsfwscan.runs.summary import Summary
from nsfwscan.schema import CALIBRATED, DUPLICATE_COLUMNS, REPORT_SCHEMA, as_schema
from nsfwscan.storage.objects import fetch
from nsfwscan.text import redacted

_LONGEST = 1024
"""Characters of a URI that `run.json` repeats; a part whose first or last URI is longer is opened to read them."""


@dataclass(frozen=True)
class Written:
    """A range that is written.

    Attributes:
        rows: all of its rows, decided.
        changes: `CHANGES_SCHEMA`.
        illegal: `KNOWN_SCHEMA`, each content once.
        files: in the order in which they are recorded.
        balance: of the range, counted from the written file.
        summary, cascade, night: of the range.
    """

    rows: pa.Table
    changes: pa.Table
    illegal: pa.Table
    files: list[FileRecord]
    balance: Balance
    summary: Summary
    cascade: Cascade
    night: Night


@dataclass(frozen=True)
class Writer:
    """Writes the ranges of a run.

    Attributes:
        threads: copy images.
        duplicates: holds the rows.
        facts: the settings behind the previous rows and behind those of this run.
        calibration: fills `calibrated_score`; None: it is null.
    """

    run: Run
    decider: Decider
    config: ScanConfig
    threads: ThreadPoolExecutor
    duplicates: Duplicates
    facts: Facts
    calibration: Calibration | None

    def write(self, number: int) -> Written:
        """Write a range's files. Raises BalanceError, StoreError."""
        gathered = self.duplicates.rows(number)
        rows = self.duplicates.settled(gathered.select(ROW_SCHEMA.names))
        rows = calibrated(rows, self.calibration)  # a copy has the score of its original now
        beside = {one.folder: one.rows_of(rows) for one in ALL}
        rows = decided(rows, self.decider, self.run.run_id, self._chosen(gathered, rows))
        earlier = gathered.select([f"earlier_{name}" for name in EARLIER]).rename_columns(EARLIER)
        facts = gathered["facts"].to_numpy()
        del gathered  # the rows would be in memory twice
        changes = CHANGES_SCHEMA.empty_table()
        if self.facts.earlier:
            changes = compared(rows, earlier, facts, self.facts, self.decider.columns)
        written = rows if self.config.report.mode == "snapshot" else _differing(rows, earlier)
        false_positives = shown = select_false_positives(rows, self.decider.policy.rules_beside_the_model)
        if written is not rows:
            shown = shown.filter(pc.is_in(shown["uri"], written["uri"]))
            beside = {name: some.filter(pc.is_in(some["uri"], written["uri"])) for name, some in beside.items()}
        for wrong in miscounted(written, beside):
            raise BalanceError(f"range {number}: {wrong}")
        report = written.sort_by([("decision", "ascending"), ("uri", "ascending")])
        tables = {
            "changes": changes,
            "report": report,
            **beside,
            "escalations": select_escalations(written),
            "false_positives": self._with_images(shown) if self.config.report.save_images else shown,
        }
        files = [file for folder, some in tables.items() for file in write_part(self.run, folder, number, some)]
        balance = self._balance(report["uri"], files)
        balance.leave(rows.num_rows - written.num_rows)
        summary, cascade, night = Summary(), Cascade(), Night(self.config.source.uris)
        summary.add(rows, false_positives)
        cascade.add(rows)
        night.add(rows)
        return Written(rows, changes, once([contents_of(rows)]), files, balance, summary, cascade, night)

    def _balance(self, expected: pa.ChunkedArray, files: list[FileRecord]) -> Balance:
        """Read the report's part back, and count it."""
        balance = Balance()
        for file in files:
            if file.path.startswith("report/"):
                balance.add(expected, self.run.folder.read(file.path), file.sha256)
        return balance

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


def write_part(run: Run, folder: str, number: int, table: pa.Table) -> list[FileRecord]:
    """Write the file of a range, named by its content's SHA-256, and return its record; none for a table without
    rows. Raises StoreError."""
    if not table.num_rows:
        return []
    data = to_parquet(table)
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"{folder}/part-{number:05d}-{sha256}.parquet"
    run.folder.write(path, data, private=folder == TEXT.folder)
    span = _span_of(table) if folder in ("report", "changes") else {}
    return [FileRecord(path=path, rows=table.num_rows, bytes=len(data), sha256=sha256, **span)]


def _span_of(table: pa.Table) -> dict[str, str]:
    """Return the `first` and `last` URI; nothing where one is too long, or would be redacted."""
    span = pc.min_max(table["uri"]).as_py()
    if any(len(uri) > _LONGEST or redacted(uri) != uri for uri in span.values()):
        return {}
    return {"first": span["min"], "last": span["max"]}


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
