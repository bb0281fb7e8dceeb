"""Collect garbage rarely: Python looks for cycles after every 700 new objects, and libraries make millions as they
load.

Nearly all of what is found then is code that stays. Measured: a fifth of the time in which the command line and torch
load, and nearly all of the half second after the last line of a command.
"""

from __future__ import annotations

import atexit
import gc

_RARELY = (10_000, 20, 50)


def collect_rarely() -> None:
    """Let this process collect garbage after many more new objects than Python would, and not as it ends."""
    gc.set_threshold(*_RARELY)
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
