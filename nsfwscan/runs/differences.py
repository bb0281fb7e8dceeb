"""Compare the settings behind two runs: policy, banks, model, preprocessing, filters, limits, software.

`differences` takes two records (or `Settings` of a run that has none yet), and returns one entry per difference, with
what was and what is, in words for a person.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from nsfwscan.config import ScanConfig, ViewsConfig
from nsfwscan.policy.rules import OTHERWISE, Outcome, Rule
from nsfwscan.runs.record.inputs import (
    AuxiliaryModelRecord,
    BankRecord,
    CalibrationRecord,
    DifferenceRecord,
    ModelRecord,
    PolicyRecord,
    ReuseKeys,
)

_LIMITS = ("read.max_bytes", "decode.max_pixels", "decode.timeout_s", "decode.max_memory_bytes", "duplicates.near")
_PREPARED = (
    "decode.mode",
    "decode.pdq",
    "decode.screenshots",
    "decode.c2pa",
    "decode.c2pa_trust_sha256",
    "model.dtype",
    *(f"views.{name}" for name in ViewsConfig.model_fields),
)


class Sections(Protocol):
    """Sections by which two runs are compared; a `RunRecord` has them."""

    @property
    def policy(self) -> PolicyRecord: ...  # noqa: D102
    @property
    def model(self) -> ModelRecord: ...  # noqa: D102
    @property
    def calibration(self) -> CalibrationRecord | None: ...  # noqa: D102
    @property
    def auxiliary_models(self) -> tuple[AuxiliaryModelRecord, ...]: ...  # noqa: D102
    @property
    def reuse_keys(self) -> ReuseKeys: ...  # noqa: D102
    @property
    def banks(self) -> tuple[BankRecord, ...]: ...  # noqa: D102
    @property
    def config(self) -> ScanConfig: ...  # noqa: D102
    @property
    def nsfwscan(self) -> str: ...  # noqa: D102


@dataclass(frozen=True)
class Settings:
    """Settings of a run that is not committed yet."""

    policy: PolicyRecord
    model: ModelRecord
    calibration: CalibrationRecord | None
    auxiliary_models: tuple[AuxiliaryModelRecord, ...]
    reuse_keys: ReuseKeys
    banks: tuple[BankRecord, ...]
    config: ScanConfig
    nsfwscan: str


def differences(before: Sections, now: Sections) -> tuple[DifferenceRecord, ...]:
    """Return how the settings differ, the gravest first: policy, thresholds, rules, banks, models, then the rest."""
    found = [*of_policies(before.policy, now.policy), *of_banks(before.banks, now.banks), *_models(before, now)]
    found += [*_of_config("limit", _LIMITS, before, now), *_pair("nsfwscan", "", before.nsfwscan, now.nsfwscan)]
    return tuple(found)


def _pair(what: str, name: str, before: object, now: object) -> Iterator[DifferenceRecord]:
    if before != now:
        old, new = (None if value is None else str(value) for value in (before, now))
        yield DifferenceRecord(what=what, name=name, before=old, now=new)


def of_policies(before: PolicyRecord, now: PolicyRecord) -> Iterator[DifferenceRecord]:
    """Yield one entry for the policy, and one for each threshold, rule and list of overrides that differs in it."""
    if before.identity == now.identity:
        return
    yield from _pair("policy", "", *(f"{one.identity}, version {one.version}" for one in (before, now)))
    yield from _by_name("threshold", before.thresholds, now.thresholds)
    rules = [{OTHERWISE: _outcome(one.otherwise), **{r.name: _rule(r) for r in one.rules}} for one in (before, now)]
    yield from _by_name("rule", *rules)
    orders = [[name for name in one if name in rules[0] and name in rules[1]] for one in rules]
    yield from _pair("rules", "order", *(", ".join(order) for order in orders))
    yield from _pair("overrides", "", *(_titles(one) for one in (before, now)))
    if before.overrides != now.overrides and _titles(before) == _titles(now):
        yield DifferenceRecord(what="overrides", name="", before=_titles(before), now="others for the same places")
    regions = [{name: ", ".join(places) for name, places in one.regions.items()} for one in (before, now)]
    yield from _by_name("region", *regions)


def _titles(policy: PolicyRecord) -> str | None:
    return ", ".join(override.title for override in policy.overrides) or None


def _rule(rule: Rule) -> str:
    sample = f", a sample of {rule.sample:g}, seed {rule.seed}" if rule.sample is not None else ""
    return f"{' '.join(rule.when.split())} → {_outcome(rule)}{sample}"


def _outcome(outcome: Outcome) -> str:
    """Return an outcome in words: `block, queue adult, shield blur, severity 3`."""
    said = [("queue", outcome.sends_to), ("skill", outcome.skill), ("shield", outcome.shield)]
    words = [f"{name} {value}" for name, value in said if value not in (None, "none")]
    return ", ".join([str(outcome.decision), *words, f"severity {outcome.severity}"])


def _by_name(what: str, before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[DifferenceRecord]:
    for name in [*before, *(name for name in now if name not in before)]:
        yield from _pair(what, name, before.get(name), now.get(name))


def of_banks(before: Sequence[BankRecord], now: Sequence[BankRecord]) -> Iterator[DifferenceRecord]:
    """Yield one entry for each bank that differs, and one for their order."""
    said = [{bank.name: f"{bank.identity} ({bank.kind})" for bank in banks} for banks in (before, now)]
    yield from _by_name("bank", *said)
    orders = [[bank.name for bank in banks] for banks in (before, now)]
    if set(orders[0]) == set(orders[1]):
        yield from _pair("banks", "order", *(", ".join(order) for order in orders))


def of_models(before: ModelRecord, now: ModelRecord) -> Iterator[DifferenceRecord]:
    """Yield one entry for another model; for the same one, an entry for each label that means another category."""
    yield from _pair("model", "", before.identity, now.identity)
    if before.identity == now.identity:
        yield from _by_name("label", before.labels, now.labels)


def _models(before: Sections, now: Sections) -> Iterator[DifferenceRecord]:
    yield from of_models(before.model, now.model)
    yield from _pair("calibration", "", *map(_calibration, (before.calibration, now.calibration)))
    beside = [{one.name: one.sha256[:16] for one in side.auxiliary_models} for side in (before, now)]
    yield from _by_name("model beside it", *beside)
    keys = [side.reuse_keys for side in (before, now)]
    prepared = [*_of_config("preprocessing", _PREPARED, before, now)]
    yield from prepared
    if not prepared and before.model.identity == now.model.identity:
        yield from _pair("preprocessing", "digest", *(key.scoring[:16] for key in keys))
    yield from _pair("decoder", "digest", *(key.decoding[:16] for key in keys))
    yield from _pair("filters", "digest", *(key.filtering[:16] for key in keys))


def _calibration(found: CalibrationRecord | None) -> str | None:
    return None if found is None else f"{found.number} ({found.map}) of {found.model}"


def _of_config(what: str, names: Sequence[str], before: Sections, now: Sections) -> Iterator[DifferenceRecord]:
    for name in names:
        section, key = name.split(".")
        yield from _pair(what, name, *(getattr(getattr(side.config, section), key) for side in (before, now)))


def describe_difference(difference: DifferenceRecord) -> str:
    """Return a difference in words: `threshold explicit: 0.8 → 0.7`."""
    name = f" {difference.name}" if difference.name else ""
    none = "none"
    return f"{difference.what}{name}: {difference.before or none} → {difference.now or none}"
