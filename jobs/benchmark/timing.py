"""Clocks: repetitions of a step, the same step in several processes at once, and the steady part of a stream.

In: steps that say how many images they did, or arrivals of results. Out: images a second. Each part of the benchmark
runs in a process of its own (`apart`), so that no part inherits another's threads, caches or Ray.
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
"""Does some work and returns how many images that were."""
Arrival = tuple[float, int]
"""When a result came (seconds, any clock that does not jump), and how many images it was."""

LOG = "NSFWSCAN_BENCH_LOG"
"""Environment variable: where the processes that measure write what they say."""
_SPAWN = multiprocessing.get_context("spawn")

_LEAST_RESULTS = 3
_LOOK_S = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def measuring(parent: int) -> None:
    """Makes this a process that measures for another one: it ends when that one does, and what it says on stderr goes
    to the file that `LOG` names, or nowhere. Libraries say much when they begin and end; what matters comes back as an
    exception."""
    with open(os.environ.get(LOG, os.devnull), "ab") as log:
        os.dup2(log.fileno(), 2)
    threading.Thread(target=_end_with, args=(parent,), daemon=True, name="parent").start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_S)
    os._exit(1)


def measuring_pool(processes: int) -> ProcessPoolExecutor:
    """Fresh processes that measure for this one."""
    return ProcessPoolExecutor(processes, mp_context=_SPAWN, initializer=measuring, initargs=(os.getpid(),))


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Processes that are started in the block have these environment variables; libraries read some of them only when
    they load."""
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
    """Calls a function in a fresh process and returns what it returns; its exceptions come back as themselves.

    Raises:
        NsfwscanError: the process died.
    """
    try:
        with measuring_pool(1) as pool:
            return pool.submit(function, *args, **kwargs).result()
    except BrokenProcessPool:
        raise NsfwscanError("the process that measured it died; is the memory of the machine full?") from None


def repeat(step: Step, seconds: float, repetitions: int) -> list[float]:
    """Images a second of a step, in each of several repetitions that share the time; whole steps, at least one each."""
    rates = []
    for _ in range(repetitions):
        began, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds / repetitions or not done:
            done += step()
        rates.append(done / elapsed)
    return rates


def together(
    prepare: Callable[..., Step], args: Sequence[Any], processes: int, seconds: float, repetitions: int
) -> list[float]:
    """Images a second of a step in several processes at once, summed over them, in each repetition.

    Args:
        prepare: builds the step in its process; what it does is not timed, nor is the step's first run.
        args: what `prepare` is called with.

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
        barrier.abort()  # the others would wait for ever
        raise
    barrier.wait()
    return repeat(step, seconds, repetitions)


def steady(arrivals: Sequence[Arrival], workers: int) -> list[Arrival]:
    """The steady part of a stream of results: what comes after the start-up and before the tail.

    It begins with result number `2 * workers`, or a quarter of all results if that is later: by then every worker has
    delivered. It ends `workers` results before the last: after that, workers begin to idle. Empty where less than three
    results are left: results may come in bursts, and two of them are no rate.
    """
    first, last = max(2 * workers, len(arrivals) // 4), len(arrivals) - workers
    return list(arrivals[first:last]) if last - first >= _LEAST_RESULTS else []


def steady_rate(arrivals: Sequence[Arrival], workers: int) -> float | None:
    """Images a second in the steady part: the slope of the images done over time, by least squares, which depends less
    on where results of several images happen to fall than the quotient between two of them. None where there is no
    steady part, or all of it came at once."""
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
