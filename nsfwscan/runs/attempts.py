"""Remember how long each attempt of a run worked, and on which machines, so that a resumed run knows what it took.

Each attempt keeps a note of its own in `staging/<run_id>/attempts/`, written anew every 20 s and when it ends. What a
killed process did after its last note is not known. Notes decide no row: one that cannot be written or read is skipped.
"""

from __future__ import annotations

import re
import uuid
from contextlib import suppress

from pydantic import BaseModel, ConfigDict, ValidationError

from nsfwscan.errors import NsfwscanError
from nsfwscan.runs.record.cost import MachineRecord
from nsfwscan.runs.record.fields import Count, Seconds
from nsfwscan.storage.store import Store

FOLDER = "attempts"
_NAME = re.compile(r"[0-9a-f]{32}\.json")


class Attempt(BaseModel):
    """Work of one attempt."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    listing_s: Seconds = 0.0
    scan_s: Seconds = 0.0
    commit_s: Seconds = 0.0
    scanned: Count = 0
    """Objects whose rows it staged."""
    machine: MachineRecord | None = None
    """Unset: no engine had begun, or it does not say."""

    @property
    def total_s(self) -> float:
        """Seconds of all steps."""
        return self.listing_s + self.scan_s + self.commit_s


class Attempts:
    """Notes of a run's attempts; this process's is one of them."""

    def __init__(self, staging: Store) -> None:
        self._staging, self._notes = staging, staging.inside(FOLDER)
        self._name = f"{uuid.uuid4().hex}.json"

    def note(self, attempt: Attempt) -> None:
        """Write this process's note, unless the run's folder is gone: it would be made anew."""
        with suppress(NsfwscanError):
            if not self._staging.names(""):
                return
            self._notes.write(self._name, attempt.model_dump_json().encode())

    def earlier(self) -> list[Attempt]:
        """Return the notes of earlier processes, in no order."""
        found = []
        with suppress(NsfwscanError):
            for name in self._notes.names(""):
                if _NAME.fullmatch(name) and name != self._name:
                    with suppress(NsfwscanError, FileNotFoundError, ValidationError):
                        found.append(Attempt.model_validate_json(self._notes.read(name)))
        return found
