"""What strikes a scan: a store that fails, and SIGKILLs at chosen shares of the work.

In: a seed. Out: rules for the proxy before the store, which count requests as well, and a schedule of strikes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal
from urllib.parse import unquote, urlsplit

from tests.s3.servers import FaultyProxy

Target = Literal["start", "driver", "commit", "cpu", "model", "stage", "pulse", "node"]
"""`start`, `driver`, `commit`: the driver, in its first seconds, at work, and when every shard is staged; `node`: the
raylet of the second node, which is then added again; the others: an actor of that kind."""

MOST_IN_A_ROW = 2
"""Faults that one path has one after the other: fewer than any retries, so that no row depends on luck."""
FAULTS = {
    "GET": {"InternalError": 0.04, "ServiceUnavailable": 0.03, "SlowDown": 0.03, "cut": 0.03, "reset": 0.01},
    "PUT": {"InternalError": 0.02, "SlowDown": 0.02, "reset": 0.01},
}
"""Shares of the requests."""
PART_S = 0.3
"""That writing a part takes: so they come one by one, even after they have waited for a model together."""
STATUS = {"InternalError": 500, "ServiceUnavailable": 503, "SlowDown": 503}


class StoreFaults:
    """Faults that depend on the path, on how often it was asked for, and on the seed, but not on who asks first.

    Attributes:
        gets: how many GETs came, by bucket and key.
    """

    def __init__(self, seed: int) -> None:
        self.gets: Counter[str] = Counter()
        self._seed = seed
        self._asked: Counter[tuple[str, str]] = Counter()
        self._in_a_row: Counter[tuple[str, str]] = Counter()
        self._now: dict[tuple[str, str], str | None] = {}

    def set_on(self, proxy: FaultyProxy) -> None:
        """Add the rules. The first never strikes: it is asked about each request before the others are."""
        proxy.delay(self._see, 0.0)
        proxy.delay(_is_part, PART_S)
        for code, status in STATUS.items():
            proxy.fail(partial(self._is, code), status=status, code=code)
        proxy.reset(partial(self._is, "reset"))
        proxy.cut_body(partial(self._is, "cut"))

    def objects_read(self, prefix: str = "media/2026/") -> int:
        """Return how many objects were asked for."""
        return sum(name.startswith(prefix) for name in list(self.gets))

    def _see(self, method: str, path: str) -> bool:
        request = (method, path)
        self._asked[request] += 1
        if method == "GET":
            self.gets[unquote(urlsplit(path).path).removeprefix("/")] += 1
        fault = _drawn(method, random.Random(f"{self._seed} {self._asked[request]} {method} {path}").random())
        if self._in_a_row[request] == MOST_IN_A_ROW:
            fault = None
        self._in_a_row[request] = self._in_a_row[request] + 1 if fault else 0
        self._now[request] = fault
        return False

    def _is(self, fault: str, method: str, path: str) -> bool:
        return self._now.get((method, path)) == fault


def _is_part(method: str, path: str) -> bool:
    return method == "PUT" and "/staging/" in path and path.endswith(".arrow")


def _drawn(method: str, draw: float) -> str | None:
    for fault, share in FAULTS.get(method, {}).items():
        draw -= share
        if draw < 0:
            return fault
    return None


@dataclass(frozen=True)
class Strike:
    """One SIGKILL."""

    target: Target
    at: float
    """Share of the shards that are staged by then; for CPU actors, of the objects that were asked for."""
    wait_s: float
    """From then on."""


def schedule(counts: Mapping[Target, int], chance: random.Random) -> list[Strike]:
    """So many strikes on each target, in the order in which they come; of drivers at work, one when some work is done."""
    strikes = []
    for target, count in counts.items():
        for number in range(count):
            at = chance.uniform(0.3 if target == "driver" and not number else 0.03, 0.75)
            wait_s = chance.uniform(0.0, 0.4)
            if target == "start":
                at, wait_s = 0.0, chance.uniform(0.0, 8.0)
            elif target == "commit":
                at, wait_s = 1.0, chance.uniform(0.0, 1.5)
            strikes.append(Strike(target, at, wait_s))
    return sorted(strikes, key=lambda strike: strike.at)
