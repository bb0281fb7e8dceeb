"""What all commands share: how to reach a store, how errors become exit codes, what may be printed.

In: options, errors, texts. Out: lines for a person, and the exit code of the process. Whatever is printed is redacted,
and does nothing to the terminal.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
from rich.console import Console

from nsfwscan.errors import BalanceError, NsfwscanError
from nsfwscan.text import printable_lines, redacted

Command = Callable[..., Any]


def storage_options(command: Command) -> Command:
    """How to reach an object store; unset options leave it to the usual AWS environment."""
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


def given_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given, without those left to their default."""
    return {key: value for key, value in options.items() if value not in (None, ())}


def source_storage_options(command: Command) -> Command:
    """Add what only concerns reading media, and `storage_options`."""
    anonymous = click.option(
        "--anonymous", is_flag=True, default=None, help="Read a public bucket without credentials."
    )
    pays = click.option("--requester-pays", is_flag=True, default=None, help="Pay for reading a requester-pays bucket.")
    return anonymous(pays(storage_options(command)))


@contextmanager
def exit_codes(
    console: Console, verbose: bool, *, program: str = "nsfwscan", again: str = "the same command with --resume last"
) -> Iterator[None]:
    """Turn our errors into one message and their exit code; with --verbose the traceback comes first, and always for an
    error that is none of ours.

    Args:
        program: whose message it is.
        again: what goes on with the work after Ctrl-C.
    """
    try:
        yield
    except (NsfwscanError, BalanceError) as error:
        if verbose:
            _show(console, "".join(traceback.format_exception(error)).rstrip())
        _fail(console, f"{program}: {error}", error.exit_code)
    except KeyboardInterrupt:
        _fail(console, f"{program}: interrupted; {again} goes on where it stopped", 1)
    except click.ClickException:
        raise
    except Exception as error:  # noqa: BLE001  # Python would print it with whatever secret it holds
        _show(console, "".join(traceback.format_exception(error)).rstrip())
        _fail(console, f"{program}: this should not have happened: please report the lines above", 1)


def _fail(console: Console, message: str, code: int) -> NoReturn:
    _show(console, message, style="red")
    sys.exit(code)


def _show(console: Console, text: str, style: str | None = None) -> None:
    console.print(printable_lines(hanging(redacted(text))), style=style, markup=False, highlight=False, soft_wrap=True)


def hanging(message: str) -> str:
    """The message with all lines but the first indented: a name with a newline cannot pass for another message."""
    return "\n".join(f"  {line}" if i and line[:1] != " " else line for i, line in enumerate(message.split("\n")))


def complain(text: str) -> None:
    """To standard error, as `echo`: what goes on all the same, and a person should know of."""
    click.echo(f"nsfwscan: {printable_lines(redacted(text))}", err=True)


def echo(text: object) -> None:
    """To standard output; names in it come from strangers, and must not act on the terminal, nor hold a secret."""
    click.echo(printable_lines(redacted(str(text))))
