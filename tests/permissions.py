"""Tests about permissions, for root too: root reads everything, so it becomes somebody else for a moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Within, this process reads as `nobody` where it was root; skips the test where it may not change."""
    if os.geteuid() != 0:
        yield
        return
    try:
        os.seteuid(_NOBODY)
    except PermissionError:
        pytest.skip("root that cannot become anybody else")
    try:
        yield
    finally:
        os.seteuid(0)
