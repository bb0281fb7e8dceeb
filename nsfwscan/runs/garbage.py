"""What nobody will come back for: staged work of runs that were committed, or given up long ago.

In: a report store. Out: the folders under `staging/` that were removed, and why; and files that a killed process never
ended. Nothing else is ever touched: no report, no plan, no run that is alive or was worked on lately, and nothing that
a link leads to: the link itself goes. What cannot be removed is told, and the rest goes on. A run whose staging is gone
can still be resumed; it begins anew from its plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nsfwscan.errors import RunConflict, StoreError
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.store import Store

GIVEN_UP = timedelta(days=7)
"""An unfinished run that nobody worked on for this long is taken for abandoned, unless said otherwise."""
_UNENDED = timedelta(hours=1)
"""A file takes seconds to write: one that is still under a temporary name after this long was given up."""


@dataclass(frozen=True)
class Abandoned:
    """A folder of staged work, and why nobody needs it."""

    run_id: str
    reason: str
    files: int
    folder: str = "staging"
    failed: str | None = None
    """Why it could not be removed."""


def collect(store: Store, *, older_than: timedelta = GIVEN_UP, dry_run: bool = False) -> Iterator[Abandoned]:
    """Removes abandoned staging, and says what it removed.

    Args:
        older_than: how long ago an uncommitted run was last worked on.
        dry_run: only say.

    Raises:
        StoreError: the store cannot be listed.
    """
    for folder in ("staging", "runs"):
        collected = _staging if folder == "staging" else _unended
        for run in runs_of(store, folder):
            try:
                found = collected(run, older_than, dry_run)
            except StoreError as error:
                found = Abandoned(run.run_id, "cannot be removed", 0, folder, failed=str(error))
            if found is not None:
                yield found


def _staging(run: Run, older_than: timedelta, dry_run: bool) -> Abandoned | None:
    if run.store.is_link(f"staging/{run.run_id}"):
        if not dry_run:
            run.store.delete(f"staging/{run.run_id}")
        return Abandoned(run.run_id, "a symbolic link, which no scan follows; what it leads to stays", 1)
    found = _abandoned(run, older_than)
    return found if found is not None and (dry_run or _removed(run)) else None


def _unended(run: Run, older_than: timedelta, dry_run: bool) -> Abandoned | None:
    """Removes what a write to the run's folder left that was killed before it ended."""
    if run.store.is_link(f"runs/{run.run_id}"):
        raise StoreError(f"{run.folder.uri} is a symbolic link, which nothing follows")
    since = datetime.now(UTC) - min(older_than, _UNENDED)
    old = [name for name, at in run.folder.leftovers("").items() if at is not None and at <= since]
    if not old or run.is_alive():
        return None
    if not dry_run:
        run.folder.delete_files(old)
    return Abandoned(run.run_id, "writes that were cut off", len(old), "runs")


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
