"""`nsfwscan history`: the page over all nights of a store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
from rich.console import Console

from nsfwscan.cli.audit import estimate_line
from nsfwscan.cli.console import complain, echo, exit_codes, given_options, storage_options
from nsfwscan.cli.help import command
from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError
from nsfwscan.reports.history import Sample, render_history
from nsfwscan.review.audit_sample import FOLDER
from nsfwscan.review.audits import estimate_audit
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural


@command()
@click.argument("store")
@click.option(
    "--out", required=True, metavar="PAGE", help="The page (HTML): a file, one in a store, or - for standard output."
)
@storage_options
def history(store: str, out: str, **options: Any) -> None:
    """Write one page over all nights of a report STORE.

    Volumes, the share that is flagged, what reached people, time and cost, the policies with their thresholds, the
    models, what was changed when, and which nights stood out; and what drawn samples say of prevalence and recall.
    """
    with exit_codes(Console(stderr=True), verbose=False):
        storage = StorageConfig.of(given_options(options))
        page = Output.given(out, storage, "--out", stdout=True)
        place = Store.at(store, storage)
        records = list(filter(None, map(_record, runs_of(place))))
        scans = sum(record.kind == "scan" for record in records)
        with page.appearing() as file:
            file.write_text(render_history(place.uri, records, list(_samples(place))), encoding="utf-8")
        echo(f"{plural(scans, 'scan')}: {page}", err=page.is_stdout)


def _samples(store: Store) -> Iterator[Sample]:
    """Yield what the drawn samples of a store say, those of which something of each stratum is decided."""
    for audit_id in sorted(name.removesuffix(".parquet") for name in store.names(FOLDER)):
        try:
            found = estimate_audit(store, audit_id, so_far=True)
        except ConfigError:
            continue
        except BrokenRecord as error:
            complain(f"sample {audit_id} is left out: {error}")
            continue
        said = found.estimates
        figures = [estimate_line(one, "{:.2%}") for one in (said.prevalence, said.recall, said.false_positive_rate)]
        yield Sample(audit_id, found.draw.run_id, found.decided, found.undecided, *figures)


def _record(run: Run) -> RunRecord | None:
    """Return the record of a run that was committed, pruned ones included."""
    try:
        return run.record() if run.is_committed() or run.pruned() else None
    except BrokenRecord as error:
        complain(f"run {run.run_id} is left out: {error}")
        return None
