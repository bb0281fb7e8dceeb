"""Moment at which a run must stop, finished or not.

`deadline_of` parses a duration or a time as a person writes it, and raises `ConfigError` if it cannot.
`Deadline.check` raises `DeadlineReached` once the moment has passed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from time import CLOCK_BOOTTIME
from time import clock_gettime as time_of

from nsfwscan.errors import ConfigError, DeadlineReached

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True)
class Deadline:
    """A moment with a time zone, or none.

    Attributes:
        at: the moment, as this machine's clock had it when the deadline was made.
        uptime_s: of this machine, at which a deadline that was given as a duration comes, whatever somebody sets the
            clock to; None for a moment.
    """

    at: datetime | None = None
    uptime_s: float | None = None

    def left_s(self) -> float | None:
        """Return the seconds left, negative after the deadline; None without one."""
        if self.uptime_s is not None:
            return self.uptime_s - _uptime_s()
        return None if self.at is None else (self.at - datetime.now().astimezone()).total_seconds()

    def check(self) -> None:
        """Raise DeadlineReached if the deadline has passed."""
        left = self.left_s()
        if left is not None and left <= 0:
            raise DeadlineReached(f"the deadline ({self}) has come")

    def __str__(self) -> str:
        return "none" if self.at is None else self.at.isoformat(timespec="seconds")


NEVER = Deadline()


def _uptime_s() -> float:
    """Return the seconds since this machine was started, also those in which it slept."""
    return time_of(CLOCK_BOOTTIME)


def deadline_of(text: str | None) -> Deadline:
    """Return the deadline that a text means, seen from now: `90m`, `6h30m`, `45s`, `06:00` (the next one) or an ISO
    8601 time. Times without a zone are in this machine's zone; None means no deadline. Raises ConfigError where the
    text is none of these, or names a moment that has passed."""
    if text is None:
        return NEVER
    now = datetime.now().astimezone()
    match = _DURATION.fullmatch(text)
    try:
        if text and match:
            hours, minutes, seconds = (int(part or 0) for part in match.groups())
            after = timedelta(hours=hours, minutes=minutes, seconds=seconds)
            return Deadline(now + after, _uptime_s() + after.total_seconds())
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
            today, clock = now.date(), time.fromisoformat(text)
            days = (datetime.combine(today + timedelta(days=ahead), clock).astimezone() for ahead in (0, 1))
            return Deadline(next(at for at in days if at > now))
        at = datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ConfigError(f"deadline {text!r}: neither a duration (90m, 6h30m) nor an ISO 8601 time") from None
    if at <= now:
        raise ConfigError(f"deadline {text!r} has passed")
    return Deadline(at)
