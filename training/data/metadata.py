"""Labels in a `metadata.csv`, `.jsonl` or `.parquet` beside images, as Hugging Face's image folders have them.

A row has `file_name`, relative to the file's own folder, and `label` (or `truth`). A file without labels (captions,
boxes) says nothing. A malformed file, or an unknown label, is a `SourceError` with the row.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from nsfwscan.errors import SourceError
from nsfwscan.schema import Category
from nsfwscan.sources.manifests import rows_of
from nsfwscan.storage.tables import READING_ERRORS
from training.data.tables import FILE_COLUMNS, category_in

_NAMES = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
_LABELS = ("label", "truth")


def is_metadata(name: str) -> bool:
    """Return whether a file is metadata of images, by its name."""
    return name.rsplit("/", 1)[-1].lower() in _NAMES


@dataclass
class Metadata:
    """Labels in all such files of one source; `extra` has those that the alias table does not know."""

    extra: Mapping[str, str]
    _labels: dict[str, dict[Category, str]] = field(default_factory=dict)
    """By place: labels, and the file that gives them."""
    _folders: dict[str, str] = field(default_factory=dict)
    """Folder to the file there that labels what lies in it."""

    def read(self, name: str, file: IO[bytes], uri: str) -> None:
        """Take in one file. Raises SourceError.

        Args:
            name: its place within the source.
            uri: for messages.
        """
        folder = posixpath.dirname(name)
        try:
            for number, row in enumerate(rows_of(file, name, {*FILE_COLUMNS, *_LABELS}), start=1):
                self._row(row, folder, name, f"{uri}, row {number}")
        except READING_ERRORS as error:
            raise SourceError(f"{uri} cannot be read: {error}") from error

    def _row(self, row: Mapping[str, Any], folder: str, name: str, where: str) -> None:
        shown = next((row[column] for column in FILE_COLUMNS if row.get(column)), None)
        label = next((row[column] for column in _LABELS if row.get(column) is not None), None)
        if shown is None and label is not None:
            raise SourceError(f"{where}: a label, but no `file_name`: name the image, relative to the file's folder")
        if shown is None or label is None:
            return
        place = posixpath.normpath(posixpath.join(folder, str(shown)))
        self._labels.setdefault(place, {}).setdefault(category_in(label, self.extra, where), name)
        self._folders[folder] = name

    def labels_of(self, place: str) -> tuple[Category, ...]:
        """Return the labels of an image; more than one where the files contradict each other."""
        return tuple(self._labels.get(place, ()))

    def silent_about(self, place: str) -> str | None:
        """Return the file that labels other images of the same folder, or of one around it; None where none does."""
        folder = place
        while folder:
            folder = posixpath.dirname(folder)
            if folder in self._folders:
                return self._folders[folder]
        return None

    def others(self, seen: set[str]) -> Iterator[tuple[str, Category, str]]:
        """Yield images that are named but were not seen: (place, label, the file that names it)."""
        for place, labels in self._labels.items():
            if place not in seen:
                yield place, *next(iter(labels.items()))
