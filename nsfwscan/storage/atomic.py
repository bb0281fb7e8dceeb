"""Write a file or a folder of this machine so that it appears whole or not at all.

Report stores on local disk are written by `Confined`, which does the same below a folder that no link leads out of.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from nsfwscan.storage.confined import TEMPORARY


@contextmanager
def appearing(target: Path, *, mode: int | None = None, locked: bool = False) -> Iterator[Path]:
    """Yield a path beside the target, to write a file or a folder at: it replaces the target at the end, and is removed
    where writing fails.

    Args:
        mode: permissions of a file, which is made beforehand; unset: whatever writes it chooses them.
        locked: nobody else writes the target meanwhile, so what a killed process left of it is removed first.
    """
    temporary = target.with_name(f"{TEMPORARY}{target.name if locked else uuid4().hex}")
    try:
        _remove(temporary)
        if mode is not None:
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
        yield temporary
        if temporary.is_dir():
            _remove(target)
        temporary.replace(target)
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
