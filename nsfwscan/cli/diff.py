"""`nsfwscan diff`: what moved between any two runs, and why.

Exit codes are those of all commands; that something moved is no error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import print_json
from nsfwscan.cli.terminal import CHANGES, describe_counts
from nsfwscan.config import StorageConfig
from nsfwscan.runs.differences import describe_difference
from nsfwscan.runs.run import find_run
from nsfwscan.schema import Change
from nsfwscan.storage.output import Output
from nsfwscan.text import printable
from nsfwscan.workflows.diff import Diff, diff_runs

_MOVES = 30
"""Most moves that are named; the rest are counted."""


@command()
@click.argument("runs", nargs=-1, required=True, metavar="[STORE] RUN RUN")
@click.option(
    "--out",
    metavar="FILE",
    help="Also write every object that changed to this Parquet file, here or in a store, as in changes/.",
)
@json_option
@storage_options
def diff(runs: tuple[str, ...], out: str | None, as_json: bool, **options: Any) -> None:
    """Compare two runs of any kind: which objects moved from which decision to which, and why.

    A RUN is STORE/runs/ID, or a STORE's newest; after a STORE, the ID alone. Show the settings that differ, the number
    of objects by decision then and now with their causes, and a few objects of each.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command", as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        target = None if out is None else Output.given(out, storage, "--out")
        before, now = (find_run(uri, storage, complain) for uri in _places(runs))
        found = diff_runs(before, now, target)
        if as_json:
            print_json(found.as_json())
        else:
            echo("\n".join(_described(found)))
            if target is not None:
                echo(f"\nall {found.changed:,} are in {printable(str(target))}")


def _places(runs: tuple[str, ...]) -> tuple[str, str]:
    """Return the URIs of the two runs. Raises UsageError where there are not two."""
    if len(runs) == 2:
        return runs[0], runs[1]
    if len(runs) != 3:
        raise click.UsageError("give two runs: STORE/runs/ID twice, or STORE ID ID")
    store = runs[0].rstrip("/")
    first, second = (run if "/" in run else f"{store}/runs/{run}" for run in runs[1:])
    return first, second


def _described(found: Diff) -> Iterator[str]:
    """Render a diff."""
    said = found.as_json()
    for name, record in (("from", found.before), ("to", found.now)):
        objects = said["before" if name == "from" else "now"]["objects"]
        yield f"{name:<5}{record.run_id} ({record.kind}), committed {record.committed_at}: {objects:,} objects"
    yield ""
    yield "settings that differ:" if found.settings else "no setting differs"
    yield from (f"  {printable(describe_difference(one))}" for one in found.settings)
    yield ""
    if not found.changed:
        yield "nothing changed"
        return
    yield f"{found.changed:,} objects changed"
    yield f"  changes    {describe_counts({CHANGES[Change(change)]: n for change, n in said['changes'].items()})}"
    yield f"  by cause   {describe_counts(said['causes'])}"
    for move in said["moves"][:_MOVES]:
        causes = "; ".join(f"{', '.join(why['causes'])} {why['objects']:,}" for why in move["causes"])
        then, now = move["from"] or "(not listed)", move["to"] or "(not listed)"
        what = "" if then != now else f" ({CHANGES[Change(move['change'])]})"
        yield ""
        yield f"  {then} → {now}{what}  {move['objects']:,}"
        yield f"    by {causes}"
        yield from (f"    e.g. {printable(uri)}" for uri in move["samples"])
    if len(said["moves"]) > _MOVES:
        yield f"\n  … and {len(said['moves']) - _MOVES:,} more kinds of moves: --json has them"
