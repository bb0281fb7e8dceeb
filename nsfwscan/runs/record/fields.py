"""What all records are made of: checked types of fields, the base of a record, and a file with its digest."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

RECORD_VERSION = 3
"""Version of `run.json` and `plan.json`; raise it when the meaning of a key changes. Files without one are of
version 1."""
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STEP = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_PATH = re.compile(rf"{_STEP}(?:/{_STEP}){{0,3}}")
Json = dict[str, Any]


def checked_path(path: str) -> str:
    """Return a path within a run's folder, unchanged.

    Raises ValueError for any other: an absolute path, one that leads upwards, a URI.
    """
    if not isinstance(path, str) or not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no name of a file within the run's folder")
    return path


def _checked_run_id(run_id: str) -> str:
    if not RUN_ID.fullmatch(run_id):
        raise ValueError(f"{run_id!r} is no run id")
    return run_id


def _checked_time(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("a time without its zone")
    return text


Path = Annotated[str, AfterValidator(checked_path)]
RunId = Annotated[str, AfterValidator(_checked_run_id)]
Time = Annotated[str, AfterValidator(_checked_time)]
"""ISO 8601, with a time zone."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
OPTIONAL: Any = Field(default=None, exclude_if=lambda value: value is None)
"""Default of a key that is left out where its value is None."""


class Section(BaseModel):
    """A part of a record: strict, never changed, and without keys that it does not name."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class FileRecord(Section):
    """A file of a run, with the rows, size and digest that it was written with."""

    path: Path
    rows: Count | None
    """None for a file that is not Parquet."""
    bytes: Count
    sha256: Sha256
    first: str | None = OPTIONAL
    """First and last URI of a part of the report or of the changes, in sort order: readers know by them whether to open
    the part. Unset where a URI is too long, or would be redacted."""
    last: str | None = OPTIONAL


class ParentRecord(Section):
    """Another run, which this one goes on from or was committed after."""

    run_id: RunId
    sha256: Sha256
    """SHA-256 of its `run.json`, so that tampering shows."""
