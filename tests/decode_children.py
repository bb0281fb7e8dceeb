"""Decode children whose first process is kept for the next one with the same settings: it starts in a third of a second of
CPU time, hundreds of tests scan a few pictures each, and what it forks is a worker of its own for each of them all the same.
"""

from __future__ import annotations

import sys
import weakref

from nsfwscan.images.sandbox.wire import Area, Settings
from nsfwscan.images.sandbox.zygote import Zygote

_MOST = 6
"""Kept at a time; each is a process of 50 MB."""
_kept: list[tuple[str, Zygote]] = []


class LentZygote:
    """A `Zygote` of before, with a new worker, or else a new one; kept again when nobody uses it any more."""

    def __init__(self, settings: Settings) -> None:
        key = repr((settings, sys.path))
        self._zygote = _taken(key) or Zygote(settings)
        self._used: list[str] = []
        self._end = weakref.finalize(self, _keep, key, self._zygote, self._used)

    @property
    def area(self) -> Area:
        return self._zygote.area

    def fork(self) -> object:
        self._used.append("broken")  # unless all of this goes well
        forked = self._zygote.fork()
        self._used[:] = ["worker"]
        return forked

    def reap(self) -> tuple[int, int]:
        self._used.append("broken")
        reaped = self._zygote.reap()
        self._used.clear()
        return reaped

    def close(self) -> str:
        return str(self._end() or "")


def _taken(key: str) -> Zygote | None:
    for number, (kept, _) in enumerate(_kept):
        if kept == key:
            return _kept.pop(number)[1]
    return None


def _keep(key: str, zygote: Zygote, used: list[str]) -> str:
    """Keep a process that is well and has no worker; return the last words of one that is not."""
    try:
        if used == ["worker"]:
            zygote.reap()
        elif used:
            return zygote.close()
    except (EOFError, OSError, ValueError):
        return zygote.close()
    if zygote._process.poll() is not None:
        return zygote.close()
    _kept.append((key, zygote))
    if len(_kept) > _MOST:
        _kept.pop(0)[1].close()
    return ""
