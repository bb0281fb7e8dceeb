"""Find the columns of a list that are wanted, whatever they are called: `uri`, `URI`, ` url`, `s3_uri`, `file_name`.

The column named exactly `uri` wins, then `source-ref`, then one that differs from these only in case, blanks and
dashes, then one with a usual name. `bucket` and `key` together name an object of S3; `key` alone does not. A list
without a column that names objects, or with two of equal right, is a `SourceError` that says what is there and what is
wanted.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from nsfwscan.errors import SourceError
from nsfwscan.text import printable

Row = dict[str, Any]

_URI = ("uri", "source-ref")
_USUAL = frozenset(
    """url urls uris s3_uri s3_url s3_path s3uri gcs_uri object_uri image_uri image_url image_path img_url img_path
    image img path filepath file_path image_file_name full_path absolute_path filename file_name file
    location src media_url media_uri media_path""".split()  # noqa: SIM905
)
_OTHER_NAMES = {"modified_at": ("last_modified", "lastmodified", "last_modified_at"), "size": ("size_bytes",)}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip("\ufeff \t\"'")).strip("_").lower()


def _naming(names: Sequence[str]) -> list[int]:
    """Return the indices of the columns that name objects, all of equal right; not those of `bucket` and `key`."""
    for exact in _URI:
        if exact in names:
            return [list(names).index(exact)]
    plain = [_plain(name) for name in names]
    for known in ({"uri"}, {"source_ref"}, _USUAL):
        if found := [i for i, name in enumerate(plain) if name in known]:
            return found
    return []


def names_in(names: Iterable[str]) -> bool:
    """Return whether there is a column that names objects, or several."""
    listed = list(names)
    return bool(_naming(listed)) or {"bucket", "key"} <= set(map(_plain, listed))


class Columns:
    """Chooses and renames the columns of one list.

    Args:
        place: the list's URI, for messages.
        wanted: names of columns; with `uri` among them, the one that names objects is found under any of its names, and
            must be there; unset: that one, and all others under their own names.
    """

    def __init__(self, place: str, wanted: Collection[str] | None) -> None:
        self.place = place
        self._wanted = None if wanted is None else [name for name in wanted if name not in _URI]
        self._named = wanted is None or "uri" in wanted
        self._known: dict[tuple[str, ...], dict[int, str] | None] = {}
        self.seen: tuple[str, ...] = ()
        """Names of the columns as they were written."""

    def chosen(self, names: Sequence[str]) -> dict[int, str]:
        """Return the indices of the columns that are wanted, with our names of them. Raises SourceError where no column
        names objects, or several do."""
        self.seen = tuple(names)
        found = self._chosen(names)
        if found is None:
            hint = "; a `key` is of no use without its `bucket`" if "key" in map(_plain, names) else ""
            raise SourceError(
                f"{printable(self.place)} has no column `uri` (nor `source-ref`), which names one object a row: its "
                f"columns are {self._listed(names)}{hint}"
            )
        return found

    def _chosen(self, names: Sequence[str]) -> dict[int, str] | None:
        naming = _naming(names) if self._named else []
        if len(naming) > 1:
            raise SourceError(
                f"{printable(self.place)}: {' and '.join(f'`{printable(names[i])}`' for i in naming)} may each name "
                f"the objects: call the one that does `uri`. Its columns are {self._listed(names)}"
            )
        plain = [_plain(name) for name in names]
        found = dict.fromkeys(naming, "uri")
        if not naming and self._named:
            if not {"bucket", "key"} <= set(plain):
                return None
            found = {plain.index(name): name for name in ("bucket", "key")}
        if self._wanted is None:
            return {**{i: name for i, name in enumerate(names) if i not in found}, **found}
        for name in self._wanted:
            there = [i for i, one in enumerate(names) if one == name] or [
                i for known in (name, *_OTHER_NAMES.get(name, ())) for i, one in enumerate(plain) if one == known
            ]
            if there and there[0] not in found:
                found[there[0]] = name
        return found

    def renamed(self, element: Any) -> Row:
        """Return a JSON value as a row: as it is without a name of an object, empty where it is not a JSON object."""
        if isinstance(element, str):
            return {"uri": element}
        if not isinstance(element, dict):
            return {}
        keys = tuple(element)
        if keys not in self._known:
            if len(self._known) > 1000:  # keys that differ from row to row need not all be kept
                self._known.clear()
            self._known[keys] = self._chosen(keys)
        self.seen, found = keys, self._known[keys]
        return element if found is None else {name: element[keys[i]] for i, name in found.items()}

    def _listed(self, names: Iterable[str]) -> str:
        return ", ".join(printable(name)[:60] for name in list(names)[:20]) or "none at all"
