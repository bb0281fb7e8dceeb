"""A person's verdict on one content: its columns, its words, and what makes a line of a verdict file sound.

A verdict file is JSON lines, one verdict a line; a store keeps verdicts as Parquet with the same columns
(`VERDICT_SCHEMA`). A line that is no verdict raises `LineError`, which says what is wrong with which key.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Self, TypeVar

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from nsfwscan.schema import TIMESTAMP


class VerdictWord(StrEnum):
    """The word of a person on a content."""

    APPROVE = "approve"
    """Harmless: it may stay."""
    REMOVE = "remove"
    """It may not stay; the category says what it is."""
    ESCALATE = "escalate"
    """Somebody with more say is to decide."""
    UNDO = "undo"
    """The verdict that it supersedes does not count any more."""


class Kind(StrEnum):
    """Why a person was asked."""

    REVIEW = "review"
    AUDIT = "audit"
    NORMING = "norming"
    GOLDEN = "golden"
    APPEAL = "appeal"


DECIDING = (Kind.REVIEW, Kind.AUDIT, Kind.APPEAL)
"""Kinds that decide about the content; norming and golden items say something of the reviewers alone."""

FORMER = "former:"
"""What the name of a reviewer begins with that was taken out (`nsfwscan verdicts thin`)."""

VERDICT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("run_id", pa.string()),
        pa.field("model", pa.string()),
        pa.field("policy", pa.string()),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("reason", pa.string()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("decided_at", TIMESTAMP, nullable=False),
        pa.field("seconds", pa.float64()),
        pa.field("opened", pa.bool_()),
        pa.field("zoomed", pa.bool_()),
        pa.field("supersedes", pa.string()),
        pa.field("probability", pa.float64()),
    ]
)
"""Texts that say nothing are empty; `decided_at` is UTC; `seconds` and `probability` are null where not known."""

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LONGEST = 65_536
"""Characters of a text."""
_AHEAD = timedelta(days=1)
"""A clock may be wrong by this much; a verdict from further in the future would outrank all that follow."""


class LineError(Exception):
    """A line of a verdict file is no verdict; the message says why."""


def _uuid(text: str) -> str:
    if not _UUID.fullmatch(text := text.lower()):
        raise ValueError("not a UUID")
    return text


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text := text.lower()):
        raise ValueError("not a SHA-256, which has 64 hex digits")
    return text


def utc_text(text: str) -> str:
    """Return a time of ISO 8601 in UTC. Raises ValueError for one that no clock can have shown."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("not a time of ISO 8601, such as 2026-11-27T08:30:00Z") from None
    if at.tzinfo is None:
        raise ValueError("has no time zone: add Z for UTC")
    if at > datetime.now(UTC) + _AHEAD:
        raise ValueError("is in the future: the clock of the machine that wrote it was wrong")
    if at.year < 2000:
        raise ValueError("is before the year 2000: the clock of the machine that wrote it was wrong")
    return at.astimezone(UTC).isoformat()


def naive_utc(text: str) -> datetime:
    """Return a time that `utc_text` returned, without its zone, as tables hold it."""
    return datetime.fromisoformat(text).replace(tzinfo=None)


Text = Annotated[str, Field(max_length=_LONGEST)]
Named = Annotated[str, Field(min_length=1, max_length=_LONGEST)]
Uuid = Annotated[str, AfterValidator(_uuid)]


class PersonVerdict(BaseModel):
    """One line of a verdict file."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), allow_inf_nan=False)

    id: Uuid
    uri: Named
    sha256: Annotated[str, AfterValidator(_sha256)]
    run_id: Text = ""
    model: Text = ""
    policy: Text = ""
    verdict: Annotated[VerdictWord, Field(strict=False)]
    category: Text = ""
    reason: Text = ""
    kind: Annotated[Kind, Field(strict=False)]
    reviewer: Named
    decided_at: Annotated[str, AfterValidator(utc_text)]
    seconds: Annotated[float, Field(ge=0)] | None = None
    opened: StrictBool = False
    zoomed: StrictBool = False
    supersedes: Annotated[str, AfterValidator(lambda text: text and _uuid(text))] = ""
    probability: Annotated[float, Field(gt=0, le=1)] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.verdict is VerdictWord.UNDO and not self.supersedes:
            raise ValueError("an undo must name the verdict that it takes back in `supersedes`")
        if self.supersedes == self.id:
            raise ValueError("a verdict cannot supersede itself")
        return self

    def as_row(self) -> dict[str, Any]:
        """Return a row of `VERDICT_SCHEMA`."""
        at = naive_utc(self.decided_at)
        return {**self.model_dump(), "verdict": str(self.verdict), "kind": str(self.kind), "decided_at": at}


def parsed(values: Any) -> PersonVerdict:
    """Return the verdict that a JSON object makes. Raises LineError."""
    return checked(PersonVerdict, values)


Line = TypeVar("Line", bound=BaseModel)


def checked(kind: type[Line], values: Any) -> Line:
    """Return what a JSON object makes. Raises LineError."""
    if not isinstance(values, dict):
        raise LineError(f"a JSON {type(values).__name__}, not an object")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        wrong = [_explained(one) for one in error.errors(include_input=False, include_url=False)]
        raise LineError("; ".join(wrong[:3])) from None


def _explained(error: Any) -> str:
    key = ".".join(map(str, error["loc"])) or "the verdict"
    if error["type"] == "extra_forbidden":
        return f"{key}: an unknown key"
    return f"{key}: {error['msg'].removeprefix('Value error, ')}"


def loaded_line(line: str) -> Any:
    """Return what a line of JSON says. Raises LineError."""
    try:
        return json.loads(line, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise LineError("not valid JSON; it was cut off, or this is another kind of file") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise LineError("has the same key twice")
    return found


def as_table(verdicts: Sequence[PersonVerdict]) -> pa.Table:
    """Return verdicts as `VERDICT_SCHEMA`, sorted by time and id, so that the same ones make the same file."""
    rows = pa.Table.from_pylist([verdict.as_row() for verdict in verdicts], schema=VERDICT_SCHEMA)
    return rows.sort_by([("decided_at", "ascending"), ("id", "ascending")])


def as_line(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `VERDICT_SCHEMA` as an object of a verdict file."""
    return {**row, "decided_at": row["decided_at"].replace(tzinfo=None).isoformat() + "Z"}
