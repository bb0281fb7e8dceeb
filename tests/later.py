"""Modules that take seconds to import, such as torch: only a process that runs a test with them pays for that.

Each process of the suite imports every test file, to know its tests.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Module:
    """A module that is imported when a name of it is first asked for. To replace a name, give its path to `monkeypatch`."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("_mock", "__")):  # pytest asks what it finds in a file whether it is a mock or wrapped
            raise AttributeError(name)
        return getattr(import_module(self._name), name)


def later(name: str) -> Any:
    """Return what stands for the module `name` until it is used."""
    return _Module(name)
