"""Tell a lack of memory from a broken file: few codecs in C do, and a lack of memory is never the file's fault."""

from __future__ import annotations

import ctypes
from errno import ENOMEM
from functools import lru_cache
from typing import Any


def lacks_memory() -> bool:
    """Return whether an allocation failed in this thread since `forget_lack_of_memory`."""
    return bool(_errno()[0] == ENOMEM)


def forget_lack_of_memory() -> None:
    """Begin anew, before another file."""
    _errno()[0] = 0


def _errno() -> Any:
    """Return this thread's `errno` of the C library: a failed allocation sets it, a successful call leaves it alone."""
    find = _find_errno()
    return find() if find is not None else [0]


@lru_cache(maxsize=1)
def _find_errno() -> Any:
    try:
        find = ctypes.CDLL(None).__errno_location
    except AttributeError:  # not on Linux
        return None
    find.restype = ctypes.POINTER(ctypes.c_int)
    return find
