"""`nsfwscan forget STORE --uri URI|--sha256 HASH`: erase an object from reports and verdicts.

Exit codes are those of all commands; 1, too, where a file still names the object.
"""

from __future__ import annotations

import sys
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.storage.store import Store
from nsfwscan.text import plural, printable
from nsfwscan.workflows.forget import forget as erase


@command()
@click.argument("store")
@click.option("--uri", help="The object to forget.")
@click.option("--sha256", metavar="HASH", help="Forget all objects with these bytes.")
@click.option("--reason", required=True, metavar="TEXT", help="Why: a request, a law. It must not name the object.")
@click.option("--by", required=True, metavar="NAME", help="Who answers for it.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@storage_options
def forget(store: str, uri: str | None, sha256: str | None, reason: str, by: str, yes: bool, **options: Any) -> None:
    """Erase an object from the reports, views and verdicts of a report STORE. This cannot be undone.

    Its rows stay as tombstones, so that all counts balance and `verify` finds the store sound. Delete the object
    itself, or the next scan finds it again. Where run.json of a run names it, it is written anew with a note of the
    SHA-256 that it was committed with, by which other runs, anchors and signatures know it.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command finishes what it began"):
        if (uri is None) == (sha256 is None):
            raise ConfigError("give --uri or --sha256: which object is to be forgotten?")
        place = Store.at(store, StorageConfig.of(given_options(options)))
        if not yes:
            if not sys.stdin.isatty():
                raise ConfigError("nobody is there to ask: give --yes")
            if not click.confirm(f"Erase it from {printable(place.uri)}? This cannot be undone."):
                echo("nothing was erased")
                return
        done = erase(place, by, reason, uri, sha256)
        what = f"{plural(done.objects, 'object')} forgotten: {plural(done.rows, 'row')} of {plural(done.files, 'file')}"
        echo(f"{what} (record {done.forget_id})")
        echo(
            "not reached: the object itself, and what lies elsewhere: review pages and their originals/, queues, "
            "exports, downloaded verdicts, and older versions that a bucket keeps"
        )
        if done.sharing:
            complain(
                f"{plural(len(done.sharing), 'other URI')} in the store, as {printable(done.sharing[0])}, had the same "
                "bytes at a time, and stay: copies, or its names before and since; --sha256 forgets them, too"
            )
        for path in done.banks:
            complain(
                f"{printable(path)} still has its hash, and goes on matching it: where the law asks for that too, "
                "`nsfwscan banks retract` disables the entry; take its line out to erase it"
            )
        for path in done.left:
            complain(
                f"{printable(path)} still names it, and would not be sound without it, as where the object is a source "
                "of the run: remove the run (`nsfwscan prune`)"
            )
        sys.exit(1 if done.left else 0)
