"""`nsfwscan runs` and `nsfwscan gc`: what is in a report store, and what is left over in it."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import print_json, runs_json
from nsfwscan.cli.terminal import describe_run
from nsfwscan.config import StorageConfig
from nsfwscan.runs.garbage import GIVEN_UP, collect
from nsfwscan.runs.overview import overview
from nsfwscan.storage.store import Store
from nsfwscan.text import printable


@command()
@click.argument("store")
@storage_options
@json_option
def runs(store: str, as_json: bool, **options: Any) -> None:
    """List the runs of a report STORE with their states, the newest last."""
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        found = overview(place)
        if as_json:
            print_json(runs_json(place.uri, found))
            return
        for run in found:
            echo(describe_run(run))
        if not found:
            echo(f"no runs in {printable(store)}")


@command()
@click.argument("store")
@click.option(
    "--older-than",
    type=click.FloatRange(0, 36_500),
    metavar="DAYS",
    default=GIVEN_UP / timedelta(days=1),
    show_default=True,
    help="Age of the last work on an unfinished run, after which it counts as abandoned.",
)
@click.option("--dry-run", is_flag=True, help="List what would be removed; remove nothing.")
@storage_options
def gc(store: str, older_than: float, dry_run: bool, **options: Any) -> None:
    """Remove abandoned staging and half-written files from a report STORE.

    Exit with 1 if something could not be removed.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        reports = Store.at(store, StorageConfig.of(given_options(options)))
        done, found, failed = "would remove" if dry_run else "removed", False, False
        for folder in collect(reports, older_than=timedelta(days=older_than), dry_run=dry_run):
            if folder.failed is not None:
                complain(f"{folder.folder}/{folder.run_id} could not be removed: {folder.failed}")
                failed = True
                continue
            what = f"{folder.folder}/{folder.run_id}" + ("" if folder.folder == "staging" else "/**/.tmp-*")
            echo(f"{done} {what}  {folder.files:,} files  {folder.reason}")
            found = True
        if not found and not failed:
            echo(f"nothing abandoned in {printable(reports.uri)}")
        sys.exit(1 if failed else 0)
