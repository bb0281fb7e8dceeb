"""Read the records of a run, and write its plan.

No other module reads or writes these files. A file that is cut off, empty, of another kind, of another run or of
another version is a `BrokenRecord` that names the file and the key, and says what to do. Keys that a later nsfwscan
added are ignored.
"""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import from_json

from nsfwscan.config import digest_of
from nsfwscan.errors import BrokenRecord, ForeignRecord
from nsfwscan.runs.record.beside import HoldRecord, Lease, ListingRecord, PlanRecord, PrunedRecord
from nsfwscan.runs.record.fields import RECORD_VERSION, Json
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.storage.store import to_json


def read_lease(data: bytes) -> Lease | None:
    """Return the lease; None for malformed content."""
    try:
        return Lease.model_validate_json(data, extra="ignore")
    except ValidationError:
        return None


def read_record(data: bytes | None, where: str, run_id: str) -> RunRecord:
    """Return the content of `run.json`.

    Args:
        data: bytes of the file; None: it is absent.
        where: URI of the file.
        run_id: id of the run that the record must be of.

    Raises:
        BrokenRecord: the record is absent, or not what a commit writes; ForeignRecord: it is another run's.
    """
    if data is None:
        raise BrokenRecord(where, "is absent: the run was not committed, or its record was lost")
    found = _validated(data, where, RunRecord)
    if found.run_id != run_id:
        raise ForeignRecord(where, f"is broken: it is that of run {found.run_id}")
    for path, count in Counter(file.path for file in found.files).items():
        if count > 1:
            raise BrokenRecord(where, f"is broken: it names {path} twice")
    return found


def read_plan(data: bytes, where: str, way_out: str | None = None) -> PlanRecord:
    """Return the content of `plan.json`. Raises BrokenRecord for a broken plan, with the way out."""
    found = _validated(data, where, PlanRecord, way_out)
    as_written = from_json(data)
    if found.sha256 != _plan_digest(as_written["settings"], as_written["plan"]):
        raise BrokenRecord(where, "is broken: it was changed after it was written", way_out)
    listed = [file.path for file in found.plan.files]
    parts = sum(path.startswith("listing/part-") for path in listed)
    for part in found.plan.ranges:
        if part.carried not in (None, *listed) or any(file >= parts for file, _, _ in part.shards):
            raise BrokenRecord(where, "is broken: it names a listing file that it does not record", way_out)
    return found


def read_pruned(data: bytes, where: str) -> PrunedRecord:
    """Return the content of `pruned.json`. Raises BrokenRecord where it is malformed."""
    return _validated(data, where, PrunedRecord)


def read_hold(data: bytes, where: str) -> HoldRecord:
    """Return the content of a hold. Raises BrokenRecord where it is malformed."""
    return _validated(data, where, HoldRecord)


def write_plan(plan: ListingRecord, settings: Json) -> bytes:
    """Return the content of `plan.json`."""
    made = plan.model_dump(mode="json")
    head = {"record_version": RECORD_VERSION, "sha256": _plan_digest(settings, made)}
    return to_json({**head, "settings": settings, "plan": made})


def _plan_digest(settings: Json, plan: Json) -> str:
    return digest_of({"settings": settings, "plan": plan})


_Record = TypeVar("_Record", RunRecord, PlanRecord, PrunedRecord, HoldRecord)


def _validated(data: bytes, where: str, model: type[_Record], way_out: str | None = None) -> _Record:
    try:
        found = from_json(data)
    except ValueError:
        what = "empty" if not data.strip() else "no JSON; it was cut off, or overwritten"
        raise BrokenRecord(where, f"is broken: it is {what}", way_out) from None
    if not isinstance(found, dict):
        raise BrokenRecord(where, f"is broken: it holds a {type(found).__name__}, not a record", way_out)
    version = found.get("record_version", 1)
    if isinstance(version, int) and version != RECORD_VERSION:
        raise BrokenRecord(where, *_of_another_version(version))
    try:
        return model.model_validate_json(data, extra="ignore")
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)
        first = f"{'.'.join(map(str, wrong[0]['loc']))}: {wrong[0]['msg'].removeprefix('Value error, ')}"
        more = f", and {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
        raise BrokenRecord(where, f"is broken: it is not what a commit writes ({first}{more})", way_out) from None


def _of_another_version(version: int) -> tuple[str, str | None]:
    """Return what is wrong with a record of another version, and the way out."""
    if version > RECORD_VERSION:
        newer = f"is of version {version}, written by a newer nsfwscan; this one reads version {RECORD_VERSION}"
        return newer, "upgrade it"
    older = f"is of version {version}, written by an older nsfwscan; this one reads version {RECORD_VERSION}"
    return older, "read it with that one, and scan into a new report store"
