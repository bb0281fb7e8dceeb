"""`nsfwscan banks …`: confirm contents into a report store's own hash banks, and retract them.

Exit codes are those of all commands.
"""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import Command, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import group
from nsfwscan.config import StorageConfig
from nsfwscan.schema import BankKind
from nsfwscan.storage.store import Store
from nsfwscan.text import plural, printable
from nsfwscan.workflows.own_banks import KINDS, confirm, retract


@group()
def banks() -> None:
    """Keep hash banks of what people decided, beside the reports of a STORE."""


def _who(command: Command) -> Command:
    for option in reversed(
        (
            click.option("--sha256", "sha256s", multiple=True, metavar="HASH", help="Only this content. Repeatable."),
            click.option("--by", required=True, metavar="NAME", help="Who answers for it."),
            click.option("--reason", required=True, metavar="TEXT", help="Why."),
        )
    ):
        command = option(command)
    return command


@banks.command("confirm")
@click.argument("store")
@click.argument("name")
@click.option(
    "--kind",
    type=click.Choice([str(kind) for kind in KINDS]),
    required=True,
    help="block: of what people removed; allow, negative: of what they approved.",
)
@click.option(
    "--looks/--bytes", default=True, help="Match what looks alike too (PDQ, default), or the same bytes alone."
)
@_who
@storage_options
def confirm_command(
    store: str, name: str, kind: str, looks: bool, sha256s: tuple[str, ...], by: str, reason: str, **options: Any
) -> None:
    """Add what people decided to the bank NAME of a report STORE, each entry with who, when, why and their verdicts.

    The bank is the file STORE/banks/NAME.jsonl; scan with --bank NAME=STORE/banks/NAME.jsonl,kind=KIND.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        done = confirm(place, name, BankKind(kind), by, reason, sha256s, looks=looks)
        left = f"; {plural(done.left_out, 'content')} left out (illegal, or in no report)" if done.left_out else ""
        echo(f"{plural(done.added, 'entry', 'entries')} added, {done.active:,} active{left}")
        if done.taken_back:
            echo(
                f"{plural(done.taken_back, 'content')} not added: retracted, and not decided since (--sha256 adds them)"
            )
        echo(f"--bank {name}={printable(done.uri)},kind={kind}")


@banks.command("retract")
@click.argument("store")
@click.argument("name")
@_who
@storage_options
def retract_command(store: str, name: str, sha256s: tuple[str, ...], by: str, reason: str, **options: Any) -> None:
    """Disable entries of the bank NAME of a report STORE; without --sha256, all whose verdict is another by now."""
    with exit_codes(Console(stderr=True), verbose=False, again="the same command"):
        place = Store.at(store, StorageConfig.of(given_options(options)))
        done = retract(place, name, by, reason, sha256s)
        echo(f"{plural(done.retracted, 'entry', 'entries')} retracted, {done.active:,} active")
