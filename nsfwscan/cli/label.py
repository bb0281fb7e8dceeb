"""`nsfwscan label …`: draw what people should label next, as items for reviewers.

Exit codes are those of all commands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, exit_codes, given_options, storage_options
from nsfwscan.cli.draws import draw_options, write_draw
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.review.audit_sample import Draw
from nsfwscan.review.label_sample import LEVELS, draw_labels
from nsfwscan.runs.run import find_run
from nsfwscan.storage.output import Output


@command()
@click.argument("run")
@draw_options(200)
@storage_options
def label(run: str, n: int, seed: int, floor: int, out: str, **options: Any) -> None:
    """Draw objects of RUN (STORE/runs/ID, or a STORE's newest) whose labels would tell the most, as items for
    reviewers.

    Most are near a threshold of the policy, or detectors disagree on them; none is like what was decided, as far as
    there are others. Each has the probability of being drawn, so that `audit estimate`, `policy solve` and `calibrate`
    take what people say of it; the store keeps the draw. `nsfwscan review --items` makes the page.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=True)
        found = find_run(run, storage, complain)
        draw = draw_labels(found, n, seed, floor)
        write_draw(found, draw, target, "", _strata(draw))


def _strata(draw: Draw) -> Iterator[str]:
    """Yield how many were drawn of each priority, and how many a plain random sample would have."""
    rows = draw.rows.group_by(["stratum", "size", "drawn"]).aggregate([]).to_pylist()
    yield f"  {'priority':<10}{'objects':>12}{'drawn':>8}{'plain sample':>14}"
    for level in LEVELS:
        here = [row for row in rows if row["stratum"].endswith(f" {level}")]
        size, drawn = (sum(row[name] for row in here) for name in ("size", "drawn"))
        if size:
            plain = draw.rows.num_rows * size / draw.objects
            yield f"  {level:<10}{size:>12,}{drawn:>8,}{plain:>14,.1f}"
