"""A Pillow plugin for the tests: files of the format HOSTILE do to their decoder what they say.

    decode: {plugins: {HOSTILE: tests.hostile_format}}

`hostile("segv")` is such a file. Its header is harmless and says 32 × 24 pixels, unless the header itself is to do it.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile

MAGIC = b"HOSTILE\n"
SIZE = (32, 24)
PLUGINS = {"HOSTILE": "tests.hostile_format"}


def hostile(deed: str, *, in_header: bool = False) -> bytes:
    """A file that does one of `DEEDS`, or `grey`, which is a grey picture and nothing else."""
    return MAGIC + (b"header " if in_header else b"body ") + deed.encode()


def _hang() -> None:
    while True:
        time.sleep(1)


def _hang_in_c() -> None:
    """Minutes in one call that holds the interpreter's lock."""
    re.match(r"(a|aa)+$", "a" * 60 + "b")


def _eat_memory() -> None:
    eaten = []
    while True:
        eaten.append(np.ones(2**20))


def _eat_memory_in_c() -> None:
    """As C does that does not look at what malloc returns."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while True:
        ctypes.memset(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(2**24))), 1, 2**24)


def _sockets() -> Iterator[int]:
    for fd in range(3, 256):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                yield fd


def _babble() -> None:
    """Write nonsense to whoever listens."""
    for fd in _sockets():
        os.write(fd, b"\0\0\0\x05\0\0\0\0\0\0\0\0[[[[[")


def _hang_up() -> None:
    """Go on without anyone listening."""
    for fd in list(_sockets()):
        os.close(fd)
    _hang()


def _poison() -> None:
    """Harm nobody but the next file, as a heap written over does."""
    Image.open = lambda *given, **how: ctypes.string_at(0)  # type: ignore[assignment,return-value]


def _complain() -> None:
    os.write(2, b"libhostile: warning: this line is for nobody\n")


def _system_call(name: str, *arguments: Any) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)


ESCAPES: dict[str, Callable[[], Any]] = {
    "read a file": lambda: Path("/etc/passwd").read_text(),
    "list a folder": lambda: os.listdir("/"),
    "read the parent's environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "read the parent's memory": lambda: os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY),
    "trace the parent": lambda: _system_call("ptrace", 16, os.getppid(), 0, 0),
    "write a file": lambda: Path("/tmp/escaped").write_text("escaped"),
    "write a shared file": lambda: Path("/dev/shm/escaped").write_text("escaped"),
    "make a folder": lambda: os.mkdir("/tmp/escaped"),
    "change a mode": lambda: os.chmod(sys.executable, 0o777),
    "change a time": lambda: os.utime(sys.executable),
    "reach the network": lambda: socket.create_connection(("127.0.0.1", 9)),
    "send a datagram": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
    "reach a local service": lambda: socket.socket(socket.AF_UNIX),
    "start a program": lambda: os.execv(sys.executable, [sys.executable, "-c", "pass"]),
    "fork": os.fork,
    "signal the parent": lambda: os.kill(os.getppid(), 0),
    "signal the group": lambda: os.kill(0, 0),
    "signal all": lambda: os.kill(-1, 0),
    "leave shared memory": lambda: _system_call("shmget", 0, 4096, 0o1600),
    "raise a limit": lambda: _system_call("setrlimit", resource.RLIMIT_FSIZE, struct.pack("QQ", 1, 1)),
}
"""What a file would do that took its process over; each raises OSError where it is kept from it."""


def escape(name: str) -> bytes:
    """A file that tries one of `ESCAPES`, and whose error says `escaped` or `held`."""
    return hostile("try " + name)


def _try(name: str) -> None:
    try:
        ESCAPES[name]()
    except PermissionError:
        raise ValueError("held") from None
    raise ValueError("escaped")


DEEDS: dict[str, Callable[[], Any]] = {
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
    "exit": lambda: os._exit(3),
    "leave": lambda: sys.exit(0),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": _hang,
    "hang in C": _hang_in_c,
    "eat memory": _eat_memory,
    "eat memory in C": _eat_memory_in_c,
    "babble": _babble,
    "hang up": _hang_up,
    "poison": _poison,
    "complain": _complain,
    "grey": lambda: None,
    **{f"try {name}": partial(_try, name) for name in ESCAPES},
}


class HostileImageFile(ImageFile.ImageFile):
    format = "HOSTILE"
    format_description = "does what it says"

    def _open(self) -> None:
        assert self.fp is not None
        if self.fp.read(len(MAGIC)) != MAGIC:
            raise SyntaxError("not HOSTILE")
        where, _, deed = self.fp.read(64).decode().strip().partition(" ")
        self._size, self._mode, self._deed = SIZE, "RGB", DEEDS[deed]
        if where == "header":
            self._deed()

    def load(self) -> Any:
        if self._im is None:
            self._deed()
            self.im = Image.core.new(self.mode, self.size)
            self.im.paste((128, 128, 128), (0, 0, *self.size))
        return super().load()


Image.register_open(HostileImageFile.format, HostileImageFile, lambda head: head.startswith(MAGIC))
