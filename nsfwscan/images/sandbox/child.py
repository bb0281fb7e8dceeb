"""Decode files in a process of its own, which a file may crash, stall or fill, and which is replaced when it does.

A file that its process does not survive is a `RowError` (`crashed` or `timeout`); a child that cannot be started raises
`NsfwscanError`. Answers are checked, never trusted: a child may be speaking for a hostile file. A file that takes a
worker over can lie about the files after it, up to the next replacement; `confinement.py` says what else it could do.

The child (`worker.py`) is a zygote, which imports what is needed and forks workers, one at a time. This process itself
cannot be forked: Ray's workers have threads, and locks that they hold would stay locked in the fork.
"""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsfwscan.errors import ErrorCode, NsfwscanError, RowError, Status
from nsfwscan.images.provenance.credentials import UNVERIFIABLE
from nsfwscan.images.provenance.signals import LONGEST_NAME, MOST_SIGNALS
from nsfwscan.images.sandbox import wire
from nsfwscan.images.sandbox.confinement import LAYERS
from nsfwscan.images.sandbox.wire import AREA_FILE_BYTES, NO_MEMORY, Encoded, Settings
from nsfwscan.images.sandbox.zygote import Zygote

_TYPES: dict[str, type] = {
    **dict.fromkeys(("width", "height", "frames", "pdq_quality"), int),
    **dict.fromkeys(("format", "camera", "software", "pdq"), str),
    "signals": dict,
    "media": str,
    "views": int,
    "looked": int,
    "duration_s": float,
    "orientation": int,
}
_OF_VIEW = {
    **dict.fromkeys(("index", "weight", "width", "height", "pdq_quality"), int),
    **{"at_s": float, "reason": str, "place": str, "pdq": str},
}
_MOST = {"pdq_quality": 100, "orientation": 8, "index": 2**31 - 1, "weight": 2**31 - 1}
_PDQ_DIGITS = re.compile("[0-9a-f]{64}")
_VERDICTS = (Status.UNSUPPORTED, Status.TOO_LARGE, Status.DECODE_ERROR)
_TEXT_LIMIT = 300
_HEADER_S = 1.0

Facts = dict[str, Any]


class _Dead(Exception):
    """A worker did not survive; the message says how, for a person."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class DecodeChild:
    """Decodes files in another process, one after the other. Not for several threads.

    Attributes:
        sandbox: the layers of the worker's sandbox that hold, of `confinement.LAYERS`; empty before the first file.
        workers: number of workers started so far.
        peak_rss_bytes: the largest peak of memory among the workers that ended.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._zygote: Zygote | None = None
        self._worker: socket.socket | None = None
        self._ahead: Encoded | None = None
        self._room = np.empty(settings.area_bytes, np.uint8).data  # in memory only where pixels have come
        self._unverifiable = set[bytes]()
        self.sandbox: tuple[str, ...] = ()
        self.workers = 0
        self.peak_rss_bytes = 0

    def start(self) -> None:
        """Start the child, which gets ready while this process goes on. Raises NsfwscanError."""
        self._zygote = self._zygote or Zygote(self._settings)

    def decode(self, data: bytes) -> tuple[Facts, bytes]:
        """Return the values of the content columns, and the pixels of the first view. Raises as `decode_views`."""
        facts, _, pixels = self.decode_views(data)
        return facts, pixels[0].tobytes()

    def decode_views(
        self, data: Encoded, closer: Mapping[str, Any] | None = None, then: Encoded | None = None
    ) -> tuple[Facts, list[Facts], NDArray[np.uint8]]:
        """Return the values of the content columns; of each view, if there are several; and the pixels of all views.

        Args:
            closer: what a second look looks at: a value of `LOOK_CLOSER`.
            then: the very object that is `data` of the next call, a first look, if that is known: the worker goes on
                with it at once. If something else is asked for, another worker is.

        Returns:
            The pixels are uint8 [views, `pixel_bytes`], in each view those of one geometry after the other. They are
            valid until the next file is decoded. There are none of a file that is left to a GPU; the facts then have
            its `orientation`.

        Raises:
            RowError: the file is at fault; its values are what was known of it by then.
            NsfwscanError: there is no child to decode it.
        """
        asked: wire.Said = {} if closer is None else {"closer": dict(closer)}
        try:
            facts, views, pixels = self._decoded(asked, data, then)
        except _Dead as death:
            raise RowError(death.code, str(death), self._header(data)) from None
        return facts, views, np.frombuffer(pixels, np.uint8).reshape(-1, self._settings.pixel_bytes)

    def retire(self) -> int | None:
        """End the worker, if there is one; the next file gets a new one. Return its exit code, negative for a signal,
        as it was before if it was dead already; None where nobody knows."""
        worker, self._worker, self._ahead = self._worker, None, None
        if worker is None or self._zygote is None:
            return None
        with worker:
            try:
                exit_code, rss_bytes = self._zygote.reap()
            except (EOFError, OSError, ValueError):
                self.close()
                return None
        self.peak_rss_bytes = max(self.peak_rss_bytes, rss_bytes)
        return exit_code

    def close(self) -> str:
        """End the child; the next file gets a new one. Return its last words."""
        worker, self._worker, self._ahead = self._worker, None, None
        zygote, self._zygote = self._zygote, None
        if worker is not None:
            worker.close()
        return zygote.close() if zygote is not None else ""

    def _decoded(self, asked: wire.Said, data: Encoded, then: Encoded | None) -> tuple[Facts, list[Facts], memoryview]:
        if self._ahead is not None and (self._ahead is not data or asked):
            self.retire()  # it would answer another question first
        fresh, seconds = self._worker is None, self._settings.timeout_s
        unverifiable = bool(self._unverifiable) and hashlib.sha256(data).digest() in self._unverifiable
        try:
            try:
                if not unverifiable:
                    return self._ask(asked, data, seconds, then)
            except _Dead as death:
                if fresh or death.code == ErrorCode.DECODE_TIMEOUT:
                    raise
                # What earlier files left behind is not its fault.
                return self._ask(asked, data, seconds)
        except _Dead:
            if not self._settings.verified or b"c2pa" not in bytes(data):
                raise
        # Its manifest may be what nobody survives: that must not hide its picture.
        if self._ahead is not None:
            self.retire()
        facts, views, pixels = self._ask({**asked, "unverified": True}, data, seconds)
        self._unverifiable.add(hashlib.sha256(data).digest())
        return {**facts, "signals": {**UNVERIFIABLE, **(facts.get("signals") or {})}}, views, pixels

    def _header(self, data: Encoded) -> Facts:
        """Return what the header says of a file that killed a worker."""
        try:
            return self._ask({"only": "header"}, data, min(_HEADER_S, self._settings.timeout_s))[0]
        except (_Dead, RowError):
            return {}

    def _ask(
        self, asked: wire.Said, data: Encoded, timeout_s: float, then: Encoded | None = None
    ) -> tuple[Facts, list[Facts], memoryview]:
        """Return what the worker says of a file and its views, and the pixels of all, if there are any."""
        worker = self._worker = self._worker or self._hire()
        deadline = time.monotonic() + timeout_s
        try:
            if self._ahead is None:
                deadline = self._hand_over(worker, asked, data, timeout_s)
            self._ahead = None
            if then is not None and len(then) <= AREA_FILE_BYTES:
                with suppress(ConnectionError):  # it may have answered before it died
                    self._hand_over(worker, {}, then, timeout_s)
                    self._ahead = then
            said, pixels = wire.receive_into(self._room, worker, deadline=deadline)
            further = self._settings.closer if "closer" in asked else 0
            facts, views = self._understood(said, self._settings.most_views + further)
            left = self._settings.leaves and "orientation" in facts
            if len(pixels) != (0 if left or "only" in asked else max(1, len(views)) * self._settings.pixel_bytes):
                raise ValueError("pixels of other views")
            return facts, views, pixels
        except RowError:
            raise
        except TimeoutError:
            self.retire()
            raise _Dead(
                ErrorCode.DECODE_TIMEOUT, f"decoding took more than {timeout_s:g} s (decode.timeout_s)"
            ) from None
        except (EOFError, ConnectionError):
            raise _Dead(*self._cause_of_death(self.retire())) from None
        except (ValueError, KeyError, TypeError):
            self.retire()
            raise _Dead(ErrorCode.CRASHED, "the decoder crashed (its answer makes no sense)") from None
        except BaseException:  # interrupted: the next answer would be that to this file
            self.close()
            raise

    def _hand_over(self, worker: socket.socket, asked: wire.Said, data: Encoded, timeout_s: float) -> float:
        """Ask a worker about a file, and return when its time is up."""
        assert self._zygote is not None
        place = self._zygote.area.put_file(data)
        if place is not None:
            deadline = time.monotonic() + timeout_s
            wire.send(worker, {**asked, **place}, deadline=deadline)
            return deadline
        with wire.file_of(data) as file:
            deadline = time.monotonic() + timeout_s
            wire.send(worker, {**asked, "opened": True}, deadline=deadline)
            wire.send_file(worker, file)
        return deadline

    def _hire(self) -> socket.socket:
        """Return a new worker, of a new child where the old one is gone."""
        for _ in range(2):
            self.start()
            assert self._zygote is not None
            try:
                worker, self.sandbox = self._zygote.fork()
            except (EOFError, OSError, ValueError):
                last_words = self.close()
            except NsfwscanError:
                self.close()
                raise
            else:
                self.workers += 1
                self._check_sandbox(worker)
                return worker
        raise NsfwscanError(f"the process to decode images in keeps dying: {last_words}")

    def _check_sandbox(self, worker: socket.socket) -> None:
        lacking = [layer for layer in LAYERS if layer not in self.sandbox]
        if self._settings.sandbox == "required" and lacking:
            worker.close()
            self.close()
            raise NsfwscanError(
                f"the sandbox of the decoder does not hold here: this kernel has no {' and no '.join(lacking)} for it; "
                "use another kernel or container runtime, or decode.sandbox: auto, which goes on and says so"
            )

    def _cause_of_death(self, exit_code: int | None) -> tuple[ErrorCode, str]:
        if exit_code is None:
            return ErrorCode.CRASHED, "the decoder crashed"
        if exit_code == NO_MEMORY:
            limit = f"{self._settings.max_memory_bytes / 2**20:,.0f} MiB (decode.max_memory_bytes)"
            return ErrorCode.OUT_OF_MEMORY, f"decoding takes more memory than {limit}"
        if exit_code >= 0:
            return ErrorCode.CRASHED, f"the decoder ended (exit code {exit_code})"
        if exit_code == -signal.SIGKILL:
            return ErrorCode.KILLED, "the decoder was killed (SIGKILL): is the memory of the machine full?"
        name = next((s.name for s in signal.Signals if s == -exit_code), f"signal {-exit_code}")
        return ErrorCode.CRASHED, f"the decoder crashed ({name})"

    def _understood(self, said: wire.Said, most: int) -> tuple[Facts, list[Facts]]:
        """Check the form of an answer. Raises RowError, or ValueError, KeyError, TypeError."""
        facts, code = _checked(said["facts"], _TYPES), said["code"]
        views = [_checked(view, _OF_VIEW) for view in said["views"]]
        if any(None in (view["index"], view["reason"], view["weight"]) for view in views):
            raise ValueError("a view without a place, a reason or a weight")
        if len(views) > most or len(views) not in (0, facts.get("views")):
            raise ValueError("views that were not asked for")
        if code is None:
            return facts, views
        if ErrorCode(code).status in _VERDICTS and isinstance(said["error"], str):
            raise RowError(ErrorCode(code), _printable(said["error"]), facts)
        raise ValueError("neither done nor an error")


def _checked(said: Any, types: dict[str, type]) -> Facts:
    """Check values of columns. Raises ValueError, KeyError or TypeError."""
    facts = dict(said)
    for name, value in facts.items():
        expected = types[name]
        if value is None:
            continue
        if type(value) is not expected:
            raise ValueError(f"{name} is a {type(value).__name__}")
        if isinstance(value, str) and not (value.isprintable() and len(value) <= _TEXT_LIMIT):
            raise ValueError(f"{name} is no text for a person")
        if isinstance(value, int | float) and not 0 <= value <= _MOST.get(name, 2**63 - 1):
            raise ValueError(f"{name} is out of range")
        if name == "pdq" and not _PDQ_DIGITS.fullmatch(str(value)):
            raise ValueError(f"{name} is no hash")
        if isinstance(value, dict) and not (len(value) <= MOST_SIGNALS and all(map(_is_signal, value.items()))):
            raise ValueError(f"{name} are none")
    return facts


def _is_signal(said: tuple[str, Any]) -> bool:
    name, value = said
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and type(value) is float and 0 <= value <= 1


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:_TEXT_LIMIT])
