"""Progress of a scan: objects done of total, rate, ETA, flagged, errors.

`Live` shows a bar on a terminal; `Lines` prints a plain line every few seconds elsewhere, `Log` with its time and
level; `Silent` prints nothing. None of them can fail a run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as Bar

from nsfwscan.runs.staging import ShardResult
from nsfwscan.text import Level, LogFormat, log_line, printable, redacted

_LINE_EVERY_S = 10.0
_WARN = {"differs", "notify", "pin", "policy"}
"""First words of lines that say that something is not as one might think."""


class Progress(Protocol):
    """Interface through which a scan reports its progress as it happens."""

    def say(self, line: str) -> None:
        """Print one line now."""

    def listing(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the listing's tables, and count their rows as they pass."""

    def working(self, total: int, done: int) -> AbstractContextManager[None]:
        """Enclose the work on `total` objects, of which an earlier process did `done`."""

    def finished(self, result: ShardResult) -> None:
        """Take note of a staged shard."""


class Tally:
    """Counts, rate and ETA of the work so far. All but the objects done count only this process's work."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.flagged, self.errors = total, done, 0, 0
        self._before, self._began = done, time.monotonic()

    def add(self, result: ShardResult) -> None:
        """Count a finished shard."""
        self.done += result.rows
        self.flagged += result.flagged
        self.errors += result.errors

    def __str__(self) -> str:
        elapsed = time.monotonic() - self._began
        rate = (self.done - self._before) / elapsed if elapsed else 0.0
        left = f"ETA {clock((self.total - self.done) / rate)}" if rate else "ETA …"
        share = self.done / self.total if self.total else 1.0
        found = f"flagged {self.flagged:,}  errors {self.errors:,}{' since it was resumed' if self._before else ''}"
        return f"{self.done:,} of {self.total:,} ({share:.0%})  {rate:,.1f}/s  {left}  {found}"


def clock(seconds: float) -> str:
    """Render seconds as `m:ss` or `h:mm:ss`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Silent:
    """A progress that prints nothing; for the Python API."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def listing(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the tables."""
        yield from tables

    @contextmanager
    def working(self, total: int, done: int) -> Iterator[None]:
        """Do nothing."""
        yield

    def finished(self, result: ShardResult) -> None:
        """Do nothing."""


class Lines:
    """A progress that prints plain lines (on standard error), at most one every ten seconds while the work goes on."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tally = Tally(0, 0)
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        """Print one line, redacted and made printable."""
        self._console.print(printable(redacted(line)), markup=False, highlight=False, soft_wrap=True)

    def listing(self, tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
        """Yield the tables; print the count of objects now and then, and at the end."""
        seen = 0
        for table in tables:
            seen += table.num_rows
            self._now_and_then(f"listing  {seen:,} objects")
            yield table
        self.say(f"listed   {seen:,} objects")

    @contextmanager
    def working(self, total: int, done: int) -> Iterator[None]:
        """Print a line before resumed work, and one after the work."""
        self._tally = Tally(total, done)
        if done:
            self.say(f"resuming {done:,} objects were done before")
        yield
        self.say(f"scanned  {self._tally}")

    def finished(self, result: ShardResult) -> None:
        """Count a shard, and print a line if the last one is old enough."""
        self._tally.add(result)
        self._now_and_then(f"scanning {self._tally}")

    def _now_and_then(self, line: str) -> None:
        if time.monotonic() - self._last >= _LINE_EVERY_S:
            self._last = time.monotonic()
            self.say(line)


class Log(Lines):
    """Lines with a time and a level, for what collects logs."""

    def __init__(self, console: Console, form: LogFormat) -> None:
        super().__init__(console)
        self._form = form

    def say(self, line: str) -> None:
        """Print one line, redacted and made printable, with its time and level."""
        level: Level = "warning" if line.partition(" ")[0] in _WARN else "info"
        said = log_line(self._form, level, printable(redacted(line)))
        self._console.print(said, markup=False, highlight=False, soft_wrap=True)


class Live(Lines):
    """A progress that keeps one line on a terminal up to date."""

    @contextmanager
    def working(self, total: int, done: int) -> Iterator[None]:
        """Show a bar over the objects during the work, and print a line after it."""
        self._tally = Tally(total, done)
        columns = (SpinnerColumn(), BarColumn(bar_width=24), TextColumn("{task.description}"))
        with Bar(*columns, console=self._console, transient=True) as self._bar:
            self._task = self._bar.add_task("starting", total=total, completed=done)
            yield
        self.say(f"scanned  {self._tally}")

    def finished(self, result: ShardResult) -> None:
        """Count a shard, and move the bar."""
        self._tally.add(result)
        self._bar.update(self._task, completed=self._tally.done, description=str(self._tally))


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook (Jupyter, Colab and the like); IPython on a terminal is
    none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return getattr(shell, "kernel", None) is not None


def choose_progress(console: Console, form: LogFormat | None = None) -> Progress:
    """Return `Log` where a format is given, else `Live` on a terminal, `Lines` elsewhere."""
    if form is not None:
        return Log(console, form)
    return Live(console) if console.is_terminal else Lines(console)
