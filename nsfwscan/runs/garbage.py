"""Remove abandoned files from a report store: staged work of runs that are committed, or given up long ago.

`collect` removes folders under `staging/`, and temporary files that a killed process left unfinished. It touches
nothing else: no report, no plan, no run that is alive or was active lately. Of a symbolic link it removes the link,
never the target. It reports what it cannot remove, and goes on. A run without its staging can still be resumed: it
starts again from its plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nsfwscan.errors import RunConflict, StoreError
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.store import Store

GIVEN_UP = timedelta(days=7)
"""An unfinished run without activity for this long counts as abandoned; the default of `collect`."""
_UNENDED = timedelta(hours=1)
"""A write takes seconds: a file that still has a temporary name after this long is abandoned."""


@dataclass(frozen=True)
class Abandoned:
    """A folder with abandoned files, and why nobody needs them."""

    run_id: str
    reason: str
    files: int
    folder: str = "staging"
    failed: str | None = None
    """Why the files could not be removed; None where they were."""


def collect(store: Store, *, older_than: timedelta = GIVEN_UP, dry_run: bool = False) -> Iterator[Abandoned]:
    """Remove abandoned files, and yield what was removed.

    Args:
        older_than: an uncommitted run counts as abandoned after this long without activity.
        dry_run: yield what would be removed, and remove nothing.

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
    """Remove temporary files that killed writes left in the run's folder. Raises StoreError for a symbolic link."""
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
    if run.is_committed() or run.pruned():
        return Abandoned(run.run_id, run.state(), files)
    last = run.staging.newest("")
    if last is not None and datetime.now(UTC) - last < older_than:
        return None
    return Abandoned(run.run_id, f"not committed, last worked on {last:%Y-%m-%d}" if last else "empty", files)


def _removed(run: Run) -> bool:
    """Remove a run's staging while holding its lease, so that nobody resumes the run meanwhile.

    Return False where another process holds the run.
    """
    try:
        with run.lease():
            run.clear_staging()
    except RunConflict:  # another process has resumed the run
        return False
    return True
