"""One run in the report store: its folder, its state, and who is at work on it.

In: a `Store` and a run id. Out: names, the recorded plan, the state that `nsfwscan runs` shows, and a lease that keeps
a second process off a run that is alive. A run that is alive elsewhere, or was begun with other settings, is a
`RunConflict`.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from nsfwscan.config import StorageConfig
from nsfwscan.display import redacted
from nsfwscan.errors import ConfigError, RunConflict, StoreError
from nsfwscan.sources.plan import Plan
from nsfwscan.store import Store, to_json

State = Literal["committed", "running", "failed", "unfinished"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEARTBEAT_S = 20.0
_LEASE_S = 90.0
"""A lease without a heartbeat for this long is given up: its process died, or its machine did."""
_SETTLE_S = 1.0
_AT_ONCE = 16
_HELD_HERE: set[str] = set()
"""Tokens of the leases that this process holds."""


@dataclass(frozen=True)
class Run:
    """A run's folder within a report store."""

    store: Store
    run_id: str

    @classmethod
    def named(cls, store: Store, run_id: str | None) -> Run:
        """The run of that id, or a new one named by the time (UTC). Raises ConfigError for no file name."""
        run_id = run_id or _new_id(store)
        if not _RUN_ID.fullmatch(run_id):
            raise ConfigError(f"run id {run_id!r}: letters, digits, `.`, `_` and `-` only, at most 100")
        return cls(store, run_id)

    @property
    def folder(self) -> Store:
        """Where the run's files lie."""
        return Store(self.store.locate(f"runs/{self.run_id}"), self.store.storage)

    @property
    def staging(self) -> Store:
        """Where finished shards wait for the commit."""
        return Store(self.store.locate(f"staging/{self.run_id}"), self.store.storage)

    def is_committed(self) -> bool:
        """Whether readers may use it."""
        return self.folder.exists("_SUCCESS")

    def is_alive(self) -> bool:
        """Whether a process is at work on it."""
        return _is_alive(self.staging.read_json("alive.json"))

    def record(self) -> dict[str, Any]:
        """The content of `run.json`. Raises StoreError where it is absent or broken."""
        found = self.folder.read_json("run.json")
        if found is None:
            raise StoreError(f"{self.folder.locate('run.json')} is absent or broken: the run was not committed")
        return found

    def plan(self) -> Plan:
        """What it was to scan. Raises StoreError where that is absent or broken."""
        found = self.folder.read_json("plan.json")
        if found is None:
            raise StoreError(f"{self.folder.locate('plan.json')} is absent or broken: the run's listing is not known")
        return Plan.from_json(found["plan"])

    def state(self) -> State:
        """What became of it, from its files alone."""
        if self.is_committed():
            return "committed"
        if self.is_alive():
            return "running"
        return "failed" if self.folder.exists("failure.json") else "unfinished"

    def load_plan(self, settings: dict[str, Any]) -> Plan | None:
        """The plan of a run that was begun before; None for a new one.

        Args:
            settings: what decides the rows, flat; JSON types.

        Raises:
            RunConflict: it was begun with other settings; the message says which, and how they differ.
        """
        found = self.folder.read_json("plan.json")
        if found is None:
            return None
        begun = found["settings"]
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
        return Plan.from_json(found["plan"])

    def save_plan(self, plan: Plan, settings: dict[str, Any]) -> Plan:
        """Records the plan: from here on the run can be resumed. Returns the plan that holds: another process's, where
        two began the run at once."""
        try:
            self.folder.create("plan.json", to_json({"settings": settings, "plan": plan.as_json()}))
        except FileExistsError:
            return self.load_plan(settings) or plan
        return plan

    def begun(self) -> Begun | None:
        """How far an uncommitted run came; None where it was never planned, or is committed."""
        if self.is_committed():
            return None
        found = self.folder.read_json("plan.json")
        if found is None:
            return None
        shards = Plan.from_json(found["plan"]).shards
        staged = set(self.staging.names(""))
        done = sum(shard.rows for shard in shards if f"{shard.name}.parquet" in staged)
        return Begun(self, found["settings"], done, sum(shard.rows for shard in shards))

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Holds the run for this process, with a heartbeat. Raises RunConflict where another one is alive."""
        staging, token = self.staging, uuid.uuid4().hex
        _HELD_HERE.add(token)  # before others can read it
        try:
            self._take(staging, token)
            stop = threading.Event()
            thread = threading.Thread(target=_keep_alive, args=(staging, token, stop), daemon=True, name="lease")
            thread.start()
            try:
                yield
            finally:
                stop.set()
                thread.join()
                if _holds(staging, token):  # a process that slept too long may have lost it
                    staging.delete("alive.json")
                if not staging.names(""):  # on local disk an empty folder would stay
                    self.store.delete(f"staging/{self.run_id}")
        finally:
            _HELD_HERE.discard(token)

    def clear_staging(self) -> None:
        """Removes what is staged, but for the lease, which the caller holds. Raises StoreError."""
        self.staging.delete_files([name for name in self.staging.names("") if name != "alive.json"])

    def _take(self, staging: Store, token: str) -> None:
        holder = staging.read_json("alive.json")
        if _is_alive(holder):
            assert holder is not None
            raise RunConflict(
                f"run {self.run_id} is alive: process {holder['pid']} on {holder['host']}; wait for it or stop it"
            )
        if holder is None:
            try:
                staging.create("alive.json", _heartbeat(token))
            except FileExistsError:
                # A retried request finds what its first try wrote.
                if not _holds(staging, token):
                    raise RunConflict(f"run {self.run_id} was begun by another process just now") from None
        else:  # a dead one's: of several that take it over at once, the last to write has it
            staging.write("alive.json", _heartbeat(token))
            time.sleep(_SETTLE_S)
            if not _holds(staging, token):
                raise RunConflict(f"run {self.run_id} was taken over by another process just now")


@dataclass(frozen=True)
class Begun:
    """A run that was planned and not committed."""

    run: Run
    settings: dict[str, Any]
    done: int
    """Objects whose rows are staged."""
    total: int
    """Objects that are to be read."""


def unfinished(store: Store, sources: Sequence[str]) -> list[Begun]:
    """The begun runs over exactly these sources, the newest id first."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        begun = threads.map(Run.begun, reversed(runs_of(store)))
        ours = [redacted(uri) for uri in sources]  # as settings are written down
        return [found for found in begun if found is not None and found.settings.get("source.uris") == ours]


def committed_runs(uri: str, storage: StorageConfig) -> list[Run]:
    """The run whose folder is at a URI (`STORE/runs/ID`), or all committed ones of the store there.

    Raises:
        StoreError: there is neither.
    """
    place = Store.at(uri, storage)
    store, separator, run_id = place.uri.rpartition("/runs/")
    if separator and (place.exists("run.json") or place.exists("plan.json")):
        return [Run(Store(store, storage), run_id)]
    found = [run for run in runs_of(place) if run.is_committed()]
    if not found:
        raise StoreError(f"{place.uri}: neither a run's folder nor a store with committed runs")
    return found


def find_run(uri: str, storage: StorageConfig) -> Run:
    """The committed run whose folder is at a URI (`STORE/runs/ID`), or the newest one of the store there, those left
    aside that only matched what others had seen.

    Raises:
        StoreError: there is none.
    """
    found = [run for run in committed_runs(uri, storage) if run.is_committed()]
    if not found:
        raise StoreError(f"{uri} is not committed: it has no report yet")
    whole = [run for run in found if run.record()["kind"] != "match"] if len(found) > 1 else found
    return max(whole or found, key=_age)


def _age(run: Run) -> tuple[str, str]:
    record = run.record()
    return record["plan"]["listed_at"], record["committed_at"]


def runs_of(store: Store, folder: Literal["runs", "staging"] = "runs") -> list[Run]:
    """The runs of a store that have a folder in that one, oldest id first; what else lies there is passed over."""
    return [Run(store, name) for name in store.names(folder) if _RUN_ID.fullmatch(name)]


def _heartbeat(token: str) -> bytes:
    return to_json({"host": socket.gethostname(), "pid": os.getpid(), "token": token, "time": time.time()})


def _keep_alive(staging: Store, token: str, stop: threading.Event) -> None:
    while not stop.wait(_HEARTBEAT_S):
        try:
            if not _holds(staging, token):
                return
            staging.write("alive.json", _heartbeat(token))
        except StoreError:  # the store is away for a moment; the shards' own writes will tell if it stays away
            continue


def _new_id(store: Store) -> str:
    """The time, to the second; a later one where another run has that name, which would be taken for this one."""
    at = datetime.now(UTC)
    while True:
        run_id = at.strftime("%Y%m%dT%H%M%SZ")
        if not store.names(f"runs/{run_id}") and not store.names(f"staging/{run_id}"):
            return run_id
        at += timedelta(seconds=1)


def _is_alive(holder: dict[str, Any] | None) -> bool:
    if holder is None or time.time() - holder["time"] > _LEASE_S:
        return False
    if holder["host"] != socket.gethostname():
        return True
    if holder["pid"] == os.getpid():  # ours, or that of a container before us: those start with the same few pids
        return holder["token"] in _HELD_HERE
    return _process_exists(holder["pid"])


def _holds(staging: Store, token: str) -> bool:
    return (staging.read_json("alive.json") or {}).get("token") == token


def _process_exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
