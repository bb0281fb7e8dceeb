"""A scan that is struck and resumed until it is committed.

In: a cluster, the stores, and strikes. Out: what struck and when. Goes wrong: a scan that ends by itself or not at all,
a strike that finds nothing to strike, work that is done again, a process that is left: each is a `ChaosError`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from tests.chaos.cluster import TwoNodes
from tests.chaos.faults import StoreFaults, Strike
from tests.chaos.stores import RUN_ID, Stores

_TITLES = {"cpu": ("(_Fused)", "(_Cpu)"), "model": ("(_Model)",), "stage": ("(_Stage)",), "pulse": ("ray::Pulse",)}
"""What Ray calls the processes of our actors."""
_OURS = ("MapBatches(", "ray::Pulse", "nsfwscan.images")
"""Actors and their decode children."""
_LOOK_S = 0.1
_GONE_S = 60.0
"""How soon the actors of a dead driver must be gone."""


class ChaosError(AssertionError):
    """Raised where something does not hold that must."""


class _Driver:
    """`nsfwscan scan` in a process of its own."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.killed = False
        self.began = time.monotonic()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, env={**os.environ, **environment}, stdout=output, stderr=output, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def exit_code(self) -> int | None:
        """None as long as it runs."""
        return self._process.poll()

    def kill(self) -> int:
        """Return its pid."""
        self._process.kill()
        self._process.wait()
        self.killed = self._process.returncode == -signal.SIGKILL
        return self._process.pid

    def said(self) -> str:
        """Return the end of its output."""
        return self._log.read_text(errors="replace")[-3000:]


class Disturbed:
    """Scan, attempt by attempt.

    Attributes:
        struck: kills while there was something to do, by target.
        spared: objects that were staged when a driver was killed, and not read again.
    """

    def __init__(
        self, stores: Stores, cluster: TwoNodes, faults: StoreFaults, tell: Callable[[str], None], ends: float
    ) -> None:
        """`ends`: by when (monotonic) it must be committed."""
        self._stores, self._cluster, self._faults, self._tell, self._ends = stores, cluster, faults, tell, ends
        self.struck: Counter[str] = Counter()
        self.attempts = 0
        self._read_before: list[Counter[str]] = []

    def run(self, command: Sequence[str], due: list[Strike], chance: random.Random) -> None:
        """Run the command until it has committed, with the strikes that are due in their order."""
        while True:
            self.attempts += 1
            # Before there is a plan, and after the commit, `last` would be a new run.
            last = chance.random() < 0.5 and bool(self._stores.shards()) and not self._stores.run.is_committed()
            named = ["--resume", "last"] if last else ["--run-id", RUN_ID]
            self._tell(f"attempt {self.attempts}: {' '.join(named)}")
            log = self._stores.folder / f"attempt-{self.attempts}.log"
            with _Driver([*command, *named], self._cluster.environment, log) as driver:
                while driver.exit_code is None:
                    self._strike_first(due, driver)
                    if time.monotonic() > self._ends:
                        raise ChaosError(f"not committed in time:\n{driver.said()}")
                    time.sleep(_LOOK_S)
            self._wait_until_alone()
            if driver.exit_code == 0:
                break
            if not driver.killed:
                raise ChaosError(f"the scan ended by itself, with {driver.exit_code}:\n{driver.said()}")
            staged = self._stores.staged_objects()
            self._read_before.append(Counter({name: self._faults.gets[name] for name in staged}))
        self._tell("committed")
        missed = [strike.target for strike in due if strike.target != "commit"]
        if missed:
            raise ChaosError(f"found nothing to strike: {', '.join(missed)}")

    @property
    def spared(self) -> int:
        """Raise ChaosError where one of them was read again."""
        again = [
            name for before in self._read_before for name, gets in before.items() if self._faults.gets[name] > gets
        ]
        if again:
            raise ChaosError(f"{len(again)} objects were read again though they were staged, e.g. {again[0]}")
        return len(self._read_before[-1]) if self._read_before else 0

    def _strike_first(self, due: list[Strike], driver: _Driver) -> None:
        """The first of the strikes whose time has come, in its place, if there is one."""
        struck = next((strike for strike in due if self._strike(strike, driver)), None)
        if struck:
            due.remove(struck)

    def _strike(self, strike: Strike, driver: _Driver) -> bool:
        """Return whether it was the time, and there was something to strike."""
        if not self._is_time(strike, driver):
            return False
        if strike.target == "start":
            self._count(strike, f"driver {driver.kill()}, {strike.wait_s:.1f} s old")
            return True
        time.sleep(strike.wait_s)
        shards, staged = len(self._stores.shards()), len(self._stores.staged())
        where = f"with {shards - staged} of {shards} shards to do"
        if strike.target == "commit":
            pid = driver.kill()
            if driver.killed:  # else it was over
                self._count(strike, f"driver {pid} at the commit")
        elif staged == shards:
            raise ChaosError(f"every shard was staged before the {strike.target} could be struck")
        elif strike.target == "driver":
            self._count(strike, f"driver {driver.kill()} {where}")
        elif strike.target == "node":
            self._count(strike, f"raylet {self._cluster.lose_second()} of the second node {where}")
            time.sleep(strike.wait_s * 10)
            self._cluster.add_second()
            self._tell("the second node is there again")
        else:
            return self._kill_actor(strike, where)
        return True

    def _is_time(self, strike: Strike, driver: _Driver) -> bool:
        if strike.target == "start":
            return time.monotonic() - driver.began >= strike.wait_s
        if strike.target == "cpu":  # these end when all is read, while shards may wait for a model
            return self._faults.objects_read() >= strike.at * len(self._stores.uris)
        if strike.target == "driver" and not self._cluster.processes(_OURS[0]):
            return False  # this one is not at work yet
        shards = len(self._stores.shards())
        return shards > 0 and len(self._stores.staged()) >= strike.at * shards

    def _kill_actor(self, strike: Strike, where: str) -> bool:
        victims = [pid for title in _TITLES[strike.target] for pid in self._cluster.processes(title)]
        if not victims:
            return False
        pid = random.Random(strike.at).choice(victims)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self._count(strike, f"{strike.target} actor {pid} {where}")
            return True
        return False

    def _count(self, strike: Strike, what: str) -> None:
        self.struck[strike.target] += 1
        self._tell(f"SIGKILL {what}")

    def _wait_until_alone(self) -> None:
        until = time.monotonic() + _GONE_S
        while left := [pid for word in _OURS for pid in self._cluster.processes(word)]:
            if time.monotonic() > until:
                raise ChaosError(f"{_GONE_S:g} s after the driver's end there are still processes of ours: {left}")
            time.sleep(_LOOK_S)
