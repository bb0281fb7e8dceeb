"""A deadline is the moment that a person meant by it, and is noticed once it has come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.errors import ConfigError, DeadlineReached
from nsfwscan.execution import deadline
from nsfwscan.execution.deadline import NEVER, Deadline, deadline_of


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """This machine's zone: an hour or two ahead of UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield patch
    time.tzset()


def at(patch: pytest.MonkeyPatch, now: str, text: str) -> str:
    """Return what a text means at a moment, in this machine's time."""
    moment = datetime.fromisoformat(now).astimezone()

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return moment.replace(tzinfo=None)

    patch.setattr(deadline, "datetime", Clock)
    found = deadline_of(text).at
    assert found is not None
    return found.isoformat()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("90m", "2026-11-22T03:30:00+01:00"),
        ("6h30m", "2026-11-22T08:30:00+01:00"),
        ("45s", "2026-11-22T02:00:45+01:00"),
        ("1h1m1s", "2026-11-22T03:01:01+01:00"),
        ("48h", "2026-11-24T02:00:00+01:00"),
        ("06:00", "2026-11-22T06:00:00+01:00"),
        ("06:00:30", "2026-11-22T06:00:30+01:00"),
        ("02:00", "2026-11-23T02:00:00+01:00"),
        ("01:59", "2026-11-23T01:59:00+01:00"),
        ("2026-11-22T06:00", "2026-11-22T06:00:00+01:00"),
        ("2026-11-22 06:00:00", "2026-11-22T06:00:00+01:00"),
        ("2026-11-22T06:00Z", "2026-11-22T07:00:00+01:00"),
        ("2026-11-22T06:00:00-05:00", "2026-11-22T12:00:00+01:00"),
        ("2026-11-23", "2026-11-23T00:00:00+01:00"),
    ],
)
def test_what_is_meant(berlin: pytest.MonkeyPatch, text: str, meant: str) -> None:
    """Durations count from now, a clock time is the next one, and times without a zone are this machine's."""
    assert at(berlin, "2026-11-22T02:00:00", text) == meant


@pytest.mark.parametrize(
    ("now", "meant"),
    [("2026-03-28T22:00:00", "2026-03-29T06:00:00+02:00"), ("2026-10-24T22:00:00", "2026-10-25T06:00:00+01:00")],
)
def test_the_clocks_are_changed_in_the_night(berlin: pytest.MonkeyPatch, now: str, meant: str) -> None:
    """Six in the morning is six on the clock of that morning, also in the night in which clocks change."""
    assert at(berlin, now, "06:00") == meant
    assert at(berlin, now, meant[:19]) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "soon",
        "90",
        "m",
        "h",
        "-5m",
        "1.5h",
        "5m6h",
        "90 m",
        "25:00",
        "6:00",
        "06:60",
        "2026-13-01",
        "9" * 30 + "h",
    ],
)
def test_what_is_meant_by_nobody(text: str) -> None:
    """What is neither a duration nor a time is wrong usage, and is repeated."""
    with pytest.raises(ConfigError, match="neither a duration") as caught:
        deadline_of(text)
    assert repr(text) in str(caught.value)


def test_a_moment_that_has_passed(berlin: pytest.MonkeyPatch) -> None:
    """A time in the past is wrong usage, not a run that stops at once."""
    for text in ("2026-11-22T01:59:59", "2026-11-22T02:00:00", "1999-01-01"):
        with pytest.raises(ConfigError, match="has passed"):
            at(berlin, "2026-11-22T02:00:00", text)


@given(st.text(alphabet="0123456789hms:-TZ.+ ", max_size=12))
def test_any_text_is_understood_or_refused(text: str) -> None:
    """Whatever is typed ends in a moment to come, or in a ConfigError."""
    try:
        found = deadline_of(text)
    except ConfigError:
        return
    left = found.left_s()
    assert left is not None and left > -1


def test_without_a_deadline_there_is_none() -> None:
    """A run without a deadline never runs out of time."""
    assert deadline_of(None) is NEVER
    assert NEVER.left_s() is None and str(NEVER) == "none"
    NEVER.check()


def test_a_deadline_is_noticed_when_it_has_come() -> None:
    """Until then nothing happens; then it is raised, with the moment."""
    soon = Deadline(datetime.now(UTC) + timedelta(seconds=60))
    soon.check()
    assert 59 < (soon.left_s() or 0) <= 60
    past = Deadline(datetime(2026, 11, 22, 6, tzinfo=UTC))
    with pytest.raises(DeadlineReached, match=r"the deadline \(2026-11-22T06:00:00\+00:00\) has come"):
        past.check()
    assert (past.left_s() or 0) < 0


@pytest.mark.parametrize("jump", [timedelta(days=-1), timedelta(days=1)])
def test_a_duration_is_as_long_as_it_is_whatever_the_clock_says(
    monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    """Somebody sets the clock: 90 minutes stay 90 minutes, while a moment is one by the new clock."""
    duration, moment = deadline_of("90m"), Deadline(datetime.now(UTC) + timedelta(minutes=90))

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + jump

    monkeypatch.setattr(deadline, "datetime", Clock)
    assert duration.left_s() == pytest.approx(5400, abs=60)
    assert moment.left_s() == pytest.approx(5400 - jump.total_seconds(), abs=60)
