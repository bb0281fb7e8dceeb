"""`nsfwscan doctor`: check sources, store, model and banks before a scan."""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from nsfwscan.api import load_config
from nsfwscan.cli.console import commit_options, echo, exit_codes, hanging, source_storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.options import model_options, sections_of
from nsfwscan.config import merge
from nsfwscan.execution.native_logs import without_native_chatter


@command()
@click.argument("sources", nargs=-1)
@click.option("--out", metavar="STORE", help="Report store to check for writing.")
@model_options
@source_storage_options
@commit_options
@click.option("--address", help="Address of a Ray cluster (default: RAY_ADDRESS, or a local Ray).")
@click.option("--num-cpus", type=click.IntRange(1), help="CPUs of a local Ray (default: all).")
def doctor(sources: tuple[str, ...], out: str | None, config: str | None, preset: str | None, **options: Any) -> None:
    """Check sources, store, model and banks before a scan, and print the findings line by line."""
    from nsfwscan.workflows.doctor import examine

    with without_native_chatter(verbose=False) as stream, exit_codes(Console(file=stream), verbose=False):
        given = {"source": {"uris": sources}, "out": out or ""}
        healthy = True
        for finding in examine(load_config(preset, config, merge(sections_of(options), given))):
            echo(hanging(str(finding)))
            healthy = healthy and not finding.is_failure
        sys.exit(0 if healthy else 1)
