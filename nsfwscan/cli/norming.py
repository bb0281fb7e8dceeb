"""`nsfwscan norming …`: give the same items to all reviewers, and say how well they agree.

Exit codes are those of all commands.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import (
    complain,
    echo,
    exit_codes,
    given_options,
    json_option,
    source_storage_options,
    storage_options,
)
from nsfwscan.cli.help import group
from nsfwscan.cli.json_text import print_json
from nsfwscan.config import StorageConfig
from nsfwscan.review.norming import describe_norming, write_norming
from nsfwscan.review.norming_sample import DISPUTED, draw_norming
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural, printable


@group()
def norming() -> None:
    """See whether reviewers mean the same: give all of them the same items, and compare what they say."""


@norming.command("draw")
@click.argument("run")
@click.option("--reviewer", "reviewers", multiple=True, required=True, metavar="NAME", help="Who decides. Repeatable.")
@click.option("--n", type=click.IntRange(1, 1000), default=30, show_default=True, help="Items to draw.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws others of the same kind.")
@click.option("--out", required=True, metavar="DIR", help="Folder for a file of items for each reviewer.")
@storage_options
def draw_command(run: str, reviewers: tuple[str, ...], n: int, seed: int, out: str, **options: Any) -> None:
    """Draw items of RUN (STORE/runs/ID, or a STORE's newest) that all reviewers decide, each in an order of their own.

    Half are contents that people disagreed on before, the others are near a threshold of the policy; none was in an
    earlier norming. `nsfwscan review RUN --items DIR/NAME.jsonl` makes a reviewer's page, and `nsfwscan verdicts
    import` takes in what they decided. It decides nothing about the content.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out")
        found = draw_norming(find_run(run, storage, complain), reviewers, n, seed, target)
        why = Counter(found.rows["why"].to_pylist())
        drawn = f"{plural(found.rows.num_rows, 'item')} for {plural(len(reviewers), 'reviewer')}"
        echo(f"norming {found.norming_id}: {drawn}, {why[DISPUTED]:,} of them disputed before")
        echo(f"in {printable(str(target))}: `nsfwscan review {printable(run)} --items FILE` makes a page of each")


@norming.command("report")
@click.argument("store")
@click.argument("norming_id", metavar="NORMING")
@click.option("--out", required=True, metavar="DIR", help="Folder for the page (norming.html), here or in a store.")
@click.option("--covers/--no-covers", default=True, help="Read the originals, and draw covers (default).")
@json_option
@source_storage_options
def report_command(store: str, norming_id: str, out: str, covers: bool, as_json: bool, **options: Any) -> None:
    """Say how well people agreed on NORMING of a report STORE, and write a page of what they disputed.

    Krippendorff's alpha of all, Cohen's kappa of each two, with 95 % intervals; what is taken for what; and the most
    disputed items with their covers and the reasons that people gave.
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out")
        found = write_norming(Store.at(store, storage), norming_id, target, storage, covers=covers)
        if as_json:
            print_json({"exit_code": 0, **found.as_json()})
        else:
            echo(describe_norming(found))
