"""Parts that all commands share: storage options, exit codes for errors, and safe printing.

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
from nsfwscan.text import LogFormat, log_line, printable_lines, redacted

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


def commit_options(command: Command) -> Command:
    """Add the options of what is done about a run: it is signed, anchored, and told."""
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
            click.option(
                "--notify",
                metavar="URL",
                envvar="NSFWSCAN_NOTIFY",
                help="Tell this webhook the start, the commit or the failure of the run, and its escalations. Give a "
                "URL that is a secret by the variable NSFWSCAN_NOTIFY.",
            ),
        )
    ):
        command = option(command)
    return command


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the user gave, without those left to their default."""
    return {key: value for key, value in options.items() if value not in (None, ())}


def storage_and_sections(options: dict[str, Any]) -> tuple[StorageConfig, dict[str, Any]]:
    """Return what the options of `storage_options` and `commit_options` say: how to reach a store, and sections of the
    configuration."""
    given = given_options(options)
    sections = commit_sections(given)
    return StorageConfig.of(
        {name: value for name, value in given.items() if name in StorageConfig.model_fields}
    ), sections


def commit_sections(given: dict[str, Any]) -> dict[str, Any]:
    """Return the sections `evidence` and `notify`, where options of `commit_options` were given."""
    evidence = {name: given[name] for name in EvidenceConfig.model_fields if name in given}
    notify = {"url": given["notify"]} if "notify" in given else {}
    return {name: found for name, found in (("evidence", evidence), ("notify", notify)) if found}


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
    form: LogFormat | None = None,
) -> Iterator[None]:
    """Turn an error or a signal into one message and an exit code, and exit.

    A traceback comes before the message with --verbose, and for every error that is not one of nsfwscan's own.

    Args:
        program: name that begins the message.
        again: what the message says after Ctrl-C or SIGTERM of the way to go on.
        as_json: also print an object with `exit_code` and `error`, the message, on standard output.
        form: of the messages, where they go to a log.
    """

    def fail(message: str, code: int) -> NoReturn:
        if as_json:
            print_json({"exit_code": code, "error": message})
        show(f"{program}: {message}", style="red")
        sys.exit(code)

    def show(text: str, style: str | None = None) -> None:
        said = printable_lines(hanging(redacted(text)))
        said = said if form is None else log_line(form, "error", said)
        console.print(said, style=style, markup=False, highlight=False, soft_wrap=True)

    stop_on_signals()
    try:
        yield
    except (NsfwscanError, BalanceError) as error:
        if verbose:
            show("".join(traceback.format_exception(error)).rstrip())
        fail(str(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        fail(f"interrupted{f' by {interrupt}' if str(interrupt) else ''}; {again}", 1)
    except (click.ClickException, BrokenPipeError):  # click ends quietly where the reader is gone, as `head` is
        raise
    except Exception as error:  # noqa: BLE001  # Python would print it with any secret in it
        show("".join(traceback.format_exception(error)).rstrip())
        fail("this should not have happened: please report the lines above", 1)


def hanging(message: str) -> str:
    """Indent all lines but the first, so that a name with a newline cannot pass for another message."""
    return "\n".join(f"  {line}" if i and line[:1] != " " else line for i, line in enumerate(message.split("\n")))


def complain(text: str, form: LogFormat | None = None) -> None:
    """Print a warning to standard error, made safe as in `echo`, in the form of a log where one is given; the command
    goes on."""
    said = f"nsfwscan: {printable_lines(redacted(text))}"
    click.echo(said if form is None else log_line(form, "warning", said), err=True)


def echo(text: object, *, err: bool = False) -> None:
    """Print to standard output, or with `err` to standard error, redacted and printable: strangers' names may hold
    control characters or secrets."""
    click.echo(printable_lines(redacted(str(text))), err=err)
