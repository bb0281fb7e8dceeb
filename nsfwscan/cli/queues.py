"""`nsfwscan queues …`: write the review queues of a committed run, and print a table of them.

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
from nsfwscan.review.context import read_context
from nsfwscan.review.dealing import describe_hands
from nsfwscan.review.hands import write_hands
from nsfwscan.review.queues import check_queues, describe_queues, write_queues
from nsfwscan.review.ranking import EARLIER_RUNS
from nsfwscan.review.roster import read_roster
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output


@command()
@click.argument("run")
@click.option(
    "--out",
    metavar="DIR",
    help="Folder to write, here or in a store (s3://bucket/prefix); - is standard output (default: queues/RUN_ID).",
)
@click.option(
    "--context",
    metavar="FILE",
    help="CSV, JSON lines or Parquet with a column uri; its other columns are added to the items.",
)
@click.option("--queue", "names", multiple=True, metavar="NAME", help="Write only this queue. Repeatable.")
@click.option("--reviewers", metavar="FILE", help="Deal the items to the people of a roster (YAML), one file a person.")
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
    run: str,
    out: str | None,
    context: str | None,
    names: tuple[str, ...],
    reviewers: str | None,
    earlier_runs: int,
    **options: Any,
) -> None:
    """Write the review queues of RUN (STORE/runs/ID, or a STORE's newest), one file per queue.

    The files are JSON lines without pixels. Near-duplicates and copies are one item. Order: severity, reach,
    uncertainty.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        target = None if out is None else Output.given(out, storage, "--out", stdout=reviewers is None)
        roster = None if reviewers is None else read_roster(reviewers, storage)
        known = () if context is None else read_context(context, storage)
        found = find_run(run, storage, complain)
        target = target or Output.given(f"queues/{found.run_id}", storage, "--out")
        if roster is not None:
            check_queues(found.record(), names)
            echo(describe_hands(write_hands(found, target, roster, storage, names, known, earlier_runs)))
        else:
            written = write_queues(found, target, names, known, earlier_runs)
            echo(describe_queues(written), err=target.is_stdout)
        if delta := describe_delta(found.record()):
            echo(delta, err=target.is_stdout)
