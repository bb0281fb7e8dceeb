"""`nsfwscan verify`: check that committed runs are unchanged.

It exits with 7 where a run was tampered with, and with 8 where something is absent or damaged.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import print_json, verify_json
from nsfwscan.cli.terminal import describe_verified
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.runs.evidence import public_key
from nsfwscan.runs.finding import exit_code_of
from nsfwscan.storage.store import Store
from nsfwscan.workflows.verify import Verified, verify_all


@command()
@click.argument("run")
@storage_options
@click.option("--expect", metavar="SHA256", help="Digest of a run.json, as a commit printed it: a run must have it.")
@click.option("--anchor", metavar="URI", help="Place of the anchors (scan --anchor): all runs must fit them.")
@click.option(
    "--public-key",
    "public_keys",
    multiple=True,
    metavar="FILE",
    help="Ed25519 public key (PEM or OpenSSH) that must have signed each run, or a later one. Repeatable: one of them.",
)
@json_option
def verify(
    run: str, expect: str | None, anchor: str | None, public_keys: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Check that a committed RUN (STORE/runs/ID) is unchanged: every file, every row, every count, every decision.

    Given a STORE, check all its committed runs, and the chain that they form. Exit with 7 if something contradicts what
    was committed (tampered), else with 8 if something is absent or cannot be read (damaged).
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        checked: list[Verified] = []
        storage = StorageConfig.of(given_options(options))
        anchors = None if anchor is None else Store.at(anchor, storage)
        keys = [public_key(uri, storage) for uri in public_keys]
        for one in verify_all(run, storage, _digest(expect), anchors, keys):
            checked.append(one)
            if not as_json:
                echo(describe_verified(one))
        exit_code = exit_code_of(finding for one in checked for finding in one.findings)
        if as_json:
            print_json(verify_json(checked, exit_code))
        for one in checked:
            if one.is_head and not as_json:
                echo(f"head  {one.name}  {one.sha256}")
        sys.exit(exit_code)


def _digest(text: str | None) -> str | None:
    """Return a digest in lower case. Raise ConfigError for what is no SHA-256."""
    if text is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ConfigError(f"--expect {text!r}: no SHA-256; it has 64 hex digits")
    return text and text.lower()
