"""`nsfwscan export`: write a report as one file."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.terminal import describe_delta
from nsfwscan.config import StorageConfig
from nsfwscan.reports.export import FORMATS, export_run
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output


@command()
@click.argument("run")
@click.option(
    "--format",
    "kind",
    type=click.Choice(list(FORMATS)),
    required=True,
    help="The report's own columns (csv, parquet), or the format of another service.",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="File to write, here or in a store (s3://bucket/key); - is standard output.",
)
@click.option("--for", "reader", type=click.Choice(["excel"]), help="Program that will open the CSV.")
@storage_options
def export(run: str, kind: str, out: str, reader: str | None, **options: Any) -> None:
    """Write the report of RUN (STORE/runs/ID, or a STORE's newest) as one file.

    rekognition: the output manifest of a bulk analysis (JSON lines) and its summary; safesearch, azure: one response
    per image (JSON lines). The CSV is safe to open in a spreadsheet, and has no row limit; --for excel marks it as
    UTF-8, so that Excel shows names correctly.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=True)
        if reader and kind != "csv":
            raise click.UsageError("--for excel is for --format csv")
        found = find_run(run, storage, complain)
        exported = export_run(found, kind, target, reader)
        files = ", ".join(map(str, exported.files))
        echo(f"{exported.rows:,} rows of run {found.run_id} in {files}", err=target.is_stdout)
        if delta := describe_delta(found.record()):
            echo(delta, err=target.is_stdout)
