"""Read a policy, ordered rules over the report's columns, from YAML, and bind it when the file loads.

The conditions of a `Policy` are known to be boolean SQL over existing columns. Unknown keys, columns, thresholds,
regions, queues and rules, conditions of another type and duplicate names raise `PolicyError`, which names them. The
language is described in README.md.
"""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from nsfwscan.config import Frozen, StorageConfig, digest_of
from nsfwscan.documents import load_yaml
from nsfwscan.errors import ConfigError, PolicyError
from nsfwscan.location import Location
from nsfwscan.policy.sql import bind, connect
from nsfwscan.policy.thresholds import THRESHOLD_NAME, thresholds_in, with_numbers
from nsfwscan.schema import Decision, Shield, StandingVerdict
from nsfwscan.storage.text_files import read_text

_PRESETS = Path(__file__).parent / "presets"

GUARD = "no-score"
"""Rule of a row that may not be allowed, since it has no score; no policy can use the name or remove the rule."""
ILLEGAL = "illegal-match"
"""Rule of an illegal match for which no escalating rule is true; reserved like `GUARD`."""
BLOCKED = "block-match"
"""Rule of a block bank's match that no other rule decides; reserved like `GUARD`."""
JUDGED = {verdict: f"verdict-{verdict}" for verdict in StandingVerdict}
"""Rules of rows that people decided and no rule that names the verdict does; reserved like `GUARD`."""
OTHERWISE = "otherwise"
"""Rule of a row for which no rule is true."""
NO_QUEUE = "none"
"""Value of `queue` that sends rows to nobody."""
_ALWAYS_QUEUED = (Decision.REVIEW, Decision.ESCALATE)
"""Decisions that ask for a person, so they exclude `queue: none`."""


def _as_place(text: str) -> str:
    if "://" in text or text.startswith(("/", "*", "?", "[")):
        return Location.of(text).uri
    raise ValueError(
        f"{text!r} is no place: write how the URI begins (`s3://media/kids/`, `/srv/media/kids/`), or a glob over all "
        "of it (`*/kids/*`)"
    )


Name = Annotated[str, Field(min_length=1)]
Severity = Annotated[int, Field(ge=0, le=4)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]
UriPattern = Annotated[str, AfterValidator(_as_place)]
"""Beginning of a URI, or a glob over the whole URI in which `*` crosses `/`."""


class Outcome(Frozen):
    """Result of a rule for its rows."""

    decision: Decision
    queue: Name | None = None
    skill: Name | None = None
    """Ability that a reviewer must have, e.g. a language or a clearance."""
    shield: Shield = Shield.NONE
    severity: Severity = 0

    @property
    def sends_to(self) -> str | None:
        """Queue of its rows: the one it names, else the decision's name. None where nobody is to look: at allowed
        rows, and where `queue: none` says so."""
        if self.queue is not None and self.queue != NO_QUEUE:
            return self.queue
        if self.decision in _ALWAYS_QUEUED:  # also where an override left `none` beside it
            return str(self.decision)
        return None if self.decision is Decision.ALLOW or self.queue == NO_QUEUE else str(self.decision)


class Rule(Outcome):
    """A name, an SQL condition over report columns, and an outcome."""

    name: Name
    when: Name
    sample: Annotated[float, Field(strict=True, ge=1e-9, lt=1)] | None = None
    """Share of its rows that the rule takes, the same rows in every run; unset: all."""
    seed: int = 0
    """Another seed draws another sample."""

    @model_validator(mode="after")
    def _seed_is_of_a_sample(self) -> Self:
        if self.seed and self.sample is None:
            raise ValueError("a seed without a sample says nothing: give `sample`, or leave `seed` out")
        return self


class Adjustment(Frozen):
    """Changes to a rule's outcome; unset fields stay as they are."""

    decision: Decision | None = None
    queue: Name | None = None
    skill: Name | None = None
    shield: Shield | None = None
    severity: Severity | None = None


class Override(Frozen):
    """Other thresholds, or other outcomes of rules, for the objects of one source or one region."""

    source: UriPattern | None = None
    region: str | None = None
    thresholds: dict[str, Number] = Field(default_factory=dict)
    rules: dict[str, Adjustment] = Field(default_factory=dict)
    """By the name of the rule, or `otherwise`."""

    @model_validator(mode="after")
    def _is_of_one_place(self) -> Self:
        if (self.source is None) == (self.region is None):
            raise ValueError("an override is for one `source` or one `region`")
        if not self.thresholds and not any(change.model_dump(exclude_none=True) for change in self.rules.values()):
            raise ValueError("an override changes something: give `thresholds`, or `rules` with what is to change")
        return self

    @property
    def title(self) -> str:
        """Return its source or region, in words."""
        return f"region {self.region}" if self.source is None else f"source {self.source}"


Word = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\x00-\x1f\x7f]+$")]


def _each_once(words: tuple[str, ...]) -> tuple[str, ...]:
    if twice := next((word for word, count in Counter(words).items() if count > 1), None):
        raise ValueError(f"{twice!r} stands there twice")
    return words


Words = Annotated[tuple[Word, ...], Field(min_length=1, max_length=50), AfterValidator(_each_once)]


class ReviewWords(Frozen):
    """Words that reviewers decide with."""

    categories: Words = ("porn", "hentai", "sexy", "violence", "other")
    """What an object may be removed as; the first nine have the keys 1 to 9."""
    reasons: Words = (
        "clear case",
        "art",
        "medicine or education",
        "news or satire",
        "wrong match",
        "too blurred to tell",
    )
    """Why, beside any text of the reviewer's own."""


Seat = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$")]

MOST_RULES = 5_000


def _not_too_many(rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    if len(rules) > MOST_RULES:
        raise ValueError(f"{len(rules):,} rules, and there may be {MOST_RULES:,}: long lists belong in a bank")
    return rules


_BESIDE_THE_MODEL = re.compile(r"\bsignals\s*\[\s*'(?!view\.)|\b(text_language|link_host)\b")
"""In a condition; `view.max` and the like are the model's own."""


class Policy(Frozen):
    """Ordered rules; the first true one decides, and `otherwise` decides the rest."""

    name: str
    version: Annotated[str, BeforeValidator(lambda v: str(v) if isinstance(v, int | float | datetime.date) else v)]
    description: str = ""
    made_for: dict[str, Annotated[tuple[Digest, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """The weights that the thresholds were made for: digests, or how they begin, of the `model` and of detectors by
    name. Decides nothing; where a run has others, it warns."""
    seats: tuple[Seat, ...] = ()
    """Detectors that rules ask for and a run may lack, by name, or other beginnings of signals (`screenshot`). They
    decide nothing; where a run lacks another one, it warns."""
    thresholds: dict[str, Number] = Field(default_factory=dict)
    """Named numbers, used as `nsfw_score >= $explicit`."""
    regions: dict[str, Annotated[tuple[UriPattern, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """Named sets of places."""
    queues: tuple[Name, ...] = ()
    """All queues that rules may name; empty: any."""
    rules: Annotated[tuple[Rule, ...], AfterValidator(_not_too_many)]
    otherwise: Outcome
    overrides: tuple[Override, ...] = ()
    """All that apply to an object are used in order; where two change the same thing, the later one wins."""
    review: ReviewWords = ReviewWords()
    """They decide nothing by themselves."""

    @cached_property
    def identity(self) -> str:
        """`name@digest`, as in the report. The digest covers everything that decides. It leaves out default values, so
        a policy keeps its digest when the language grows, the words of reviewers, and seats."""
        deciding = self.model_dump(mode="json", exclude_defaults=True, exclude={"review", "seats"})
        return f"{self.name}@{digest_of(deciding)[:16]}"

    @cached_property
    def rules_beside_the_model(self) -> frozenset[str]:
        """Return the names of the rules that ask what others than the model say: detectors, text, codes, the file."""
        return frozenset(rule.name for rule in self.rules if _BESIDE_THE_MODEL.search(rule.when))

    def places(self, override: Override) -> tuple[str, ...]:
        """Return where an override applies."""
        return self.regions[override.region] if override.region is not None else (str(override.source),)

    def under(self, overrides: Iterable[Override] = ()) -> Policy:
        """Return the plain policy, of rules and `otherwise` alone, that results from these overrides: thresholds
        become numbers, and outcomes are changed."""
        numbers, changes = dict(self.thresholds), dict[str, dict[str, Any]]()
        for override in overrides:
            numbers |= override.thresholds
            for name, change in override.rules.items():
                changes.setdefault(name, {}).update(change.model_dump(exclude_none=True))
        rules = tuple(
            rule.model_copy(update={"when": with_numbers(rule.when, numbers), **changes.get(rule.name, {})})
            for rule in self.rules
        )
        otherwise = self.otherwise.model_copy(update=changes.get(OTHERWISE, {}))
        return Policy(name=self.name, version=self.version, rules=rules, otherwise=otherwise)


def preset_names() -> list[str]:
    """Return the names of the policies that come with the package."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def load_policy(source: str, storage: StorageConfig | None = None) -> Policy:
    """Read a policy from a YAML file, here or in a store, or by a preset's name, and bind it. Raises PolicyError where
    the policy is missing or malformed, or does not bind.

    Args:
        storage: how to reach the store; unset: by the environment.
    """
    place = str(_PRESETS / f"{source}.yaml") if source in preset_names() else source
    try:
        loaded = load_yaml(read_text(place, storage or StorageConfig(), "the policy"))
    except ConfigError as error:
        raise PolicyError(f"{error} (presets: {', '.join(preset_names())})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"the policy {source} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise PolicyError(f"the policy {source} must be a mapping with version, rules and otherwise")
    return parse_policy({"name": _stem(place), **loaded}, source)


def _stem(place: str) -> str:
    """Return the name of a file without its ending, and without the query of a web URI."""
    found = Location.of(place)
    return PurePosixPath(found.path.partition("?")[0] if found.is_web else found.path).stem


def parse_policy(loaded: dict[str, Any], source: str = "policy") -> Policy:
    """Return the policy of parsed YAML, bound to the report's columns. Raises PolicyError."""
    try:
        policy = Policy.model_validate(loaded)
    except ValidationError as error:
        raise PolicyError(f"{source}: wrong policy:\n  " + "\n  ".join(map(_explained, error.errors()))) from None
    for problem in _unknown_names(policy):
        raise PolicyError(f"{source}: {problem}")
    bound: set[str] = set()
    with connect() as connection:
        for overrides in ((), *((override,) for override in policy.overrides)):
            plain = policy.under(overrides)
            for problem in _unqueued(plain):
                raise PolicyError(f"{source}: {problem}" + (f", for {overrides[0].title}" if overrides else ""))
            rules = [rule for rule in plain.rules if rule.when not in bound]
            bind(connection, {rule.name: rule.when for rule in rules}, source)
            bound.update(rule.when for rule in rules)
    return policy


def _explained(error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    quotes = "; YAML took it for something else, so put it in quotes" if error["type"] == "string_type" else ""
    return f"{'.'.join(map(str, error['loc'])) or 'policy'}: {message}{quotes}"


def _unknown_names(policy: Policy) -> Iterator[str]:
    """Say which names are unknown, reserved or used twice."""
    names = [rule.name for rule in policy.rules]
    for name, count in Counter(names).items():
        if count > 1:
            yield f"two rules are called {name!r}"
        if name in (GUARD, ILLEGAL, BLOCKED, OTHERWISE, *JUDGED.values()):
            yield f"the rule name {name!r} is reserved"
    for name in policy.thresholds:
        if not re.fullmatch(THRESHOLD_NAME, name):
            yield f"threshold {name!r}: a name is made of letters, digits and _, and does not begin with a digit"
    for rule in policy.rules:
        for name in thresholds_in(rule.when):
            if name not in policy.thresholds:
                yield f"rule {rule.name!r}: there is no threshold ${name}; {_there_are(policy.thresholds)}"
    for number, override in enumerate(policy.overrides):
        where = f"overrides.{number} ({override.title})"
        if override.region is not None and override.region not in policy.regions:
            yield f"{where}: there is no region {override.region!r}; {_there_are(policy.regions)}"
        for name in override.thresholds.keys() - policy.thresholds.keys():
            yield f"{where}: there is no threshold {name!r}; {_there_are(policy.thresholds)}"
        for name in override.rules.keys() - {*names, OTHERWISE}:
            yield f"{where}: there is no rule {name!r}; {_there_are([*names, OTHERWISE])}"
    yield from _unknown_queues(policy)
    yield from _lenient_about_age(policy)


AGE = "age"
"""Name of the detector of apparent age; what it says only ever escalates."""


def _lenient_about_age(policy: Policy) -> Iterator[str]:
    """Say which rules ask for the apparent age and do not escalate: no model tells an age well enough to
    allow by it."""
    for rule in policy.rules:
        decisions = {rule.decision, *(o.rules[rule.name].decision for o in policy.overrides if rule.name in o.rules)}
        if f"'{AGE}." in rule.when and decisions - {None, Decision.ESCALATE}:
            yield f"rule {rule.name!r} asks for signals['{AGE}.…']: apparent age only ever escalates"


def _unqueued(plain: Policy) -> Iterator[str]:
    """Say which outcomes ask for a person and send their rows to nobody."""
    for name, outcome in [*((f"rule {rule.name!r}", rule) for rule in plain.rules), (OTHERWISE, plain.otherwise)]:
        if outcome.queue == NO_QUEUE and outcome.decision in _ALWAYS_QUEUED:
            yield (
                f"{name}: {outcome.decision} asks for a person, and `queue: none` for nobody: name a queue, or leave "
                f"`queue` out, and its rows go to the queue {str(outcome.decision)!r}"
            )


def _unknown_queues(policy: Policy) -> Iterator[str]:
    for name, queue in queues_named(policy):
        if policy.queues and queue not in policy.queues:
            yield f"{name}: there is no queue {queue!r}; {_there_are(policy.queues)}"


def queues_named(policy: Policy) -> Iterator[tuple[str, str]]:
    """Yield who names a queue, in words, and the queue."""
    found: list[tuple[str, str | None]] = [(f"rule {rule.name!r}", rule.queue) for rule in policy.rules]
    found.append((OTHERWISE, policy.otherwise.queue))
    for number, override in enumerate(policy.overrides):
        found += [(f"overrides.{number}.rules.{name}", change.queue) for name, change in override.rules.items()]
    yield from ((name, queue) for name, queue in found if queue not in (None, NO_QUEUE))


def _there_are(names: Iterable[str]) -> str:
    return f"there are: {', '.join(sorted(names))}" if names else "there are none"
