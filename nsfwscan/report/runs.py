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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from nsfwscan.errors import ConfigError, RunConflict, StoreError
from nsfwscan.sources.plan import Plan, Shard
from nsfwscan.store import Store, to_json

State = Literal["committed", "running", "failed", "unfinished"]

_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_HEARTBEAT_S = 20.0
_LEASE_S = 90.0
"""A lease without a heartbeat for this long is given up: its process died, or its machine did."""
_SETTLE_S = 1.0
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
        run_id = run_id or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
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

    def record(self) -> dict[str, Any]:
        """The content of `run.json`. Raises StoreError where it is absent or broken."""
        found = self.folder.read_json("run.json")
        if found is None:
            raise StoreError(f"{self.folder.locate('run.json')} is absent or broken: the run was not committed")
        return found

    def state(self) -> State:
        """What became of it, from its files alone."""
        if self.is_committed():
            return "committed"
        if _is_alive(self.staging.read_json("alive.json")):
            return "running"
        return "failed" if self.folder.exists("failure.json") else "unfinished"

    def load_plan(self, settings: dict[str, str]) -> Plan | None:
        """The plan of a run that was begun before; None for a new one.

        Args:
            settings: fingerprints of what decides the rows (configuration, model, policy).

        Raises:
            RunConflict: it was begun with other settings; the message says which.
        """
        found = self.folder.read_json("plan.json")
        if found is None:
            return None
        differs = [name for name, value in settings.items() if found["settings"].get(name) != value]
        if differs:
            raise RunConflict(
                f"run {self.run_id} was begun with another {', '.join(differs)}; use them, or a new --run-id"
            )
        shards = tuple(Shard(*fields) for fields in found["shards"])
        return Plan(found["listed"], found["distinct"], found["bytes"], shards)

    def save_plan(self, plan: Plan, settings: dict[str, str]) -> None:
        """Records the plan: from here on the run can be resumed."""
        shards = [[shard.file, shard.group, shard.rows] for shard in plan.shards]
        counts = {key: value for key, value in asdict(plan).items() if key != "shards"}
        self.folder.write("plan.json", to_json({"settings": settings, **counts, "shards": shards}))

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Holds the run for this process, with a heartbeat. Raises RunConflict where another one is alive."""
        staging, token = self.staging, uuid.uuid4().hex
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
        _HELD_HERE.add(token)
        stop = threading.Event()
        thread = threading.Thread(target=_keep_alive, args=(staging, token, stop), daemon=True, name="lease")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            _HELD_HERE.discard(token)
            if _holds(staging, token):  # a process that slept too long may have lost it
                staging.delete("alive.json")
            if not staging.names(""):  # on local disk an empty folder would stay
                self.store.delete(f"staging/{self.run_id}")


def runs_of(store: Store) -> list[Run]:
    """All runs of a store, oldest id first."""
    return [Run(store, name) for name in store.names("runs")]


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
