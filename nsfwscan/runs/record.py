"""Typed records of a run: `run.json`, `plan.json` and the lease.

No other module reads or writes these files. A file that is cut off, empty, of another kind, of another run or of
another version is a `BrokenRecord` that names the file and the key, and says what to do. Keys that a later nsfwscan
added are ignored.
"""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from nsfwscan.config import UNWRITTEN, ScanConfig, digest_of
from nsfwscan.errors import BrokenRecord, ForeignRecord
from nsfwscan.models.calibration import ScoreMap
from nsfwscan.models.spec import ModelSpec
from nsfwscan.policy.rules import Outcome, Override, Policy, ReviewWords, Rule
from nsfwscan.schema import BankKind
from nsfwscan.sources.truth_join import Meeting
from nsfwscan.storage.store import to_json
from nsfwscan.text import redacted_json

RECORD_VERSION = 3
"""Version of `run.json` and `plan.json`; raise it when the meaning of a key changes. Files without one are of
version 1."""
STAYS = frozenset({"run.json", "run.json.sig", "pruned.json"})
"""Files of a pruned run that stay."""
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
_OPTIONAL: Any = Field(default=None, exclude_if=lambda value: value is None)
"""Default of a key that is left out where its value is None."""


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
    """A file of a run, with the rows, size and digest that it was written with."""

    path: Path
    rows: Count | None
    """None for a file that is not Parquet."""
    bytes: Count
    sha256: Sha256
    first: str | None = _OPTIONAL
    """First and last URI of a part of the report or of the changes, in sort order: readers know by them whether to open
    the part. Unset where a URI is too long, or would be redacted."""
    last: str | None = _OPTIONAL


class ParentRecord(_Section):
    """Another run, which this one goes on from or was committed after."""

    run_id: RunId
    sha256: Sha256
    """SHA-256 of its `run.json`, so that tampering shows."""


class ChainRecord(_Section):
    """Place of a run in the chain of its store; see `runs/chain.py`."""

    after: tuple[ParentRecord, ...]
    """The head of the chain at the commit, which nothing else named yet: one run, or several that were committed at the
    same time; empty for the first run of a store."""
    passed_over: tuple[RunId, ...]
    """Runs whose `run.json` could not be read at the commit: nothing vouches for them."""


class ModelRecord(_Section):
    """Model that scored the images."""

    identity: str
    """`name@digest`, as in the rows."""
    name: str
    uri: str
    sha256: str
    """SHA-256 of the weights, and of all else that a score depends on."""
    labels: dict[str, str]
    """Category of each label of the checkpoint."""
    temperature: float | None = _OPTIONAL
    """By which its logits were divided; None: it came with none."""

    @classmethod
    def of(cls, spec: ModelSpec) -> Json:
        """Return the section of a model."""
        return {
            "identity": spec.identity,
            "name": spec.name,
            "uri": spec.uri,
            "sha256": spec.digest,
            "labels": dict(zip(spec.labels, map(str, spec.categories), strict=True)),
            "temperature": spec.temperature,
        }


class CalibrationRecord(_Section):
    """Calibration that `calibrated_score` was made by; see `runs/calibrations.py`."""

    number: Count
    sha256: Sha256
    """SHA-256 of its file in the store."""
    made_at: Time
    model: str
    """`name@digest`; rows of another model have no `calibrated_score`."""
    map: ScoreMap


class AuxiliaryModelRecord(_Section):
    """A prefilter or detector beside the model."""

    name: str
    uri: str
    sha256: str


class ReuseKeys(_Section):
    """Digests of the model, the decoder and the filters behind a row: equal digests mean equal results."""

    scoring: str
    """Model, preprocessing and precision."""
    decoding: str
    """Version and plugins of the decoder: they say which formats it can decode."""
    filtering: str
    """Filters before the model."""


class PolicyRecord(_Section):
    """Policy that decided the rows, in full; see `policy/rules.py` for its fields."""

    identity: str
    """`name@digest`, as in the rows."""
    name: str
    version: str
    description: str
    thresholds: dict[str, float]
    regions: dict[str, tuple[str, ...]]
    queues: tuple[str, ...]
    rules: tuple[Rule, ...]
    otherwise: Outcome
    overrides: tuple[Override, ...]
    review: ReviewWords = Field(default=ReviewWords(), exclude_if=lambda value: value == ReviewWords())
    """Left out where the policy names none, and in records of older versions."""
    made_for: dict[str, tuple[str, ...]] = Field(default_factory=dict, exclude_if=lambda value: not value)
    """Likewise."""

    @classmethod
    def of(cls, policy: Policy) -> Json:
        """Return the section of a policy."""
        return {"identity": policy.identity, **policy.model_dump(mode="json")}

    def content(self) -> Json:
        """Return the content from which `parse_policy` makes the policy."""
        return self.model_dump(mode="json", exclude={"identity"})


class PlanCounts(_Section):
    """Counts of the listing and of the plan's actions."""

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
    """Match of the truth file with the listing; None without a truth file."""


class DifferenceRecord(_Section):
    """A setting that is another than in the run before; see `runs/differences.py`."""

    what: str
    """`policy`, `threshold`, `rule`, `bank`, `model`, …"""
    name: str
    before: str | None
    """None: there was none."""
    now: str | None
    """None: there is none."""


class PinRecord(_Section):
    """Pin of the store that held when the run began; see `runs/pins.py`."""

    number: Count
    sha256: Sha256
    """SHA-256 of the pin's file."""
    pinned_at: Time
    pinned_by: str
    used: tuple[str, ...]
    """`policy`, `banks`, `model`: what the run took from the pin, since nothing else was given."""
    others: tuple[DifferenceRecord, ...]
    """Settings that are others than pinned: `before` is pinned, `now` is the run's."""


class ChangesRecord(_Section):
    """Objects that changed since the previous runs, by `Change`."""

    deleted: Count
    newly_flagged: Count
    cleared: Count
    new: Count | None = _OPTIONAL
    """This count and the next ones are absent in records of versions whose `changes/` has the three kinds before."""
    decided: Count | None = _OPTIONAL
    routed: Count | None = _OPTIONAL
    content: Count | None = _OPTIONAL
    causes: dict[str, Count] | None = _OPTIONAL
    """Changed objects by `Cause`; an object with several causes counts for each."""

    @property
    def is_whole(self) -> bool:
        """Return whether `changes/` has every object that changed."""
        return self.causes is not None


class GoldenRecord(_Section):
    """Scores of the golden set; see `runs/golden.py`."""

    uri: str
    objects: Count
    tolerance: float
    before: RunId | None
    """The run before that scored the same set; None: there is none, and what is scored now is expected from now on."""
    largest: float | None
    """The largest move of a score from what was expected; None where nothing was."""
    drifted: dict[str, Count]
    """Objects that are not as expected, by `Drift`."""
    examples: tuple[str, ...]
    """A few of them, in words."""
    accepted: str | None
    """Why somebody took the drift; None where nothing drifted."""
    accepted_by: str | None


class DriftRecord(_Section):
    """Distances of the rows that a run looked at from those of the nights before it; see `runs/drift.py`."""

    source: str
    measure: str
    """`score`, `decision`, `format`, `size` or `error`."""
    rows: Count
    nights: Count
    """Earlier nights that it was compared with."""
    psi: float | None = _OPTIONAL
    """Population stability index against all of them together, in nats."""
    distance: float | None = _OPTIONAL
    """Jensen-Shannon divergence from all of them together, in bits."""
    usual: float | None = _OPTIONAL
    """The largest such distance of one of these nights from all others; None: there are too few."""
    stands_out: bool = False
    most_changed: str | None = _OPTIONAL
    """The value whose share changed most."""


class KnownIllegalRecord(_Section):
    """Known illegal contents, counted; see `runs/known_illegal.py`."""

    runs: tuple[RunId, ...]
    """Runs that the contents come from."""
    contents: Count
    released: Count
    """Contents that were known, and that this run's banks no longer hold."""


class VerdictsRecord(_Section):
    """People's verdicts that a run knew; see `nsfwscan/verdicts`."""

    contents: Count
    """Contents with a verdict that stands, in the whole store."""
    parts: Count
    """Files of verdicts."""
    sha256: Sha256
    """Digest of their names, sorted, one a line; a name is the SHA-256 of the file."""
    new: tuple[Sha256, ...]
    """Files that no run names that was committed before this one."""
    given: Count | None = _OPTIONAL
    """Verdicts that people gave, without those that only take one back; absent in records of older versions."""
    opened: Count | None = _OPTIONAL
    """Those of them before which the original was opened."""
    opens: Count | None = _OPTIONAL
    """Originals that people opened, as sessions of the review page count them; absent where none was imported."""
    open_hours: float | None = _OPTIONAL
    """Hours that they reviewed, likewise."""


class RewrittenRecord(_Section):
    """Says that a `run.json` was written anew, to forget objects that it named."""

    sha256: Sha256
    """SHA-256 of the file as it was committed: other runs, anchors and signatures know it by this."""
    forget_ids: tuple[str, ...]
    """The acts, of which the store has a record (`forgotten/`)."""


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
    """Counts of copies and near-duplicates."""

    copies: Count
    """Objects with the bytes of another object, the original."""
    contents: Count
    """Distinct contents that have copies."""
    clusters: Count
    """Clusters of near-duplicates."""
    clustered: Count
    """Objects in these clusters."""
    looked_for_all: bool
    """Near-duplicates were looked for among all contents, not only among flagged ones."""
    reused: Count
    """Copies in this run that the model did not see again."""


class ModelTime(_Section):
    """Time of one model."""

    images: Count
    seconds: Seconds
    seconds_each: Seconds | None
    """Seconds per image; None without images."""


class MediaRecord(_Section):
    """What a run looked at of one kind of media, and what decoding it cost."""

    objects: Count
    views: Count
    frames: Count
    """Frames that were looked at, in small at least."""
    duration_s: float
    """Seconds that they are shown, together, where that is known."""
    decode_s: float
    """Seconds of decoding, each of one core."""
    closer: Count = 0
    """Objects that got a second look; it, its frames and its seconds are absent in records of older versions."""
    closer_frames: Count = 0
    """Frames that were looked at in second looks."""
    closer_s: float = 0.0
    """Seconds of decoding in second looks."""


class GateRecord(_Section):
    """Contents that a detector's `when` held back, and what that missed."""

    when: str
    let_through: Count
    held_back: Count
    shadow_sample: Count
    """Contents held back that the detector looked at nevertheless."""
    misses: Count
    """Contents of the shadow sample that are decided otherwise by the detector's word."""
    miss_rate: float | None
    miss_rate_interval: tuple[float, float] | None
    confidence: float
    missed: tuple[float, float] | None
    """The interval times the contents that were not looked at."""
    seconds_saved: Seconds | None


class DetectorRecord(_Section):
    """Rows that a detector looked at. What it did not look at is unknown, and no zero."""

    name: str
    looked_at: Count
    not_looked_at: dict[str, Count]
    """By reason: `matched` (a bank knows it), `unreadable`, `gate` (its `when`), `no_score`."""
    boxes: Count
    vectors: Count | None = _OPTIONAL
    """In `embeddings/`; absent for what gives none."""
    lines: Count | None = _OPTIONAL
    """In `text/`; absent for what reads no text, and where text is left out."""
    gate: GateRecord | None


class PatternsRecord(_Section):
    """A list of patterns that text was searched for."""

    name: str
    version: str
    language: str
    region: str | None
    owner: str
    uri: str
    sha256: Sha256
    topics: tuple[str, ...]


class HostsRecord(_Section):
    """A list of hosts that links were looked up in."""

    uri: str
    sha256: Sha256
    hosts: Count


class TextRecord(_Section):
    """What became of the text that detectors read in pictures."""

    kept: bool
    """Whether `text/` has it."""
    key: str | None
    """The id of the key that it is encrypted for; None: it is not."""
    patterns: tuple[PatternsRecord, ...] = ()
    """Lists that it was searched for."""
    hosts: dict[str, HostsRecord] = {}
    """Lists of hosts, `block` and `allow`."""


class CascadeRecord(_Section):
    """Contents that the filters settled before the model, and how often the filters were wrong."""

    settled: Count
    """Contents that no model saw."""
    settled_by: dict[str, Count]
    forwarded: Count
    """Contents that the filters passed on to the model."""
    audit_sample: Count
    """Contents that a filter settled and that the model scored nevertheless."""
    misses: Count
    """Contents of the audit sample that the policy flagged."""
    miss_rate: float | None
    """`misses` divided by `audit_sample`; None without a sample."""
    miss_rate_interval: tuple[float, float] | None
    confidence: float
    """Confidence of the interval."""
    missed: tuple[float, float] | None
    """The interval times `settled`: missed contents, from and to."""
    seconds_saved: Seconds | None
    """Time that the model would have taken, in full batches."""


class Timings(_Section):
    """Seconds of each step that this kind of run has, summed over all attempts of the run."""

    listing_s: Seconds | None = _OPTIONAL
    scan_s: Seconds | None = _OPTIONAL
    match_s: Seconds | None = _OPTIONAL
    commit_s: Seconds | None = _OPTIONAL
    resumed_shards: Count
    """Shards that an earlier attempt of this run finished."""
    attempts: Count | None = _OPTIONAL
    """Attempts that the seconds and the cost are of; None: of the last one alone, as runs of old were recorded."""

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
    """Nodes of one kind."""

    count: Count
    cpus: float
    gpus: float
    gpu: str | None
    """Kind of GPU."""
    cpu: str | None
    memory_bytes: Count | None
    """Memory of the smallest of these nodes."""

    @property
    def kind(self) -> tuple[float, float, str | None, str | None]:
        """Kind of the nodes, comparable with `Node.kind`."""
        return self.cpus, self.gpus, self.gpu, self.cpu


class LayoutRecord(_Section):
    """Actors that ran; see `execution/layout.py`."""

    kind: Literal["fused", "split", "inline"]
    cpu_actors: Count
    model_actors: Count
    gpus_per_model_actor: float
    cpus_per_actor: float
    threads: Count


class MachineRecord(_Section):
    """Nodes and actors of the scan."""

    nodes: tuple[NodeRecord, ...]
    layout: LayoutRecord


class RequestsRecord(_Section):
    """Requests to object stores that charge for them, and the bytes read."""

    get: Count
    list: Count
    bytes: Count


class CostRecord(_Section):
    """Machine time and money."""

    objects: Count
    """Objects that were read and scored."""
    hours: float
    core_hours: float
    gpu_hours: float
    requests: RequestsRecord
    currency: str
    amount: float | None
    """None where a price is missing."""
    missing: str | None
    """Name of the missing price."""
    prices: str
    """The price table and its date."""
    per_million: float | None
    """The amount per million objects."""
    steady: bool
    """Enough objects were read that the time of the start hardly matters."""


class BankRecord(_Section):
    """A hash bank of the run."""

    name: str
    kind: BankKind
    distance: Count
    """Largest Hamming distance, in bits, at which a PDQ hash matches."""
    quality: Count
    tags: tuple[str, ...]
    uri: str
    version: str
    """Digest of everything that decides its matches."""
    sha256: str
    """SHA-256 of the bank's file."""
    entries: dict[str, Count]
    """Entries by hash type."""
    passed_over: dict[str, Count]
    malformed: Count
    examples: tuple[str, ...]
    """The first malformed entries, described."""

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
    """URIs; empty for an illegal entry."""


class MatchingRecord(_Section):
    """Counts of a match of new banks with previous reports."""

    objects: Count
    without: dict[str, Count]
    """Objects that lack a hash of a type in the banks, by that type."""
    quarantined: tuple[FloodRecord, ...]
    """Flooding entries that therefore match nothing."""
    flooding: tuple[FloodRecord, ...]
    """Flooding illegal entries, which still match."""


class ErrorRecord(_Section):
    """Rows with one code."""

    status: str
    code: str | None = _OPTIONAL
    """The `error_code`; None in records of before it."""
    count: Count
    example: str
    """URI of such an object."""
    message: str


class SevereRecord(_Section):
    """A flagged object."""

    uri: str
    decision: str
    rule: str | None
    queue: str | None
    severity: int | None
    nsfw_score: float | None


class RateRecord(_Section):
    """A count and its share."""

    count: Count
    rate: float


class TruthRecord(_Section):
    """Errors of the model, as far as truth is known."""

    by_category: dict[str, Count]
    neutral: Count
    """Images that have a label and whose truth is neutral."""
    false_positives: Count
    false_positive_rate: float | None
    by_label: dict[str, RateRecord]
    by_decision: dict[str, RateRecord]
    suspected: Count
    """Rows without truth that are flagged although their label is safe; they count in no rate."""


class SummaryRecord(_Section):
    """Counts of the report's rows."""

    rows: Count
    bytes: Count
    flagged: Count
    """Rows that go to a reviewer, or are blocked."""
    items: Count | None = _OPTIONAL
    """Items of all queues that can be opened: near-duplicates and copies are one, known illegal content is none. Absent
    in records of older versions."""
    unreadable: Count
    """Objects that should have been images and could not be scored."""
    error_rate: float
    unsupported: Count
    """Objects that are not images."""
    unsupported_rate: float
    status: dict[str, Count]
    decision: dict[str, Count]
    label: dict[str, Count]
    rule: dict[str, Count]
    queue: dict[str, Count]
    format: dict[str, Count]
    match_bank: dict[str, Count]
    nsfw_score_histogram: tuple[Count, ...]
    """Rows by score, in equal bins from 0 to 1."""
    errors: tuple[ErrorRecord, ...]
    """Most frequent first."""
    most_severe: tuple[SevereRecord, ...] = ()
    """The worst of the flagged objects, but for illegal matches; none in records of before it."""
    truth: TruthRecord


class WarningRecord(_Section):
    """A warning: a finding that did not stop the run; see `warning.py`."""

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
    """Objects with a value now, and under the other policy."""

    value: str | int | None
    before: Count
    after: Count


class ShadowPolicyRecord(_Section):
    """Counts of the decisions that a shadow policy would have made."""

    policy: str
    version: str
    rows: Count
    moved: Count
    """Objects with another decision."""
    moves: tuple[MoveRecord, ...]
    elsewhere: Count
    """Objects with the same decision but another queue, skill, shield or severity."""
    decision: tuple[ShiftRecord, ...]
    queue: tuple[ShiftRecord, ...]
    skill: tuple[ShiftRecord, ...]
    shield: tuple[ShiftRecord, ...]
    severity: tuple[ShiftRecord, ...]


class RunRecord(_Section):
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
    calibration: CalibrationRecord | None = _OPTIONAL
    """Absent where the store had none of the model, and in records of older versions."""
    policy: PolicyRecord
    plan: PlanCounts
    previous_runs: tuple[RunId, ...]
    """Runs that rows are carried from, newest first."""
    changes: ChangesRecord
    differences: tuple[DifferenceRecord, ...] | None = _OPTIONAL
    """Settings that are others than in the newest previous run; absent in records of older versions, in those of a
    match, and where there is no previous run."""
    pin: PinRecord | None = _OPTIONAL
    """Absent where nothing was pinned, and in records of older versions."""
    golden: GoldenRecord | None = _OPTIONAL
    """Absent where the run had no golden set."""
    drift: tuple[DriftRecord, ...] = ()
    """By source and measure; empty where the run looked at nothing."""
    known_illegal: KnownIllegalRecord
    verdicts: VerdictsRecord | None = _OPTIONAL
    """Absent where the store had none, and in records of older versions."""
    balance: BalanceRecord
    duplicates: DuplicatesRecord
    model_times: dict[str, ModelTime]
    """Times by the model's task in the run (`classify`, `prefilter`, …)."""
    media: dict[str, MediaRecord] | None = _OPTIONAL
    """By `media`, of the files that this run decoded; absent in records of older versions."""
    cascade: CascadeRecord
    detectors: tuple[DetectorRecord, ...] | None = _OPTIONAL
    """Absent in records of older versions."""
    text: TextRecord | None = _OPTIONAL
    """Absent where no detector reads text, and in records of older versions."""
    banks: tuple[BankRecord, ...]
    matching: MatchingRecord | None = _OPTIONAL
    """Only in the record of a match."""
    ignored_runs: tuple[RunId, ...] | None = _OPTIONAL
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
    forgotten: RewrittenRecord | None = _OPTIONAL
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
    def is_delta(self) -> bool:
        """Return whether the report leaves rows to the reports of previous runs."""
        return self.config.report.mode == "delta" and bool(self.previous_runs)

    def rows_in(self, folder: str) -> int:
        """Return the number of rows in the files of one folder."""
        return sum(file.rows or 0 for file in self.files_in(folder))

    def files_in(self, folder: str) -> list[FileRecord]:
        """Return the files of one folder, such as `report`."""
        return [file for file in self.files if file.path.startswith(f"{folder}/")]


class RangeRecord(_Section):
    """Consecutive objects of the listing."""

    shards: tuple[tuple[Count, Count, Count], ...]
    """Number of the listing file, row group in that file, and rows, of each shard."""
    carried: Path | None
    """The file that lists the carried objects; None: there are none."""


class ListingRecord(_Section):
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


class PlanRecord(_Section):
    """`plan.json`: the plan, and the settings that decide the rows."""

    record_version: int
    settings: Json
    plan: ListingRecord
    sha256: Sha256
    """SHA-256 of the settings and the plan as JSON."""


class PrunedRecord(_Section):
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


class ReleaseRecord(_Section):
    """End of a hold."""

    at: Time
    by: str
    reason: str | None


class HoldRecord(_Section):
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


class Lease(_Section):
    """`alive.json`: the process that holds a run, and its last heartbeat in seconds since 1970 by its own clock."""

    host: Annotated[str, Field(min_length=1, max_length=1000)]
    pid: Annotated[int, Field(ge=1, lt=2**31)]
    token: Annotated[str, Field(min_length=1)]
    time: float


def recorded_config(config: ScanConfig) -> ScanConfig:
    """Return a configuration in the form of records, for comparison with theirs."""
    return ScanConfig.of(config.public())


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
