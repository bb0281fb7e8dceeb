"""Start the first process of a decode child, from outside: it starts once, and forks workers on request.

A process that does not start raises `NsfwscanError` with its last words; one that is gone later raises `EOFError` or
`OSError`, and the next one can be started.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress

from nsfwscan.errors import NsfwscanError
from nsfwscan.images.sandbox import wire
from nsfwscan.images.sandbox.confinement import LAYERS
from nsfwscan.images.sandbox.wire import FORK, REAP, Area, Settings, area_file

_START_S = 120.0
"""Time for its imports, on a busy node with a slow disk."""
_ANSWER_S = 10.0
_LAST_ANSWER_S = 1.0
"""Time for the last worker to be waited for: without that, nobody is told what CPU time it took."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # glibc would return each image's memory to the kernel, and fault it in again for the next one
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
}
"""Environment of a process that decodes: there is one for each core."""
_INHERITED = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LANG", "LC_ALL", "PYTHONHOME", "PYTHONHASHSEED")
"""Variables that it takes over from this process: nothing that could be a secret."""


class Zygote:
    """A process that forks workers, started without waiting for it; it ends with this object, or with this process.
    `area` is memory that this process and the workers see."""

    def __init__(self, settings: Settings) -> None:
        self._control, theirs = socket.socketpair()
        with theirs, open(area_file(), "rb") as file:
            area = file.fileno()
            self.area = Area(area)
            try:
                self._process = self._start(theirs.fileno(), area)
            except OSError as error:
                self._control.close()
                raise NsfwscanError(f"cannot start a process to decode images in: {error}") from error
        self._has_worker = threading.Event()
        self._end = weakref.finalize(self, _end, self._process, self._control, self._has_worker)
        self._ready = False
        with suppress(OSError):  # what is wrong shows when it should be ready
            wire.send(self._control, *settings.said())

    def _start(self, control: int, area: int) -> subprocess.Popen[bytes]:
        """Start the process, which inherits these two descriptors."""
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "nsfwscan.images.sandbox.worker", str(control), str(area)],
            pass_fds=[control, area],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=_environment(),
        )

    def fork(self) -> tuple[socket.socket, tuple[str, ...]]:
        """Return the socket of a new worker, and the layers of its sandbox that hold. Raises NsfwscanError where the
        process did not start; EOFError, OSError, ValueError where it is gone, or stuck."""
        self._wait_until_ready()
        ours, theirs = socket.socketpair()
        try:
            with theirs:  # then it is the worker's alone, and ends with it
                self._control.settimeout(_ANSWER_S)
                socket.send_fds(self._control, [FORK], [theirs.fileno()])
            self._has_worker.set()
            said, _ = wire.receive(ours, deadline=time.monotonic() + _ANSWER_S)
        except BaseException:
            ours.close()
            raise
        return ours, tuple(layer for layer in LAYERS if layer in said["sandbox"])

    def reap(self) -> tuple[int, int]:
        """End the worker. Raises EOFError, OSError, ValueError where the process is gone, or stuck.

        Returns:
            its exit code, negative for a signal, also of a worker that was dead already; and its peak of memory in
            bytes.
        """
        self._control.settimeout(_ANSWER_S)
        self._control.sendall(REAP)
        self._has_worker.clear()
        said, _ = wire.receive(self._control, deadline=time.monotonic() + _ANSWER_S)
        return said["exit_code"], said["max_rss_bytes"]

    def close(self) -> str:
        """End the process and its worker; return the last line of its standard error, or its exit code."""
        stderr = self._process.stderr
        assert stderr is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0)  # the exit code of its own death, if it is dead
        said = b"" if stderr.closed else _rest(stderr.fileno())
        self._end()
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.returncode}"

    def _wait_until_ready(self) -> None:
        if self._ready:
            return
        try:
            said, _ = wire.receive(self._control, deadline=time.monotonic() + _START_S)
        except TimeoutError:
            self.close()
            raise NsfwscanError(f"the process to decode images in was not ready after {_START_S:g} s") from None
        except (EOFError, ConnectionError):
            raise NsfwscanError(f"the process to decode images in does not start: {self.close()}") from None
        if "error" in said:
            self.close()
            raise NsfwscanError(said["error"])
        self._ready = True


def _environment() -> dict[str, str]:
    """Return the whole environment of the process, without credentials, since it decodes strangers' files."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # it imports the very modules that we do
    return {**inherited, **ENVIRONMENT, "PYTHONPATH": path}


def _rest(fd: int) -> bytes:
    """Return what can be read without waiting."""
    os.set_blocking(fd, False)
    with suppress(BlockingIOError):
        return os.read(fd, 65_536)
    return b""


def _end(process: subprocess.Popen[bytes], control: socket.socket, has_worker: threading.Event) -> None:
    if has_worker.is_set():
        with suppress(OSError):  # it is dead, or stuck
            control.settimeout(_LAST_ANSWER_S)
            control.sendall(REAP)
            control.recv(1)
    control.close()
    process.kill()  # the kernel ends its worker with it, if it is still there
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
