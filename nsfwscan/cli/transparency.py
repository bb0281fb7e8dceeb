"""`nsfwscan transparency STORE --since DAY --until DAY`: count what was decided over a period.

Exit codes are those of all commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, json_option, storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.json_text import print_json
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.reports.export import json_line
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural, printable, write_csv
from nsfwscan.workflows.dsa_templates import filled
from nsfwscan.workflows.statements import VISIBILITIES, measures, requests
from nsfwscan.workflows.transparency import transparency as count

_COLUMNS = ("section", "indicator", "of", "value")


@command()
@click.argument("store")
@click.option("--since", required=True, metavar="DAY", help="First day, or a time, in UTC: 2026-01-01.")
@click.option("--until", required=True, metavar="DAY", help="The day after the last one, in UTC: 2026-07-01.")
@click.option(
    "--out", metavar="FILE", help="Write the figures as CSV to a file, here or in a store; - is standard output."
)
@click.option(
    "--statements",
    is_flag=True,
    help="With --out: statements of reasons for the DSA Transparency Database, as JSON lines; each is a request.",
)
@click.option(
    "--templates",
    is_flag=True,
    help="With --out DIR: the parts of the DSA's templates that the store can fill, as CSV files: 5 to 8.",
)
@click.option("--service", default="", metavar="NAME", help="With --templates: name of the service, in each row.")
@click.option(
    "--languages",
    is_flag=True,
    help="With --templates: also the rows of part 8 by language, which very large platforms owe.",
)
@click.option(
    "--visibility",
    type=click.Choice(VISIBILITIES),
    default=VISIBILITIES[0],
    show_default=True,
    help="With --statements, --templates: what the platform does with what is blocked or removed.",
)
@storage_options
@json_option
def transparency(
    store: str,
    since: str,
    until: str,
    out: str | None,
    statements: bool,
    templates: bool,
    service: str,
    languages: bool,
    visibility: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Count decisions, reasons, automation, appeals and overturned verdicts of a report STORE over a period.

    The sections are those of the templates of the EU's Digital Services Act for transparency reports (Implementing
    Regulation 2024/2835): own-initiative moderation, complaints, automated means. With --statements it writes one
    statement of reasons for each measure instead, in the shape that the DSA Transparency Database takes; with
    --templates it fills the templates.
    """
    with exit_codes(Console(stderr=True), verbose=False, as_json=as_json):
        storage = StorageConfig.of(given_options(options))
        if out is not None and as_json:
            raise ConfigError("--json prints the figures, --out writes them as CSV: give one of them")
        target = None if out is None else Output.given(out, storage, "--out", stdout=True)
        if (statements and templates) or (languages and not templates):
            raise ConfigError("--statements and --templates exclude one another, and --languages needs --templates")
        if target is None and (statements or templates):
            raise ConfigError("--statements writes a file, --templates a folder: name it with --out")
        if templates and target is not None and target.is_stdout:
            raise ConfigError("--templates writes several files: name a folder with --out")
        start, end = _time(since, "--since"), _time(until, "--until")
        if start >= end:
            raise ConfigError(f"--until {until} is not after --since {since}: the period is empty")
        place = Store.at(store, storage)
        found = count(place, start, end)
        for run_id in found.not_counted:
            complain(f"run {run_id} was pruned, or its record is broken: what it decided is not counted")
        if statements and target is not None:
            written = _write_statements(place, start, end, visibility, target)
            echo(f"{written} in {printable(str(target))}", err=target.is_stdout)
        elif templates and target is not None:
            for part in filled(found, measures(place, start, end), service, visibility, languages=languages):
                _write(target.child(part.name), part.columns, part.rows)
                echo(f"written to {printable(str(target.child(part.name)))}")
        elif as_json:
            print_json({"exit_code": 0, **found.as_json()})
        elif target is not None:
            _write(target, _COLUMNS, found.lines())
            echo(f"written to {printable(str(target))}", err=target.is_stdout)
        else:
            echo("\n".join(f"{' '.join(filter(None, line[:3])):<70}{line[3]:>12}" for line in found.lines()))


def _time(text: str, option: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r}: no day or time of ISO 8601, as 2026-01-01") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _write_statements(store: Store, start: datetime, end: datetime, visibility: str, target: Output) -> str:
    """Write the requests, and say how many statements they are, and of how much there is none."""
    count = 0
    try:
        with target.appearing() as path, path.open("w", encoding="utf-8") as file:
            for body in requests(store, start, end, visibility):
                count += len(body["statements"])
                file.write(json_line(body))
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}") from error
    illegal = sum(one.illegal for one in measures(store, start, end))
    if illegal:
        complain(
            f"no statement of {plural(illegal, 'content')} that a person removed, since an illegal bank has the same: "
            "which law that is against, and what may be said of it, is for you to say"
        )
    return plural(count, "statement")


def _write(target: Output, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    try:
        target.make_parent()
        with target.appearing() as path:
            write_csv(path, columns, rows)
    except OSError as error:
        raise ConfigError(f"cannot write {target}: {error.strerror or error}") from error
