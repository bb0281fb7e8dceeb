"""`nsfwscan prune` and `nsfwscan hold`: remove old runs, and keep runs from being removed.

Exit codes are those of all commands; `prune` exits with 1 where a run could not be removed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.runs import holds
from nsfwscan.runs.pruning import Kept, Pruning, Removal, plan_pruning
from nsfwscan.runs.pruning import prune as remove_runs
from nsfwscan.runs.record.beside import HoldRecord
from nsfwscan.runs.record.fields import RUN_ID
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store
from nsfwscan.text import plural, printable, size

_DAYS = {"d": 1, "w": 7, "y": 365}
_REASONS = 2
"""Reasons shown for a run that stays; one of them is enough."""


@command()
@click.argument("store")
@click.option(
    "--keep",
    required=True,
    metavar="AGE",
    help="Remove only runs that were committed longer ago: 90d, 12w or 7y (days, weeks, years of 365 days).",
)
@click.option("--dry-run", is_flag=True, help="Say what would be removed and what stays; remove nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--ignore-run",
    "ignore_runs",
    multiple=True,
    metavar="ID",
    help="Prune without regard to this run, whose record or plan is broken; it stays. Repeatable.",
)
@storage_options
def prune(store: str, keep: str, dry_run: bool, yes: bool, ignore_runs: tuple[str, ...], **options: Any) -> None:
    """Remove old runs from a report STORE, each whole but for its run.json.

    A run stays, however old it is, if it is the newest over its sources, if the next scan or match goes on from it, if
    a run that stays or an unfinished run rests on it, or if it is held (`nsfwscan hold`). The command first says what
    it would remove, and asks. Exit with 1 if a run could not be removed.
    """
    with exit_codes(Console(stderr=True), verbose=False, again="the same command finishes what it began"):
        reports = Store.at(store, StorageConfig.of(given_options(options)))
        pruning = plan_pruning(reports, age_of(keep, "--keep"), ignore_runs)
        echo(_describe(pruning, reports, keep))
        if dry_run or not pruning.removals:
            return
        if not yes:
            if not _can_ask():
                raise ConfigError("nobody is there to ask: give --yes, or --dry-run")
            if not click.confirm("Remove them?"):
                echo("nothing was removed")
                return
        failed = False
        for one in remove_runs(reports, pruning, f"nsfwscan prune {reports.uri} --keep {keep}", ignore_runs):
            if one.failed is not None:
                complain(f"run {one.run_id} could not be removed whole: {one.failed}")
                failed = True
            else:
                echo(f"removed  {one.run_id}" if one.kept is None else f"kept     {one.run_id}  {one.kept}")
        sys.exit(1 if failed else 0)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def age_of(text: str, option: str) -> timedelta:
    """Return the age that an option names. Raises ConfigError."""
    found = re.fullmatch(r"(\d{1,5})([dwy])", text)
    if found is None:
        raise ConfigError(f"{option} {text!r}: no age; say 90d, 12w or 7y")
    return timedelta(days=int(found[1]) * _DAYS[found[2]])


def _describe(pruning: Pruning, store: Store, keep: str) -> str:
    """Render what would go, and what stays and why."""
    gone, kept = pruning.removals, pruning.kept
    if not gone:
        head = f"nothing to remove from {printable(store.uri)}"
    else:
        files, total = sum(one.files for one in gone), sum(one.bytes for one in gone)
        runs = plural(len(gone), "run")
        head = f"{runs}, {plural(files, 'file')}, {size(total)} to remove from {printable(store.uri)}:"
    lines = [head, *map(_going, gone)]
    if kept:
        lines += [f"{plural(len(kept), 'run')} older than {keep} to keep:", *map(_staying, kept)]
    return "\n".join(lines)


def _going(one: Removal) -> str:
    record = one.record
    escalated = record.rows_in("escalations")
    notes = [
        *([f"{plural(escalated, 'escalation')} of illegal contents"] if escalated else []),
        *([f"{one.begun}, and was cut off"] if one.begun is not None else []),
    ]
    told = f"  {'; '.join(notes)}" if notes else ""
    what = f"{plural(one.files, 'file')}, {size(one.bytes)}"
    return f"  {record.run_id}  {record.kind:<6}  committed {record.committed_at[:10]}  {what}{printable(told)}"


def _staying(one: Kept) -> str:
    record, reasons = one.record, list(dict.fromkeys(one.reasons))
    more = f"; and {len(reasons) - _REASONS:,} more" if len(reasons) > _REASONS else ""
    why = printable("; ".join(reasons[:_REASONS]) + more)
    return f"  {record.run_id}  {record.kind:<6}  committed {record.committed_at[:10]}  {why}"


@command()
@click.argument("store")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--reason", metavar="TEXT", help="Why: a case, a request, a law.")
@click.option("--by", metavar="NAME", help="Who holds or releases it.")
@click.option("--release", is_flag=True, help="Release the run's hold; the hold's file stays as history.")
@click.option("--hold", "hold_id", metavar="ID", help="Which hold to release, where a run has several.")
@storage_options
def hold(
    store: str,
    run_id: str | None,
    reason: str | None,
    by: str | None,
    release: bool,
    hold_id: str | None,
    **options: Any,
) -> None:
    """Hold the run with the id RUN in a report STORE, so that `nsfwscan prune` keeps it and what it rests on.

    Without RUN, list all holds, released ones too.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        reports = Store.at(store, StorageConfig.of(given_options(options)))
        if run_id is None:
            if release or reason or by or hold_id:
                raise ConfigError("RUN is missing: which run is to be held or released?")
            echo(_listed(holds.holds(reports), reports))
            return
        _check(reason, by, release, hold_id, run_id)
        if release:
            done = holds.release(reports, run_id, str(by), reason, hold_id)
        else:
            done = holds.hold(Run(reports, run_id), str(reason), str(by))
        echo(_hold_line(done))


def _check(reason: str | None, by: str | None, release: bool, hold_id: str | None, run_id: str) -> None:
    """Raise ConfigError for options that are missing, or that mean nothing together."""
    if not RUN_ID.fullmatch(run_id):
        raise ConfigError(f"{run_id!r} is no run id")
    if not (by or "").strip():
        raise ConfigError("--by is missing: the name of who holds or releases it")
    if not release and not (reason or "").strip():
        raise ConfigError("--reason is missing: a hold says why")
    if hold_id is not None and not release:
        raise ConfigError("--hold names a hold to release: it goes with --release")


def _listed(found: Sequence[HoldRecord], store: Store) -> str:
    return "\n".join(map(_hold_line, found)) or f"no holds in {printable(store.uri)}"


def _hold_line(one: HoldRecord) -> str:
    ended = one.released
    how = "" if ended is None else f"; released by {ended.by} on {ended.at[:10]}"
    why = f": {ended.reason}" if ended is not None and ended.reason else ""
    return f"{one.hold_id}  run {one.run_id}  {printable(f'{one}{how}{why}')}"
