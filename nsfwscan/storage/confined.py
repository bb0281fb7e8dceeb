"""A folder on local disk that nothing leads out of.

Files appear whole or not at all, with the permissions that were asked for, less the process's umask. Below the folder
no symbolic link is followed, neither to read nor to write nor to remove: every step of a name is opened by itself
(`openat`, O_NOFOLLOW), so that no link can be swapped in between. A name that leads over a link is a `LinkRefused`. The
folder itself may be reached by a link.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

TEMPORARY = ".tmp-"
"""Beginning of the names of files that are not whole yet, or that a killed process left."""
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class LinkRefused(OSError):
    """A name leads over a symbolic link."""

    def __init__(self, name: str) -> None:
        super().__init__(errno.ELOOP, f"{name} is a symbolic link")


@dataclass(frozen=True)
class Confined:
    """A folder, by its absolute path.

    Args:
        root: it need not be there yet.
        file_mode: of files that are made; folders can be searched by whoever may read them.
    """

    root: str
    file_mode: int = 0o640

    def read(self, name: str) -> bytes:
        """Return a file's bytes. Raises OSError, also where it is not a regular file."""
        with self._parent(name) as (folder, leaf):
            self._refuse_link(leaf, folder, name)
            # O_NONBLOCK: opening a named pipe must not wait for a writer.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with open(os.open(leaf, flags, dir_fd=folder), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError(errno.EINVAL, f"{name} is not a regular file")
                return file.read()

    def write(self, name: str, data: bytes, *, private: bool = False) -> None:
        """Write a file, over an older one; a link of that name is itself replaced. Raises OSError.

        Args:
            private: whether nobody but its owner may read it.
        """
        with self._temporary(name, data, self.file_mode & 0o700 if private else self.file_mode) as named:
            folder, temporary, leaf = named
            os.replace(temporary, leaf, src_dir_fd=folder, dst_dir_fd=folder)

    def create(self, name: str, data: bytes) -> None:
        """Write a file that must not be there yet. Raises OSError, FileExistsError among them."""
        with self._temporary(name, data, self.file_mode) as (folder, temporary, leaf):
            os.link(temporary, leaf, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)

    def stat(self, name: str) -> os.stat_result:
        """Return the status of a name, links not followed. Raises OSError, FileNotFoundError among them."""
        with self._parent(name) as (folder, leaf):
            return os.stat(leaf, dir_fd=folder, follow_symlinks=False)

    def exists(self, name: str) -> bool:
        """Return True for a file or folder. Raises OSError, FileNotFoundError where it is absent."""
        found = self.stat(name)
        if stat.S_ISLNK(found.st_mode):
            raise LinkRefused(name)
        return True

    def entries(self, folder: str) -> dict[str, os.stat_result]:
        """Return what lies directly in a folder, links not followed. Raises OSError."""
        with self._opened(_steps(folder), folder) as held:
            listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=held)
            found: dict[str, os.stat_result] = {}
            try:
                for name in os.listdir(listed):
                    with suppress(FileNotFoundError):  # it went in between
                        found[name] = os.stat(name, dir_fd=held, follow_symlinks=False)
            finally:
                os.close(listed)
            return found

    def remove(self, name: str) -> None:
        """Remove a file, a link (and not what it leads to), or a folder with all in it. Raises OSError."""
        with self._parent(name) as (folder, leaf):
            if stat.S_ISDIR(os.stat(leaf, dir_fd=folder, follow_symlinks=False).st_mode):
                shutil.rmtree(leaf, dir_fd=folder)  # which follows no link either
            else:
                os.unlink(leaf, dir_fd=folder)

    @contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Yield the open folder that a name lies in, and the name's last step."""
        *above, leaf = _steps(name) or ["."]
        with self._opened(above, name, make=make) as folder:
            yield folder, leaf

    @contextmanager
    def _opened(self, steps: list[str], name: str, *, make: bool = False) -> Iterator[int]:
        mode = self._folder_mode
        with ExitStack() as held:

            def hold(descriptor: int) -> int:
                held.callback(os.close, descriptor)
                return descriptor

            if make:
                os.makedirs(self.root, mode, exist_ok=True)
            folder = hold(os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            for step in steps:
                self._refuse_link(step, folder, name)
                try:
                    folder = hold(os.open(step, _FOLDER, dir_fd=folder))
                except FileNotFoundError:
                    if not make:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(step, mode, dir_fd=folder)
                    folder = hold(os.open(step, _FOLDER, dir_fd=folder))
            yield folder

    @property
    def _folder_mode(self) -> int:
        return 0o700 | self.file_mode | (self.file_mode & 0o444) >> 2

    @staticmethod
    def _refuse_link(step: str, folder: int, name: str) -> None:
        """Name the link in the error; O_NOFOLLOW refuses a link that is swapped in after this, without its name."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISLNK(os.stat(step, dir_fd=folder, follow_symlinks=False).st_mode):
                raise LinkRefused(step if name.endswith(step) and "/" not in name else f"{step} (in {name})")

    @contextmanager
    def _temporary(self, name: str, data: bytes, mode: int) -> Iterator[tuple[int, str, str]]:
        """Yield a file beside the target that is on the disk, whole; remove it afterwards."""
        with self._parent(name, make=True) as (folder, leaf):
            temporary = f"{TEMPORARY}{uuid.uuid4().hex}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(temporary, flags, mode, dir_fd=folder), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield folder, temporary, leaf
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=folder)


def _steps(name: str) -> list[str]:
    """Return a name's steps. Raises OSError where one leads upwards."""
    steps = [step for step in name.split("/") if step not in ("", ".")]
    if ".." in steps:
        raise OSError(errno.EINVAL, f"{name} leads out of the store")
    return steps
