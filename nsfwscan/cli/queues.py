"""`nsfwscan queues …`: write the review queues of a committed run, and print a table of them.

Exit codes are those of all commands.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.terminal import describe_delta
from nsfwscan.config import StorageConfig
from nsfwscan.review.context import read_context
from nsfwscan.review.queues import describe_queues, write_queues
from nsfwscan.review.ranking import EARLIER_RUNS
from nsfwscan.runs.run import find_run


@click.command()
@click.argument("run")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder to write (default: queues/RUN_ID).",
)
@click.option(
    "--context",
    metavar="FILE",
    help="CSV, JSON lines or Parquet with a column uri; its other columns are added to the items.",
)
@click.option("--queue", "names", multiple=True, metavar="NAME", help="Write only this queue. Repeatable.")
@click.option(
    "--earlier-runs",
    type=click.IntRange(0),
    metavar="N",
    default=EARLIER_RUNS,
    show_default=True,
    help="Number of earlier runs whose decisions are added.",
)
@storage_options
def queues(
    run: str, out: Path | None, context: str | None, names: tuple[str, ...], earlier_runs: int, **options: Any
) -> None:
    """Write the review queues of RUN (STORE/runs/ID, or a STORE's newest), one file per queue.

    The files are JSON lines without pixels. Near-duplicates and copies are one item. Order: severity, reach,
    uncertainty.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        found = find_run(run, storage, complain)
        known = read_context(context, storage) if context else ()
        written = write_queues(found, out or Path("queues", found.run_id), names, known, earlier_runs)
        echo(describe_queues(written))
        if delta := describe_delta(found.record()):
            echo(delta)
