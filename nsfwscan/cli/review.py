"""`nsfwscan review …`: write a page on which a person decides items of a run, and print what is on it.

Exit codes are those of all commands.
"""

from __future__ import annotations

from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, source_storage_options
from nsfwscan.cli.help import command
from nsfwscan.cli.terminal import describe_delta
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.execution.deadline import deadline_of
from nsfwscan.review.audit import describe_audit, write_audit
from nsfwscan.review.context import read_context
from nsfwscan.review.covers import Artist
from nsfwscan.review.hands import in_order, read_items
from nsfwscan.review.originals import NoOriginals, Originals, Presigned, Template
from nsfwscan.review.pack import MOST_ITEMS, PackRequest, describe_pack, picture_saver, write_pack
from nsfwscan.review.queues import check_queues
from nsfwscan.review.ranking import BY_CONFIDENCE, BY_URGENCY, EARLIER_RUNS, Choice, ranked
from nsfwscan.review.selection import FALSE_POSITIVES, false_positives, rows_named, rows_where
from nsfwscan.runs.run import Run, find_run
from nsfwscan.storage.output import Output


@command()
@click.argument("run")
@click.option("--queue", "names", multiple=True, metavar="NAME", help="Items of this queue. Repeatable (default: all).")
@click.option("--false-positives", "audits", is_flag=True, help="The run's false positives, by confidence.")
@click.option(
    "--class-folders",
    is_flag=True,
    help="With --false-positives: copy originals into classes/, by their true class.",
)
@click.option("--where", metavar="SQL", help="Rows for which a condition over the report's columns is true.")
@click.option("--items", metavar="FILE", help="Items of a file: of `queues --reviewers`, or of a drawn audit.")
@click.option("--out", metavar="DIR", help="Folder to write, here or in a store (default: review/RUN_ID).")
@click.option("--limit", type=click.IntRange(1), default=MOST_ITEMS, show_default=True, help="Most items on the page.")
@click.option(
    "--url-template",
    metavar="URL",
    help="Address of originals: https://media.example/{key}; also {uri}, {bucket}, {sha256}, {object_id}.",
)
@click.option(
    "--presign",
    metavar="DURATION",
    help="Link to originals on S3 by signed URLs that expire after this time (8h; at most 7d).",
)
@click.option("--originals", is_flag=True, help="Put pictures of the originals beside the page, in originals/.")
@click.option(
    "--tampering",
    is_flag=True,
    help="With originals: also maps in which a part that was put in later may show, in originals/.",
)
@click.option("--covers/--no-covers", default=True, help="Read the originals, and draw covers (default).")
@click.option("--context", metavar="FILE", help="Table with a column uri; its other columns are shown with the items.")
@click.option("--reviewer", default="", metavar="NAME", help="The person that the page is for (default: it asks).")
@click.option(
    "--earlier-runs",
    type=click.IntRange(0),
    metavar="N",
    default=EARLIER_RUNS,
    show_default=True,
    help="Number of earlier runs whose decisions are shown.",
)
@source_storage_options
def review(
    run: str,
    names: tuple[str, ...],
    audits: bool,
    class_folders: bool,
    where: str | None,
    items: str | None,
    out: str | None,
    limit: int,
    url_template: str | None,
    presign: str | None,
    originals: bool,
    tampering: bool,
    covers: bool,
    context: str | None,
    reviewer: str,
    earlier_runs: int,
    **options: Any,
) -> None:
    """Write a page for deciding items of RUN (STORE/runs/ID, or a STORE's newest) without opening them.

    The page opens from a folder: it needs no server. Each item has a small, grey, blurred cover; known illegal
    content has none. Decisions are downloaded from the page as a verdict file.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        if sum((bool(names), audits, where is not None, items is not None)) > 1:
            raise ConfigError("--queue, --false-positives, --where and --items exclude one another: name one")
        if class_folders and not audits:
            raise ConfigError("--class-folders is for --false-positives, whose true class is known")
        storage = StorageConfig.of(given_options(options))
        target = None if out is None else Output.given(out, storage, "--out")
        offered = _originals(url_template, presign, originals, storage)
        _check_shown(offered, originals=originals, tampering=tampering, covers=covers)
        known = () if context is None else read_context(context, storage)
        found = find_run(run, storage, complain)
        target = target or Output.given(f"review/{found.run_id}", storage, "--out")
        check_queues(found.record(), names)
        named = read_items(items, storage) if items is not None else {}
        choice = _choice(found, audits, where) if items is None else rows_named(named)
        reviewer = reviewer or next((one.reviewer for one in named.values()), "")
        kind, title = "audit" if audits else "review", _title(names, audits, where)
        asked = PackRequest(title, kind, limit, offered, reviewer, named, tampering)
        save = picture_saver(target) if originals or tampering else None
        config = found.record().config
        artist = Artist(config, storage, save, pictures=originals, maps=tampering) if covers else None
        order = BY_CONFIDENCE if audits else BY_URGENCY
        with ranked(found, names, known, earlier_runs, choice=choice, order=order, across=items is None) as rows:
            chosen = rows.items if items is None else in_order(rows.items, named)
            written = write_pack(found, chosen, target, asked, artist)
        echo(describe_pack(written))
        if gone := len(named) - written.items - written.left if items is not None else 0:
            echo(f"gone    {gone:,} items of {items} are not in this run's report")
        if audits:
            echo(describe_audit(write_audit(found, target, storage if class_folders else None)))
        if delta := describe_delta(found.record()):
            echo(delta)


def _originals(template: str | None, presign: str | None, folder: bool, storage: StorageConfig) -> Originals | None:
    """Return where originals are; None: pictures lie beside the page."""
    if sum((template is not None, presign is not None, folder)) > 1:
        raise ConfigError("--url-template, --presign and --originals exclude one another: name one")
    if template is not None:
        return Template(template)
    if presign is not None:
        return Presigned(storage, deadline_of(presign).left_s() or 0)
    return None if folder else NoOriginals()


def _check_shown(offered: Originals | None, *, originals: bool, tampering: bool, covers: bool) -> None:
    """Raise ConfigError where what is to be shown is not read, or has nothing that it could be shown beside."""
    if (originals or tampering) and not covers:
        what = "--originals" if originals else "--tampering"
        raise ConfigError(f"{what} reads the originals, and --no-covers does not: leave one out")
    if tampering and isinstance(offered, NoOriginals):
        raise ConfigError(
            "--tampering shows maps of originals, and the page offers none: name --originals, --presign or "
            "--url-template, too"
        )


def _choice(run: Run, audits: bool, where: str | None) -> Choice | None:
    if audits:
        return false_positives(run, run.record())
    return None if where is None else rows_where(where)


def _title(names: tuple[str, ...], audits: bool, where: str | None) -> str:
    if audits:
        return FALSE_POSITIVES.capitalize()
    return f"Where {where}" if where is not None else ", ".join(names) or "All queues"
