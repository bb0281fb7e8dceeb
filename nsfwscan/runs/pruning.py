"""Prune a report store: remove old runs whole, but none that a kept run, an unfinished run or a hold rests on.

`plan_pruning` says what would be removed and why each old run that stays does. `prune` removes it. Of a pruned run
`run.json` stays, unchanged, so that the runs committed after it still name what is there, and `pruned.json` says when,
by whom and why the rest went.

`pruned.json` is written first, and hides the run from all readers; then the prune looks again whether something has
begun to rest on the run meanwhile, and if so takes it back. `_SUCCESS` goes before any other file. So a run without
`pruned.json` is whole, and a prune that was killed is finished by the next one. A store that fails is a `StoreError`;
so is a broken record, since nobody knows what that run rests on.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from nsfwscan.errors import BrokenRecord, RunConflict, StoreError
from nsfwscan.runs.catalogue import write_catalogue
from nsfwscan.runs.holds import holds
from nsfwscan.runs.previous import live_runs, series_of
from nsfwscan.runs.record.beside import STAYS, PrunedRecord
from nsfwscan.runs.record.fields import RECORD_VERSION
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.storage.store import Store, to_json

_LEASE = ".prune"
"""Id under which a prune holds the store against another one; no run can have it."""

_TRIED = ".tmp-prune"
"""A file by which a prune learns whether it may delete; gone at once, or removed by `gc`."""


@dataclass(frozen=True)
class Removal:
    """A run that goes."""

    run: Run
    record: RunRecord
    files: int
    bytes: int
    begun: PrunedRecord | None = None
    """Content of `pruned.json`, where an earlier prune was cut off."""


@dataclass(frozen=True)
class Kept:
    """An old run that stays, and why, the most important reason first."""

    run: Run
    record: RunRecord
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Pruning:
    """Plan of a prune, the oldest run first."""

    removals: tuple[Removal, ...]
    kept: tuple[Kept, ...]
    seen: frozenset[str]
    """Ids of all runs that were there."""


@dataclass(frozen=True)
class Pruned:
    """Outcome of a run that was to go."""

    run_id: str
    kept: str | None = None
    """Why it stays after all."""
    failed: str | None = None
    """Why not all of it could be removed."""


def plan_pruning(store: Store, keep: timedelta, ignored: Collection[str] = ()) -> Pruning:
    """Return what a prune of the runs that were committed longer ago than `keep` would do; change nothing.

    Args:
        ignored: runs with a broken record, which stay, and keep no other.

    Raises:
        BrokenRecord: a record, a plan or a hold is broken, so that it is unknown what rests on what.
        RunConflict: a run has begun, and not said yet what it rests on.
    """
    runs = runs_of(store)
    records = _sound(read_records(runs), ignored)
    begun = {run.run_id: pruned for run in runs if (pruned := run.pruned()) is not None}
    before = datetime.now(UTC) - keep
    reasons = _reasons(store, records, before, ignored)
    old = sorted((record for record in records.values() if _at(record) < before), key=_at)
    kept = [Kept(Run(store, r.run_id), r, tuple(reasons[r.run_id])) for r in old if r.run_id in reasons]
    going = [_removal(Run(store, r.run_id), r, None) for r in old if r.run_id not in reasons]
    cut_off = [_removal(Run(store, run_id), Run(store, run_id).record(), pruned) for run_id, pruned in begun.items()]
    removals = [*(one for one in cut_off if one.files), *going]
    return Pruning(tuple(removals), tuple(kept), frozenset(run.run_id for run in runs))


def _sound(found: Iterable[tuple[Run, RunRecord | BrokenRecord]], ignored: Collection[str]) -> dict[str, RunRecord]:
    sound: dict[str, RunRecord] = {}
    for run, record in found:
        if not isinstance(record, BrokenRecord):
            sound[run.run_id] = record
        elif run.run_id not in ignored:
            way_out = (
                "what it rests on is unknown, so nothing is pruned: put it back from a backup, or prune without regard "
                f"to it, with --ignore-run {run.run_id}"
            )
            raise BrokenRecord(record.where, record.reason, way_out)
    return sound


def _at(record: RunRecord) -> datetime:
    return datetime.fromisoformat(record.committed_at)


def _removal(run: Run, record: RunRecord, begun: PrunedRecord | None) -> Removal:
    sizes = {path: size for path, size in run.folder.sizes("").items() if path not in STAYS}
    return Removal(run, record, len(sizes), sum(sizes.values()), begun)


def _reasons(
    store: Store, records: dict[str, RunRecord], before: datetime, ignored: Collection[str]
) -> dict[str, list[str]]:
    """Return why each run that stays does; young ones have no words of their own."""
    reasons: dict[str, list[str]] = {run_id: [] for run_id, record in records.items() if _at(record) >= before}
    for run_id, why in _standing(store, records, ignored):
        reasons.setdefault(run_id, []).append(why)
    _add_supports(records, reasons, set(reasons))
    for record in sorted(records.values(), key=lambda record: record.age, reverse=True):
        if record.run_id in reasons or not record.rows_in("known_illegal"):
            continue
        if not any(record.run_id in records[one].known_illegal.runs for one in reasons):
            reasons[record.run_id] = ["no run that stays has taken over the illegal contents that it knows"]
            _add_supports(records, reasons, {record.run_id})
    return reasons


def _standing(store: Store, records: dict[str, RunRecord], ignored: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the runs that stay whatever their age is, each with the reason."""
    for hold in holds(store):
        if hold.released is None and hold.run_id in records:
            yield hold.run_id, str(hold)
    for run_id, behind in _unfinished(store, ignored).items():
        for one in behind:
            if one in records:
                yield one, f"run {run_id} goes on from it, and is not finished"
    newest: dict[object, RunRecord] = {}
    for record in sorted(records.values(), key=lambda record: record.age):
        newest[_source_set(record)] = record
    for record in newest.values():
        yield record.run_id, "it is the newest over its sources" if record.kind != "match" else "it is the newest match"
    yield from _golden(records.values())
    for base in live_runs(store, [run_id for run_id in ignored if run_id not in records]):
        yield base.run.run_id, "the next scan or match goes on from it"


def _golden(records: Iterable[RunRecord]) -> Iterator[tuple[str, str]]:
    """Yield the runs whose golden rows the next scan is compared with: the newest that scored each set."""
    newest: dict[str, RunRecord] = {}
    for record in sorted(records, key=_at):
        if record.golden is not None:
            newest[record.golden.uri] = record
    for uri, record in newest.items():
        yield record.run_id, f"it has what is expected of the golden set {uri}"


def _source_set(record: RunRecord) -> object:
    source = record.config.source
    uris = tuple(sorted(series_of(uri, source.lists) for uri in source.uris))
    return record.kind == "match", uris, source.include, source.exclude, source.limit


def _add_supports(records: dict[str, RunRecord], reasons: dict[str, list[str]], own: set[str]) -> None:
    """Add the runs that some runs, which stay for their own sake, rest on, each with the reason.

    These are their previous runs: what changed is told by comparison with them. A run that stays for another's sake
    keeps its own previous runs only where its report is a delta, whose other rows lie there; else a store in which
    each night goes on from the one before would keep them all.
    """
    left, seen = sorted(own), set(own)
    while left:
        record = records[left.pop()]
        if record.run_id not in own and not record.is_delta:
            continue
        why = f"rows of run {record.run_id} lie in it" if record.is_delta else f"run {record.run_id} goes on from it"
        for behind in record.previous_runs:
            if behind in records:
                reasons.setdefault(behind, []).append(why)
                if behind not in seen:
                    seen.add(behind)
                    left.append(behind)


def _unfinished(store: Store, ignored: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Return the runs that are not committed, each with the runs that its plan goes on from."""
    found: dict[str, tuple[str, ...]] = {}
    ids = {run.run_id for folder in ("runs", "staging") for run in runs_of(store, folder)}
    for run in (Run(store, run_id) for run_id in sorted(ids)):
        if run.is_committed_or_broken() or run.pruned() is not None:
            continue
        alive = run.is_alive()  # asked before the plan: in between it may be written, but not be missed
        try:
            planned = run.planned()
        except BrokenRecord:
            if run.run_id not in ignored:
                raise
            continue
        if planned is not None:
            found[run.run_id] = planned[0].previous_runs
        elif alive:
            raise RunConflict(
                f"run {run.run_id} has begun, and not said yet which runs it goes on from: prune again once it has its "
                "plan, in a few minutes"
            )
    return found


def prune(store: Store, pruning: Pruning, command: str, ignored: Collection[str] = ()) -> Iterator[Pruned]:
    """Remove what a plan says, and yield what became of each run. Go on where one of them cannot be removed.

    Args:
        command: what was asked for, for `pruned.json`.

    Raises:
        RunConflict: another prune is at work.
        StoreError: nothing may be deleted there, so nothing was pruned; or the store fails, and the next prune
            finishes what was begun.
    """
    with Run(store, _LEASE).lease():
        for removal in pruning.removals[:1]:
            _try_to_delete(removal.run.folder)
        marked: list[Removal] = []
        for removal in pruning.removals:
            try:
                _mark(removal, command)
                marked.append(removal)
            except StoreError as error:
                yield Pruned(removal.run.run_id, failed=str(error))
        needed = _needed_meanwhile(store, pruning, ignored)
        for removal in marked:
            run_id, why = removal.run.run_id, needed.get(removal.run.run_id, needed.get(""))
            try:
                if why is not None and removal.run.folder.exists("_SUCCESS"):  # all of it is there still
                    removal.run.folder.delete("pruned.json")
                    yield Pruned(run_id, kept=why)
                else:
                    _remove(removal.run)
                    yield Pruned(run_id)
            except StoreError as error:
                yield Pruned(run_id, failed=str(error))
        if pruning.removals:
            write_catalogue(store, anew=True)


def _try_to_delete(folder: Store) -> None:
    """Raise StoreError where a file can be written, and not deleted: `pruned.json` would then hide a run for good."""
    folder.write(_TRIED, b"")
    folder.delete_files([_TRIED])


def _mark(removal: Removal, command: str) -> None:
    """Write `pruned.json`; where a prune was cut off, it is there already."""
    if removal.begun is not None:
        return
    run, at = removal.run, datetime.now(UTC).isoformat(timespec="seconds")
    content = PrunedRecord(
        record_version=RECORD_VERSION,
        run_id=run.run_id,
        pruned_at=at,
        by=f"{_user()}@{socket.gethostname()}",
        command=command,
        reason=f"committed {removal.record.committed_at}; no hold, and no run that stays, rests on it",
        sha256=run.digest(),
    )
    run.folder.create("pruned.json", to_json(content.model_dump(mode="json")))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no name for the number, as in some containers
        return str(os.getuid())


def _needed_meanwhile(store: Store, pruning: Pruning, ignored: Collection[str]) -> dict[str, str]:
    """Return the runs that something rests on by now, each with the reason; under an empty id, a reason for all."""
    new = [run for run in runs_of(store) if run.run_id not in pruning.seen]
    committed = _sound(read_records(new), ignored)
    needed = {one: f"run {r.run_id} goes on from it" for r in committed.values() for one in r.previous_runs}
    try:
        for run_id, behind in _unfinished(store, ignored).items():
            needed |= dict.fromkeys(behind, f"run {run_id} goes on from it, and is not finished")
    except RunConflict as conflict:
        needed[""] = str(conflict)
    return needed | {hold.run_id: str(hold) for hold in holds(store) if hold.released is None}


def _remove(run: Run) -> None:
    """Remove all that lies in a run's folder but what stays. Raises StoreError where something is left."""
    folder = run.folder
    folder.delete("_SUCCESS")
    for name in sorted(_steps(folder.sizes("")) | set(folder.names("")) - STAYS):
        folder.delete(name)
    for path in sorted(folder.sizes("").keys() - STAYS):  # s3fs says nothing of files that a bulk request left
        above, _, name = path.rpartition("/")
        (folder.inside(above) if above else folder).delete_files([name])


def _steps(paths: Iterable[str]) -> set[str]:
    return {path.partition("/")[0] for path in paths} - STAYS
