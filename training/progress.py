"""Show how images are read, looked at, grouped and drawn: bars on a terminal, lines elsewhere.

Work is told as (what, done, total), by a `ProgressCallback`; a scan within an evaluation, too.
`nsfwscan.reports.progress` shows a scan of its own, with its rate and what it found.
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

from nsfwscan.reports.progress import Lines, Silent
from nsfwscan.runs.staging import ShardResult
from nsfwscan.text import printable, redacted

ProgressCallback = Callable[[str, int, int], None]
"""Told now and then: of what, how many are done, of how many."""


def quiet(what: str, done: int, total: int) -> None:
    """Show nothing."""


class ScanProgress(Silent):
    """Tells of a scan as of any other work.

    Args:
        progress: is told.
        what: of what.
    """

    def __init__(self, progress: ProgressCallback, what: str) -> None:
        self._progress, self._what = progress, what
        self._done = self._total = 0

    @contextmanager
    def working(self, total: int, done: int) -> Iterator[None]:
        """Tell of the beginning."""
        self._done, self._total = done, total
        self._progress(self._what, done, total)
        yield

    def finished(self, result: ShardResult) -> None:
        """Tell of the rows of a shard."""
        self._done += result.rows
        self._progress(self._what, self._done, self._total)


@contextmanager
def shown_progress(*, is_quiet: bool, stream: TextIO | None = None) -> Iterator[ProgressCallback]:
    """Show a bar for each kind of work on a terminal (standard error, or `stream`); elsewhere a line for each tenth of
    it."""
    console = Console(file=stream or sys.stderr)
    if is_quiet:
        yield quiet
        return
    shown: dict[str, int] = {}

    def print_tenth(what: str, done: int, total: int) -> None:
        tenth = 10 * done // total if total else 10
        if shown.get(what) != tenth:
            shown[what] = tenth
            Lines(console).say(f"{what} {done:,} of {total:,}")

    if not console.is_terminal:
        yield print_tenth
        return
    tasks: dict[str, TaskID] = {}
    with Bars(console=console, transient=True) as bars:

        def move_bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(escape(printable(redacted(what))), total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield move_bar
