"""Say in `run.json` which files of verdicts a run knew, and check that those which runs named are there, unchanged.

Each run names the files that no run before it names, so that all runs together name all files that were there at a
commit, and a file that was removed is missed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow.compute as pc

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.finding import Finding, damaged, tampered
from nsfwscan.runs.record.fields import Json
from nsfwscan.runs.record.inputs import VerdictsRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import FOLDER, part_names, read_part
from nsfwscan.verdicts.sessions import FOLDER as SESSIONS
from nsfwscan.verdicts.sessions import all_sessions, read_session_part, session_parts
from nsfwscan.verdicts.standing import StandingVerdicts
from nsfwscan.verdicts.verdict import VerdictWord

_AT_ONCE = 16


def verdicts_record(store: Store, verdicts: StandingVerdicts) -> Json | None:
    """Return the section of `run.json`; None where the store has no verdicts."""
    if not verdicts.parts:
        return None
    named = set(_named(store))
    new = tuple(part for part in verdicts.parts if part not in named)
    given, opened = _looks(store, verdicts.parts)
    opens, open_hours = _exposure(store)
    record = VerdictsRecord(
        contents=verdicts.contents.num_rows,
        parts=len(verdicts.parts),
        sha256=verdicts.digest,
        new=new,
        given=given,
        opened=opened,
        opens=opens,
        open_hours=open_hours,
    )
    return record.model_dump(mode="json")


def _exposure(store: Store) -> tuple[int | None, float | None]:
    """Return what sessions of the review page say that people opened, and in how many hours; None without any."""
    sessions = all_sessions(store)
    if not sessions.num_rows:
        return None, None
    opens, seconds = pc.sum(sessions["opens"]).as_py() or 0, pc.sum(sessions["seconds"]).as_py() or 0.0
    return opens, round(seconds / 3600, 3)


def _looks(store: Store, parts: Sequence[str]) -> tuple[int, int]:
    """Return the number of verdicts that people gave, and of those before which they opened the original."""
    opened: dict[str, bool] = {}
    for part in parts:
        rows = read_part(store, part, ["id", "verdict", "opened"])
        rows = rows.filter(pc.not_equal(rows["verdict"], str(VerdictWord.UNDO)))
        opened |= dict(zip(rows["id"].to_pylist(), rows["opened"].to_pylist(), strict=True))
    return len(opened), sum(map(bool, opened.values()))


def verify_verdicts(store: Store) -> Iterator[Finding]:
    """Yield what is wrong with the files of verdicts of a store."""
    there, named = part_names(store), _named(store)
    for part in there:
        try:
            read_part(store, part, ["id"])
        except BrokenRecord as error:
            yield tampered(f"{FOLDER}/{part}.parquet {error.reason}")
    for part in sorted(named.keys() - set(there)):
        yield damaged(f"{FOLDER}/{part}.parquet: absent, although run {named[part]} knew it; it held verdicts")
    for part in session_parts(store):
        try:
            read_session_part(store, part)
        except BrokenRecord as error:
            yield tampered(f"{SESSIONS}/{part}.parquet {error.reason}")
    for name in sorted(store.names(FOLDER)):
        if name.removesuffix(".parquet") not in there:
            yield damaged(f"{FOLDER}/{name}: no file of verdicts; readers pass over it")


def _named(store: Store) -> dict[str, str]:
    """Return the files that runs name, pruned ones too, each with the run."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        records = [record for record in threads.map(_record, runs_of(store)) if record is not None and record.verdicts]
    return {part: record.run_id for record in records for part in (record.verdicts.new if record.verdicts else ())}


def _record(run: Run) -> RunRecord | None:
    """Return the record of a run; None where it was not committed, or is broken, which is told where it is verified."""
    try:
        return run.record()
    except BrokenRecord:
        return None
