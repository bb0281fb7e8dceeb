"""Decode on all cores, in child processes that a file may crash.

A file that does not decode is a `RowError`; a child that cannot be started is a `NsfwscanError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from nsfwscan.config import DecodeConfig
from nsfwscan.errors import RowError
from nsfwscan.execution.machine import usable_cpus
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild, Facts
from nsfwscan.stages.decode import settings_of

_MOST_CHILDREN = 16


class DecodePool:
    """Decode children, one for each core, and as many `threads` that wait for them; used in a `with`, since it holds
    processes."""

    def __init__(self, config: DecodeConfig, geometry: Geometry) -> None:
        self.geometry = geometry
        count = min(usable_cpus(), _MOST_CHILDREN)
        settings = settings_of(config.model_copy(update={"pdq": "off", "provenance": False}), geometry)
        self._all = [DecodeChild(settings) for _ in range(count)]
        self._free: SimpleQueue[DecodeChild] = SimpleQueue()
        for child in self._all:
            self._free.put(child)
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="decode")

    def __enter__(self) -> DecodePool:
        for child in self._all:
            child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.threads.shutdown(cancel_futures=True)
        for child in self._all:
            child.close()

    def decode(self, data: bytes) -> tuple[Facts, bytes]:
        """Return a file's facts and its pixels. Raises RowError, NsfwscanError."""
        child = self._free.get()
        try:
            return child.decode(data)
        finally:
            self._free.put(child)

    def pixels(self, files: Sequence[bytes]) -> NDArray[np.uint8]:
        """Return the pixels of each file: uint8 [files, H, W, 3]; black where a file does not decode."""
        found = self.threads.map(self._raw, files)
        return np.stack([np.frombuffer(raw, np.uint8).reshape(self.geometry.shape) for raw in found])

    def _raw(self, data: bytes) -> bytes:
        try:
            return self.decode(data)[1]
        except RowError:  # it decoded when it was examined: it is at the limit of time or memory
            return bytes(self.geometry.nbytes)
