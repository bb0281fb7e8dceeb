"""Keep a history of settings in a store: numbered files, each created only if it is not there and never changed.

The last file holds. Each names the SHA-256 of the one before, so the history is a chain. A file that is cut off,
changed or of a newer version is a `BrokenRecord`; of two people who write at the same moment, the second gets a
`RunConflict`.
"""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import Field, ValidationError

from nsfwscan.config import Frozen
from nsfwscan.errors import BrokenRecord, RunConflict
from nsfwscan.runs.record.fields import Sha256
from nsfwscan.storage.store import Store, to_json

_NAME = re.compile(r"\d{6}\.json")


class Numbered(Frozen):
    """One file of a history."""

    number: int
    """The first is 1."""
    previous: Sha256 | None = None
    """SHA-256 of the file before; None for the first."""
    sha256: str = Field("", exclude=True)
    """SHA-256 of its file, once it lies in a store."""

    @property
    @abstractmethod
    def version(self) -> int:
        """Return the version of the file's form."""


One = TypeVar("One", bound=Numbered)


@dataclass(frozen=True)
class History(Generic[One]):
    """A folder of numbered files.

    Attributes:
        kind: of the files.
        version: the newest that this nsfwscan reads.
        noun: of one file, for messages: `pin`.
        command: that writes them, likewise.
        way_out: what to do where a file is broken.
    """

    folder: str
    kind: type[One]
    version: int
    noun: str
    command: str
    way_out: str

    def names(self, store: Store) -> list[str]:
        """Return the names of the files, the oldest first."""
        return [name for name in store.names(self.folder) if _NAME.fullmatch(name)]

    def newest_first(self, store: Store) -> Iterator[One]:
        """Yield the files, the newest first. Raises BrokenRecord at a file that is not what was written."""
        for name in reversed(self.names(store)):
            yield self.read(store, name)

    def all(self, store: Store) -> list[One | BrokenRecord]:
        """Return all files, the oldest first; an error in place of one that was changed or does not follow."""
        found: list[One | BrokenRecord] = []
        before: str | None = None
        for number, name in enumerate(self.names(store), start=1):
            try:
                one = self.read(store, name)
                if one.number != number or one.previous != before:
                    said = f"does not follow: a {self.noun} before it was changed or removed"
                    raise BrokenRecord(self._where(store, name), said)
                found.append(one)
            except BrokenRecord as error:
                found.append(error)
            before = self._digest(store, name)
        return found

    def next(self, store: Store) -> tuple[int, str | None]:
        """Return the number of the next file, and the SHA-256 of the last one."""
        names = self.names(store)
        return (int(names[-1][:6]) + 1, self._digest(store, names[-1])) if names else (1, None)

    def write(self, store: Store, one: One, conflict: str) -> One:
        """Write a file, and return it as it lies in the store; from then on it holds.

        Raises:
            RunConflict: another one was written at the same moment; `conflict` says so.
        """
        name = f"{one.number:06}.json"
        try:
            store.create(f"{self.folder}/{name}", to_json(one.model_dump(mode="json", exclude_none=True)))
        except FileExistsError:
            raise RunConflict(conflict) from None
        return self.read(store, name)

    def read(self, store: Store, name: str) -> One:
        """Return one file. Raises BrokenRecord."""
        data, where = store.read(f"{self.folder}/{name}"), self._where(store, name)
        try:
            found = self.kind.model_validate_json(data, extra="ignore")
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            wrong = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
            said = f"is broken: it is not what `{self.command}` writes ({wrong})"
            raise BrokenRecord(where, said, self.way_out) from None
        if found.version > self.version:
            raise BrokenRecord(where, "was written by a newer nsfwscan", "upgrade it")
        if found.number != int(name[:6]):
            raise BrokenRecord(where, f"is broken: it is {self.noun} {found.number}", self.way_out)
        return found.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()})

    def _where(self, store: Store, name: str) -> str:
        return store.locate(f"{self.folder}/{name}")

    def _digest(self, store: Store, name: str) -> str:
        return hashlib.sha256(store.read(f"{self.folder}/{name}")).hexdigest()
