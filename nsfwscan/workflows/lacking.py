"""Say which rules of a policy ask for what a run does not give: a detector, an option, a category of the model.

Such a rule reads null there, and a comparison with null is never true: it would never decide, and nobody would know.
So it is with rules of shadow policies, and with gates of detectors, which would never let a row through. What a policy
may do without stands in its `seats`, and is passed over. Nothing is raised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from nsfwscan.config import DetectorConfig, ScanConfig
from nsfwscan.models.labels import renamed
from nsfwscan.models.packs.catalogue import SCHEME, catalogue
from nsfwscan.models.spec import AuxiliaryModels, ModelSpec
from nsfwscan.policy.gate import policy_of
from nsfwscan.policy.rules import Policy
from nsfwscan.policy.values import asked_by, signal_of
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import SIGNAL_GROUPS, Category, score_column
from nsfwscan.texts import codes, ocr

_OF_DETECTORS = ("boxes", "gate", "lines", "vectors")
"""Groups of signals with one for each detector: `boxes.nudity`."""
_SCORES = {score_column(category): category for category in Category}
_READERS = {"text_language": ("text", ocr.NAME), "link_host": ("link", codes.NAME)}
"""Columns that a reader fills: the name that it usually has, and what it is."""
_FEW, _MOST_NAMES = 2, 5
"""Signals, and rules, that a note names."""


@dataclass(frozen=True)
class Given:
    """What a run gives its policy.

    Attributes:
        categories: of the model.
        topics: of the lists of patterns.
    """

    config: ScanConfig
    categories: frozenset[Category]
    topics: frozenset[str] = frozenset()

    @classmethod
    def of_models(cls, config: ScanConfig, spec: ModelSpec, beside: AuxiliaryModels) -> Given:
        """Return what a run will give that has not begun."""
        topics = frozenset(topic for one in beside.lists for topic in one.content.topics)
        return cls(config, frozenset(spec.known), topics)

    @classmethod
    def of_record(cls, record: RunRecord) -> Given:
        """Return what a committed run gave."""
        lists = record.text.patterns if record.text is not None else ()
        categories = frozenset(map(Category, record.model.labels.values()))
        return cls(record.config, categories, frozenset(topic for one in lists for topic in one.topics))

    def lacks(self, asked: str) -> str | None:
        """Return the detector, or the option, without which a run has no such column or signal; None where it has."""
        name = signal_of(asked)
        if name is None:
            return self._lacking_column(asked)
        group, _, rest = name.partition(".")
        if group in SIGNAL_GROUPS and group not in _OF_DETECTORS:
            return self._lacking_option(group, rest)
        detector = rest if group in _OF_DETECTORS else group
        if detector not in self.config.detectors:
            return detector
        labels = None if group in _OF_DETECTORS else self._labels(self.config.detectors[detector])
        return None if labels is None or rest.partition(".")[0] in labels or rest in labels else detector

    def _lacking_column(self, name: str) -> str | None:
        if name in _SCORES:
            return None if _SCORES[name] in self.categories else _MODEL
        usual, uri = _READERS.get(name, (None, ""))
        return None if any(one.uri == uri for one in self.config.detectors.values()) else usual

    def _lacking_option(self, group: str, rest: str) -> str | None:
        decode = self.config.decode
        if group == "c2pa" and rest.partition(".")[0] in ("valid", "invalid", "trusted"):
            there, option = (decode.c2pa, "--c2pa") if rest != "trusted" else (decode.c2pa_trust, "--c2pa-trust FILE")
        elif group == "screenshot":
            there, option = decode.screenshots, "--screenshots"
        elif group == "prefilter":
            there, option = self.config.cascade.enabled, "--cascade"
        else:
            there, option = group in ("decode", "file", "view") or decode.provenance, "decode.provenance: true"
        return None if there else option

    def _labels(self, detector: DetectorConfig) -> Collection[str] | None:
        """Return what a detector's signals are called, after its name and a dot; None where only its weights tell."""
        pack = catalogue().get(detector.uri.removeprefix(SCHEME)) if detector.uri.startswith(SCHEME) else None
        if pack is not None:
            return {*renamed(pack.labels, detector.labels, detector.uri), "abstained"}
        if detector.uri == ocr.NAME:
            return {*ocr.LABELS, *self.topics}
        if detector.uri == codes.NAME:
            lists = {"blocked": self.config.text.block, "allowed": self.config.text.allow}
            return {label for label in codes.LABELS if lists.get(label, "") is not None}
        return None


_MODEL = "MODEL"
"""What a column of scores lacks; no detector is called so."""


@dataclass
class _Lack:
    asked: list[str] = field(default_factory=list)
    rules: dict[str, None] = field(default_factory=dict)


def run_notes(policy: Policy, shadows: Iterable[Policy], given: Given) -> Iterator[str]:
    """Yield what a run lacks: of what its policy asks for, its shadow policies, and the gates of its detectors."""
    said = list(lacking_notes(policy, given))
    yield from said
    for shadow in shadows:
        for note in lacking_notes(shadow, given):
            if note not in said:
                yield f"shadow policy {shadow.identity}: {note}"
    yield from gate_notes(given)


def gate_notes(given: Given) -> Iterator[str]:
    """Yield one sentence for each detector or option that the gate of a detector asks for and a run lacks."""
    for name, config in given.config.detectors.items():
        if config.when is not None:
            for lack, one in _lacks(policy_of(name, config), given).items():
                yield f"the gate of the detector {name} asks for {_what(lack, one, given)}"


def lacking_notes(policy: Policy, given: Given) -> Iterator[str]:
    """Yield one sentence for each detector or option that rules of a policy ask for and a run lacks, with what brings
    it."""
    for lack, one in _lacks(policy, given).items():
        asks = "rule {} asks" if len(one.rules) == 1 else "rules {} ask"
        yield f"{asks.format(_some(map(repr, one.rules)))} for {_what(lack, one, given)}"


def _lacks(policy: Policy, given: Given) -> dict[str, _Lack]:
    """Return what rules of a policy ask for and a run lacks, by what brings it."""
    found: dict[str, _Lack] = {}
    for asked, rules in asked_by(policy).items():
        lack = given.lacks(asked)
        if lack is not None and not {lack, _group(asked)} & set(policy.seats):
            one = found.setdefault(lack, _Lack())
            one.asked.append(asked)
            one.rules |= dict.fromkeys(rules)
    return found


def _what(lack: str, one: _Lack, given: Given) -> str:
    remedy = _remedy(lack, one.asked, there=lack in given.config.detectors)
    return f"{_shown(one.asked)}, which this run lacks: {remedy}"


def _remedy(lack: str, asked: Iterable[str], *, there: bool) -> str:
    """Return what brings a detector, what a detector that is there needs, or an option."""
    if lack == _MODEL:
        return "its model has no such category; name a model that does, or the policy that comes with this one"
    if lack.startswith("-") or ":" in lack:
        return f"scan with {lack}"
    lists = _lists(list(map(signal_of, asked)))
    if there:
        return f"scan with {lists}" if lists else f"its detector {lack} says something else (nsfwscan models list)"
    pack = catalogue().get(lack)
    if f"embedded:{lack}" in (ocr.NAME, codes.NAME):
        return f"scan with --detector {lack} {lists}".rstrip()
    if pack is not None:
        accept = f" --accept {pack.licence}" if pack.accept else ""
        return f"nsfwscan models pull {lack}{accept}, then scan with --detector {lack}"
    return f"scan with --detector {lack}=MODEL, or let the policy do without it (seats: [{lack}])"


def _lists(names: Collection[str | None]) -> str:
    """Return the options that bring signals of readers which rest on a list of the user's."""
    wanted = [
        *(["--patterns FILE"] if any(name and _is_topic(name) for name in names) else []),
        *(f"--{word}-hosts FILE" for word in ("block", "allow") if f"link.{word}ed" in names),
    ]
    return " ".join(wanted)


def _is_topic(name: str) -> bool:
    group, _, label = name.partition(".")
    return group == "text" and label not in ocr.LABELS


def _group(asked: str) -> str:
    return (signal_of(asked) or asked).partition(".")[0]


def _shown(asked: Sequence[str]) -> str:
    """Return what is asked for; of three and more signals that begin alike, how they begin."""
    begun = {_group(one) for one in asked if signal_of(one)}
    if len(asked) > _FEW and len(begun) == 1:
        return f"signals['{begun.pop()}.…']"
    return _some(asked)


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _MOST_NAMES
    return ", ".join(listed[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
