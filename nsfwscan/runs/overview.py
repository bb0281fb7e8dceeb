"""List the runs of a store in the order of time, each with its state.

The time of a run is when it was committed; of any other, when it last moved. A run whose files are broken is listed,
too, with the reason. A store that fails is a `StoreError`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.record.beside import STAYS, PrunedRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Begun, Run, State, runs_of
from nsfwscan.storage.store import Store

_AT_ONCE = 16
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Overview:
    """A run as `nsfwscan runs` shows it.

    Attributes:
        at: when it was committed, or last moved; None where no file says so.
        record: content of `run.json`; None unless the run is committed or was pruned.
        begun: progress of a run that has a plan and is not committed.
        problem: what is broken, in words.
        pruned: when and by whom the run was pruned.
        left: whether files of a pruned run are left, because the prune was cut off.
    """

    run: Run
    state: State | Literal["broken"]
    at: datetime | None = None
    record: RunRecord | None = None
    begun: Begun | None = None
    problem: str | None = None
    pruned: PrunedRecord | None = None
    left: bool = False


def overview(store: Store) -> list[Overview]:
    """Return the runs of a store, the newest last; runs of the same time, or of none, by their ids."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = list(threads.map(_look, runs_of(store)))
    return sorted(found, key=lambda one: (one.at or _LONG_AGO, one.run.run_id))


def _look(run: Run) -> Overview:
    try:
        state = run.state()
        if state == "committed":
            record = run.record()
            return Overview(run, state, datetime.fromisoformat(record.committed_at), record)
        if state == "pruned":
            record, left = run.record(), set(run.folder.names("")) - STAYS
            at = datetime.fromisoformat(record.committed_at)
            return Overview(run, state, at, record, pruned=run.pruned(), left=bool(left))
        if state == "unfinished":
            run.planned()  # a broken plan says so
        return Overview(run, state, _moved_at(run), begun=run.begun())
    except BrokenRecord as error:
        return Overview(run, "broken", run.folder.newest(""), problem=str(error))


def _moved_at(run: Run) -> datetime | None:
    """Return when the last file of an uncommitted run was written."""
    times = [folder.newest("") for folder in (run.folder, run.staging)]
    return max((time for time in times if time is not None), default=None)
