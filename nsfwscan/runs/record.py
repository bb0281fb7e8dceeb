"""What a run writes down about itself: `run.json`, `plan.json` and the lease, typed.

This is the only place where these files are read and written. A file that is cut off, empty, of another kind, of
another run or of another version is a `BrokenRecord` that names the file and the key, and says what to do. Keys that a
later nsfwscan added are passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from nsfwscan.config import ScanConfig, digest_of
from nsfwscan.errors import BrokenRecord
from nsfwscan.policy.rules import Outcome, Override, Policy, Rule
from nsfwscan.schema import BankKind
from nsfwscan.sources.truth_join import Meeting
from nsfwscan.storage.store import to_json
from nsfwscan.text import redacted_json

RECORD_VERSION = 2
"""Of `run.json` and `plan.json`; raised when what stands in them means something else than before. Files without one
are of version 1."""
RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_STEP = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}"
_PATH = re.compile(rf"{_STEP}(?:/{_STEP}){{0,3}}")

Json = dict[str, Any]


def checked_path(path: str) -> str:
    """Return the name of a file within a run's folder. Raises ValueError for any other: an absolute one, one that leads
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
"""ISO 8601, with its zone."""
Count = Annotated[int, Field(ge=0, lt=2**63)]
Seconds = Annotated[float, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_OPTIONAL: Any = Field(default=None, exclude_if=lambda value: value is None)
"""Not written where there is none."""


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class FileRecord(_Section):
    """A file of a run, and what it held when it was written."""

    path: Path
    rows: Count | None
    """None of a file that is no Parquet."""
    bytes: Count
    sha256: Sha256
    first: str | None = _OPTIONAL
    """Of a part of the report the first URI, in their order, and the last one: whether a later scan needs it is known
    without opening it. Unset where they are too long, or must not be written down."""
    last: str | None = _OPTIONAL


class ParentRecord(_Section):
    """The run that this one goes on from."""

    run_id: RunId
    sha256: Sha256
    """Of its `run.json`, so that tampering shows."""


class ModelRecord(_Section):
    """The model that scored."""

    identity: str
    """`name@digest`, as it stands in the rows."""
    name: str
    uri: str
    sha256: str
    """Of its weights."""
    labels: dict[str, str]
    """Each label of the checkpoint, and the category that it is read as."""


class AuxiliaryModelRecord(_Section):
    """A prefilter or detector beside the model."""

    name: str
    uri: str
    sha256: str


class ReuseKeys(_Section):
    """Digests of what a row was made with: equal ones mean equal results."""

    scoring: str
    """Model, preprocessing and precision."""
    decoding: str
    """What can be decoded at all."""
    filtering: str
    """The filters before the model."""


class PolicyRecord(_Section):
    """The policy that decided, whole; see `policy/rules.py` for its fields."""

    identity: str
    """`name@digest`, as it stands in the rows."""
    name: str
    version: str
    description: str
    thresholds: dict[str, float]
    regions: dict[str, tuple[str, ...]]
    queues: tuple[str, ...]
    rules: tuple[Rule, ...]
    otherwise: Outcome
    overrides: tuple[Override, ...]

    @classmethod
    def of(cls, policy: Policy) -> Json:
        """Return what is written of a policy."""
        return {"identity": policy.identity, **policy.model_dump(mode="json")}

    def content(self) -> Json:
        """Return what `parse_policy` makes the policy from."""
        return self.model_dump(mode="json", exclude={"identity"})


class PlanCounts(_Section):
    """What was listed, and what was planned for it."""

    listed_at: Time
    listed: Count
    """Entries of the listing."""
    distinct: Count
    """Objects, each counted once."""
    repeated: Count
    shards: Count
    actions: dict[str, Count]
    """Objects, by `PlanAction`."""
    truth: Meeting | None
    """How much of the truth file was listed; None without such a file."""


class ChangesRecord(_Section):
    """Objects that changed since the previous runs, by `Change`."""

    deleted: Count
    newly_flagged: Count
    cleared: Count


class KnownIllegalRecord(_Section):
    """What the run knows of illegal contents; see `runs/known_illegal.py`."""

    runs: tuple[RunId, ...]
    """The runs that it knows them from."""
    contents: Count
    released: Count
    """Contents that were known, and that today's banks do not hold any more."""


class BalanceRecord(_Section):
    """`listed = scored + matched + duplicate + filtered + carried + errored`."""

    listed: Count
    scored: Count
    matched: Count
    duplicate: Count
    filtered: Count
    carried: Count
    errored: Count


class DuplicatesRecord(_Section):
    """How much is the same."""

    copies: Count
    """Objects whose bytes are those of another."""
    contents: Count
    """Different bytes of which there are copies."""
    clusters: Count
    """Of near-duplicates."""
    clustered: Count
    """Objects in them."""
    looked_for_all: bool
    """Near-duplicates were looked for among all contents, not only among those that are flagged."""
    reused: Count
    """Copies in this run that the model did not see."""


class ModelTime(_Section):
    """What a model took."""

    images: Count
    seconds: Seconds
    seconds_each: Seconds | None
    """For an image; None without images."""


class CascadeRecord(_Section):
    """What the filters before the model settled, and how often they were wrong."""

    settled: Count
    """Contents that no model saw."""
    settled_by: dict[str, Count]
    forwarded: Count
    """Contents that were left to the model."""
    audit_sample: Count
    """Settled contents that the model saw all the same."""
    misses: Count
    """Those of them that the policy flagged."""
    miss_rate: float | None
    """`misses` of `audit_sample`; None without such a sample."""
    miss_rate_interval: tuple[float, float] | None
    confidence: float
    """Of the interval."""
    missed: tuple[float, float] | None
    """The interval, in contents among those that were settled."""
    seconds_saved: Seconds | None
    """Time of the model, in full batches."""


class Timings(_Section):
    """How long the steps took that this kind of run has, in the process that committed it."""

    listing_s: Seconds | None = _OPTIONAL
    scan_s: Seconds | None = _OPTIONAL
    match_s: Seconds | None = _OPTIONAL
    commit_s: Seconds | None = _OPTIONAL
    resumed_shards: Count
    """Shards that an earlier attempt finished."""

    @property
    def steps(self) -> dict[str, float]:
        """Seconds by step."""
        taken = {name: getattr(self, f"{name}_s") for name in ("listing", "scan", "match", "commit")}
        return {name: seconds for name, seconds in taken.items() if seconds is not None}

    @property
    def total_s(self) -> float:
        """Seconds of all steps."""
        return sum(self.steps.values())


class NodeRecord(_Section):
    """Nodes that are alike."""

    count: Count
    cpus: float
    gpus: float
    gpu: str | None
    """Kind of GPU."""
    cpu: str | None
    memory_bytes: Count | None
    """The least that one of them had."""

    @property
    def kind(self) -> tuple[float, float, str | None, str | None]:
        """As `Node.kind`."""
        return self.cpus, self.gpus, self.gpu, self.cpu


class LayoutRecord(_Section):
    """The actors that ran; see `execution/layout.py`."""

    kind: Literal["fused", "split", "inline"]
    cpu_actors: Count
    model_actors: Count
    gpus_per_model_actor: float
    cpus_per_actor: float
    threads: Count


class MachineRecord(_Section):
    """What the scan ran on."""

    nodes: tuple[NodeRecord, ...]
    layout: LayoutRecord


class RequestsRecord(_Section):
    """Requests to an object store that charges for them, and the bytes read."""

    get: Count
    list: Count
    bytes: Count


class CostRecord(_Section):
    """Time of the machines, and money."""

    objects: Count
    """That were read and scored."""
    hours: float
    core_hours: float
    gpu_hours: float
    requests: RequestsRecord
    currency: str
    amount: float | None
    """None where a price is missing."""
    missing: str | None
    """Which price that is."""
    prices: str
    """The price table, and its date."""
    per_million: float | None
    """The amount for a million objects."""
    steady: bool
    """So many objects were read that the start counts for little."""


class BankRecord(_Section):
    """A hash bank that was matched with."""

    name: str
    kind: BankKind
    distance: Count
    """Bits up to which a PDQ hash matches."""
    quality: Count
    tags: tuple[str, ...]
    uri: str
    version: str
    """Digest of all that its matches follow from."""
    sha256: str
    """Of the file."""
    entries: dict[str, Count]
    """By kind of hash."""
    passed_over: dict[str, Count]
    malformed: Count
    examples: tuple[str, ...]
    """The first malformed ones, in words."""

    @property
    def identity(self) -> str:
        """`name@version`."""
        return f"{self.name}@{self.version[:16]}"


class FloodRecord(_Section):
    """An entry of a bank that matches very many objects."""

    bank: str
    hash: str
    id: str
    kind: BankKind
    objects: Count
    examples: tuple[str, ...]
    """None of an illegal entry."""


class MatchingRecord(_Section):
    """What a match of new banks with old reports looked at."""

    objects: Count
    without: dict[str, Count]
    """Objects that lack a hash which the banks hold, by its kind."""
    quarantined: tuple[FloodRecord, ...]
    """Entries that match nothing for that."""
    flooding: tuple[FloodRecord, ...]
    """Illegal entries, which are never left out."""


class ErrorRecord(_Section):
    """A kind of error."""

    status: str
    count: Count
    example: str
    """A URI."""
    message: str


class RateRecord(_Section):
    """A count, and its share."""

    count: Count
    rate: float


class TruthRecord(_Section):
    """How often the model was wrong, as far as truth is known."""

    by_category: dict[str, Count]
    neutral: Count
    """Neutral images that have a label."""
    false_positives: Count
    false_positive_rate: float | None
    by_label: dict[str, RateRecord]
    by_decision: dict[str, RateRecord]
    suspected: Count
    """Flagged although the label is a safe one; in no rate."""


class SummaryRecord(_Section):
    """The report, counted."""

    rows: Count
    bytes: Count
    flagged: Count
    """Rows that go before a person, or are blocked."""
    unreadable: Count
    """Objects that should have been images and could not be scored."""
    error_rate: float
    unsupported: Count
    """Objects that are no images."""
    unsupported_rate: float
    status: dict[str, Count]
    decision: dict[str, Count]
    label: dict[str, Count]
    rule: dict[str, Count]
    queue: dict[str, Count]
    format: dict[str, Count]
    match_bank: dict[str, Count]
    nsfw_score_histogram: tuple[Count, ...]
    """Equal bins from 0 to 1."""
    errors: tuple[ErrorRecord, ...]
    """The most frequent first."""
    truth: TruthRecord


class WarningRecord(_Section):
    """What was noticed and stopped nothing; see `warning.py`."""

    name: str
    count: Count
    example: str
    detail: str | None
    said: str
    remedy: str


class MoveRecord(_Section):
    """Objects that another policy would decide differently."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    before: str = Field(alias="from")
    to: str
    objects: Count
    samples: tuple[str, ...]
    """A few of their URIs."""


class ShiftRecord(_Section):
    """How many objects have a value, and how many would."""

    value: str | int | None
    before: Count
    after: Count


class ShadowPolicyRecord(_Section):
    """What a policy that decided nothing would have decided."""

    policy: str
    version: str
    rows: Count
    moved: Count
    """Objects with another decision."""
    moves: tuple[MoveRecord, ...]
    elsewhere: Count
    """Objects with the same decision, and another queue, skill, shield or severity."""
    decision: tuple[ShiftRecord, ...]
    queue: tuple[ShiftRecord, ...]
    skill: tuple[ShiftRecord, ...]
    shield: tuple[ShiftRecord, ...]
    severity: tuple[ShiftRecord, ...]


class RunRecord(_Section):
    """`run.json`: who, what, when, and what stood behind every row."""

    record_version: int
    run_id: RunId
    kind: Literal["scan", "replay", "match"]
    parent: ParentRecord | None
    store: str
    """The report store that it was written to."""
    store_endpoint: str | None
    exit_code: Literal[0, 4, 5]
    reason: str | None
    """Why the exit code is not 0."""
    committed_at: Time
    nsfwscan: str
    """Its version."""
    python: str
    libraries: dict[str, str]
    config: ScanConfig
    """Without anything that could be a secret."""
    model: ModelRecord
    auxiliary_models: tuple[AuxiliaryModelRecord, ...]
    reuse_keys: ReuseKeys
    policy: PolicyRecord
    plan: PlanCounts
    previous_runs: tuple[RunId, ...]
    """The runs that rows are carried from, newest first."""
    changes: ChangesRecord
    known_illegal: KnownIllegalRecord
    balance: BalanceRecord
    duplicates: DuplicatesRecord
    model_times: dict[str, ModelTime]
    """By the model's part in the run (`classify`, `prefilter`, …)."""
    cascade: CascadeRecord
    banks: tuple[BankRecord, ...]
    matching: MatchingRecord | None = _OPTIONAL
    """Of a match alone."""
    ignored_runs: tuple[RunId, ...] | None = _OPTIONAL
    """Runs whose record is broken, and that a match went on without."""
    timings: Timings
    images_per_s: float | None
    """While scanning; None where nothing was."""
    machine: MachineRecord | None
    cost: CostRecord | None
    summary: SummaryRecord
    sandbox: dict[str, Count]
    """Decoded files, by the layers of the sandbox that held."""
    warnings: tuple[WarningRecord, ...]
    shadow_policies: tuple[ShadowPolicyRecord, ...]
    files: tuple[FileRecord, ...]

    @classmethod
    def made_of(cls, content: Json) -> RunRecord:
        """Return the record of a run from its sections, which are JSON values; secrets are blanked."""
        plain = from_json(to_json({"record_version": RECORD_VERSION, **content}))
        blanked = {**redacted_json(plain), "policy": plain["policy"]}  # whose predicates must stay what they are
        return cls.model_validate_json(to_json(blanked))

    def as_json(self) -> Json:
        """Return the content of `run.json`."""
        secret = {"options"}
        return self.model_dump(mode="json", exclude={"config": {"storage": secret, "out_storage": secret}})

    @property
    def age(self) -> tuple[datetime, datetime]:
        """When the sources were listed, and when the run was committed: a later one knows the store better."""
        return datetime.fromisoformat(self.plan.listed_at), datetime.fromisoformat(self.committed_at)

    @property
    def is_delta(self) -> bool:
        """Whether the report leaves rows to those of earlier runs."""
        return self.config.report.mode == "delta" and bool(self.previous_runs)

    def rows_in(self, folder: str) -> int:
        """Return how many rows the files of one folder have."""
        return sum(file.rows or 0 for file in self.files_in(folder))

    def files_in(self, folder: str) -> list[FileRecord]:
        """Return the files of one folder, such as `report`."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


class RangeRecord(_Section):
    """Consecutive objects of the listing."""

    shards: tuple[tuple[Count, Count, Count], ...]
    """Number of the listing file, row group in it, and rows."""
    carried: Path | None
    """The file that lists the objects whose rows are carried over."""


class ListingRecord(_Section):
    """What was to be scanned; see `runs/plan.py`."""

    listed: Count
    bytes: Count
    listed_at: Time
    actions: dict[str, Count]
    previous_runs: tuple[RunId, ...]
    warnings: tuple[WarningRecord, ...]
    truth: Meeting | None
    files: tuple[FileRecord, ...]
    ranges: tuple[RangeRecord, ...]


class PlanRecord(_Section):
    """`plan.json`: what was to be scanned, and what decides its rows."""

    record_version: int
    settings: Json
    plan: ListingRecord
    sha256: Sha256
    """Of the settings and the plan as JSON."""


class Lease(_Section):
    """`alive.json`: who holds a run, and when it was last at work, seconds since 1970 by its clock."""

    host: Annotated[str, Field(min_length=1, max_length=1000)]
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    token: Annotated[str, Field(min_length=1)]
    time: float


def recorded_config(config: ScanConfig) -> ScanConfig:
    """Return a configuration as records have it, to be compared with theirs."""
    return ScanConfig.of(config.public())


def read_lease(data: bytes) -> Lease | None:
    """Return a lease; None for what is none."""
    try:
        return Lease.model_validate_json(data, extra="ignore")
    except ValidationError:
        return None


def read_record(data: bytes | None, where: str, run_id: str) -> RunRecord:
    """Return the content of `run.json`.

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
    if found.run_id != run_id:
        raise BrokenRecord(where, f"is broken: it is that of run {found.run_id}")
    for path, count in Counter(file.path for file in found.files).items():
        if count > 1:
            raise BrokenRecord(where, f"is broken: it names {path} twice")
    return found


def read_plan(data: bytes, where: str, way_out: str | None = None) -> PlanRecord:
    """Return the content of `plan.json`. Raises BrokenRecord, which says the way out."""
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


def write_plan(plan: ListingRecord, settings: Json) -> bytes:
    """Return the content of `plan.json`."""
    made = plan.model_dump(mode="json")
    head = {"record_version": RECORD_VERSION, "sha256": _plan_digest(settings, made)}
    return to_json({**head, "settings": settings, "plan": made})


def _plan_digest(settings: Json, plan: Json) -> str:
    return digest_of({"settings": settings, "plan": plan})


_Record = TypeVar("_Record", RunRecord, PlanRecord)


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
    """Return what is wrong with a record of that version, and the way out."""
    if version > RECORD_VERSION:
        newer = f"is of version {version}, written by a newer nsfwscan; this one reads version {RECORD_VERSION}"
        return newer, "upgrade it"
    older = f"is of version {version}, written by an older nsfwscan; this one reads version {RECORD_VERSION}"
    return older, "read it with that one, and scan into a new report store"
