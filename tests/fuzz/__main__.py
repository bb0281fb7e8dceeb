"""Damaged files into every reader, for as long as one likes: `python -m tests.fuzz --seconds 60`.

In: a time and a seed. Out: a line a reader, and exit code 1 where one raised what is no error of ours, or hung. The file
that did it is kept, with the command that shows it again.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count as count_from
from itertools import islice
from pathlib import Path

import hypothesis

from nsfwscan.errors import BalanceError, NsfwscanError, RowError
from tests.fuzz.mutation import ANY_BYTES, mutated
from tests.fuzz.targets import TARGETS, Target
from tests.s3.servers import moto_server

EXPECTED = (RowError, NsfwscanError, BalanceError)
_KEPT = 5
"""Files kept for each reader."""


class Hung(BaseException):
    """A reader took too long. No Exception, so that nobody catches it on the way."""


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raise Hung where the block takes longer."""

    def give_up(*_: object) -> None:
        raise Hung(f"not done after {seconds:g} s")

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def tried(target: Target, data: bytes) -> BaseException | None:
    """Return what a reader raised that is no sentence for a person; None where all is well."""
    folder = Path(tempfile.mkdtemp(prefix="nsfwscan-fuzz-"))
    try:
        with within(target.slow_s):
            target.read(data, folder)
    except EXPECTED as error:
        return None if str(error).strip() else error
    except (Exception, Hung) as error:  # noqa: BLE001  # that is what is looked for
        return error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def fuzz(name: str, seconds: float, seed: int, keep: Path) -> tuple[int, Counter[str]]:
    """Try one reader.

    Returns:
        how many files were read, and how often each kind of failure was met.
    """
    target, until, count, found = TARGETS[name], time.monotonic() + seconds, 0, Counter[str]()
    files = _in_turn(mutated(target.seeds(), random.Random(f"{seed} {name}")), _made_up(seed))
    while time.monotonic() < until:
        data = next(files)
        count += 1
        error = tried(target, data)
        if error is None:
            continue
        where = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} at {os.path.basename(where.filename)}:{where.lineno}: {str(error)[:100]}"
        found[kind] += 1
        if found[kind] == 1 and len(found) <= _KEPT:
            keep.mkdir(parents=True, exist_ok=True)
            path = keep / f"{name}-{seed}-{count}"
            path.write_bytes(data)
            print(f"  {name}: {kind}\n    python -m tests.fuzz --show {name} {path}", flush=True)
    return count, found


def _in_turn(damaged: Iterator[bytes], made_up: Iterator[bytes]) -> Iterator[bytes]:
    """Nine damaged files for each that is made up: most readers look into what they know, and no further into the rest."""
    while True:
        yield from islice(damaged, 9)
        yield next(made_up)


def _made_up(seed: int) -> Iterator[bytes]:
    """Yield what hypothesis makes up, without end."""
    for batch in count_from(seed):
        yield from _batch(batch)


def _batch(seed: int) -> list[bytes]:
    files: list[bytes] = []

    @hypothesis.seed(seed)
    @_QUIET
    @hypothesis.given(ANY_BYTES)
    def keep(data: bytes) -> None:
        files.append(data)

    keep()
    return files


_QUIET = hypothesis.settings(
    max_examples=50, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
)


def main(arguments: list[str]) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all readers together")
    parser.add_argument("--seed", type=int, default=None, help="the same seed gives the same files; unset: any")
    parser.add_argument("--only", action="append", choices=list(TARGETS), help="a reader; may be repeated")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where files that failed are kept")
    parser.add_argument("--show", nargs=2, metavar=("READER", "FILE"), help="read one kept file, with its traceback")
    asked = parser.parse_args(arguments)
    # Damaged lists name buckets: those of an empty store on this machine are asked.
    with tempfile.TemporaryDirectory(prefix="nsfwscan-fuzz-cache-") as cache, moto_server() as store:
        os.environ |= {"NSFWSCAN_CACHE": cache, **store.environment()}
        if asked.show:
            name, path = asked.show
            error = tried(TARGETS[name], Path(path).read_bytes())
            traceback.print_exception(error) if error else print("nothing is wrong")
            return 1 if error else 0
        names = asked.only or list(TARGETS)
        seed = random.SystemRandom().randrange(2**32) if asked.seed is None else asked.seed
        print(f"seed {seed}, {asked.seconds / len(names):.1f} s for each of {len(names)} readers", flush=True)
        failures = 0
        for name in names:
            count, found = fuzz(name, asked.seconds / len(names), seed, asked.keep)
            failures += found.total()
            print(f"{name:<15} {count:>8,} files, {found.total():,} failures of {len(found)} kinds", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
