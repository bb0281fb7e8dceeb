"""What the commands that draw objects for people to decide share: their options, and what they say at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from nsfwscan.cli.console import echo
from nsfwscan.cli.terminal import describe_delta
from nsfwscan.review.audit_sample import FLOOR, Draw
from nsfwscan.review.audits import write_items
from nsfwscan.runs.run import Run
from nsfwscan.storage.output import Output
from nsfwscan.text import plural, printable

_Command = TypeVar("_Command", bound=Callable[..., Any])


def draw_options(n: int) -> Callable[[_Command], _Command]:
    """Return a decorator that adds --n (by default `n`), --seed, --floor and --out."""
    least = "Least number of objects of a stratum."
    file = "File for the items, here or in a store; - is standard output."
    options = [
        click.option("--n", type=click.IntRange(1), default=n, show_default=True, help="Objects to draw."),
        click.option("--seed", type=int, default=0, show_default=True, help="Another seed draws other objects."),
        click.option("--floor", type=click.IntRange(1), default=FLOOR, show_default=True, help=least),
        click.option("--out", required=True, metavar="FILE", help=file),
    ]

    def decorate(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def write_draw(run: Run, draw: Draw, target: Output, first: str, more: Iterable[str] = ()) -> None:
    """Write the items of a draw, and say what was drawn.

    Args:
        first: words after the number of objects, such as from how many strata.
        more: further lines, after the first.
    """
    items = write_items(run, draw, target)
    lines = [
        f"{draw.design} {draw.audit_id}: {plural(draw.rows.num_rows, 'object')} of {draw.objects:,} drawn{first}",
        *more,
        f"{plural(items, 'item')} to look at in {printable(str(target))}; the rest is decided already",
    ]
    if draw.illegal or draw.unread:
        lines.append(f"not drawn: {draw.illegal:,} known illegal, {draw.unread:,} whose bytes were never read")
    if delta := describe_delta(run.record()):
        lines.append(delta)
    echo("\n".join(lines), err=target.is_stdout)
