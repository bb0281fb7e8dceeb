"""Limit how fast requests go out, so that a scan does not crowd out the store's own users.

Slots are evenly spaced: after a pause there is no burst to catch up.
"""

from __future__ import annotations

import threading
import time


class Pace:
    """Hands out the moments at which requests may go, `max_per_s` at most, to all threads that share it; with None
    nobody waits."""

    def __init__(self, max_per_s: float | None) -> None:
        self._gap_s = 1 / max_per_s if max_per_s else 0.0
        self._lock = threading.Lock()
        self._next = 0.0  # on the monotonic clock

    def wait(self, after_s: float = 0.0) -> None:
        """Return when the next request may go, and not before `after_s` seconds have passed."""
        if after_s:
            time.sleep(after_s)
        if not self._gap_s:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._gap_s
        time.sleep(turn - now)


UNPACED = Pace(None)
"""For those who share a store with nobody."""
