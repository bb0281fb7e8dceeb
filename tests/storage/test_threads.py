"""Calls that come back are as in any pool; one that hangs is left behind, and the others go on."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from math import inf
from typing import Any

import pytest

from nsfwscan.storage.threads import Call, Hung, Threads


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


def test_results_and_errors_come_back() -> None:
    """Each call gives what it returned or raised, whatever the order in which they ended."""
    threads = Threads(3, "results")

    def work(number: int, call: Call[int]) -> int:
        time.sleep(0.01 * (number % 3))
        if number == 4:
            raise LookupError("four")
        return number * number

    calls = [threads.submit(lambda call, number=number: work(number, call)) for number in range(8)]  # type: ignore[misc]
    for number, call in enumerate(calls):
        if number == 4:
            with pytest.raises(LookupError, match="four"):
                call.result()
        else:
            assert call.result() == number * number


def test_no_more_calls_run_at_once_than_there_are_threads() -> None:
    """Two threads run two calls at a time."""
    threads, lock, running, most = Threads(2, "bounded"), threading.Lock(), 0, 0

    def work(call: Call[None]) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    for call in [threads.submit(work) for _ in range(8)]:
        call.result()
    assert most == 2


def test_a_call_that_hangs_is_left_behind() -> None:
    """It is given up when it is due, its replacement does the calls behind it, and the thread ends when it comes free."""
    threads, blocked = Threads(1, "hanging"), threading.Event()

    def hang(call: Call[str]) -> str:
        call.expect_within(0.1)
        blocked.wait()
        return "too late"

    first, second = threads.submit(hang), threads.submit(lambda call: "done")
    began = time.monotonic()
    with pytest.raises(Hung):
        first.result()
    assert time.monotonic() - began > 0.09
    assert threads.replace(first) == 1
    assert second.result() == "done"
    blocked.set()
    deadline = time.monotonic() + 60
    while len(named("hanging")) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(named("hanging")) == 1
    assert threads.submit(lambda call: "still there").result() == "still there"


def test_hanging_threads_are_counted_while_they_hang() -> None:
    """`replace` says how many hang now, not how many ever did."""
    threads, blocked = Threads(1, "counted"), [threading.Event() for _ in range(3)]

    def hang(event: threading.Event, call: Call[None]) -> None:
        call.expect_within(0.05)
        event.wait()

    counts = []
    for event in blocked:
        call = threads.submit(lambda call, event=event: hang(event, call))  # type: ignore[misc]
        with pytest.raises(Hung):
            call.result()
        counts.append(threads.replace(call))
        if len(counts) == 2:
            blocked[0].set()
            time.sleep(0.1)
    assert counts == [1, 2, 2]
    for event in blocked:
        event.set()


def test_waiting_for_its_turn_is_not_hanging() -> None:
    """The time that a call only waits, or has not begun, does not count."""
    threads = Threads(1, "waiting")

    def patient(call: Call[str]) -> str:
        call.expect_within(0.05)
        call.expect_within(inf)
        time.sleep(0.2)
        call.expect_within(5)
        return "done"

    calls = [threads.submit(patient) for _ in range(3)]
    assert [call.result() for call in calls] == ["done"] * 3


def test_a_cancelled_call_does_not_begin() -> None:
    """After a failure nothing more is read."""
    threads, gate, ran = Threads(1, "cancelled"), threading.Event(), []
    first = threads.submit(lambda call: gate.wait())
    second = threads.submit(lambda call: ran.append(1))
    second.cancel()
    gate.set()
    assert first.result()
    assert threads.submit(lambda call: "after").result() == "after"
    assert not ran


def test_threads_end_with_their_pool() -> None:
    """Building pools again and again leaves no thread behind."""
    threads = Threads(3, "ending")
    assert threads.submit(lambda call: 1).result() == 1
    assert len(named("ending")) == 3
    del threads
    gc.collect()
    deadline = time.monotonic() + 60
    while named("ending") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not named("ending")


def test_an_idle_thread_holds_no_result() -> None:
    """The bytes of the last object that a thread read are free when the caller lets go of them."""

    class Bytes:
        pass

    threads = Threads(1, "idle")
    found = threads.submit(lambda call: Bytes()).result()
    gone = weakref.ref(found)
    time.sleep(0.05)
    del found
    gc.collect()
    assert gone() is None


def test_a_hanging_thread_does_not_keep_the_process() -> None:
    """The interpreter ends although a call never comes back."""
    script = (
        "import threading; from nsfwscan.storage.threads import Hung, Threads; threads = Threads(1, 'x')\n"
        "call = threads.submit(lambda call: (call.expect_within(0.1), threading.Event().wait()))\n"
        "try: call.result()\n"
        "except Hung: print('left behind')"
    )
    shown: Any = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True, env=dict(os.environ)
    )
    assert shown.stdout.strip() == "left behind"
