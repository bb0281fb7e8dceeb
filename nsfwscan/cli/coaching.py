"""`nsfwscan coaching …`: write a page on how well a team's verdicts agree, and print the figures.

Exit codes are those of all commands.
"""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.review.coaching import DAYS, describe_coaching, write_coaching
from nsfwscan.review.hands import answers
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store


@command()
@click.argument("store")
@click.option("--golden", metavar="FILE", help="Table with uri and verdict: the known answers of golden items.")
@click.option(
    "--days",
    type=click.IntRange(1),
    default=DAYS,
    show_default=True,
    help="Use the verdicts of this many days, up to today.",
)
@click.option("--people", is_flag=True, help="Also show the figures of each person (default: the team's alone).")
@click.option("--out", metavar="DIR", default="coaching", show_default=True, help="Folder to write.")
@storage_options
def coaching(store: str, golden: str | None, days: int, people: bool, out: str, **options: Any) -> None:
    """Say how well the verdicts in STORE agree with each other and with known answers.

    The figures are for coaching: nobody is ranked, and speed is not shown.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out")
        known = answers(golden, storage) if golden else {}
        written = write_coaching(Store.at(store, storage), target, known, days=days, people=people)
        echo(describe_coaching(written))
