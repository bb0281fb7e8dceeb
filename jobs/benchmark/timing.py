"""Measure images a second: of a repeated step, of a step in several processes at once, of a stream's steady part.

Each part of the benchmark runs in a process of its own (`apart`), so that no part inherits another's threads, caches or
Ray.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from nsfwscan.errors import NsfwscanError

Step = Callable[[], int]
"""A function that does some work and returns its number of images."""
Arrival = tuple[float, int]
"""(Time of a result in seconds by any monotonic clock, its number of images)."""

LOG = "NSFWSCAN_BENCH_LOG"
"""Environment variable: file to which measuring processes append their standard error."""
_SPAWN = multiprocessing.get_context("spawn")

_LEAST_RESULTS = 3
_LOOK_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def measuring(parent: int) -> None:
    """Turn this process into one that measures for the process `parent`.

    It ends when its parent ends, and its stderr goes to the file that `LOG` names, or nowhere. Libraries print much
    when they start and end; real failures come back as exceptions.
    """
    with open(os.environ.get(LOG, os.devnull), "ab") as log:
        os.dup2(log.fileno(), 2)
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def measuring_pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool of new processes that measure for this one."""
    return ProcessPoolExecutor(processes, mp_context=_SPAWN, initializer=measuring, initargs=(os.getpid(),))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start within the block; libraries read some variables only when they
    load."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in a new process, and return its result; exceptions come back unchanged.

    Raises:
        NsfwscanError: the process died.
    """
    try:
        with measuring_pool(1) as pool:
            return pool.submit(function, *args, **kwargs).result()
    except BrokenProcessPool:
        raise NsfwscanError("the process that measured it died; is the memory of the machine full?") from None


def repeat(step: Step, seconds: float, repetitions: int) -> list[float]:
    """Return a step's images a second in each repetition. They share the time; each runs whole steps, at least one."""
    rates = []
    for _ in range(repetitions):
        began, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds / repetitions or not done:
            done += step()
        rates.append(done / elapsed)
    return rates


def repeat_in_turn(steps: Mapping[str, Step], seconds: float, repetitions: int) -> dict[str, list[float]]:
    """Return the images a second of several steps, by name, in each repetition. Each step has that time; they run one
    after the other again and again, so that whatever else slows the machine down meets all of them."""
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repetitions):
        done, spent = dict.fromkeys(steps, 0), dict.fromkeys(steps, 0.0)
        while sum(spent.values()) < len(steps) * seconds / repetitions or not all(done.values()):
            for name, step in steps.items():
                began = time.perf_counter()
                done[name] += step()
                spent[name] += time.perf_counter() - began
        for name in steps:
            rates[name].append(done[name] / spent[name])
    return rates


def together(
    prepare: Callable[..., Step], args: Sequence[Any], processes: int, seconds: float, repetitions: int
) -> list[float]:
    """Return the images a second of a step in several processes at once, summed over them, in each repetition.

    Args:
        prepare: builds the step in its process; neither this nor the step's first run is timed.
        args: arguments of `prepare`.

    Raises:
        NsfwscanError: a process died.
    """
    with _SPAWN.Manager() as manager, measuring_pool(processes) as pool:
        barrier = manager.Barrier(processes)
        futures = [pool.submit(_one_of_several, prepare, args, barrier, seconds, repetitions) for _ in range(processes)]
        try:
            rates = [future.result() for future in futures]
        except BrokenProcessPool:
            raise NsfwscanError("a process that measured it died; is the memory of the machine full?") from None
    return [sum(at_once) for at_once in zip(*rates, strict=True)]


def _one_of_several(
    prepare: Callable[..., Step], args: Sequence[Any], barrier: Any, seconds: float, repetitions: int
) -> list[float]:
    try:
        step = prepare(*args)
        step()
    except BaseException:
        barrier.abort()  # the others would wait forever
        raise
    barrier.wait()
    return repeat(step, seconds, repetitions)


def steady(arrivals: Sequence[Arrival], workers: int) -> list[Arrival]:
    """Return the steady part of a stream of results, after the start-up and before the tail.

    It begins with result number `2 * workers`, or after a quarter of all results if that is later: by then every worker
    has delivered. It ends `workers` results before the last: after that, workers begin to idle. It is empty if fewer
    than three results are left: results may come in bursts, and two of them give no rate.
    """
    first, last = max(2 * workers, len(arrivals) // 4), len(arrivals) - workers
    return list(arrivals[first:last]) if last - first >= _LEAST_RESULTS else []


def steady_rate(arrivals: Sequence[Arrival], workers: int) -> float | None:
    """Return the images a second in the steady part: the slope of images done over time, by least squares.

    The slope depends less than the quotient between two results on when results of several images happen to arrive.
    None if there is no steady part, or if all of it arrived at once.
    """
    done, points = 0, []
    for at, images in steady(arrivals, workers):
        done += images
        points.append((at, done))
    if not points:
        return None
    mean_at = sum(at for at, _ in points) / len(points)
    mean_done = sum(done for _, done in points) / len(points)
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    return sum((at - mean_at) * (done - mean_done) for at, done in points) / spread if spread else None
