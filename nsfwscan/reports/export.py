"""Export of a run's report as one file, in its own columns or in another service's format.

A file appears whole or not at all, here, in a store or on standard output. Its rows keep the order of the report, and
memory stays flat. A report that cannot be read, and a store that does not take the file, are a `StoreError`; a file
that cannot be written here is a `ConfigError`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.parquet as pq

from nsfwscan.errors import ConfigError
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.reports import vendor_formats
from nsfwscan.reports.reading import shown_rows
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA, Category, in_utc, score_column
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import to_json
from nsfwscan.text import write_csv

_ANSWER_COLUMNS = ["uri", "status", "error", "model", "nsfw_score", *map(score_column, Category)]


@dataclass(frozen=True)
class Exported:
    """Result of an export: the number of rows, and the files that hold them."""

    rows: int
    files: tuple[Output, ...]


def export_run(run: Run, kind: str, out: Output, reader: str | None = None) -> Exported:
    """Write a run's report as one file.

    Args:
        kind: one of `FORMATS`.
        out: the file to write; replaces an older one.
        reader: `excel` marks a CSV as UTF-8, so that Excel reads it correctly; unset: any program.

    Raises:
        StoreError: the report cannot be read, or the store does not take the file.
        ConfigError: the file cannot be written, or not on standard output: a terminal would act on what rows of CSV and
            Parquet hold, and `rekognition` is two files.
    """
    if out.is_stdout and kind == "rekognition":
        raise ConfigError("rekognition is two files, and standard output is one: name a file with --out")
    if out.is_stdout and kind in ("csv", "parquet") and sys.stdout.isatty():
        raise ConfigError(f"{kind} is no text for a terminal: send standard output to a file or a program")
    try:
        return _csv(run, out, marked=True) if reader == "excel" else FORMATS[kind](run, out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error


def _csv(run: Run, out: Output, *, marked: bool = False) -> Exported:
    """Write all columns as CSV: times in ISO 8601, signals as JSON, null as empty; no text looks like a formula."""
    counted = _Counted(_rows(run, REPORT_SCHEMA.names))
    with out.appearing() as path:
        write_csv(path, REPORT_SCHEMA.names, (list(map(_cell, row.values())) for row in counted), marked=marked)
    return Exported(counted.rows, (out,))


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return json.dumps(signals_of_row(value), sort_keys=True)
    return in_utc(value) if isinstance(value, datetime) else value


def _parquet(run: Run, out: Output) -> Exported:
    """Write all columns of all parts as one Parquet file."""
    rows = 0
    with out.appearing() as path, pq.ParquetWriter(path, REPORT_SCHEMA, compression="zstd") as writer:
        for table in read_rows(run, run.record(), REPORT_SCHEMA.names):
            writer.write_table(table.cast(REPORT_SCHEMA))
            rows += table.num_rows
    return Exported(rows, (out,))


def _rekognition(run: Run, out: Output) -> Exported:
    """Write a bulk analysis's output manifest, and beside it the summary, whose errors are the rows without a score."""
    summary, errors, scored = out.with_suffix(".summary.json"), list[dict[str, Any]](), 0
    with out.appearing() as path, summary.appearing() as summary_path:
        with path.open("w", encoding="utf-8") as file:
            for line, row in enumerate(_rows(run, _ANSWER_COLUMNS), start=1):
                if row["nsfw_score"] is None:
                    errors.append(vendor_formats.rekognition_error(row, line))
                else:
                    file.write(json_line(vendor_formats.rekognition(row)))
                    scored += 1
        counts = {"total": scored + len(errors), "valid": scored, "invalid": len(errors)}
        statistics = {f"{name}-json-lines": count for name, count in counts.items()}
        summary_path.write_bytes(to_json({"version": "1.0", "statistics": statistics, "errors": errors}))
    return Exported(scored + len(errors), (out, summary))


def _answers(answer: Callable[[vendor_formats.Row], dict[str, Any]]) -> Callable[[Run, Output], Exported]:
    """Return a function that writes JSON lines, one line per row."""

    def write(run: Run, out: Output) -> Exported:
        counted = _Counted(_rows(run, _ANSWER_COLUMNS))
        with out.appearing() as path, path.open("w", encoding="utf-8") as file:
            file.writelines(json_line(answer(row)) for row in counted)
        return Exported(counted.rows, (out,))

    return write


FORMATS: dict[str, Callable[[Run, Output], Exported]] = {
    "csv": _csv,
    "parquet": _parquet,
    "rekognition": _rekognition,
    "safesearch": _answers(vendor_formats.safesearch),
    "azure": _answers(vendor_formats.azure),
}
"""The function that writes each format."""


def _rows(run: Run, columns: list[str]) -> Iterator[dict[str, Any]]:
    for table in read_rows(run, run.record(), columns):
        yield from shown_rows(table)


class _Counted:
    """An iterable over rows that counts them as they pass."""

    def __init__(self, rows: Iterator[dict[str, Any]]) -> None:
        self._from = rows
        self.rows = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for row in self._from:
            self.rows += 1
            yield row


def json_line(value: dict[str, Any]) -> str:
    """Render a value as a line of JSON, in ASCII. Raises ValueError for NaN and infinity."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False) + "\n"  # a lone surrogate in a name stays an escape
