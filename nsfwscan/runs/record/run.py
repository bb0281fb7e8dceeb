"""`run.json`: the record of a committed run, and its place in the chain of its store."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic_core import from_json

from nsfwscan.config import UNWRITTEN, ScanConfig
from nsfwscan.runs.record.cost import CostRecord, MachineRecord, ModelTime, Timings
from nsfwscan.runs.record.fields import (
    OPTIONAL,
    RECORD_VERSION,
    Count,
    FileRecord,
    Json,
    ParentRecord,
    RunId,
    Section,
    Sha256,
    Time,
)
from nsfwscan.runs.record.figures import (
    BalanceRecord,
    CascadeRecord,
    ChangesRecord,
    DetectorRecord,
    DriftRecord,
    DuplicatesRecord,
    GoldenRecord,
    MatchingRecord,
    MediaRecord,
    PlanCounts,
    ShadowPolicyRecord,
    SummaryRecord,
    WarningRecord,
)
from nsfwscan.runs.record.inputs import (
    AuxiliaryModelRecord,
    BankRecord,
    CalibrationRecord,
    DifferenceRecord,
    KnownIllegalRecord,
    ModelRecord,
    PinRecord,
    PolicyRecord,
    ReuseKeys,
    TextRecord,
    VerdictsRecord,
)
from nsfwscan.storage.store import to_json
from nsfwscan.text import redacted_json


class ChainRecord(Section):
    """Place of a run in the chain of its store; see `runs/chain.py`."""

    after: tuple[ParentRecord, ...]
    """The head of the chain at the commit, which nothing else named yet: one run, or several that were committed at the
    same time; empty for the first run of a store."""
    passed_over: tuple[RunId, ...]
    """Runs whose `run.json` could not be read at the commit: nothing vouches for them."""


class RewrittenRecord(Section):
    """Says that a `run.json` was written anew, to forget objects that it named."""

    sha256: Sha256
    """SHA-256 of the file as it was committed: other runs, anchors and signatures know it by this."""
    forget_ids: tuple[str, ...]
    """The acts, of which the store has a record (`forgotten/`)."""


class RunRecord(Section):
    """`run.json`: who ran what and when, and everything that decided the rows."""

    record_version: int
    run_id: RunId
    kind: Literal["scan", "replay", "match"]
    parent: ParentRecord | None
    chain: ChainRecord
    store: str
    """The report store of the run."""
    store_endpoint: str | None
    exit_code: Literal[0, 4, 5]
    reason: str | None
    """Why the exit code is not 0; None where it is."""
    committed_at: Time
    nsfwscan: str
    """Version of nsfwscan."""
    python: str
    libraries: dict[str, str]
    config: ScanConfig
    """The configuration, without possible secrets."""
    model: ModelRecord
    auxiliary_models: tuple[AuxiliaryModelRecord, ...]
    reuse_keys: ReuseKeys
    calibration: CalibrationRecord | None = OPTIONAL
    """Absent where the store had none of the model, and in records of older versions."""
    policy: PolicyRecord
    plan: PlanCounts
    previous_runs: tuple[RunId, ...]
    """Runs that rows are carried from, newest first."""
    changes: ChangesRecord
    differences: tuple[DifferenceRecord, ...] | None = OPTIONAL
    """Settings that are others than in the newest previous run; absent in records of older versions, in those of a
    match, and where there is no previous run."""
    pin: PinRecord | None = OPTIONAL
    """Absent where nothing was pinned, and in records of older versions."""
    golden: GoldenRecord | None = OPTIONAL
    """Absent where the run had no golden set."""
    drift: tuple[DriftRecord, ...] = ()
    """By source and measure; empty where the run looked at nothing."""
    known_illegal: KnownIllegalRecord
    verdicts: VerdictsRecord | None = OPTIONAL
    """Absent where the store had none, and in records of older versions."""
    balance: BalanceRecord
    duplicates: DuplicatesRecord
    model_times: dict[str, ModelTime]
    """Times by the model's task in the run (`classify`, `prefilter`, …)."""
    media: dict[str, MediaRecord] | None = OPTIONAL
    """By `media`, of the files that this run decoded; absent in records of older versions."""
    cascade: CascadeRecord
    detectors: tuple[DetectorRecord, ...] | None = OPTIONAL
    """Absent in records of older versions."""
    text: TextRecord | None = OPTIONAL
    """Absent where no detector reads text, and in records of older versions."""
    banks: tuple[BankRecord, ...]
    matching: MatchingRecord | None = OPTIONAL
    """Only in the record of a match."""
    ignored_runs: tuple[RunId, ...] | None = OPTIONAL
    """Runs with a broken record that a match ignored."""
    timings: Timings
    images_per_s: float | None
    """Images per second of scanning; None where nothing was scanned."""
    machine: MachineRecord | None
    cost: CostRecord | None
    summary: SummaryRecord
    sandbox: dict[str, Count]
    """Decoded files by the active layers of the sandbox."""
    warnings: tuple[WarningRecord, ...]
    shadow_policies: tuple[ShadowPolicyRecord, ...]
    files: tuple[FileRecord, ...]
    forgotten: RewrittenRecord | None = OPTIONAL
    """Absent where no object was forgotten that the record named."""

    @classmethod
    def made_of(cls, content: Json) -> RunRecord:
        """Return the record of a run from its sections, which are JSON values, with secrets blanked."""
        plain = from_json(to_json({"record_version": RECORD_VERSION, **content}, indent=None))
        blanked = {**redacted_json(plain), "policy": plain["policy"]}  # the policy's predicates must not change
        return cls.model_validate_json(to_json(blanked, indent=None))

    def as_json(self) -> Json:
        """Return the content of `run.json`."""
        return self.model_dump(mode="json", exclude={"config": UNWRITTEN})

    @property
    def age(self) -> tuple[datetime, datetime]:
        """Time of the listing, then of the commit: the run with the later times knows the store better."""
        return datetime.fromisoformat(self.plan.listed_at), datetime.fromisoformat(self.committed_at)

    @property
    def differences_to_tell(self) -> tuple[DifferenceRecord, ...]:
        """`differences` without those in which the run is just so not as the store pins it, which is told first."""
        told = self.pin.others if self.pin is not None else ()
        return tuple(one for one in self.differences or () if one not in told)

    @property
    def models(self) -> list[str]:
        """URIs of the models behind its rows, the one that scores first."""
        return [self.model.uri, *(one.uri for one in self.auxiliary_models)]

    @property
    def is_delta(self) -> bool:
        """Return whether the report leaves rows to the reports of previous runs."""
        return self.config.report.mode == "delta" and bool(self.previous_runs)

    def rows_in(self, folder: str) -> int:
        """Return the number of rows in the files of one folder."""
        return sum(file.rows or 0 for file in self.files_in(folder))

    def files_in(self, folder: str) -> list[FileRecord]:
        """Return the files of one folder, such as `report`."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


def recorded_config(config: ScanConfig) -> ScanConfig:
    """Return a configuration in the form of records, for comparison with theirs."""
    return ScanConfig.of(config.public())
