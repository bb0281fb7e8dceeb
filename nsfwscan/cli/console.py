"""The parts that all commands share: storage options, exit codes for errors, and safe printing.

All printed text is redacted, and its control characters are shown, so that it cannot act on the terminal.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from rich.console import Console

from nsfwscan.cli.json_text import print_json
from nsfwscan.cli.stopping import stop_on_signals
from nsfwscan.config import EvidenceConfig, StorageConfig
from nsfwscan.errors import BalanceError, NsfwscanError
from nsfwscan.text import printable_lines, redacted

Command = Callable[..., Any]
RESUMED_BY_ID = "the same command goes on where it stopped if both have the same --run-id"


def storage_options(command: Command) -> Command:
    """Add the options for access to an object store; unset options leave access to the usual AWS environment."""
    for option in reversed(
        (
            click.option("--endpoint-url", metavar="URL", help="S3 endpoint, for stores that are not AWS."),
            click.option("--region", help="S3 region."),
            click.option("--profile", help="AWS profile."),
            click.option(
                "--sse",
                type=click.Choice(["AES256", "aws:kms", "aws:kms:dsse"]),
                help="Server-side encryption of what is written to S3.",
            ),
            click.option("--sse-kms-key-id", metavar="KEY", help="Encrypt what is written to S3 with this KMS key."),
            click.option(
                "--s3-compatibility",
                type=click.Choice(["auto", "aws", "basic"]),
                help="Form of S3 requests. aws: checksums in headers; basic: only Content-MD5, for older stores; auto "
                "(default): aws for AWS, basic for any other endpoint.",
            ),
            click.option(
                "--s3-addressing",
                type=click.Choice(["auto", "path", "virtual"]),
                help="Put the bucket's name into the path or the host (virtual). auto (default): virtual for AWS, path "
                "for other stores.",
            ),
        )
    ):
        command = option(command)
    return command


def evidence_options(command: Command) -> Command:
    """Add the options that sign and anchor a committed run."""
    for option in reversed(
        (
            click.option(
                "--anchor",
                metavar="URI",
                help="Keep the digest of the run here, too: a folder or prefix outside of STORE, best in a bucket with "
                "object lock.",
            ),
            click.option(
                "--sign-key", metavar="FILE", help="Sign the run with this Ed25519 private key (PEM or OpenSSH)."
            ),
            click.option(
                "--sign-command",
                metavar="CMD",
                help="Sign the run with this command: a line on standard input, its Ed25519 signature (64 bytes, or "
                "Base64) on standard output.",
            ),
        )
    ):
        command = option(command)
    return command


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave, without those left to their default."""
    return {key: value for key, value in options.items() if value not in (None, ())}


def storage_and_evidence(options: dict[str, Any]) -> tuple[StorageConfig, dict[str, Any]]:
    """Return what the options of `storage_options` and `evidence_options` say: how to reach a store, and a section
    `evidence`, where one was given."""
    given = given_options(options)
    evidence = {name: given.pop(name) for name in EvidenceConfig.model_fields if name in given}
    return StorageConfig.of(given), {"evidence": evidence} if evidence else {}


def source_storage_options(command: Command) -> Command:
    """Add `storage_options`, and the options that concern only the reading of media."""
    anonymous = click.option(
        "--anonymous", is_flag=True, default=None, help="Read a public bucket without credentials."
    )
    pays = click.option("--requester-pays", is_flag=True, default=None, help="Pay for reading a requester-pays bucket.")
    return anonymous(pays(storage_options(command)))


json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object on standard output; all else goes to standard error."
)


@contextmanager
def exit_codes(
    console: Console,
    verbose: bool,
    *,
    program: str = "nsfwscan",
    again: str = "the same command begins anew",
    as_json: bool = False,
) -> Iterator[None]:
    """Turn an error or a signal into one message and an exit code, and exit.

    A traceback comes before the message with --verbose, and for every error that is not one of nsfwscan's own.

    Args:
        program: name that begins the message.
        again: what the message says after Ctrl-C or SIGTERM of the way to go on.
        as_json: also print an object with `exit_code` and `error`, the message, on standard output.
    """

    def fail(message: str, code: int) -> NoReturn:
        if as_json:
            print_json({"exit_code": code, "error": message})
        _show(console, f"{program}: {message}", style="red")
        sys.exit(code)

    stop_on_signals()
    try:
        yield
    except (NsfwscanError, BalanceError) as error:
        if verbose:
            _show(console, "".join(traceback.format_exception(error)).rstrip())
        fail(str(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        fail(f"interrupted{f' by {interrupt}' if str(interrupt) else ''}; {again}", 1)
    except click.ClickException:
        raise
    except Exception as error:  # noqa: BLE001  # Python would print it with any secret in it
        _show(console, "".join(traceback.format_exception(error)).rstrip())
        fail("this should not have happened: please report the lines above", 1)


def _show(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable_lines(hanging(redacted(text))), style=style, markup=False, highlight=False, soft_wrap=True)


def hanging(message: str) -> str:
    """Indent all lines but the first, so that a name with a newline cannot pass for another message."""
    return "\n".join(f"  {line}" if i and line[:1] != " " else line for i, line in enumerate(message.split("\n")))


def complain(text: str) -> None:
    """Print a warning to standard error, made safe as in `echo`; the command goes on."""
    click.echo(f"nsfwscan: {printable_lines(redacted(text))}", err=True)


def echo(text: object, *, err: bool = False) -> None:
    """Print to standard output, or with `err` to standard error, redacted and printable: strangers' names may hold
    control characters or secrets."""
    click.echo(printable_lines(redacted(str(text))), err=err)
