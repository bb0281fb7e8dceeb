"""Find what is wrong with a policy that binds: rules that never decide, unused names, banks it decides otherwise.

Findings are sentences. `lint`, `bank_notes` and `model_notes` read the policy's text; `Overlaps` counts real rows.
"""

from __future__ import annotations

import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import OTHERWISE, Override, Policy, Rule, queues_named
from nsfwscan.policy.sql import MATCH_NAMES, SCORE_NAMES, columns_of, condition, connect, parsed, shape_of
from nsfwscan.policy.thresholds import thresholds_in
from nsfwscan.policy.values import Known, Value, asked_by, read, signal_of
from nsfwscan.schema import BankKind, Decision

_COMPARISON = re.compile(r"\s*(\w+)\s*(>=|>|<=|<)\s*\(?\s*(-?\d+(?:\.\d+)?)\s*\)?\s*")
_IMPLIES = {">=": operator.ge, ">": operator.ge, "<=": operator.le, "<": operator.le}
_MEANS = {
    BankKind.BLOCK: (Decision.BLOCK, Decision.ESCALATE),
    BankKind.ALLOW: (Decision.ALLOW,),
    BankKind.ILLEGAL: (Decision.ESCALATE,),
}
"""Decisions that agree with the kind of a hash bank."""

Findings = Callable[[duckdb.DuckDBPyConnection, Policy], Iterator[str]]


def lint(policy: Policy, known: Known | None = None) -> Iterator[str]:
    """Yield what is wrong with a policy, as far as its text and what is known of a run show it."""
    yield from _under_each_override(policy, lambda connection, plain: _unreachable(connection, plain, known))
    named = {name for rule in policy.rules for name in thresholds_in(rule.when)}
    yield from (f"threshold {name!r} is named by no rule" for name in policy.thresholds if name not in named)
    over = {override.region for override in policy.overrides}
    yield from (f"region {name!r} is named by no override" for name in policy.regions if name not in over)
    begun = {name.partition(".")[0] for one in asked_by(policy) if (name := signal_of(one)) is not None}
    yield from (f"seat {name!r} is asked for by no rule" for name in policy.seats if name not in begun)
    sent = {queue for _, queue in queues_named(policy)}
    yield from (f"queue {name!r}: no rule sends anything to it" for name in policy.queues if name not in sent)


def bank_notes(policy: Policy, banks: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield where a policy may decide matches of hash banks, each a name and a kind, otherwise than their kinds say."""
    for name, text in banks:
        kind = BankKind(text)
        if kind in _MEANS:
            for note in _under_each_override(policy, partial(_contrary, name=name, kind=kind)):
                yield f"bank {name!r} ({kind}): {note}"


def model_notes(policy: Policy, models: Mapping[str, str]) -> Iterator[str]:
    """Yield where a policy's thresholds were made for other weights than a run has.

    Args:
        models: SHA-256 of the `model`, and of the detectors by their names.
    """
    for name, digests in policy.made_for.items():
        found = models.get(name)
        if found is not None and not found.startswith(digests):
            what = "the model" if name == "model" else f"the detector {name}"
            yield (
                f"the thresholds of {policy.identity} were made for other weights of {what} ({', '.join(digests)}, not "
                f"{found[:16]}): measure them again (nsfwscan-train evaluate --write-policy), or name its policy"
            )


def _contrary(connection: duckdb.DuckDBPyConnection, plain: Policy, name: str, kind: BankKind) -> Iterator[str]:
    """Yield which outcomes may stand in matches of a bank, contrary to its kind; `decide.py` has what a rule may do."""
    values: dict[str, tuple[Value, ...]] = {"match_bank": (name,), "match_kind": (str(kind),)}
    named = Known(fixed=values)
    unnamed = Known(fixed={**values, **dict.fromkeys(SCORE_NAMES, (None,))})
    for rule in plain.rules:
        names_match = not MATCH_NAMES.isdisjoint(columns_of(connection, rule.when))
        agrees = rule.decision in _MEANS[kind]
        if not names_match and kind is not BankKind.ALLOW and not (kind is BankKind.BLOCK and agrees):
            continue  # it does not decide such a match
        always = read(parsed(connection, rule.when), named if names_match else unnamed).always
        if always is not False and not agrees:
            yield (
                f"rule {rule.name!r} says {rule.decision}, which does not hold: an illegal match is always escalated"
                if kind is BankKind.ILLEGAL
                else f"rule {rule.name!r} {'decides' if always else 'may decide'} its matches as {rule.decision}"
            )
        if always and rule.sample is None:
            return
    if kind is BankKind.ALLOW and plain.otherwise.decision not in _MEANS[kind]:
        yield f"{OTHERWISE} decides its matches as {plain.otherwise.decision}, since no rule that names them does"


def _under_each_override(policy: Policy, findings: Findings) -> Iterator[str]:
    """Yield findings about the policy without overrides, then what each override alone adds to them."""
    said: set[str] = set()
    under: list[tuple[Override, ...]] = [(), *((override,) for override in policy.overrides)]
    with connect() as connection:
        for overrides in under:
            where = f", for {overrides[0].title}" if overrides else ""
            for finding in findings(connection, policy.under(overrides)):
                if finding not in said:
                    said.add(finding)
                    yield finding + where


def _unreachable(connection: duckdb.DuckDBPyConnection, plain: Policy, known: Known | None) -> Iterator[str]:
    """Yield rules that are never true or never reached, as far as their text shows it."""
    before = _Earlier()
    for rule in plain.rules:
        read = _Read.of(connection, rule, known)
        shadow = before.shadow_of(read)
        yield from (f"rule {rule.name!r}: {finding}" for finding in read.findings)
        if read.constant is False and read.findings:
            pass
        elif read.constant is False:
            yield f"rule {rule.name!r} is never true"
        elif shadow is not None:
            yield f"rule {rule.name!r} is never reached: {shadow.rule.name!r} before it takes every row that it matches"
        if rule.sample is None:
            before.add(read)


class _Earlier:
    """Rules so far, indexed so that no pair of rules has to be compared with each other."""

    def __init__(self) -> None:
        self._all: _Read | None = None
        self._shapes: dict[str, _Read] = {}
        self._comparisons: dict[tuple[str, str], list[_Read]] = {}
        """By column and direction; each takes more rows than those before it."""

    def add(self, read: _Read) -> None:
        """Add the next rule."""
        if read.constant is True and self._all is None:
            self._all = read
        self._shapes.setdefault(read.shape, read)
        if read.comparison is not None:
            column, way, _ = read.comparison
            held = self._comparisons.setdefault((column, way[0]), [])
            if not held or not held[-1].takes_all_of(read):
                held.append(read)

    def shadow_of(self, read: _Read) -> _Read | None:
        """Return a rule that takes every row of this one; None where no rule does."""
        found = self._all or self._shapes.get(read.shape)
        if found is None and read.comparison is not None:
            column, way, _ = read.comparison
            held = self._comparisons.get((column, way[0]), [])
            if held and held[-1].takes_all_of(read):
                found = next(earlier for earlier in held if earlier.takes_all_of(read))
        return found


@dataclass(frozen=True)
class _Read:
    """A rule's condition, as far as this module understands it."""

    rule: Rule
    shape: str
    constant: bool | None
    """Its value for all rows; None where that depends on the row."""
    comparison: tuple[str, str, float] | None
    """Column, operator and number, where the condition is just that."""
    findings: tuple[str, ...] = ()

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, rule: Rule, known: Known | None) -> _Read:
        understood = read(parsed(connection, rule.when), known)
        constant = understood.always
        if constant is None and not columns_of(connection, rule.when):
            [(constant,)] = connection.from_arrow(pa.table({"uri": [""]})).select(condition(rule.when)).fetchall()
        found = _COMPARISON.fullmatch(rule.when)
        comparison = (found[1].lower(), found[2], float(found[3])) if found else None
        return cls(rule, shape_of(connection, rule.when), constant, comparison, understood.findings)

    def takes_all_of(self, later: _Read) -> bool:
        """Return whether this rule is true of every row that a later rule is true of."""
        if self.constant is True or self.shape == later.shape:
            return True
        if self.comparison is None or later.comparison is None:
            return False
        column, way, number = self.comparison
        other, other_way, other_number = later.comparison
        if column != other or way[0] != other_way[0]:
            return False
        if other_number == number:
            return way == other_way or len(way) == 2
        return bool(_IMPLIES[way](other_number, number))


class Overlaps:
    """Counts, over real rows, of which rules are true of them, and which decide them.

    Attributes:
        rows: how many were counted.
        both: for each pair of rules, in their order, how many rows both are true of; on the diagonal, one.
        decided: how many rows each rule decides, by its name; `otherwise` and what is fixed in code (`no-score`,
            `block-match`, `illegal-match`) among them.
        matched: how many matches of each hash bank end in which decision: (bank, kind, decision).
        applied: to how many rows each override applies.
    """

    def __init__(self, policy: Policy) -> None:
        self.decider = Decider(policy)
        rules = len(policy.rules)
        self.rows = 0
        self.both: npt.NDArray[np.int64] = np.zeros((rules, rules), np.int64)
        self.decided: Counter[str] = Counter()
        self.matched: Counter[tuple[str, str, str]] = Counter()
        self.applied: npt.NDArray[np.int64] = np.zeros(len(policy.overrides), np.int64)
        self._true_of_matches: npt.NDArray[np.int64] = np.zeros(rules, np.int64)

    @property
    def columns(self) -> list[str]:
        """Columns that `add` needs."""
        return list(dict.fromkeys([*self.decider.columns, "match_bank", "match_kind"]))

    def add(self, rows: pa.Table) -> None:
        """Count rows, which have `columns`. Raises PolicyError."""
        self.rows += rows.num_rows
        matches = self.decider.matches(rows).astype(np.float64)
        self.both += (matches.T @ matches).astype(np.int64)
        chosen = self.decider.choose(rows)
        choices = self.decider.choices
        for index, count in enumerate(np.bincount(chosen, minlength=len(choices)).tolist()):
            self.decided[choices[index].rule] += count
        known = np.asarray(rows["match_kind"].is_valid().to_numpy())
        self._true_of_matches += matches[known].sum(axis=0).astype(np.int64)
        banks = rows.select(["match_bank", "match_kind"]).filter(pa.array(known)).to_pylist()
        decisions = [str(choices[index].outcome.decision) for index in chosen[known]]
        self.matched.update(
            (row["match_bank"], row["match_kind"], decision) for row, decision in zip(banks, decisions, strict=True)
        )
        self.applied += self.decider.applying(rows).sum(axis=0)

    def findings(self) -> Iterator[str]:
        """Yield the rules that are true of no row, and those that are true of rows and decide none."""
        rules = self.decider.policy.rules
        for i, rule in enumerate(rules):
            true_of = self.both[i, i]
            if self.rows and not true_of and rule.sample is None:
                yield f"rule {rule.name!r} matches no row of {self.rows:,}"
            if true_of and not self.decided[rule.name]:
                before = [repr(earlier.name) for j, earlier in enumerate(rules[:i]) if self.both[i, j]]
                few = [*before[:3], *(["others"] if len(before) > 3 else [])]
                no_rule = (
                    "what the kind of their hash bank says, since it does not name the match"
                    if true_of == self._true_of_matches[i]
                    else "the guard, since none of them has a score"
                )
                to = " and ".join(few) or no_rule
                yield f"rule {rule.name!r} matches rows ({true_of:,}) and decides none: they go to {to}"
