"""Class folders: the innermost folder that the alias table, or an override, knows is the category.

So `train/porn/2026/a.jpg` and `nsfw/porn/a.jpg` are both `porn`. An unknown folder is a `SourceError` that names it: no
image is lost by a spelling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nsfwscan.errors import SourceError
from nsfwscan.models.labels import category_of
from nsfwscan.schema import Category

_SYSTEM = frozenset({"__MACOSX"})
"""Folders that programs leave behind, beside those that begin with a dot."""

Folders = tuple[str, ...]


@dataclass
class ClassFolders:
    """Class folders of one source, and what could not be understood of them.

    Args:
        source: for messages.
        extra: folder's name to category, beside the alias table.
        root_name: name of the root itself, which counts where a file lies directly in it.
    """

    source: str
    extra: Mapping[str, str]
    root_name: str
    _unknown: dict[Folders, list[str]] = field(default_factory=dict)
    _wrappers: set[Folders] = field(default_factory=set)
    _used: set[Category] = field(default_factory=set)
    _seen: list[tuple[Folders, Category]] = field(default_factory=list)

    def category(self, name: str) -> Category | None:
        """Return the category of a file by its place within the source, or None. `check` complains of those without,
        but not of files directly in the root."""
        folders = tuple(name.split("/")[:-1])
        depth, category = self._innermost(folders)
        if category is not None:
            self._used.add(category)
            self._wrappers.update(folders[:i] for i in range(depth + 1))
        elif folders:
            self._unknown.setdefault(folders, []).append(name)
        return category

    def knows(self, name: str) -> bool:
        """Return whether a file lies in a folder whose meaning is known."""
        return self._innermost(tuple(name.split("/")[:-1]))[1] is not None

    def seen_folder(self, name: str) -> None:
        """Note that a folder is there, perhaps without a file."""
        folders = tuple(name.split("/"))
        if (category := self._innermost(folders)[1]) is not None:
            self._seen.append((folders, category))

    def check(self) -> None:
        """Raise SourceError where a folder is unknown, or a known one holds no file."""
        if self._unknown:
            raise SourceError(self._about_unknown())
        for folders, category in self._seen:
            if category not in self._used and folders not in self._wrappers:
                empty = "/".join(folders)
                raise SourceError(f"{self.source}: the class folder {empty!r} is empty: fill it, or remove it")

    def _innermost(self, folders: Folders) -> tuple[int, Category | None]:
        """Return the depth of the innermost folder that is known, and its category; without folders, the root's."""
        for depth in range(len(folders) - 1, -1, -1):
            category = category_of(folders[depth], self.extra)
            if category is not None:
                return depth, category
        return 0, None if folders else category_of(self.root_name, self.extra)

    def _about_unknown(self) -> str:
        """Name the first folder, from the root, that is not around class folders."""
        culprits: dict[str, list[str]] = {}
        for folders, names in sorted(self._unknown.items()):
            depth = next((i for i in range(len(folders)) if folders[: i + 1] not in self._wrappers), len(folders) - 1)
            culprits.setdefault(folders[depth], []).extend(names)
        folder, names = max(culprits.items(), key=lambda item: len(item[1]))
        others = [other for other in culprits if other != folder]
        also = f"; so are {', '.join(map(repr, others[:5]))}{' …' if len(others) > 5 else ''}" if others else ""
        return (
            f"{self.source}: the folder {folder!r} ({len(names):,} files, as {names[0]!r}) is no class that is known"
            f"{also}; say what it means with --label '{folder}=CATEGORY' (one of {', '.join(Category)}), or move it "
            "away"
        )


def is_hidden(name: str) -> bool:
    """Return whether a file does not belong to the data: hidden, in a hidden folder, or left by a program."""
    return any(part.startswith(".") or part in _SYSTEM for part in name.split("/"))


def leads_outside(name: str) -> bool:
    """Return whether a name in an archive would lead out of the folder that it is unpacked to."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or name.startswith(("/", "\\")) or name[1:2] == ":" or "\0" in name


def all_folders(names: Iterable[str]) -> list[str]:
    """Return the names, sorted, without those of hidden folders."""
    return sorted(name for name in names if name and not is_hidden(name) and not leads_outside(name))
