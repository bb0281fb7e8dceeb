"""`nsfwscan verdicts …`: take people's verdicts into a report store, count them, and export them.

Exit codes are those of all commands.
"""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import group
from nsfwscan.cli.json_text import print_json
from nsfwscan.cli.retention import age_of
from nsfwscan.config import StorageConfig
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural, printable
from nsfwscan.workflows.verdicts import FORMATS, Counts, count_verdicts, export_verdicts, import_verdicts


@group()
def verdicts() -> None:
    """Take in, count and export what people decided: the verdicts of a report STORE."""


@verdicts.command("import")
@click.argument("store")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@storage_options
@json_option
def import_command(store: str, files: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Take verdict files into a report STORE: those that a review page writes, or that `verdicts export` wrote.

    A FILE is a path, a URI, or - for standard input. What the store has already is passed over. A file that is
    damaged, or no verdict file, is refused with its wrong lines, and then nothing is taken in.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command", as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        place = Store.at(store, storage)
        done = import_verdicts(place, files, storage)
        if done.strange_runs:
            complain(
                f"{plural(done.strange_runs, 'verdict names a run', 'verdicts name runs')} that {printable(place.uri)} "
                "does not have: is it the right store? They count all the same, for the same bytes"
            )
        if done.forgotten:
            named = plural(len(done.forgotten), "forgotten object is", "forgotten objects are")
            complain(
                f"{named} named again by these verdicts, as from a page that was made before: "
                f"{printable(done.forgotten[0])}; where it did not come back, `nsfwscan forget` it once more"
            )
        if as_json:
            added = {"new": done.added.new, "there": done.added.there, "part": done.added.part}
            further = {"strange_runs": done.strange_runs, "sessions": done.sessions, "forgotten": len(done.forgotten)}
            print_json({"exit_code": 0, "store": place.uri, **added, **further})
        else:
            already = f"; {done.added.there:,} were there already" if done.added.there else ""
            told = f"; {plural(done.sessions, 'session')} of the page" if done.sessions else ""
            echo(f"{plural(done.added.new, 'verdict')} taken into {printable(place.uri)}{already}{told}")


@verdicts.command("thin")
@click.argument("store")
@click.option("--keep", required=True, metavar="AGE", help="Keep names so long: 90d, 12w or 1y (365 days).")
@click.option("--by", required=True, metavar="NAME", help="Who answers for it.")
@click.option("--dry-run", is_flag=True, help="Say what would lose its names; change nothing.")
@storage_options
def thin_command(store: str, keep: str, by: str, dry_run: bool, **options: Any) -> None:
    """Take the names of reviewers out of verdicts and sessions of a report STORE that are older than AGE.

    What was decided stays, and counts as before; who decided it cannot be found out any more. This cannot be undone.
    """
    from nsfwscan.workflows.thin import thin

    with exit_codes(Console(stderr=True), verbose=False, again="the same command finishes what it began"):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        done = thin(place, age_of(keep, "--keep"), by, dry_run=dry_run)
        what = f"{plural(done.verdicts, 'verdict')} and {plural(done.sessions, 'session')}"
        echo(f"{what} older than {keep} {'would lose' if dry_run else 'lost'} the names of their reviewers")


@verdicts.command("list")
@click.argument("store")
@storage_options
@json_option
def list_command(store: str, as_json: bool, **options: Any) -> None:
    """Count the verdicts of a report STORE by kind, and the contents by what stands."""
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        found = count_verdicts(place)
        if as_json:
            print_json({"exit_code": 0, "store": place.uri, **_as_json(found)})
        else:
            echo(_described(found, printable(place.uri)))


@verdicts.command("export")
@click.argument("store")
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    required=True,
    help="parquet, jsonl: all verdicts as they are; coop: callbacks of Coop; threatexchange: descriptors; labels: for "
    "nsfwscan-train, those that the model was the most wrong about first.",
)
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="File to write, here or in a store (s3://bucket/key); - is standard output.",
)
@storage_options
def export_command(store: str, kind: str, out: str, **options: Any) -> None:
    """Write the verdicts of a report STORE as one file."""
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        target = Output.given(out, storage, "--out", stdout=True)
        rows = export_verdicts(Store.at(store, storage), kind, target)
        echo(f"{plural(rows, 'row')} in {printable(str(target))}", err=target.is_stdout)


def _as_json(found: Counts) -> dict[str, Any]:
    kinds: dict[str, dict[str, int]] = {}
    for (kind, word), count in sorted(found.verdicts.items()):
        kinds.setdefault(kind, {})[word] = count
    return {
        "verdicts": kinds,
        "contents": dict(sorted(found.standing.items())),
        "appealed": found.appealed,
        "reviewers": found.reviewers,
        "files": found.files,
        "first": found.first and found.first.isoformat() + "Z",
        "last": found.last and found.last.isoformat() + "Z",
    }


def _described(found: Counts, store: str) -> str:
    """Render the counts."""
    if not found.verdicts:
        return f"no verdicts in {store}"
    by = f"by {plural(found.reviewers, 'reviewer')}, {found.first:%Y-%m-%d} to {found.last:%Y-%m-%d}"
    lines = [f"{plural(found.verdicts.total(), 'verdict')} in {store}, {by}"]
    lines += [f"  {kind:<8}  {word:<9}{count:>10,}" for (kind, word), count in sorted(found.verdicts.items())]
    lines.append(f"{plural(found.standing.total(), 'content')} with a verdict that stands")
    lines += [f"  {word:<19}{count:>10,}" for word, count in sorted(found.standing.items())]
    return "\n".join([*lines, f"  {'appealed':<19}{found.appealed:>10,}"])
