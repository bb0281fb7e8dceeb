"""What a run's own files say, checked before anything goes by it: `run.json`, `plan.json`, and the lease.

In: the bytes of such a file, and the run that it should be of. Out: its content, JSON types, as the models here hold
it; further keys may stand beside. What is cut off, empty, of another kind, of another run or of a newer version is a
`BrokenRecord` that names the file, says what is wrong with it, and what to do.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from nsfwscan.config import digest_of
from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.plan import Plan

RECORD_VERSION = 1
"""Of `run.json` and `plan.json`; raised when what stands in them means something else than before. Files without one
are of version 1."""
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STEP = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_PATH = re.compile(rf"{_STEP}(?:/{_STEP}){{0,3}}")

Json = dict[str, Any]


def checked_path(path: str) -> str:
    """The name of a file within a run's folder. Raises ValueError for any other: an absolute one, one that leads
    upwards, a URI."""
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
Count = Annotated[int, Field(ge=0)]


class _Typed(BaseModel):
    model_config = ConfigDict(
        extra="allow", strict=True, frozen=True, protected_namespaces=(), hide_input_in_errors=True
    )


class FileRecord(_Typed):
    """A file of a run, and what it held when it was written."""

    path: Path
    rows: Count | None
    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    first: str | None = None
    """Of a part of the report the first URI, in their order, and the last one: whether a later scan needs it is known
    without opening it. Unset where they are too long, or must not be written down."""
    last: str | None = None


class _Source(_Typed):
    uris: list[str]
    include: list[str] = []
    exclude: list[str] = []
    limit: int | None


class _Report(_Typed):
    mode: Literal["snapshot", "delta"]


class _Read(_Typed):
    max_bytes: int


class _Decode(_Typed):
    max_pixels: int


class _Config(_Typed):
    source: _Source
    report: _Report
    read: _Read
    decode: _Decode
    storage: Json
    out_storage: Json | None = None


class _Counts(_Typed):
    listed_at: Time
    listed: Count
    distinct: Count
    repeated: Count
    fates: dict[str, Count]


class _Ledger(_Typed):
    bases: list[RunId]
    changes: dict[str, Count]


class _Parent(_Typed):
    run_id: RunId
    sha256: str


class _Identified(_Typed):
    identity: str


class _Summary(_Typed):
    rows: Count
    flagged: Count
    unreadable: Count


class _Bank(_Typed):
    name: str
    version: str


class _KnownIllegal(_Typed):
    """What the run knows of illegal contents; see `runs/known_illegal.py`."""

    runs: list[RunId]
    contents: Count
    released: Count


class RunRecord(_Typed):
    """`run.json`: who, what, when, and what stood behind every row."""

    record_version: int = 1
    run_id: RunId
    kind: Literal["scan", "replay", "match"]
    parent: _Parent | None
    store: str
    store_endpoint: str | None = None
    exit_code: int
    reason: str | None
    committed_at: Time
    config: _Config
    model: _Identified
    reuse_keys: dict[str, str]
    policy: _Identified
    plan: _Counts
    ledger: _Ledger
    balance: dict[str, Count]
    banks: list[_Bank] = []
    known_illegal: _KnownIllegal | None = None
    summary: _Summary
    files: list[FileRecord]


class _Range(_Typed):
    shards: list[Annotated[list[Count], Field(min_length=3, max_length=3)]]
    carried: Path | None


class _Plan(_Typed):
    listed: Count
    bytes: Count
    listed_at: Time
    fates: dict[str, Count]
    bases: list[RunId]
    files: list[FileRecord]
    ranges: list[_Range]


class PlanRecord(_Typed):
    """`plan.json`: what was to be scanned, and what decides its rows."""

    record_version: int = 1
    settings: Json
    plan: _Plan
    sha256: str | None = None
    """Of the settings and the plan as JSON; absent in plans of earlier versions."""


class Lease(_Typed):
    """`alive.json`: who holds a run, and when it was last at work, seconds since 1970 by its clock."""

    host: Annotated[str, Field(min_length=1, max_length=1000)]
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    token: Annotated[str, Field(min_length=1)]
    time: FiniteFloat


def read_lease(data: bytes) -> Lease | None:
    """A lease; None for what is none."""
    try:
        return Lease.model_validate_json(data)
    except (ValidationError, RecursionError):
        return None


def read_record(data: bytes | None, where: str, run_id: str) -> Json:
    """The content of `run.json`.

    Args:
        data: None: there is none.
        where: its URI.
        run_id: the run that it should be of.

    Raises:
        BrokenRecord: it is absent, or not what a commit writes.
    """
    if data is None:
        raise BrokenRecord(where, "is absent: the run was not committed, or its record was lost")
    found = _validated(data, where, RunRecord)
    if found["run_id"] != run_id:
        raise BrokenRecord(where, f"is broken: it is that of run {found['run_id']}")
    paths = [file["path"] for file in found["files"]]
    if twice := next((path for path in paths if paths.count(path) > 1), None) if len(set(paths)) < len(paths) else None:
        raise BrokenRecord(where, f"is broken: it names {twice} twice")
    return found


def read_plan(data: bytes, where: str, way_out: str | None = None) -> tuple[Plan, Json]:
    """The content of `plan.json`: the plan and the settings. Raises BrokenRecord, which says the way out."""
    found = _validated(data, where, PlanRecord, way_out)
    if found.get("sha256") not in (None, plan_digest(found["settings"], found["plan"])):
        raise BrokenRecord(where, "is broken: it was changed after it was written", way_out)
    listed = [file["path"] for file in found["plan"]["files"]]
    parts = sum(path.startswith("listing/part-") for path in listed)
    for part in found["plan"]["ranges"]:
        if part["carried"] not in (None, *listed) or any(file >= parts for file, _, _ in part["shards"]):
            raise BrokenRecord(where, "is broken: it names a listing file that it does not record", way_out)
    return Plan.from_json(found["plan"]), found["settings"]


def plan_digest(settings: Json, plan: Json) -> str:
    """SHA-256 of what a plan says."""
    return digest_of({"settings": settings, "plan": plan})


def _validated(data: bytes, where: str, model: type[BaseModel], way_out: str | None = None) -> Json:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        what = "empty" if not data.strip() else "no JSON; it was cut off, or overwritten"
        raise BrokenRecord(where, f"is broken: it is {what}", way_out) from None
    if not isinstance(found, dict):
        raise BrokenRecord(where, f"is broken: it holds a {type(found).__name__}, not a record", way_out)
    version = found.get("record_version", 1)
    if isinstance(version, int) and version > RECORD_VERSION:
        why = f"is of version {version}, written by a newer nsfwscan; this one reads up to {RECORD_VERSION}: upgrade it"
        raise BrokenRecord(where, why)
    try:
        model.model_validate(found)
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        first = f"{'.'.join(map(str, wrong[0]['loc']))}: {wrong[0]['msg'].removeprefix('Value error, ')}"
        more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise BrokenRecord(where, f"is broken: it is not what a commit writes ({first}{more})", way_out) from None
    except RecursionError:
        raise BrokenRecord(where, "is broken: it is nested too deeply", way_out) from None
    return found
