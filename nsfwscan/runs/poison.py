"""Share among the workers of a run which contents crashed or stalled a decoder.

The first worker that meets such a content leaves a note in `staging/<run_id>/poison/`, named by its SHA-256. The others
read the notes between chunks, so copies of one file cost its time once per run, not once per worker; a worker that is
decoding a copy when the note is written pays once more. Notes only save time: one that cannot be written or read is
skipped.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from nsfwscan.config import DecodeConfig
from nsfwscan.errors import POISON, ErrorCode, NsfwscanError, RowError
from nsfwscan.storage.store import Store, to_json

FOLDER = "poison"
_EVERY_S = 5.0
"""Least time between two listings of the notes: a listing is one request, far shorter than a chunk of images."""
_MOST = 10_000
"""Most contents that a worker remembers, at a few hundred bytes each."""
_NAME = re.compile(r"([0-9a-f]{64})\.json")


def _of_poison(code: ErrorCode) -> ErrorCode:
    if code.status not in POISON:
        raise ValueError("no code of a content that crashed or stalled a decoder")
    return code


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    timeout_s: float
    max_memory_bytes: int
    """The limits that the content failed under: a resumed run may have others."""
    code: Annotated[ErrorCode, AfterValidator(_of_poison)]
    message: Annotated[str, StringConstraints(max_length=2000)]
    values: dict[str, int | float | str | None]
    """Columns known before the file failed: format, width, height."""


class SharedPoison:
    """Contents that crashed or stalled a decoder in this run, shared through notes in the staging folder.

    Args:
        staging: the run's staging folder.
        config: the limits of decoding. Notes made under others are passed over.
    """

    def __init__(self, staging: Store, config: DecodeConfig) -> None:
        self._notes = staging.inside(FOLDER)
        self._limits = {"timeout_s": config.timeout_s, "max_memory_bytes": config.max_memory_bytes}
        self._known: dict[str, RowError] = {}
        self._read: set[str] = set()
        self._looked_s = -_EVERY_S

    def look(self) -> None:
        """Read the notes that other workers have written since the last look, at most every `_EVERY_S` seconds."""
        if time.monotonic() - self._looked_s < _EVERY_S:
            return
        self._looked_s = time.monotonic()
        with suppress(NsfwscanError):
            for name in self._notes.names(""):
                named = _NAME.fullmatch(name)
                if named and name not in self._read and len(self._known) < _MOST:
                    self._read.add(name)
                    self._take(named[1], self._notes.read_json(name))

    def _take(self, sha256: str, content: dict[str, Any] | None) -> None:
        with suppress(ValidationError):
            note = _Note.model_validate(content)
            if note.model_dump(include=set(self._limits)) == self._limits:
                self._known.setdefault(sha256, RowError(note.code, note.message, note.values))

    def find(self, sha256: str) -> RowError | None:
        """Return the error of a content, or None where no worker has met the content."""
        return self._known.get(sha256)

    def add(self, sha256: str, error: RowError) -> None:
        """Remember a content, and tell the other workers."""
        if error.status not in POISON or len(self._known) >= _MOST:
            return
        self._known[sha256] = error
        name = f"{sha256}.json"
        self._read.add(name)
        with suppress(NsfwscanError, ValidationError):
            note = _Note.model_validate(
                {**self._limits, "code": error.code, "message": error.message[:2000], "values": error.values}
            )
            self._notes.write(name, to_json(note.model_dump()))
