"""`nsfwscan text`: read the text of pictures that a run kept, and make the keys that it is encrypted with.

Exit codes are those of all commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import group
from nsfwscan.config import StorageConfig
from nsfwscan.runs.run import find_run
from nsfwscan.text import printable
from nsfwscan.texts.sealing import KEY_VARIABLE, make_key
from nsfwscan.workflows.read_text import read_text_of, why_none


@group()
def text() -> None:
    """Read the text that detectors found in pictures, and make keys for it."""


@text.command()
@click.argument("run")
@click.option("--uri", help="Only of this object.")
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="FILE",
    help=f"Private key (PEM) that the text was encrypted for; or put it into ${KEY_VARIABLE}. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line of text.")
@storage_options
def read(run: str, uri: str | None, keys: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print the text of RUN (STORE/runs/ID, or a STORE's newest), line by line, each with its object.

    Text may be personal data: whoever reads it should be allowed to.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        found, lines = find_run(run, StorageConfig.of(given_options(options))), 0
        for row in read_text_of(found, uri, keys):
            lines += 1
            said = f"{printable(row['uri'])}  {printable(row['text'])}"
            click.echo(json.dumps(row) if as_json else said)
        if not lines:
            complain(f"run {found.run_id} has no text{f' of {uri}' if uri else ''}{why_none(found.record().config)}")


@text.command()
@click.argument("private", type=click.Path(path_type=Path))
@click.argument("public", type=click.Path(path_type=Path))
def key(private: Path, public: Path) -> None:
    """Make a pair of keys: PRIVATE is for those who read text, PUBLIC for scans (--text-key), which cannot read it.

    Keep PRIVATE away from the machines that scan. Without it, the text is lost.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        echo(f"key {make_key(private, public)}: {private} reads what scans encrypt with {public}")
