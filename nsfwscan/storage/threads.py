"""Threads for calls that may hang: a read from a network mount whose server is gone cannot be interrupted.

A call says by when it must be done. One that is late is `Hung`: its thread is left behind, and a new one takes its
place. Threads are daemons, so one that hangs does not keep the process from ending. A call that ends in time costs no
more than in any pool.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from math import inf
from queue import SimpleQueue
from typing import Generic, TypeVar

_LOOK_S = 1.0
"""Seconds between looks at a call that has not begun, or waits for its turn."""

_Result = TypeVar("_Result")


class Hung(Exception):
    """A call is not back at the time by which it said it would be."""


class Call(Generic[_Result]):
    """A call on its way through a thread."""

    def __init__(self, work: Callable[[Call[_Result]], _Result]) -> None:
        self._work = work
        self._due = inf  # on the monotonic clock
        self._is_wanted = True
        self._is_left = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._value: _Result
        self._error: BaseException | None = None

    def expect_within(self, seconds: float) -> None:
        """Say from within the call, or as it is submitted, in how many seconds it must be back; `inf` while it only
        waits for something."""
        self._due = time.monotonic() + seconds

    def cancel(self) -> None:
        """Keep the call from beginning, if it has not begun."""
        self._is_wanted = False

    @property
    def has_ended(self) -> bool:
        """True where its thread is free again."""
        return self._ended.is_set()

    def result(self) -> _Result:
        """Return what the call returned. Raises what it raised, or Hung."""
        while not self._ended.wait(min(_LOOK_S, max(0.0, self._due - time.monotonic()))):
            if time.monotonic() >= self._due and self._leave():
                raise Hung
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._value

    def run(self) -> bool:
        """Make the call on this thread. Return False where nobody waits for this thread any more."""
        try:
            if self._is_wanted:
                self._value = self._work(self)
        except BaseException as error:  # noqa: BLE001  # it is raised where the result is asked for
            self._error = error
        with self._lock:
            self._ended.set()
            return not self._is_left

    def _leave(self) -> bool:
        with self._lock:
            self._is_left = not self._ended.is_set()
            return self._is_left


class Threads:
    """Threads that take calls in the order in which they are given."""

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Call[object] | None] = SimpleQueue()
        self._left: list[Call[object]] = []
        self._started = [self._start() for _ in range(count)]
        self._dismiss = weakref.finalize(self, _dismiss, self._calls, count)

    def submit(self, work: Callable[[Call[_Result]], _Result]) -> Call[_Result]:
        """Hand a call to the next free thread; ask for results in the order of submission."""
        call = Call(work)
        self._calls.put(call)  # type: ignore[arg-type]
        return call

    def replace(self, call: Call[_Result]) -> int:
        """Start a thread in place of one that a call has hung. Return how many hang now."""
        self._left = [earlier for earlier in self._left if not earlier.has_ended] + [call]  # type: ignore[list-item]
        self._started.append(self._start())
        return len(self._left)

    def close(self, within_s: float) -> None:
        """Take no more calls, and wait so long at most for those that were given, unless they are cancelled."""
        self._dismiss()
        until = time.monotonic() + within_s
        for thread in self._started:
            thread.join(max(0.0, until - time.monotonic()))

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=_serve, args=(self._calls,), name=self._name, daemon=True)
        thread.start()
        return thread


def _serve(calls: SimpleQueue[Call[object] | None]) -> None:
    while True:
        call = calls.get()
        if call is None or not call.run():
            return
        del call  # and its result with it, while the thread waits for the next one


def _dismiss(calls: SimpleQueue[Call[object] | None], count: int) -> None:
    for _ in range(count):
        calls.put(None)
