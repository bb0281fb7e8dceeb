"""A Pillow plugin for the tests: files of the format HOSTILE do to their decoder what they say.

    decode: {plugins: {HOSTILE: tests.hostile_format}}

`hostile("segv")` is such a file. Its header is harmless and says 32 × 24 pixels, unless the header itself is to do it.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
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
    for name in os.listdir("/proc/self/fd"):
        if Path(f"/proc/self/fd/{name}").is_symlink() and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
            yield int(name)


def _babble() -> None:
    """Writes nonsense to whoever listens."""
    for fd in _sockets():
        os.write(fd, b"\0\0\0\x05\0\0\0\0\0\0\0\0[[[[[")


def _hang_up() -> None:
    """Goes on without anyone listening."""
    for fd in list(_sockets()):
        os.close(fd)
    _hang()


def _poison() -> None:
    """Harms nobody but the next file, as a heap written over does."""
    ImageFile.ImageFile.load_prepare = lambda image: ctypes.string_at(0)  # type: ignore[assignment,return-value]


def _complain() -> None:
    os.write(2, b"libhostile: warning: this line is for nobody\n")


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
