"""Store figures as JSON, and as a table in a page.

`Keeper.check` raises `NsfwscanError` before any measurement if a file cannot be read or written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.benchmark import table
from nsfwscan.errors import NsfwscanError

_OF_THEIR_OWN = ("packs", "memory", "banks", "commit")
"""Tables whose JSON goes into a file of its own, beside that of the others."""


@dataclass(frozen=True)
class Keeper:
    """A function that stores a table, as JSON and at its named place in a page."""

    json_path: Path | None
    page: Path | None

    def check(self, places: Sequence[str]) -> None:
        """Check that these tables can be stored. Makes folders, but no files. Raises NsfwscanError if one cannot."""
        for path in (self._json_of(place) for place in places):
            if path is not None:
                check_folder(path.parent)
                _check_file(path)
        if self.page is not None and places:
            text = table.page_text(self.page)
            for place in places:
                table.place_in(text, place, self.page)
            _check_file(self.page)

    def __call__(self, place: str, text: str, found: dict[str, Any]) -> None:
        """Write a table: first as JSON, which no change of the page meanwhile can prevent. Raises NsfwscanError."""
        path = self._json_of(place)
        if path is not None:
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        if self.page is not None:
            table.put_into(self.page, place, text)

    def _json_of(self, place: str) -> Path | None:
        if self.json_path is None or place not in _OF_THEIR_OWN:
            return self.json_path
        return self.json_path.with_suffix(f".{place}.json")


def check_folder(folder: Path) -> None:
    """Make a folder, and check that files can be made in it. Raises NsfwscanError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        raise NsfwscanError(f"cannot write into {folder}: {error.strerror}") from None


def _check_file(path: Path) -> None:
    """Raise NsfwscanError if a file cannot be written; an absent file is not made."""
    if path.is_dir():
        raise NsfwscanError(f"cannot write {path}: it is a directory")
    if path.exists():
        try:
            path.open("r+b").close()
        except OSError as error:
            raise NsfwscanError(f"cannot write {path}: {error.strerror}") from None
