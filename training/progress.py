"""What a person sees while images are read, looked at, grouped and drawn.

In: what is being done, how much of it is done, of how much. Out: bars on a terminal, lines where there is none (a job's
log), nothing where nobody asked. Nothing here can fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress as Bars
from rich.progress import TaskID

Progress = Callable[[str, int, int], None]
"""Told now and then: of what, how many are done, of how many."""


def quiet(what: str, done: int, total: int) -> None:
    """Progress that nobody sees."""


@contextmanager
def shown_progress(*, is_quiet: bool) -> Iterator[Progress]:
    """A bar for each kind of work on a terminal; elsewhere a line now and then; on standard error."""
    console = Console(stderr=True)
    if is_quiet:
        yield quiet
    elif not console.is_terminal:
        yield _Lines()
    else:
        with Bars(console=console, transient=True) as bars:
            tasks: dict[str, TaskID] = {}

            def show(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done, total=total)

            yield show


class _Lines:
    """A line for each tenth of the work."""

    def __init__(self) -> None:
        self._shown: dict[str, int] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        """Prints, if there is something new to say."""
        tenth = 10 * done // total if total else 10
        if self._shown.get(what) != tenth:
            self._shown[what] = tenth
            sys.stderr.write(f"{what} {done:,} of {total:,}\n")
