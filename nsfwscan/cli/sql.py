"""`nsfwscan sql`: ask a report store in SQL, or print the SQL that opens it elsewhere.

Exit codes are those of all commands.
"""

from __future__ import annotations

import json
from typing import Any

import click
import pyarrow as pa
from rich.console import Console

from nsfwscan.cli.console import echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.reports.reading import shown_rows
from nsfwscan.reports.store_query import query_store, store_sql
from nsfwscan.storage.store import Store
from nsfwscan.text import printable, redacted

_CELL = 60
"""Most characters of a value in a table."""


@command()
@click.argument("store")
@click.argument("statement", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per row, with whole values.")
@storage_options
def sql(store: str, statement: str | None, as_json: bool, **options: Any) -> None:
    """Run an SQL STATEMENT (DuckDB's) over all committed runs of a report STORE.

    Tables: runs (one row for each run, pruned ones too), rows (the reports), changes, views, detections, text,
    embeddings, escalations, false_positives and drift, each with run_id, run_kind and committed_at; files; verdicts
    (people's). Without STATEMENT, print the SQL that opens the store in DuckDB's own shell.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        if statement is None:
            echo(store_sql(place).rstrip("\n"))
            return
        _print(query_store(place, statement), as_json)


def _print(found: pa.Table, as_json: bool) -> None:
    rows = shown_rows(found)
    if as_json:
        for row in rows:
            click.echo(json.dumps(row, default=str))
    else:
        cells = [found.column_names, *([_cell(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for line in cells:
            echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    text = "" if value is None else printable(redacted(str(value)))
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
