"""`nsfwscan quarantine RUN --where SQL`: write a manifest of objects to hide or delete, or to keep.

Exit codes are those of all commands.
"""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.terminal import describe_delta
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output
from nsfwscan.text import plural, printable
from nsfwscan.workflows.quarantine import write_manifest


@command()
@click.argument("run")
@click.option("--where", required=True, metavar="SQL", help="Condition over the report's columns: decision = 'block'.")
@click.option("--reason", required=True, metavar="TEXT", help="Why: a rule, a case, a law.")
@click.option("--by", metavar="NAME", help="Who says so; a hold needs it.")
@click.option("--hold", is_flag=True, help="The objects are to be kept, for a court or an authority.")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="File to write, here or in a store (s3://bucket/key); - is standard output.",
)
@storage_options
def quarantine(run: str, where: str, reason: str, by: str | None, hold: bool, out: str, **options: Any) -> None:
    """Write a manifest of objects of RUN (STORE/runs/ID, or a STORE's newest) to hide or delete, or to keep (--hold).

    It is a plan: JSON lines with URI, version, hashes, reason and run, without pixels, that another program or a person
    carries out. This command touches no object.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        if hold and not (by or "").strip():
            raise ConfigError("--by is missing: a legal hold says who asks for it")
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=True)
        found = find_run(run, storage, complain)
        rows = write_manifest(found, where, "hold" if hold else "quarantine", reason, by, target)
        what = "to keep" if hold else "to quarantine"
        echo(f"{plural(rows, 'object')} {what} in {printable(str(target))}; nothing was touched", err=target.is_stdout)
        if delta := describe_delta(found.record()):
            echo(delta, err=target.is_stdout)
