"""List the files in a folder of this machine, however deep, odd or entangled, folder by folder, by name.

A folder that cannot be read is a `SourceError` with what to do; pipes, sockets and devices hold no image and are
counted as warnings.

A link that leads where it must not (`reach.py`) is not followed: it is listed as refused, whether it leads to a file or
to a folder. Other links to folders are entered, each folder once, however many links lead to it: a few dozen links can
make millions of paths. At most a million folders behind links are entered; more are a `SourceError`. A link that leads
nowhere is a file like any other, and ends as a row that says so.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from nsfwscan.errors import SourceError
from nsfwscan.location import local_uri
from nsfwscan.sources.patterns import Choice
from nsfwscan.sources.reach import Links
from nsfwscan.storage.failures import setup_error
from nsfwscan.text import printable
from nsfwscan.warning import WarningKind, Warnings

_MOST_LINKED = 1_000_000
"""Folders behind links that are remembered, about 100 bytes each."""

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """One file, or a link that must not be followed.

    Attributes:
        path: absolute.
        refused: why it must not be read, or None.
        is_folder: True for a link to a folder; something below it may be wanted.
    """

    path: str
    refused: str | None = None
    is_folder: bool = False


@dataclass
class Walk:
    """One walk through a folder.

    Attributes:
        root: the folder's absolute path.
        choice: what need not be entered.
        links: where links may lead.
        warnings: where it is counted what is left out.
    """

    root: str
    choice: Choice
    links: Links
    warnings: Warnings
    _linked: set[_Inode] = field(default_factory=set)

    def files(self) -> Iterator[Found]:
        """Yield all files, depth first, by name, and the links that must not be followed. Raises SourceError."""
        self._linked = {_inode(self.root)}
        stack = [(iter(_entries(self.root, "")), False)]
        while stack:
            entries, behind_link = stack[-1]
            entry = next(entries, None)
            if entry is None:
                stack.pop()
                continue
            refused = self.links.refusal(entry.path, os.path.realpath(entry.path)) if entry.is_symlink() else None
            if not _leads_to_folder(entry):
                yield from self._file(entry, refused)
                continue
            place = self._place(entry)
            if refused is not None:
                yield from self._folder_elsewhere(entry, place, refused)
                continue
            if self._enters(entry, place, behind_link):
                stack.append((iter(_entries(entry.path, place)), behind_link or entry.is_symlink()))

    def _file(self, entry: os.DirEntry[str], refused: str | None) -> Iterator[Found]:
        if entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield Found(entry.path, refused)
        elif self.choice.wants(self._place(entry), uri := local_uri(entry.path)):
            self.warnings.add(WarningKind.SPECIAL_FILE, uri)

    def _folder_elsewhere(self, entry: os.DirEntry[str], place: str, refused: str) -> Iterator[Found]:
        if self.choice.may_want(place) and not self.choice.leaves_out(place):
            yield Found(entry.path, refused, is_folder=True)

    def _place(self, entry: os.DirEntry[str]) -> str:
        return entry.path[len(self.root.rstrip("/")) + 1 :]

    def _enters(self, entry: os.DirEntry[str], place: str, behind_link: bool) -> bool:
        if self.choice.leaves_out(place):
            return False
        if not behind_link and not entry.is_symlink():
            return True
        if not self.choice.may_want(place):  # another link may lead there under a name that is wanted
            return False
        here, uri = _inode(entry.path), local_uri(entry.path)
        if here in self._linked or (entry.is_symlink() and _leads_up(entry.path)):
            self.warnings.add(WarningKind.LINKED_AGAIN, uri)
            return False
        if len(self._linked) >= _MOST_LINKED:
            raise SourceError(
                f"{local_uri(self.root)}: symbolic links lead to more than {_MOST_LINKED:,} folders, the last by "
                f"{uri}: leave links out with --exclude, and name what they lead to as sources"
            )
        self._linked.add(here)
        return True


def _leads_up(link: str) -> bool:
    """Return whether a link leads to a folder that it lies in."""
    above = os.path.realpath(os.path.dirname(link))
    return f"{above}/".startswith(f"{os.path.realpath(link)}/")


def _inode(folder: str) -> _Inode:
    try:
        info = os.stat(folder)
    except OSError as error:
        raise _refused(error, folder, folder) from error
    return info.st_dev, info.st_ino


def _entries(folder: str, place: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _refused(error, folder, place) from error


def _refused(error: OSError, folder: str, place: str) -> SourceError:
    """Return what a person can do about a folder that cannot be listed."""
    remedy = "" if error.errno != errno.EACCES else "give the scanner the right to read it, or "
    advice = f"; {remedy}leave it out with --exclude '{printable(place)}/*'" if place else ""
    return SourceError(f"{setup_error(error, f'cannot list {local_uri(folder)}')}{advice}")


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """Return False for a link that leads nowhere: it is listed, and ends as a row that says so."""
    try:
        return entry.is_dir()
    except OSError:
        return False
