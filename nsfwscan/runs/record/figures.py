"""Records of what a run came to: counts of its rows, of its filters and detectors, of changes, drift and errors."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from nsfwscan.runs.record.fields import OPTIONAL, Count, RunId, Seconds, Section, Time
from nsfwscan.schema import BankKind
from nsfwscan.sources.truth_join import Meeting


class PlanCounts(Section):
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


class ChangesRecord(Section):
    """Objects that changed since the previous runs, by `Change`."""

    deleted: Count
    newly_flagged: Count
    cleared: Count
    new: Count | None = OPTIONAL
    """This count and the next ones are absent in records of versions whose `changes/` has the three kinds before."""
    decided: Count | None = OPTIONAL
    routed: Count | None = OPTIONAL
    content: Count | None = OPTIONAL
    causes: dict[str, Count] | None = OPTIONAL
    """Changed objects by `Cause`; an object with several causes counts for each."""

    @property
    def is_whole(self) -> bool:
        """Return whether `changes/` has every object that changed."""
        return self.causes is not None


class GoldenRecord(Section):
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


class DriftRecord(Section):
    """Distances of the rows that a run looked at from those of the nights before it; see `runs/drift.py`."""

    source: str
    measure: str
    """`score`, `decision`, `format`, `size` or `error`."""
    rows: Count
    nights: Count
    """Earlier nights that it was compared with."""
    psi: float | None = OPTIONAL
    """Population stability index against all of them together, in nats."""
    distance: float | None = OPTIONAL
    """Jensen-Shannon divergence from all of them together, in bits."""
    usual: float | None = OPTIONAL
    """The largest such distance of one of these nights from all others; None: there are too few."""
    stands_out: bool = False
    most_changed: str | None = OPTIONAL
    """The value whose share changed most."""


class BalanceRecord(Section):
    """`listed = scored + matched + duplicate + filtered + carried + errored`."""

    listed: Count
    scored: Count
    matched: Count
    duplicate: Count
    filtered: Count
    carried: Count
    errored: Count


class DuplicatesRecord(Section):
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


class MediaRecord(Section):
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


class GateRecord(Section):
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


class DetectorRecord(Section):
    """Rows that a detector looked at. What it did not look at is unknown, and no zero."""

    name: str
    looked_at: Count
    not_looked_at: dict[str, Count]
    """By reason: `matched` (a bank knows it), `unreadable`, `gate` (its `when`), `no_score`."""
    boxes: Count
    vectors: Count | None = OPTIONAL
    """In `embeddings/`; absent for what gives none."""
    lines: Count | None = OPTIONAL
    """In `text/`; absent for what reads no text, and where text is left out."""
    gate: GateRecord | None


class CascadeRecord(Section):
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


class FloodRecord(Section):
    """An entry of a bank that matches very many objects."""

    bank: str
    hash: str
    id: str
    kind: BankKind
    objects: Count
    examples: tuple[str, ...]
    """URIs; empty for an illegal entry."""


class MatchingRecord(Section):
    """Counts of a match of new banks with previous reports."""

    objects: Count
    without: dict[str, Count]
    """Objects that lack a hash of a type in the banks, by that type."""
    quarantined: tuple[FloodRecord, ...]
    """Flooding entries that therefore match nothing."""
    flooding: tuple[FloodRecord, ...]
    """Flooding illegal entries, which still match."""


class ErrorRecord(Section):
    """Rows with one code."""

    status: str
    code: str | None = OPTIONAL
    """The `error_code`; None in records of before it."""
    count: Count
    example: str
    """URI of such an object."""
    message: str


class SevereRecord(Section):
    """A flagged object."""

    uri: str
    decision: str
    rule: str | None
    queue: str | None
    severity: int | None
    nsfw_score: float | None


class RateRecord(Section):
    """A count and its share."""

    count: Count
    rate: float


class TruthRecord(Section):
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


class SummaryRecord(Section):
    """Counts of the report's rows."""

    rows: Count
    bytes: Count
    flagged: Count
    """Rows that go to a reviewer, or are blocked."""
    items: Count | None = OPTIONAL
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


class WarningRecord(Section):
    """A warning: a finding that did not stop the run; see `warning.py`."""

    name: str
    count: Count
    example: str
    detail: str | None
    said: str
    remedy: str


class MoveRecord(Section):
    """Objects that another policy would decide differently."""

    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True, serialize_by_alias=True)

    before: str = Field(alias="from")
    to: str
    objects: Count
    samples: tuple[str, ...]
    """A few of their URIs."""


class ShiftRecord(Section):
    """Objects with a value now, and under the other policy."""

    value: str | int | None
    before: Count
    after: Count


class ShadowPolicyRecord(Section):
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
