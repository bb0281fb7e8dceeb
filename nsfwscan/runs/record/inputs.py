"""Records of what decided the rows of a run: models, policy, banks, lists, verdicts, and what differs from before."""

from __future__ import annotations

from pydantic import Field

from nsfwscan.models.calibration import ScoreMap
from nsfwscan.models.spec import ModelSpec
from nsfwscan.policy.rules import Outcome, Override, Policy, ReviewWords, Rule
from nsfwscan.runs.record.fields import OPTIONAL, Count, Json, RunId, Section, Sha256, Time
from nsfwscan.schema import BankKind


class ModelRecord(Section):
    """Model that scored the images."""

    identity: str
    """`name@digest`, as in the rows."""
    name: str
    uri: str
    sha256: str
    """SHA-256 of the weights, and of all else that a score depends on."""
    labels: dict[str, str]
    """Category of each label of the checkpoint."""
    temperature: float | None = OPTIONAL
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


class CalibrationRecord(Section):
    """Calibration that `calibrated_score` was made by; see `runs/calibrations.py`."""

    number: Count
    sha256: Sha256
    """SHA-256 of its file in the store."""
    made_at: Time
    model: str
    """`name@digest`; rows of another model have no `calibrated_score`."""
    map: ScoreMap


class AuxiliaryModelRecord(Section):
    """A prefilter or detector beside the model."""

    name: str
    uri: str
    sha256: str


class ReuseKeys(Section):
    """Digests of the model, the decoder and the filters behind a row: equal digests mean equal results."""

    scoring: str
    """Model, preprocessing and precision."""
    decoding: str
    """Version and plugins of the decoder: they say which formats it can decode."""
    filtering: str
    """Filters before the model."""


class PolicyRecord(Section):
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
    seats: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Likewise."""

    @classmethod
    def of(cls, policy: Policy) -> Json:
        """Return the section of a policy."""
        return {"identity": policy.identity, **policy.model_dump(mode="json")}

    def content(self) -> Json:
        """Return the content from which `parse_policy` makes the policy."""
        return self.model_dump(mode="json", exclude={"identity"})


class BankRecord(Section):
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


class DifferenceRecord(Section):
    """A setting that is another than in the run before; see `runs/differences.py`."""

    what: str
    """`policy`, `threshold`, `rule`, `bank`, `model`, …"""
    name: str
    before: str | None
    """None: there was none."""
    now: str | None
    """None: there is none."""


class PinRecord(Section):
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


class KnownIllegalRecord(Section):
    """Known illegal contents, counted; see `runs/known_illegal.py`."""

    runs: tuple[RunId, ...]
    """Runs that the contents come from."""
    contents: Count
    released: Count
    """Contents that were known, and that this run's banks no longer hold."""


class VerdictsRecord(Section):
    """People's verdicts that a run knew; see `nsfwscan/verdicts`."""

    contents: Count
    """Contents with a verdict that stands, in the whole store."""
    parts: Count
    """Files of verdicts."""
    sha256: Sha256
    """Digest of their names, sorted, one a line; a name is the SHA-256 of the file."""
    new: tuple[Sha256, ...]
    """Files that no run names that was committed before this one."""
    given: Count | None = OPTIONAL
    """Verdicts that people gave, without those that only take one back; absent in records of older versions."""
    opened: Count | None = OPTIONAL
    """Those of them before which the original was opened."""
    opens: Count | None = OPTIONAL
    """Originals that people opened, as sessions of the review page count them; absent where none was imported."""
    open_hours: float | None = OPTIONAL
    """Hours that they reviewed, likewise."""


class PatternsRecord(Section):
    """A list of patterns that text was searched for."""

    name: str
    version: str
    language: str
    region: str | None
    owner: str
    uri: str
    sha256: Sha256
    topics: tuple[str, ...]


class HostsRecord(Section):
    """A list of hosts that links were looked up in."""

    uri: str
    sha256: Sha256
    hosts: Count


class TextRecord(Section):
    """What became of the text that detectors read in pictures."""

    kept: bool
    """Whether `text/` has it."""
    key: str | None
    """The id of the key that it is encrypted for; None: it is not."""
    patterns: tuple[PatternsRecord, ...] = ()
    """Lists that it was searched for."""
    hosts: dict[str, HostsRecord] = Field(default_factory=dict)
    """Lists of hosts, `block` and `allow`."""
