"""Requests go out at the pace that was set, whoever sends them."""

from __future__ import annotations

import threading
import time

from nsfwscan.storage.rate_limit import UNPACED, Pace


def test_requests_are_evenly_spaced() -> None:
    """Between two turns lies at least the gap, but for the clock's grain; the first goes at once."""
    Pace(1 / 86_400).wait()  # not a day later
    pace, began = Pace(50), time.monotonic()
    turns = []
    for _ in range(6):
        pace.wait()
        turns.append(time.monotonic() - began)
    assert all(turn >= number * 0.02 - 0.001 for number, turn in enumerate(turns))


def test_threads_share_one_pace() -> None:
    """Eight threads together send no more than one would alone."""
    pace, began = Pace(100), time.monotonic()
    threads = [threading.Thread(target=lambda: [pace.wait() for _ in range(5)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began >= 39 * 0.01 - 0.001


def test_a_pause_is_not_caught_up() -> None:
    """After nobody sent anything for a while, requests are as far apart as ever."""
    pace = Pace(50)
    pace.wait()
    time.sleep(0.2)
    began = time.monotonic()
    for _ in range(4):
        pace.wait()
    assert time.monotonic() - began >= 3 * 0.02 - 0.001


def test_a_rate_below_one_a_second_waits_longer_than_a_second() -> None:
    """The rate may be a fraction: 0.8 a second is one each 1.25 s."""
    pace, began = Pace(0.8), time.monotonic()
    pace.wait()
    pace.wait()
    assert time.monotonic() - began >= 1.249


def test_a_request_may_ask_to_go_later() -> None:
    """A retry that must wait for itself takes no turn before it wants one, with and without a rate."""
    for pace in (UNPACED, Pace(1000)):
        began = time.monotonic()
        pace.wait(0.1)
        assert time.monotonic() - began >= 0.099


def test_without_a_rate_nobody_waits() -> None:
    """A hundred thousand turns pass in a moment."""
    began = time.monotonic()
    for _ in range(100_000):
        UNPACED.wait()
    assert time.monotonic() - began < 30
