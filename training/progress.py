"""What a person sees while images are read, looked at, grouped and drawn.

In: what is being done, how much of it is done, of how much. Out: bars on a terminal, lines where there is none (a job's
log), nothing where nobody asked. Nothing here can fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress as Bars
from rich.progress import TaskID

from nsfwscan.reports.progress import Silent
from nsfwscan.runs.staging import ShardResult
from nsfwscan.text import printable, redacted

Progress = Callable[[str, int, int], None]
"""Told now and then: of what, how many are done, of how many."""


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


class ScanProgress(Silent):
    """Tells what a scan does in the same way.

    Args:
        progress: is told.
        what: of what.
    """

    def __init__(self, progress: Progress, what: str) -> None:
        self._progress, self._what = progress, what
        self._done = self._total = 0

    @contextmanager
    def working(self, total: int, done: int) -> Iterator[None]:
        """Around the work: its beginning."""
        self._done, self._total = done, total
        self._progress(self._what, done, total)
        yield

    def finished(self, result: ShardResult) -> None:
        """So many more."""
        self._done += result.rows
        self._progress(self._what, self._done, self._total)


@contextmanager
def shown_progress(*, is_quiet: bool, stream: TextIO | None = None) -> Iterator[Progress]:
    """A bar for each kind of work on a terminal; elsewhere a line now and then.

    Args:
        stream: unset: standard error.
    """
    console = Console(file=stream or sys.stderr)
    if is_quiet:
        yield quiet
    elif not console.is_terminal:
        yield _Lines(stream)
    else:
        with Bars(console=console, transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(escape(printable(redacted(what))), total=total)
                bars.update(tasks[what], completed=done, total=total)

            yield show


class _Lines:
    """A line for each tenth of the work."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._shown: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Prints, if there is something new to say."""
        tenth = 10 * done // total if total else 10
        if self._shown.get(what) != tenth:
            self._shown[what] = tenth
            (self._stream or sys.stderr).write(f"{printable(redacted(what))} {done:,} of {total:,}\n")
