"""Keeps Ray's C++ messages off the terminal.

In: this process's standard error. Out: a stream for our own lines. Ray's libraries write log lines straight to file
descriptor 2, past Python's logging and Ray's own settings; everything else that is written there passes unchanged.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_NATIVE = re.compile(rb"^\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] .*\.(?:cc|h):\d+:")
"""`[2026-11-22 03:16:37,460 E 15147 15147] core_worker.cc:2465: …`: the lines of Ray's logging.cc."""


@contextmanager
def without_native_chatter(*, verbose: bool) -> Iterator[TextIO]:
    """Yields the stream to write to; with `verbose`, standard error as it is."""
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
        os.dup2(terminal, 2)  # closes the pipe's last end here, which ends the thread
        filtering.join(timeout=1)  # a child that outlives us may hold its other end


def mute_at_exit() -> None:
    """From when the interpreter ends, standard error goes nowhere: native modules count there, at length, what the
    interpreter did not free before it ended (nanobind's "leaked instances"), which concerns nobody any more."""
    atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))


def _pass_on(incoming: int, terminal: int) -> None:
    with os.fdopen(incoming, "rb") as lines, os.fdopen(terminal, "wb", buffering=0) as out:
        for line in lines:
            if not _NATIVE.match(line):
                out.write(line)
