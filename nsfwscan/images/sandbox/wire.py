"""Messages between a process and its decode child: JSON over a socket, and bytes in memory that both see.

Messages have a bounded length. They are JSON and not pickle, which can call anything: a hostile file may take the child
over. A peer that is gone raises `EOFError` or `ConnectionError`, one that sends nonsense `ValueError`, one that is too
slow `TimeoutError`.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
import socket
import struct
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from typing import IO, Any, Literal

from nsfwscan.errors import NsfwscanError
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.provenance.tampering import MAPS

FORK, REAP = b"f", b"r"
"""Requests to the zygote: fork a worker for the socket that comes along; end it, and say how it ended."""
FILE = b"o"
"""To a worker: the open file that comes along."""
_PIECE_BYTES = 2**20

NO_MEMORY = 12
"""Exit code of a worker that reached its limit: ENOMEM."""

AREA_FILE_BYTES = 8 * 2**20
"""A larger file is handed over as an open one."""
_AREA_FILES = 2
"""Files that it holds: the one that is decoded, and the next one."""
_MOST_JSON = 65_536
_HEAD = struct.Struct("!IQ")  # bytes of JSON, bytes after it

Said = dict[str, Any]
Encoded = bytes | memoryview
"""A file as it was read."""


@dataclass(frozen=True)
class Settings:
    """Settings of a decode child.

    Args:
        geometries: it returns pixels of each, one after the other.
        fast: decode large JPEGs at reduced scale.
        hashed: compute the PDQ hash.
        examined: collect the signals of how the file was made.
        verified: verify C2PA manifests for them.
        trust: certificates that are trusted there, PEM.
        screens: say how likely a picture is one of a screen.
        leaves: describe ordinary JPEGs, and leave their pixels to a GPU.
        maps: add maps of where it may have been changed as further views, of pictures.
        max_pixels: a file of more pixels (width x height) is not decoded.
        plugins: further formats, Pillow's name to the module that registers it.
        timeout_s: for one file.
        views: number of views of a file at most.
        view_pixels: pixels of all frames of a file that are looked at for its views.
        tiles: cut large pictures into further views.
        closer: number of further views at most, of a file that is looked at closer.
        max_memory_bytes: for a worker, beyond what it has when it is forked.
        sandbox: `auto`: confine a worker as far as the kernel can; `required`: refuse a kernel that cannot confine it
            wholly; `off`: do not confine it, for plugins that need files.
    """

    geometries: tuple[Geometry, ...]
    fast: bool
    hashed: bool
    examined: bool
    max_pixels: int
    plugins: dict[str, str]
    timeout_s: float
    max_memory_bytes: int
    sandbox: Literal["auto", "required", "off"] = "auto"
    views: int = 1
    view_pixels: int = 0
    tiles: bool = False
    verified: bool = False
    trust: str = ""
    closer: int = 0
    screens: bool = False
    maps: bool = False
    leaves: bool = False

    @property
    def sandboxed(self) -> bool:
        """True where a worker is confined, as far as the kernel can."""
        return self.sandbox != "off"

    def said(self) -> tuple[Said, bytes]:
        """Return the settings as a message. The list of certificates may be long, and is the bytes after the JSON."""
        return asdict(replace(self, trust="")), self.trust.encode()

    @classmethod
    def heard(cls, said: Said, trust: bytes) -> Settings:
        """Return the settings of a message; JSON has no tuples."""
        geometries: list[dict[str, Any]] = [
            {name: tuple(value) if isinstance(value, list) else value for name, value in geometry.items()}
            for geometry in said["geometries"]
        ]
        made = tuple(Geometry(**geometry) for geometry in geometries)
        return cls(**{**said, "geometries": made, "trust": trust.decode()})

    @property
    def pixel_bytes(self) -> int:
        """Bytes of all pixels of a view."""
        return sum(geometry.nbytes for geometry in self.geometries)

    @property
    def area_bytes(self) -> int:
        """Bytes of all pixels of a file with as many views as it may have."""
        return self.pixel_bytes * (self.most_views + self.closer)

    @property
    def most_views(self) -> int:
        """Number of views of a file at a first look, with maps."""
        return self.views + (len(MAPS) if self.maps else 0)


class Area:
    """Memory that both sides see, with a file that is decoded and the next one. Through a socket files would be copied
    twice as often. What a worker answers comes through its socket, where later files cannot change it.

    Args:
        fd: an `area_file`; the caller closes it.
    """

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self._place = 0

    def put_file(self, data: Encoded) -> Said | None:
        """Put a file where the one before the last lay, and return how to ask for it; None where it is too large."""
        if len(data) > AREA_FILE_BYTES:
            return None
        self._place = (self._place + 1) % _AREA_FILES
        start = self._place * AREA_FILE_BYTES
        self._map[start : start + len(data)] = data
        return {"start": start, "size": len(data)}

    def file(self, asked: Said) -> bytes:
        """Return the file that was put there."""
        return self._map[asked["start"] : asked["start"] + asked["size"]]


def area_file() -> int:
    """Return a descriptor for an `Area`: memory, where the system has such files. It is sealed: if a worker could cut
    it, reading beyond its end would kill the reader."""
    size = _AREA_FILES * AREA_FILE_BYTES
    if not hasattr(os, "memfd_create"):  # not on Linux
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    fd = os.memfd_create("nsfwscan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd


def file_of(data: Encoded) -> IO[bytes]:
    """Return a temporary file without a name that holds some bytes, open for reading alone. Raises NsfwscanError where
    the disk has no room for it."""
    with tempfile.NamedTemporaryFile(prefix="nsfwscan-", buffering=0) as file:
        try:
            for start in range(0, len(data), _PIECE_BYTES):
                file.write(memoryview(data)[start : start + _PIECE_BYTES])
        except OSError as error:
            words = f"cannot hand a large file to its decoder in {tempfile.gettempdir()}: {error.strerror}"
            raise NsfwscanError(f"{words}; make room there, or set TMPDIR to a folder on a larger disk") from error
        return open(file.name, "rb", buffering=0)


def send_file(sock: socket.socket, file: IO[bytes]) -> None:
    """Hand an open file over, after a message that announces it."""
    socket.send_fds(sock, [FILE], [file.fileno()])


def receive_file(sock: socket.socket) -> IO[bytes]:
    """Return the open file that comes. Raises EOFError."""
    asked, fds, _, _ = socket.recv_fds(sock, 1, 1)
    if asked != FILE:
        raise EOFError("the other side is gone")
    return open(fds[0], "rb", buffering=0)


def send(sock: socket.socket, said: Said, data: Encoded = b"", *, deadline: float | None = None) -> None:
    """Send one message; `deadline` is a time of `time.monotonic()`. Raises TimeoutError, ConnectionError."""
    text = json.dumps(said).encode()
    head = _HEAD.pack(len(text), len(data)) + text
    _wait_until(sock, deadline)
    sent = sock.sendmsg([head, data])  # at once: each part that comes alone wakes the other side up
    if sent < len(head) + len(data):
        _wait_until(sock, deadline)
        sock.sendall(head[sent:])
        sock.sendall(memoryview(data)[max(0, sent - len(head)) :])


def receive(
    sock: socket.socket, *, most: int | None = None, most_json: int = _MOST_JSON, deadline: float | None = None
) -> tuple[Said, bytes]:
    """Return the next message: its JSON object and the bytes after it. Raises TimeoutError, EOFError, ConnectionError,
    ValueError.

    Args:
        most: limit of bytes after the JSON; unset: any number, from a trusted peer.
        most_json: limit of bytes of JSON.
    """
    said, size = _said(sock, most, most_json, deadline)
    return said, _exactly(sock, size, deadline)


def receive_into(room: memoryview, sock: socket.socket, *, deadline: float) -> tuple[Said, memoryview]:
    """Return the next message as `receive` does; the bytes after the JSON, which must fit, come into the room."""
    said, size = _said(sock, len(room), _MOST_JSON, deadline)
    left = room[:size]
    while left:
        _wait_until(sock, deadline)
        got = sock.recv_into(left, 0, socket.MSG_WAITALL)
        if not got:
            raise EOFError("the other side is gone")
        left = left[got:]
    return said, room[:size]


def _said(sock: socket.socket, most: int | None, most_json: int, deadline: float | None) -> tuple[Said, int]:
    """Return the JSON object of the next message, and how many bytes come after it."""
    lengths: tuple[int, int] = _HEAD.unpack(_exactly(sock, _HEAD.size, deadline))
    if lengths[0] > most_json or (most is not None and lengths[1] > most):
        raise ValueError(f"a message of {lengths[0]} and {lengths[1]} bytes")
    try:
        said = json.loads(_exactly(sock, lengths[0], deadline))
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if not isinstance(said, dict):
        raise ValueError("JSON that is no object")
    return said, lengths[1]


def _exactly(sock: socket.socket, size: int, deadline: float | None) -> bytes:
    parts: list[bytes] = []
    while size:
        _wait_until(sock, deadline)
        part = sock.recv(size, socket.MSG_WAITALL)
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _wait_until(sock: socket.socket, deadline: float | None) -> None:
    if deadline is not None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
