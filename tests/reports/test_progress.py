"""What is seen of a running scan, on a terminal, in a log, and by nobody."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from nsfwscan.reports import progress
from nsfwscan.reports.progress import Lines, Live, Progress, Silent, Tally, choose_progress, clock
from nsfwscan.runs.staging import ShardResult
from nsfwscan.schema import LISTING_SCHEMA
from tests.runs.rows import files, scanned

TABLES = [pa.Table.from_pylist([{"uri": f"/{i}"} for i in range(rows)], schema=LISTING_SCHEMA) for rows in (3, 4)]


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


def lines(written: io.StringIO) -> list[str]:
    return written.getvalue().splitlines()


def drive(told: Progress) -> None:
    """Tell a progress of a small scan: seven listed, five done before."""
    told.say("model    [bold]embedded:open-nsfw[/bold]")
    assert list(told.listing(iter(TABLES))) == TABLES
    with told.working(7, 5):
        told.finished(ShardResult("a", 1, 1, 0))
        told.finished(ShardResult("b", 1, 0, 1))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00"), (360_000, "100:00:00")]
)
def test_durations_are_clocks(seconds: float, text: str) -> None:
    """Seconds are rounded and shown as minutes, and hours where there are any."""
    assert clock(seconds) == text


def test_a_tally_counts_and_extrapolates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is over this process's work alone, and the ETA follows from it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    tally = Tally(1000, 400)
    assert str(tally) == "400 of 1,000 (40%)  0.0/s  ETA …  flagged 0  errors 0 since it was resumed"
    now[0] += 10
    tally.add(ShardResult("a", 100, 2, 3))
    assert str(tally) == "500 of 1,000 (50%)  10.0/s  ETA 0:50  flagged 3  errors 2 since it was resumed"
    assert str(Tally(10, 0)).endswith("flagged 0  errors 0")
    assert "(100%)" in str(Tally(0, 0))


def test_lines_for_a_log(written: io.StringIO) -> None:
    """Without a terminal there are plain lines, without escapes or wrapping; markup in names is text."""
    drive(choose_progress(Console(file=written, width=20)))
    assert lines(written) == [
        "model    [bold]embedded:open-nsfw[/bold]",
        "listed   7 objects",
        "resuming 5 objects were done before",
        lines(written)[-1],
    ]
    assert re.fullmatch(
        r"scanned  7 of 7 \(100%\)  [\d,.]+/s  ETA 0:00  flagged 1  errors 1 since it was resumed", lines(written)[-1]
    )


def test_lines_come_now_and_then(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast shards finish, a log gets a line every few seconds."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    told = Lines(Console(file=written))
    with told.working(1000, 0):
        for _ in range(150):
            now[0] += 0.25  # 37.5 s in all
            told.finished(ShardResult("a", 1, 0, 0))
    assert [line[: line.index(" of")] for line in lines(written)] == [
        "scanning 40",
        "scanning 80",
        "scanning 120",
        "scanned  150",
    ]


def test_a_long_listing_is_counted_while_it_lasts(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of minutes shows how far it is, and hands on each table as it comes."""
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    told = Lines(Console(file=written))
    seen: list[int] = []

    def tables() -> Iterator[pa.Table]:
        for table in TABLES:
            seen.append(table.num_rows)
            yield table

    passing = told.listing(tables())
    assert next(passing) is TABLES[0]
    assert seen == [3]
    assert list(passing) == TABLES[1:]
    assert lines(written) == ["listing  3 objects", "listing  7 objects", "listed   7 objects"]


def test_a_live_line_on_a_terminal(written: io.StringIO) -> None:
    """A terminal has a bar that is taken away at the end, and the last line stays."""
    console = Console(file=written, force_terminal=True, width=120)
    told = choose_progress(console)
    assert isinstance(told, Live)
    drive(told)
    assert "\x1b[" in written.getvalue()
    assert re.search(r"scanned  7 of 7 \(100%\)", written.getvalue().splitlines()[-1])


def test_a_failure_passes_through(written: io.StringIO) -> None:
    """Progress swallows no error, and a failed scan is not called scanned."""
    for console in (Console(file=written), Console(file=written, force_terminal=True)):
        told = choose_progress(console)
        with pytest.raises(ZeroDivisionError), told.working(7, 0):
            raise ZeroDivisionError
    assert "scanned" not in written.getvalue()


def test_silence(capfd: pytest.CaptureFixture[str]) -> None:
    """For the Python API nothing is written, and tables pass as they are."""
    drive(Silent())
    assert capfd.readouterr() == ("", "")


def test_a_scan_tells_its_story(tmp_path: Path, written: io.StringIO) -> None:
    """A real scan says which model, what was listed, what was done and that it commits, in this order."""
    scanned(files(tmp_path / "media", 5), tmp_path / "out", progress=Lines(Console(file=written)))
    assert [line.split()[0] for line in lines(written)] == ["model", "listed", "scanned", "committing"]


def test_names_in_lines_do_not_act_on_the_terminal() -> None:
    """A model or a store may be named by a stranger: what a terminal acts on is escaped, and secrets are blanked."""
    shown = io.StringIO()
    Lines(Console(file=shown)).say("model    a\x1b[2J\u202e\nb?sig=hush")
    assert shown.getvalue() == "model    a\\x1b[2J\\u202e\\nb?sig=***\n"
