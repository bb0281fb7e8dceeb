"""Keep Ray's chatter off the terminal.

Ray's C++ libraries write log lines straight to file descriptor 2, past Python's logging and Ray's own settings. A
thread drops these lines from this process's standard error, and repetitions of a line that it has passed on; others
lose their colours. Notices of Ray that differ only in numbers and ids are repetitions. What a dying raylet says of its
state goes to a file, which is named.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import NamedTemporaryFile
from typing import IO, TextIO

from nsfwscan.text import LogFormat, log_line, printable, redacted

_NATIVE = re.compile(rb"^\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] .*\.(?:cc|h):\d+:")
"""Matches the lines of Ray's logging.cc: `[2026-11-22 03:16:37,460 E 15147 15147] core_worker.cc:2465: …`."""
_DUMPED = re.compile(rb"\[state-dump\]|^\s+\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] ")
"""Matches the lines of a state that Ray repeats from the log of a dead raylet."""
_OF_RAY = re.compile(rb"^\((?:raylet|autoscaler|pid=|\w+ pid=)")
_VARYING = re.compile(rb"\b(?=[0-9a-f]*\d)[0-9a-f]+\b|\d+")
_COLOURS = re.compile(rb"\x1b\[[0-9;]*m")
_REMEMBERED = 100
"""Lines that are not repeated."""


@contextmanager
def without_native_chatter(*, verbose: bool, form: LogFormat | None = None) -> Iterator[TextIO]:
    """Filter standard error inside the `with` block, and yield a stream to the terminal for our own lines; with
    `verbose`, yield standard error unfiltered.

    Args:
        form: of the lines that are passed on; unset: as they came.
    """
    if verbose:
        yield sys.stderr
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    incoming, outgoing = os.pipe()
    os.dup2(outgoing, 2)
    os.close(outgoing)
    filtering = threading.Thread(target=_pass_on, args=(incoming, terminal, form), daemon=True, name="chatter")
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


def _pass_on(incoming: int, terminal: int, form: LogFormat | None) -> None:
    seen: deque[bytes] = deque(maxlen=_REMEMBERED)
    with ExitStack() as opened:
        lines = opened.enter_context(os.fdopen(incoming, "rb"))
        out = opened.enter_context(os.fdopen(terminal, "wb", buffering=0))
        dump: IO[bytes] | None = None
        for line in lines:
            plain = _COLOURS.sub(b"", line)
            if _DUMPED.search(plain):
                if dump is None:
                    dump = opened.enter_context(NamedTemporaryFile(prefix="nsfwscan-ray-", suffix=".log", delete=False))
                    out.write(_formed(f"Ray's state is in {dump.name}\n".encode(), form))
                dump.write(plain)
                dump.flush()
                continue
            key = _VARYING.sub(b"#", plain) if _OF_RAY.match(plain) else plain
            if not _NATIVE.match(plain) and key not in seen:
                seen.append(key)
                out.write(_formed(plain, form))


def _formed(line: bytes, form: LogFormat | None) -> bytes:
    """Return a line of somebody else's as the log has it."""
    if form is None:
        return line
    text = line.decode(errors="backslashreplace").rstrip("\r\n")
    return f"{log_line(form, 'warning', printable(redacted(text)))}\n".encode() if text.strip() else b""
