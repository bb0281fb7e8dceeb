"""Repetitions, several processes at once, and the steady part of a stream."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import pytest

from jobs.benchmark.timing import Step, apart, environment, repeat, repeat_in_turn, steady, steady_rate, together
from nsfwscan.errors import NsfwscanError


def test_steady_rate_leaves_start_and_tail_out() -> None:
    """Results that come every two seconds from two workers are four images a second, however long the start took and
    the last one lingered."""
    arrivals = [(30.0 + 2 * i, 8) for i in range(20)] + [(200.0, 8), (300.0, 8)]
    assert steady(arrivals, 2) == arrivals[5:20]
    assert steady_rate(arrivals, 2) == pytest.approx(4.0)


def test_steady_part_waits_for_every_worker() -> None:
    """With many workers the steady part begins when each had time for two; a stream too short for that is said to
    have none."""
    arrivals = [(float(i), 1) for i in range(20)]
    assert steady(arrivals, 4) == arrivals[8:16]
    assert steady(arrivals, 6) == []


def test_steady_rate_of_pairs_that_come_at_once() -> None:
    """Two workers in step deliver in pairs: the slope is the true rate nonetheless."""
    arrivals = [(10.0 * (i // 2), 20) for i in range(40)]
    assert steady_rate(arrivals, 2) == pytest.approx(4.0, rel=0.02)


@pytest.mark.parametrize("arrivals", [[], [(1.0, 5)], [(1.0, 5), (2.0, 5)], [(1.0, 5), (2.0, 5), (2.0, 5)]])
def test_too_few_results_have_no_rate(arrivals: list[tuple[float, int]]) -> None:
    """Two results, or less, are no rate."""
    assert steady_rate(arrivals, 1) is None


def _sleep() -> int:
    time.sleep(0.01)
    return 5


def test_repeat_counts_what_steps_did() -> None:
    """Five images in a hundredth of a second are nearly five hundred a second, and never more."""
    rates = repeat(_sleep, 0.12, 3)
    assert len(rates) == 3
    assert all(50 < rate <= 500 for rate in rates)


def test_repeat_runs_a_slow_step_once() -> None:
    """A step that takes longer than there is time is done once in each repetition."""
    calls: list[int] = []
    repeat(lambda: calls.append(1) or 1, 1e-9, 3)
    assert len(calls) == 3


def _prepared(images: int) -> Step:
    return partial(_slept, images)


def _slept(images: int) -> int:
    time.sleep(0.2)
    return images


def test_together_sums_processes() -> None:
    """Two processes that sleep at the same time do twice what one does."""
    [rate] = together(_prepared, (10,), 2, 1.0, 1)
    assert 50 < rate <= 100


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_process_is_said_to_be_dead() -> None:
    """A process that is killed while it measures is an error with words, not a hang."""
    with pytest.raises(NsfwscanError, match="died"):
        apart(_die)


def _fail() -> Step:
    raise NsfwscanError("no such model")


def test_an_error_in_one_of_several_is_told() -> None:
    """Where preparing fails, the others do not wait for ever, and the error comes back as itself."""
    with pytest.raises(NsfwscanError, match="no such model"):
        together(_fail, (), 1, 0.1, 1)


def test_environment_is_that_of_processes_started_in_it() -> None:
    """What a library reads when it loads is there in time, and gone afterwards, whether it was set before or not."""
    os.environ["NSFWSCAN_TEST_SET"] = "before"
    try:
        with environment({"NSFWSCAN_TEST_SET": "1", "NSFWSCAN_TEST_NEW": "2"}):
            assert apart(_variables) == ("1", "2")
        assert _variables() == ("before", None)
    finally:
        del os.environ["NSFWSCAN_TEST_SET"]


def _variables() -> tuple[str | None, str | None]:
    return os.environ.get("NSFWSCAN_TEST_SET"), os.environ.get("NSFWSCAN_TEST_NEW")


def test_steps_in_turn_have_rates_of_their_own() -> None:
    """Each step is timed alone, runs as often as the others, and has a rate for each repetition."""
    runs = {"slow": 0, "fast": 0}

    def step(name: str, images: int) -> int:
        runs[name] += 1
        time.sleep(0.01)
        return images

    rates = repeat_in_turn({"slow": partial(step, "slow", 1), "fast": partial(step, "fast", 50)}, 0.06, 2)
    assert runs["slow"] == runs["fast"] >= 2
    assert [len(found) for found in rates.values()] == [2, 2]
    assert min(rates["fast"]) > 5 * max(rates["slow"])
