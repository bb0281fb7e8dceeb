"""Keep Ray's chatter off the terminal.

Ray's C++ libraries write log lines straight to file descriptor 2, past Python's logging and Ray's own settings. A
thread drops these lines from this process's standard error, and repetitions of a line that it has passed on; others
lose their colours.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_NATIVE = re.compile(rb"^\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] .*\.(?:cc|h):\d+:")
"""Matches the lines of Ray's logging.cc: `[2026-11-22 03:16:37,460 E 15147 15147] core_worker.cc:2465: …`."""
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
_REMEMBERED = 100
"""Lines that are not repeated."""


@contextmanager
def without_native_chatter(*, verbose: bool) -> Iterator[TextIO]:
    """Filter standard error inside the `with` block, and yield a stream to the terminal for our own lines; with
    `verbose`, yield standard error unfiltered."""
    if verbose:
        yield sys.stderr
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    incoming, outgoing = os.pipe()
    os.dup2(outgoing, 2)
    os.close(outgoing)
    filtering = threading.Thread(target=_pass_on, args=(incoming, terminal), daemon=True, name="chatter")
    filtering.start()
    try:
        with os.fdopen(os.dup(terminal), "w", encoding=sys.stderr.encoding, buffering=1) as stream:
            yield stream
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # closes this process's last write end of the pipe, which ends the thread
        filtering.join(timeout=1)  # a child that outlives us may hold another write end


def mute_at_exit() -> None:
    """Send standard error to the null device once the interpreter exits: native modules then list there, at length,
    objects that the interpreter did not free (nanobind's "leaked instances"), which nobody needs."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def _pass_on(incoming: int, terminal: int) -> None:
    seen: deque[bytes] = deque(maxlen=_REMEMBERED)
    with os.fdopen(incoming, "rb") as lines, os.fdopen(terminal, "wb", buffering=0) as out:
        for line in lines:
            plain = _COLOURS.sub(b"", line)
            if not _NATIVE.match(plain) and plain not in seen:
                seen.append(plain)
                out.write(plain)
