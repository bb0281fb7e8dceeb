"""One run in the report store: its folder, its record, its plan, its state, and its lease.

The lease keeps a second process off a run that is alive. A run that is alive elsewhere, or was begun with other
settings, is a `RunConflict`. Read a run's files only through `record`, `plan` and `read`: they raise `BrokenRecord` for
a malformed record, and for a file that differs from its record.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError, RunConflict, StoreError
from nsfwscan.runs import attempts, poison
from nsfwscan.runs.plan import Plan
from nsfwscan.runs.record.beside import Lease, PrunedRecord
from nsfwscan.runs.record.fields import RUN_ID, FileRecord, Json
from nsfwscan.runs.record.reading import read_lease, read_plan, read_pruned, read_record, write_plan
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.storage.forgotten import digest_of, is_known_in
from nsfwscan.storage.store import Store, to_json
from nsfwscan.text import printable, redacted

State = Literal["committed", "running", "failed", "unfinished", "pruned"]

_HEARTBEAT_S = 20.0
_LEASE_S = 90.0
"""A lease without a heartbeat for this long is dead: its process died, or its machine did."""
_SETTLE_S = 1.0
_AT_ONCE = 16
_PRUNED = "what it held is in no other run; `nsfwscan runs` lists the runs that are whole"
_HELD_HERE: set[str] = set()
"""Tokens of the leases that this process holds."""


@dataclass(frozen=True)
class Run:
    """A run's folder within a report store."""

    store: Store
    run_id: str

    @classmethod
    def named(cls, store: Store, run_id: str | None) -> Run:
        """Return the run of this id, or a new one named by the time (UTC).

        Raises:
            ConfigError: the id is invalid.
            RunConflict: the run of this id was pruned.
        """
        run_id = run_id or _new_id(store)
        if not RUN_ID.fullmatch(run_id):
            raise ConfigError(f"run id {run_id!r}: letters, digits, `.`, `_` and `-` only, at most 100")
        if pruned := cls(store, run_id).pruned():
            raise RunConflict(f"run {run_id} was {pruned}; take a new --run-id")
        return cls(store, run_id)

    @property
    def folder(self) -> Store:
        """Folder of the run's files."""
        return self.store.inside(f"runs/{self.run_id}")

    @property
    def staging(self) -> Store:
        """Folder of finished shards, which wait for the commit."""
        return self.store.inside(f"staging/{self.run_id}")

    def is_committed(self) -> bool:
        """Return whether the run is committed, and not pruned, so that readers may use it."""
        return self.folder.exists("_SUCCESS") and not self.folder.exists("pruned.json")

    def pruned(self) -> PrunedRecord | None:
        """Return when and by whom the run was pruned; None where it was not. Raises BrokenRecord."""
        try:
            data = self.folder.read("pruned.json")
        except FileNotFoundError:
            return None
        return read_pruned(data, self.folder.locate("pruned.json"))

    def is_committed_or_broken(self) -> bool:
        """Return whether the run is committed, or too broken to tell."""
        try:
            return self.is_committed()
        except BrokenRecord:
            return True

    def is_alive(self) -> bool:
        """Return whether a process is working on the run."""
        return _Held.of(self.staging).is_alive

    def record(self) -> RunRecord:
        """Return the content of `run.json`. Raises BrokenRecord where it is absent or malformed."""
        try:
            data = self.folder.read("run.json")
        except FileNotFoundError:
            data = None
        return read_record(data, self.folder.locate("run.json"), self.run_id)

    def digest(self) -> str:
        """Return the SHA-256 of `run.json`, which stands for the run and for all runs that it vouches for."""
        return digest_of(self.folder, self.folder.read("run.json"))

    def read(self, file: FileRecord) -> bytes:
        """Return the bytes of a file that the run's record names; exactly these bytes were checked.

        Raises:
            BrokenRecord: the file is absent, or its size or SHA-256 differs from the record.
        """
        try:
            data = self.folder.read(file.path)
        except FileNotFoundError:
            if pruned := self.pruned():
                raise BrokenRecord(self.folder.locate(file.path), f"is gone: its run was {pruned}", _PRUNED) from None
            raise BrokenRecord(self.folder.locate(file.path), "is absent, although run.json names it") from None
        differs = len(data) != file.bytes or hashlib.sha256(data).hexdigest() != file.sha256
        if differs and not is_known_in(self.folder, file.path, data):
            raise BrokenRecord(self.folder.locate(file.path), "is damaged: it has not the size and SHA-256 of run.json")
        return data

    def parquet(self, file: FileRecord, dictionaries: Sequence[str] = ()) -> pq.ParquetFile:
        """Return a recorded Parquet file, whole in memory, so that exactly the checked bytes are parsed.

        Args:
            dictionaries: columns to read as dictionaries, where the file has them.

        Raises:
            BrokenRecord: as in `read`, or the file is not Parquet.
        """
        data = self.read(file)
        try:
            found = pq.ParquetFile(io.BytesIO(data))
            known = [name for name in dictionaries if name in found.schema_arrow.names]
            return found if not known else pq.ParquetFile(io.BytesIO(data), read_dictionary=known)
        except pa.ArrowException as error:
            raise BrokenRecord(self.folder.locate(file.path), f"is no Parquet: {error}") from None

    def plan(self) -> Plan:
        """Return the run's plan, checked against the record of a committed run.

        Raises:
            BrokenRecord: the plan is absent or broken.
        """
        recorded = [file for file in self.record().files if file.path == "plan.json"] if self.is_committed() else []
        if recorded:
            return Plan.from_record(read_plan(self.read(recorded[0]), self.folder.locate("plan.json")).plan)
        found = self.planned()
        if found is None:
            if pruned := self.pruned():
                raise BrokenRecord(self.folder.locate("plan.json"), f"is gone: its run was {pruned}", _PRUNED)
            raise BrokenRecord(self.folder.locate("plan.json"), "is absent: the run's listing is not known")
        return found[0]

    def planned(self) -> tuple[Plan, Json] | None:
        """Return the plan and the settings; None where there is no plan. Raises BrokenRecord for a broken plan."""
        try:
            data = self.folder.read("plan.json")
        except FileNotFoundError:
            return None
        way_out = (
            f"delete {self.folder.uri} and {self.staging.uri}, then run the same command again, or take a new --run-id"
        )
        found = read_plan(data, self.folder.locate("plan.json"), None if self.is_committed() else way_out)
        return Plan.from_record(found.plan), found.settings

    def state(self) -> State:
        """Return the run's state, from its files alone."""
        if self.is_committed():
            return "committed"
        if self.folder.exists("pruned.json"):
            return "pruned"
        if self.is_alive():
            return "running"
        return "failed" if self.folder.exists("failure.json") else "unfinished"

    def load_plan(self, settings: dict[str, Any]) -> Plan | None:
        """Return the plan of a run that was begun before; None for a new run.

        Args:
            settings: the settings that decide the rows, flat; JSON types.

        Raises:
            RunConflict: the run was begun with other settings; the message says which, and how they differ.
            BrokenRecord: the plan is broken, so the settings of the run are unknown.
        """
        found = self.planned()
        if found is None:
            return None
        plan, begun = found
        differs = [
            f"{name} was {begun.get(name)!r}, is {settings.get(name)!r}"
            for name in sorted(begun.keys() | settings.keys())
            if begun.get(name) != settings.get(name)
        ]
        if differs:
            raise RunConflict(
                f"run {self.run_id} was begun with other settings; use those, or a new --run-id:\n  "
                + "\n  ".join(differs)
            )
        return plan

    def save_plan(self, plan: Plan, settings: dict[str, Any]) -> Plan:
        """Write the plan; from then on the run can be resumed.

        Return the plan that holds. It is another process's plan where two processes began the run at once.
        """
        try:
            self.folder.create("plan.json", write_plan(plan.as_record(), settings))
        except FileExistsError:
            return self.load_plan(settings) or plan
        return plan

    def begun(self) -> Begun | None:
        """Return the progress of an uncommitted run; None for a committed or pruned run, and without a plan that can be
        read."""
        try:
            found = None if self.is_committed() or self.pruned() else self.planned()
            staged = set(self.staging.names(""))
        except BrokenRecord:  # resuming the run, and `nsfwscan runs`, report the error
            return None
        if found is None:
            return None
        plan, settings = found
        shards = plan.shards
        done = sum(shard.rows for shard in shards if shard.part in staged)
        return Begun(self, settings, done, sum(shard.rows for shard in shards))

    @contextmanager
    def lease(self, tell: Callable[[str], None] = lambda line: None) -> Iterator[Callable[[], None]]:
        """Hold the run for this process, with a heartbeat. Raises RunConflict where another process holds it.

        Yield a function that raises where this process holds it no more: RunConflict where another one took it over,
        StoreError where the run's staging is gone.

        Args:
            tell: called with a message where an invalid lease is taken over.
        """
        staging, token = self.staging, uuid.uuid4().hex
        _HELD_HERE.add(token)  # before the lease can be read
        try:
            self._take(staging, token, tell)
            stop = threading.Event()
            thread = threading.Thread(target=_keep_alive, args=(staging, token, stop), daemon=True, name="lease")
            thread.start()
            try:
                yield partial(self._check_held, token)
            finally:
                stop.set()
                thread.join()
                self._release(staging, token, tell)
        finally:
            _HELD_HERE.discard(token)

    def _release(self, staging: Store, token: str, tell: Callable[[str], None]) -> None:
        try:
            if _holds(staging, token):  # a process that slept too long may have lost it
                staging.delete("alive.json")
            if not staging.names(""):  # on local disk an empty folder would stay
                self.store.delete(f"staging/{self.run_id}")
        except StoreError as error:  # what was done stands, and the lease ends with its heartbeat
            tell(f"run {self.run_id}: its lease stays behind: {error}")

    def _check_held(self, token: str) -> None:
        try:
            lease = _Held.of(self.staging).lease
        except StoreError:  # away for a moment; if it stays away, the next write says so
            return
        if lease is None:
            raise StoreError(
                f"{self.staging.locate('alive.json')} is gone: the report store was moved or deleted while the run was "
                "at work, so the run stops. If it was moved: remove what lies there now, move it back, and go on with "
                f"--run-id {self.run_id}. If it was deleted: the same command begins anew"
            )
        if lease.token != token:
            raise RunConflict(
                f"run {self.run_id} was taken over by process {lease.pid} on {printable(lease.host)}, which goes on "
                "with it: this one had given no sign of life for too long"
            )

    def clear_staging(self) -> None:
        """Remove all staged files but the lease, which the caller must hold. Raises StoreError if the store fails."""
        names = self.staging.names("")
        folders = {poison.FOLDER, attempts.FOLDER}
        for folder in folders.intersection(names):
            self.staging.delete(folder)
        self.staging.delete_files([name for name in names if name != "alive.json" and name not in folders])

    def _take(self, staging: Store, token: str, tell: Callable[[str], None]) -> None:
        held = _Held.of(staging)
        if held.is_alive and held.lease is not None:
            raise RunConflict(
                f"run {self.run_id} is alive: process {held.lease.pid} on {printable(held.lease.host)}; wait for it or "
                "stop it"
            )
        if held.wrong is not None:
            tell(f"run {self.run_id}: {held.wrong}; taken over")
        if not held.exists:
            try:
                staging.create("alive.json", _heartbeat(token))
            except FileExistsError:
                # A retried request finds the lease that its first try wrote.
                if not _holds(staging, token):
                    raise RunConflict(f"run {self.run_id} was begun by another process just now") from None
        else:  # a dead process's lease: of several processes that take it over at once, the last to write gets it
            staging.write("alive.json", _heartbeat(token))
            time.sleep(_SETTLE_S)
            if not _holds(staging, token):
                raise RunConflict(f"run {self.run_id} was taken over by another process just now")


@dataclass(frozen=True)
class Begun:
    """A run that has a plan and is not committed."""

    run: Run
    settings: dict[str, Any]
    done: int
    """Objects whose rows are staged."""
    total: int
    """Objects to read."""


def unfinished(store: Store, sources: Sequence[str]) -> list[Begun]:
    """Return the uncommitted runs over exactly these sources, newest id first."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        begun = threads.map(Run.begun, reversed(runs_of(store)))
        ours = [redacted(uri) for uri in sources]  # settings are written redacted
        return [found for found in begun if found is not None and found.settings.get("source.uris") == ours]


def committed_runs(uri: str, storage: StorageConfig) -> list[Run]:
    """Return the run whose folder is at a URI (`STORE/runs/ID`), or all runs of the store at that URI that were
    committed, pruned ones too.

    Raises:
        StoreError: the URI holds neither.
    """
    place = Store.at(uri, storage)
    store, separator, run_id = place.uri.rpartition("/runs/")
    if separator and RUN_ID.fullmatch(run_id):
        run = Run(Store.at(store, storage), run_id)
        if run.folder.exists("run.json") or run.folder.exists("plan.json"):
            return [run]
    found = [run for run in runs_of(place) if run.is_committed_or_broken() or run.folder.exists("pruned.json")]
    if not found:
        raise StoreError(f"{place.uri}: neither a run's folder nor a store with committed runs")
    return found


def find_run(uri: str, storage: StorageConfig, tell: Callable[[str], None] = lambda line: None) -> Run:
    """Return the committed run whose folder is at a URI (`STORE/runs/ID`), or the newest run of the store at that URI.

    A match counts only where the store has no scan or replay.

    Args:
        tell: called with a message for each run that is skipped because its record is broken.

    Raises:
        StoreError: there is no such run, or every record is broken.
        BrokenRecord: the record of the run is broken.
    """
    there = committed_runs(uri, storage)
    found = [run for run in there if run.is_committed_or_broken()]
    if not found:
        if pruned := there[-1].pruned():
            raise StoreError(f"run {there[-1].run_id} was {pruned}: its report is gone")
        raise StoreError(f"{uri} is not committed: it has no report yet")
    if len(found) == 1:
        return found[0]
    ages = {}
    for run, record in read_records(found):
        if isinstance(record, BrokenRecord):
            tell(f"run {run.run_id} is passed over, it may be newer: {record}")
        else:
            ages[run.run_id] = (record.kind != "match", record.age)
    if not ages:
        raise StoreError(f"{uri}: the record of every committed run is broken; `nsfwscan runs` says more")
    newest = max(ages, key=lambda run_id: ages[run_id])
    return next(run for run in found if run.run_id == newest)


def read_records(runs: Sequence[Run]) -> Iterator[tuple[Run, RunRecord | BrokenRecord]]:
    """Yield the committed ones of some runs, each with its record, or with the error of a broken record.

    The record of a night over a hundred million objects names thousands of files and takes megabytes of memory: who
    goes through all runs of a store keeps of each what is needed.

    Raises:
        StoreError: the store fails.
    """

    def read(run: Run) -> RunRecord | BrokenRecord | None:
        try:
            return run.record() if run.is_committed() else None
        except BrokenRecord as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for at in range(0, len(runs), _AT_ONCE):
            some = runs[at : at + _AT_ONCE]
            for run, record in zip(some, threads.map(read, some), strict=True):
                if record is not None:
                    yield run, record


def runs_of(store: Store, folder: Literal["runs", "staging"] = "runs") -> list[Run]:
    """Return the runs that have a subfolder in `folder`, in the order of their ids; other names are skipped."""
    return [Run(store, name) for name in store.names(folder) if RUN_ID.fullmatch(name)]


def _heartbeat(token: str) -> bytes:
    return to_json({"host": socket.gethostname(), "pid": os.getpid(), "token": token, "time": time.time()})


def _keep_alive(staging: Store, token: str, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        try:
            if not _holds(staging, token):
                return
            staging.write("alive.json", _heartbeat(token))
        except StoreError:  # the store is away for a moment; if it stays away, the shards' own writes fail
            continue


def _new_id(store: Store) -> str:
    """Return the time, to the second, as an id; a later time where a run has that id: the two would pass for one."""
    at = datetime.now(UTC)
    while True:
        run_id = at.strftime("%Y%m%dT%H%M%SZ")
        if not store.names(f"runs/{run_id}") and not store.names(f"staging/{run_id}"):
            return run_id
        at += timedelta(seconds=1)


@dataclass(frozen=True)
class _Held:
    """State of a run's lease."""

    exists: bool
    lease: Lease | None
    """None where the lease is absent or malformed."""
    is_alive: bool
    wrong: str | None = None
    """Why the lease is invalid, in words."""

    @classmethod
    def of(cls, staging: Store) -> _Held:
        try:
            data = staging.read("alive.json")
        except FileNotFoundError:
            return cls(exists=False, lease=None, is_alive=False)
        lease = read_lease(data)
        if lease is None:  # its holder writes it whole or not at all
            return cls(exists=True, lease=None, is_alive=False, wrong="its lease (alive.json) is empty or malformed")
        age_s = time.time() - lease.time
        if age_s > _LEASE_S:
            return cls(exists=True, lease=lease, is_alive=False)
        if age_s < -_LEASE_S:  # a clock is wrong, its or ours: the holder lives while it writes, by the store's clock
            written = staging.modified_at("alive.json")
            if written is None or abs(time.time() - written.timestamp()) > _LEASE_S:
                wrong = f"its lease is of {-age_s:,.0f} s from now, and nobody has renewed it"
                return cls(exists=True, lease=lease, is_alive=False, wrong=wrong)
        return cls(exists=True, lease=lease, is_alive=_may_live(lease))


def _may_live(holder: Lease) -> bool:
    if holder.host != socket.gethostname():
        return True
    if holder.pid == os.getpid():  # ours, or that of an earlier container: containers start with the same few pids
        return holder.token in _HELD_HERE
    return _process_exists(holder.pid)


def _holds(staging: Store, token: str) -> bool:
    lease = _Held.of(staging).lease
    return lease is not None and lease.token == token


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
