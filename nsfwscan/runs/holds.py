"""Hold runs: a run that is held is not pruned, nor are the runs that it rests on.

A hold is a file `holds/<hold_id>.json` in the report store: which run, why, by whom, since when. A released one stays
there as history. A malformed one is a `BrokenRecord`, since nobody knows what it holds.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from nsfwscan.errors import ConfigError, RunConflict
from nsfwscan.runs.record.beside import HoldRecord, ReleaseRecord
from nsfwscan.runs.record.fields import RECORD_VERSION, RUN_ID
from nsfwscan.runs.record.reading import read_hold
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store, to_json

_FOLDER = "holds"


def holds(store: Store) -> list[HoldRecord]:
    """Return all holds of a store, released ones too, the oldest first. Raises BrokenRecord for a malformed one."""
    folder = store.inside(_FOLDER)
    names = [name for name in folder.names("") if name.endswith(".json")]
    found = [read_hold(folder.read(name), folder.locate(name)) for name in names]
    return sorted(found, key=lambda hold: (hold.held_at, hold.hold_id))


def hold(run: Run, reason: str, by: str) -> HoldRecord:
    """Hold a committed run, and return the hold.

    Raises:
        ConfigError: the store has no such committed run.
        RunConflict: the run was pruned.
    """
    if not RUN_ID.fullmatch(run.run_id) or not (run.is_committed() or run.pruned()):
        raise ConfigError(f"{run.store.uri} has no committed run {run.run_id!r}")
    at = datetime.now(UTC)
    hold_id = f"{at:%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"
    made = HoldRecord(
        record_version=RECORD_VERSION,
        hold_id=hold_id,
        run_id=run.run_id,
        held_at=at.isoformat(timespec="seconds"),
        by=by,
        reason=reason,
        released=None,
    )
    folder = run.store.inside(_FOLDER)
    folder.create(f"{hold_id}.json", _json(made))
    if pruned := run.pruned():  # a prune writes this first and then looks for holds: one of the two sees the other
        folder.delete(f"{hold_id}.json")
        raise RunConflict(f"run {run.run_id} cannot be held: it was {pruned}")
    return made


def release(store: Store, run_id: str, by: str, reason: str | None = None, hold_id: str | None = None) -> HoldRecord:
    """Release the hold of a run, and return it.

    Args:
        hold_id: which one, where the run has several.

    Raises:
        ConfigError: the run has no such hold, or several and none is named.
    """
    active = [one for one in holds(store) if one.run_id == run_id and one.released is None]
    asked = [one for one in active if hold_id in (None, one.hold_id)]
    if not asked:
        raise ConfigError(f"run {run_id!r} has no active hold{f' {hold_id!r}' if hold_id else ''} in {store.uri}")
    if len(asked) > 1:
        named = "\n".join(f"{one.hold_id}  {one}" for one in asked)
        raise ConfigError(f"run {run_id!r} has {len(asked)} active holds; say which one with --hold:\n{named}")
    released = ReleaseRecord(at=datetime.now(UTC).isoformat(timespec="seconds"), by=by, reason=reason)
    done = asked[0].model_copy(update={"released": released})
    store.inside(_FOLDER).write(f"{done.hold_id}.json", _json(done))
    return done


def _json(made: HoldRecord) -> bytes:
    return to_json(made.model_dump(mode="json"))
