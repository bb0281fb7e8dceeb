"""The records beside `run.json`: the plan, what is left of a pruned run, a hold, and the lease of a running one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from nsfwscan.runs.record.fields import Count, FileRecord, Json, Path, RunId, Section, Sha256, Time
from nsfwscan.runs.record.figures import WarningRecord
from nsfwscan.sources.truth_join import Meeting

STAYS = frozenset({"run.json", "run.json.sig", "pruned.json"})
"""Files of a pruned run that stay."""


class RangeRecord(Section):
    """Consecutive objects of the listing."""

    shards: tuple[tuple[Count, Count, Count], ...]
    """Number of the listing file, row group in that file, and rows, of each shard."""
    carried: Path | None
    """The file that lists the carried objects; None: there are none."""


class ListingRecord(Section):
    """Plan of a run; see `runs/plan.py`."""

    listed: Count
    bytes: Count
    listed_at: Time
    actions: dict[str, Count]
    previous_runs: tuple[RunId, ...]
    warnings: tuple[WarningRecord, ...]
    truth: Meeting | None
    files: tuple[FileRecord, ...]
    ranges: tuple[RangeRecord, ...]


class PlanRecord(Section):
    """`plan.json`: the plan, and the settings that decide the rows."""

    record_version: int
    settings: Json
    plan: ListingRecord
    sha256: Sha256
    """SHA-256 of the settings and the plan as JSON."""


class PrunedRecord(Section):
    """`pruned.json`: that a run was pruned. Beside it only `run.json` and its signature stay."""

    record_version: int
    run_id: RunId
    pruned_at: Time
    by: str
    """User and machine."""
    command: str
    reason: str
    sha256: Sha256
    """SHA-256 of `run.json`, which stays."""

    def __str__(self) -> str:
        return f"pruned on {self.pruned_at[:10]} by {self.by} ({self.command})"


class ReleaseRecord(Section):
    """End of a hold."""

    at: Time
    by: str
    reason: str | None


class HoldRecord(Section):
    """`holds/<hold_id>.json`: a run that must not be pruned until the hold is released."""

    record_version: int
    hold_id: RunId
    run_id: RunId
    held_at: Time
    by: str
    reason: str
    released: ReleaseRecord | None

    def __str__(self) -> str:
        return f"held by {self.by} since {self.held_at[:10]}: {self.reason}"


class Lease(Section):
    """`alive.json`: the process that holds a run, and its last heartbeat in seconds since 1970 by its own clock."""

    host: Annotated[str, Field(min_length=1, max_length=1000)]
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    token: Annotated[str, Field(min_length=1)]
    time: float
