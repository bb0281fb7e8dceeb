"""What nobody will come back for: staged work of runs that were committed, or given up long ago.

In: a report store. Out: the folders under `staging/` that were removed, and why. Nothing else is ever touched: no
report, no plan, no run that is alive or was worked on lately. A run whose staging is gone can still be resumed; it
begins anew from its plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nsfwscan.errors import RunConflict
from nsfwscan.report.runs import Run, runs_of
from nsfwscan.store import Store

GIVEN_UP = timedelta(days=7)
"""An unfinished run that nobody worked on for this long is taken for abandoned, unless said otherwise."""


@dataclass(frozen=True)
class Abandoned:
    """A folder of staged work, and why nobody needs it."""

    run_id: str
    reason: str
    files: int


def collect(store: Store, *, older_than: timedelta = GIVEN_UP, dry_run: bool = False) -> Iterator[Abandoned]:
    """Removes abandoned staging, and says what it removed.

    Args:
        older_than: how long ago an uncommitted run was last worked on.
        dry_run: only say.

    Raises:
        StoreError: the store cannot be listed, or does not let files be deleted.
    """
    for run in runs_of(store, "staging"):
        found = _abandoned(run, older_than)
        if found is None or (not dry_run and not _removed(run)):
            continue
        yield found


def _abandoned(run: Run, older_than: timedelta) -> Abandoned | None:
    if run.is_alive():
        return None
    files = len(run.staging.names(""))
    if run.is_committed():
        return Abandoned(run.run_id, "committed", files)
    last = run.staging.newest("")
    if last is not None and datetime.now(UTC) - last < older_than:
        return None
    return Abandoned(run.run_id, f"not committed, last worked on {last:%Y-%m-%d}" if last else "empty", files)


def _removed(run: Run) -> bool:
    """Removes a run's staging while holding its lease, so that nobody resumes it in the middle."""
    try:
        with run.lease():
            run.clear_staging()
    except RunConflict:  # somebody came back for it after all
        return False
    return True
