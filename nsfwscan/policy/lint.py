"""What is wrong with a policy although it binds: rules that can never decide, names that nothing uses.

In: a policy; and, where there are some, counts over real rows (`Overlaps`). Out: findings, a sentence each; none where
all is well. Nothing goes wrong.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy, Rule, queues_named
from nsfwscan.policy.sql import columns_of, condition, connect, parsed, shape_of
from nsfwscan.policy.thresholds import thresholds_in
from nsfwscan.policy.values import Known, read

_COMPARISON = re.compile(r"\s*(\w+)\s*(>=|>|<=|<)\s*\(?\s*(-?\d+(?:\.\d+)?)\s*\)?\s*")
_IMPLIES = {">=": operator.ge, ">": operator.ge, "<=": operator.le, "<": operator.le}
_ONE_ROW = pa.table({"uri": [""]})


def lint(policy: Policy, known: Known | None = None) -> Iterator[str]:
    """What can be told from the policy alone, and from what is known of a run."""
    said: set[str] = set()
    with connect() as connection:
        for overrides in ((), *((override,) for override in policy.overrides)):
            where = f", for {overrides[0].title}" if overrides else ""
            for finding in _unreachable(connection, policy.under(overrides), known):
                if finding not in said:  # an override repeats what holds without it
                    said.add(finding)
                    yield finding + where
    named = {name for rule in policy.rules for name in thresholds_in(rule.when)}
    yield from (f"threshold {name!r} is named by no rule" for name in policy.thresholds if name not in named)
    over = {override.region for override in policy.overrides}
    yield from (f"region {name!r} is named by no override" for name in policy.regions if name not in over)
    sent = {queue for _, queue in queues_named(policy)}
    yield from (f"queue {name!r}: no rule sends anything to it" for name in policy.queues if name not in sent)


def _unreachable(connection: duckdb.DuckDBPyConnection, plain: Policy, known: Known | None) -> Iterator[str]:
    """Rules that ask for what no row has, or that an earlier one leaves no row to, as far as their text shows it."""
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
    """Rules that came before, as far as they can stand in the way of others: found without comparing all with all."""

    def __init__(self) -> None:
        self._all: _Read | None = None
        self._shapes: dict[str, _Read] = {}
        self._comparisons: dict[tuple[str, str], list[_Read]] = {}
        """By column and direction, each of them taking more than those before it."""

    def add(self, read: _Read) -> None:
        """Adds the rule that came last."""
        if read.constant is True and self._all is None:
            self._all = read
        self._shapes.setdefault(read.shape, read)
        if read.comparison is not None:
            column, way, _ = read.comparison
            held = self._comparisons.setdefault((column, way[0]), [])
            if not held or not held[-1].takes_all_of(read):
                held.append(read)

    def shadow_of(self, read: _Read) -> _Read | None:
        """One that takes every row of this one; None where there is none."""
        found = self._all or self._shapes.get(read.shape)
        if found is None and read.comparison is not None:
            column, way, _ = read.comparison
            held = self._comparisons.get((column, way[0]), [])
            if held and held[-1].takes_all_of(read):
                found = next(earlier for earlier in held if earlier.takes_all_of(read))
        return found


@dataclass(frozen=True)
class _Read:
    """A rule's condition, as far as it is understood here."""

    rule: Rule
    shape: str
    constant: bool | None
    """What it always is; None where that depends on the row."""
    comparison: tuple[str, str, float] | None
    """Column, operator, number, where it is just that."""
    findings: tuple[str, ...] = ()

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection, rule: Rule, known: Known | None) -> _Read:
        understood = read(parsed(connection, rule.when), known)
        constant = understood.always
        if constant is None and not columns_of(connection, rule.when):
            [(constant,)] = connection.from_arrow(_ONE_ROW).select(condition(rule.when)).fetchall()
        found = _COMPARISON.fullmatch(rule.when)
        comparison = (found[1].lower(), found[2], float(found[3])) if found else None
        return cls(rule, shape_of(connection, rule.when), constant, comparison, understood.findings)

    def takes_all_of(self, later: _Read) -> bool:
        """Whether every row that a later rule matches is one that this rule matches."""
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
    """Which rules match which rows, and which of them decide, counted over real rows.

    Attributes:
        rows: how many were counted.
        both: for each two rules (in their order) how many rows match both; on the diagonal, one.
        decided: how many rows each rule decides, then `otherwise`, the guard, and an illegal match by itself.
        applied: to how many rows each override applies.
    """

    def __init__(self, policy: Policy) -> None:
        self.decider = Decider(policy)
        rules = len(policy.rules)
        self.rows = 0
        self.both: npt.NDArray[np.int64] = np.zeros((rules, rules), np.int64)
        self.decided: npt.NDArray[np.int64] = np.zeros(rules + 3, np.int64)
        self.applied: npt.NDArray[np.int64] = np.zeros(len(policy.overrides), np.int64)

    def add(self, rows: pa.Table) -> None:
        """Counts rows, which have the columns of the decider. Raises PolicyError."""
        self.rows += rows.num_rows
        matches = self.decider.matches(rows).astype(np.float64)
        self.both += (matches.T @ matches).astype(np.int64)
        rules = len(self.decider.policy.rules)
        found = np.bincount(self.decider.choose(rows) % (2 * rules + 3), minlength=2 * rules + 3)
        self.decided += np.concatenate([found[:rules] + found[rules + 2 : -1], found[rules : rules + 2], found[-1:]])
        self.applied += self.decider.applying(rows).sum(axis=0)

    def findings(self) -> Iterator[str]:
        """Rules that match no row, or rows of which they decide none."""
        rules = self.decider.policy.rules
        for i, rule in enumerate(rules):
            if self.rows and not self.both[i, i] and rule.sample is None:
                yield f"rule {rule.name!r} matches no row of {self.rows:,}"
            if self.both[i, i] and not self.decided[i]:
                before = [repr(earlier.name) for j, earlier in enumerate(rules[:i]) if self.both[i, j]]
                few = [*before[:3], *(["others"] if len(before) > 3 else [])]
                to = " and ".join(few) or "the guard, since none of them has a score"
                yield f"rule {rule.name!r} matches rows ({self.both[i, i]:,}) and decides none: they go to {to}"
