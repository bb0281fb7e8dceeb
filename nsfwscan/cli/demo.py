"""`nsfwscan demo`: show in a minute, on a media store that it makes, what nsfwscan does."""

from __future__ import annotations

import importlib.util
import os
import sys
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console

from nsfwscan.cli.console import echo, exit_codes
from nsfwscan.cli.help import command
from nsfwscan.cli.terminal import describe_balance, describe_counts, describe_since
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.location import Location
from nsfwscan.reports.progress import choose_progress
from nsfwscan.review.queues import describe_queues, write_queues
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import find_run


def _folder(_: click.Context, __: click.Parameter, written: str) -> Path:
    """Return the folder that is meant. Raises BadParameter for what is no place, and for a store."""
    try:
        place = Location.given(written)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not place.is_local:
        raise click.BadParameter(f"{written!r} is no folder of this machine, and the demo makes its files here")
    if Path(place.path).is_file():
        raise click.BadParameter(f"{written!r} is a file")
    return Path(place.path)


@command()
@click.argument("folder", default="demo", callback=_folder)
@click.option(
    "--open/--no-open",
    "opens",
    default=None,
    help="Open the report's page in a browser; default: at a terminal with a screen.",
)
@click.option("--verbose", is_flag=True, help="Show tracebacks.")
def demo(folder: Path, opens: bool | None, verbose: bool) -> None:
    """Make a small media store in FOLDER, scan it on two nights, and show the results.

    Each call makes FOLDER (default ./demo) anew. No picture in it is NSFW: it holds scikit-image's photographs,
    drawings, copies, and odd and broken files.
    """
    console = Console(stderr=True)
    with exit_codes(console, verbose):
        if importlib.util.find_spec("skimage") is None:
            raise ConfigError("the demo's photographs are scikit-image's: pip install 'nsfwscan[demo]'")
        from nsfwscan.demo.story import GONE, KNOWN, NEW, Demo

        made = Demo(folder)
        objects = made.prepare()
        echo(f"media   {made.media}: {objects} files, photographs, drawings, copies, odd and broken uploads")
        echo(f"bank    {made.bank}: a hash list that calls {KNOWN} known-bad, by its looks")
        echo(f"policy  {made.policy}: what blocks, and what a person has to look at")
        told = ("night 1: everything is new", f"night 2: {GONE} was deleted, {NEW} is new")
        for head, result in zip(told, made.nights(choose_progress(console)), strict=True):
            echo("\n".join(["", head, *_found(result.record)]))
        run = find_run(result.uri, StorageConfig())
        echo("\nqueues  for reviewers, the most urgent first:")
        echo(describe_queues(write_queues(run, folder / "queues")))
        page = Path(result.uri, "summary.html").resolve()
        if opens if opens is not None else _has_browser():
            webbrowser.open(page.as_uri())
        echo(f"\npage    {page}")


def _has_browser() -> bool:
    """Return whether a person sits at a terminal with a screen; a browser inside the terminal does not count."""
    screen = sys.platform in ("darwin", "win32") or {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys()
    return sys.stdout.isatty() and bool(screen)


def _found(record: RunRecord) -> Iterator[str]:
    yield f"  {describe_balance(record)}"
    yield f"  decisions  {describe_counts(record.summary.decision)}"
    yield f"  matches    {describe_counts(record.summary.match_bank)}"
    yield from describe_since(record)
    yield f"  took       {record.timings.total_s:.1f} s"
