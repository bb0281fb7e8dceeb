"""Decode children that start in a seventh of their time: their first process is forked from one that has imported the
decoders, where a new one takes three quarters of a second of CPU time for that, and hundreds of tests scan a few pictures.

    python -m tests.decode_children SOCKET

The process that forks them ends with the one that tests, as its socket ends.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import NoReturn, cast

from nsfwscan.images.sandbox.zygote import Zygote, _environment

_FORK, _WAIT = b"f", b"w"
_ANSWER = struct.Struct("!qq")


class ForkedZygote(Zygote):
    """A `Zygote` whose process has its imports from the beginning."""

    def _start(self, control: int, area: int) -> subprocess.Popen[bytes]:
        return cast("subprocess.Popen[bytes]", _Forked(_mother(tuple(sys.path)), control, area))


class _Mother:
    """The process that has imported the decoders."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._turn = threading.Lock()
        command = [sys.executable, "-P", "-m", "tests.decode_children", str(theirs.fileno())]
        nothing = subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=nothing, stdout=nothing, env=_environment()
            )

    def fork(self, fds: list[int]) -> int:
        """Return the id of a new process with these descriptors: its socket, its area, its standard error."""
        return self._asked(_FORK, 0, fds)[0]

    def wait(self, pid: int) -> int | None:
        """Return how a process has ended; None while it has not."""
        there, status = self._asked(_WAIT, pid, [])
        return os.waitstatus_to_exitcode(status) if there else None

    def _asked(self, what: bytes, pid: int, fds: list[int]) -> tuple[int, int]:
        with self._turn:
            socket.send_fds(self._socket, [what + _ANSWER.pack(pid, 0)], fds)
            answer = self._socket.recv(_ANSWER.size, socket.MSG_WAITALL)
        if len(answer) < _ANSWER.size:
            raise EOFError("the process that forks decode children is gone")
        first, second = _ANSWER.unpack(answer)
        return first, second


@cache
def _mother(path: tuple[str, ...]) -> _Mother:
    """Return the process that has the decoders from these folders."""
    return _Mother()


class _Forked:
    """A process that another one has forked, as a `subprocess.Popen`."""

    def __init__(self, mother: _Mother, control: int, area: int) -> None:
        self._mother = mother
        self.returncode: int | None = None
        said, stderr = os.pipe()
        self.stderr = open(said, "rb", buffering=0)  # noqa: SIM115  # the zygote closes it
        try:
            self.pid = mother.fork([control, area, stderr])
        finally:
            os.close(stderr)

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._mother.wait(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        until = time.monotonic() + (60 if timeout is None else timeout)
        while self.poll() is None:
            if time.monotonic() >= until:
                raise subprocess.TimeoutExpired("a forked process", timeout or 60)
            time.sleep(0.002)
        return cast("int", self.returncode)

    def kill(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


def _fork_on_demand(control: socket.socket) -> None:
    from nsfwscan.images.formats.containers import videos_are_decoded
    from nsfwscan.images.sandbox import worker

    if videos_are_decoded():
        import nsfwscan.images.video_views  # noqa: F401
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side decides when it ends
    gc.freeze()
    while True:
        message, fds, _, _ = socket.recv_fds(control, 1 + _ANSWER.size, 3)
        if not message:
            return
        pid, _ = _ANSWER.unpack(message[1:])
        if message[:1] == _WAIT:
            control.sendall(_ANSWER.pack(*os.waitpid(pid, os.WNOHANG)))
            continue
        child = os.fork()
        if not child:
            control.close()
            _be_a_zygote(worker.main, *fds)
        for fd in fds:
            os.close(fd)
        control.sendall(_ANSWER.pack(child, 0))


def _be_a_zygote(main: Callable[[int, int], None], control: int, area: int, stderr: int) -> NoReturn:
    code = 1
    try:
        os.dup2(stderr, 2)
        os.close(stderr)
        main(control, area)
        code = 0
    except BaseException:  # noqa: BLE001  # said as Python says it
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


if __name__ == "__main__":
    _fork_on_demand(socket.socket(fileno=int(sys.argv[1])))
