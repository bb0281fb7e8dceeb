"""Write the files that a person asks for: on this machine, in a store, or on standard output.

Each appears whole or not at all: it is written to a temporary file, then moved, uploaded or printed.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

from nsfwscan.config import StorageConfig, given_place
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.location import STDOUT, Location
from nsfwscan.storage.atomic import appearing
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.filesystems import filesystem

FILE_MODE = 0o640
"""Mode of the files, as of the report itself: not readable for everybody."""


@dataclass(frozen=True)
class Output:
    """A file or a folder that a person asks for."""

    place: Location | None
    """None: standard output."""
    storage: StorageConfig

    @classmethod
    def given(cls, written: str | Path, storage: StorageConfig, what: str, *, stdout: bool = False) -> Self:
        """Return the output that an option names; a `Path` is one of this machine, whatever its name.

        Args:
            what: the option, for the message: `--out`.
            stdout: whether `-` is standard output; otherwise it is refused.

        Raises:
            ConfigError: it is no place, holds a password, or cannot be written to.
        """
        if isinstance(written, Path):
            return cls(Location.local(str(written)), storage)
        if written == STDOUT and stdout:
            return cls(None, storage)
        place = given_place(written, what)
        if place.is_web or (not place.is_local and not place.authority):  # without one: archives, chains
            raise ConfigError(f"{what}: nothing can be written to {written}: name a file here, or one in a store")
        return cls(place, storage)

    @property
    def is_stdout(self) -> bool:
        """True for standard output."""
        return self.place is None

    @property
    def name(self) -> str:
        """Return the last part of the path."""
        return "" if self.place is None else PurePosixPath(self.place.path).name

    def __str__(self) -> str:
        if self.place is None:
            return "standard output"
        return self.place.path if self.place.is_local else self.place.uri

    def child(self, name: str) -> Output:
        """Return a file of this folder; standard output stays itself."""
        if self.place is None:
            return self
        if self.place.is_local:
            return Output(Location.local(str(Path(self.place.path, name))), self.storage)
        return Output(Location.of(self.place.uri.rstrip("/")).child(name), self.storage)

    def with_suffix(self, suffix: str) -> Output:
        """Return the file beside this one whose name ends otherwise."""
        if self.place is None:
            return self
        if self.place.is_local:
            return Output(Location.local(str(Path(self.place.path).with_suffix(suffix))), self.storage)
        return Output(self.place.parent().child(str(PurePosixPath(self.name).with_suffix(suffix))), self.storage)

    def make_folder(self) -> None:
        """Make the folder, where it is one of this machine; stores have none. Raises OSError."""
        if self.place is not None and self.place.is_local:
            Path(self.place.path).mkdir(parents=True, exist_ok=True)

    def make_parent(self) -> None:
        """Make the folder that the file lies in, as `make_folder` does."""
        if self.place is not None and self.place.is_local:
            Path(self.place.path).parent.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def appearing(self) -> Iterator[Path]:
        """Yield a path to write the file at; it becomes the output at the end, and is removed where writing fails.

        Raises:
            OSError: a file of this machine cannot be written.
            ConfigError: the place names no file.
            StoreError: the store, or the reader of standard output, does not take it.
        """
        if self.place is not None and self.place.is_local:
            with appearing(Path(self.place.path), mode=FILE_MODE) as path:
                yield path
            return
        if self.place is not None and (not self.place.path or self.place.path.endswith("/")):
            raise ConfigError(f"{self} names no file: add one")
        with tempfile.TemporaryDirectory(prefix="nsfwscan-") as folder:
            path = Path(folder, f"output{PurePosixPath(self.name).suffix[:16]}")  # stores guess the media type by it
            path.touch()
            yield path
            if self.place is None:
                _print(path)
            else:
                _upload(path, self.place, self.storage)


def _upload(path: Path, place: Location, storage: StorageConfig) -> None:
    doing = f"cannot write {place.uri}"
    try:
        filesystem(place, storage).put_file(str(path), place.uri)
    except NotImplementedError:
        raise ConfigError(f"{doing}: {place.scheme} cannot be written to") from None
    except STORE_ERRORS as error:
        raise setup_error(error, doing) from error


def _print(path: Path) -> None:
    """Copy a file to standard output. Python would report a reader that is gone once more at its end, so that output is
    then let go: https://docs.python.org/3/library/signal.html#note-on-sigpipe"""
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise StoreError("standard output was closed before all was written") from None
    except OSError as error:
        raise StoreError(f"cannot write to standard output: {error.strerror}") from error
