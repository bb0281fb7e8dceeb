"""Rows to decisions: the one function for commit, replay and `classify`, so that they agree by construction.

In: a table with the columns that the policy asks for. Out: the decision columns. A row without a score never becomes
`allow`, neither by falling through nor by a rule: the guard is here, in code, where no policy can delete it. A rule
that cannot be evaluated on a row is a `PolicyError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from operator import or_
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ConstantExpression, FunctionExpression

from nsfwscan.errors import PolicyError
from nsfwscan.policy.binding import VISIBLE, columns_of, condition, connect, in_sample, lies_in
from nsfwscan.policy.rules import GUARD, OTHERWISE, Outcome, Policy, Rule
from nsfwscan.schema import DECISION_COLUMNS, Decision

Indices = npt.NDArray[np.int32]
_UNDETERMINED = Outcome(decision=Decision.UNDETERMINED)


class Decider:
    """A policy, ready to decide tables of any length.

    Attributes:
        policy: as it was loaded.
        columns: those that it looks at; a table must have them, and may have others.
        outcomes: what `choose` gives indices of: a rule's name and its outcome. It grows as overrides apply.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._connection = connect()
        self.outcomes: list[tuple[str, Outcome]] = []
        self._plain: dict[str, tuple[Policy, int]] = {}
        self._rules_under("0" * len(policy.overrides))
        self.columns = self._columns_asked_for()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The decision columns (`DECISION_COLUMNS`) of a table, in the same order.

        Raises:
            PolicyError: a rule cannot be evaluated on a row, as where a cast does not take its value.
        """
        chosen, outcomes = pa.array(self.choose(table)), self.outcomes

        def column(value: Callable[[str, Outcome], Any], kind: pa.DataType) -> pa.Array:
            return pa.array([value(name, outcome) for name, outcome in outcomes], kind).take(chosen)

        values = {
            "decision": column(lambda _, outcome: str(outcome.decision), pa.string()),
            "rule": column(lambda name, _: name, pa.string()),
            "queue": column(lambda _, outcome: outcome.queue, pa.string()),
            "skill": column(lambda _, outcome: outcome.skill, pa.string()),
            "shield": column(lambda _, outcome: str(outcome.shield), pa.string()),
            "severity": column(lambda _, outcome: outcome.severity, pa.int32()),
            "decided_by": column(lambda name, _: "guard" if name == GUARD else "policy", pa.string()),
            "policy": pa.repeat(pa.scalar(self.policy.identity, pa.string()), len(chosen)),
        }
        return pa.table([values[f.name] for f in DECISION_COLUMNS], schema=pa.schema(DECISION_COLUMNS))

    def choose(self, table: pa.Table) -> Indices:
        """For each row the index of its outcome. Raises PolicyError, as calling it does."""
        rows = _finite(table.select(self.columns))
        chosen = np.zeros(rows.num_rows, np.int32)
        for overrides, here in self._places(rows):
            plain, start = self._rules_under(overrides)
            part = rows if here is None else rows.filter(pa.array(here))
            found = start + self._guarded(self._first_match(part, plain.rules), part, start, len(plain.rules))
            chosen[slice(None) if here is None else here] = found
        return chosen

    def matches(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """For each row (first axis) and rule (second axis) whether the rule matches, whatever stands before it."""
        rows = _finite(table.select(self.columns))
        found = np.zeros((rows.num_rows, len(self.policy.rules)), bool)
        for overrides, here in self._places(rows):
            plain, _ = self._rules_under(overrides)
            part = rows if here is None else rows.filter(pa.array(here))
            for i, rule in enumerate(plain.rules):
                matched = self._evaluated(part, matching(rule))
                found[slice(None) if here is None else here, i] = matched.to_numpy(zero_copy_only=False)
        return found

    def applying(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """For each row (first axis) and override (second axis) whether it applies."""
        rows = table.select(self.columns)
        found = np.zeros((rows.num_rows, len(self.policy.overrides)), bool)
        for overrides, here in self._places(rows):
            found[slice(None) if here is None else here] = [applies == "1" for applies in overrides]
        return found

    def _rules_under(self, applying: str) -> tuple[Policy, int]:
        """The plain policy where these overrides apply (a `1` for each that does), and where its outcomes begin."""
        if applying not in self._plain:
            pairs = zip(self.policy.overrides, applying, strict=True)
            plain = self.policy.under([override for override, applies in pairs if applies == "1"])
            self._plain[applying] = plain, len(self.outcomes)
            self.outcomes += [*((r.name, r) for r in plain.rules), (OTHERWISE, plain.otherwise), (GUARD, _UNDETERMINED)]
        return self._plain[applying]

    def _places(self, rows: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.bool_] | None]]:
        """Which overrides apply, as `_rules_under` takes it, and to which rows; None: to all."""
        if not self.policy.overrides:
            yield "", None
            return
        marks = [_mark(reduce(or_, map(lies_in, self.policy.places(override)))) for override in self.policy.overrides]
        found = self._evaluated(rows, FunctionExpression("concat", *marks)).dictionary_encode()
        codes = found.indices.to_numpy()
        for code, applying in enumerate(found.dictionary.to_pylist()):
            yield applying, codes == code

    def _first_match(self, rows: pa.Table, rules: tuple[Rule, ...]) -> Indices:
        """For each row the index of the first rule that is true; the number of rules where none is."""
        if not rules:
            return np.zeros(rows.num_rows, np.int32)
        case = duckdb.CaseExpression(matching(rules[0]), ConstantExpression(0))
        for i, rule in enumerate(rules[1:], 1):
            case = case.when(matching(rule), ConstantExpression(i))
        found = self._evaluated(rows, case.otherwise(ConstantExpression(len(rules))).cast("INTEGER"))
        return np.asarray(found.to_numpy(), np.int32)

    def _guarded(self, chosen: Indices, rows: pa.Table, start: int, otherwise: int) -> Indices:
        """The choice, but for rows without a score that it would allow, or that no rule speaks of."""
        outcomes = [outcome for _, outcome in self.outcomes[start : start + otherwise + 2]]
        lenient = np.array([outcome.decision is Decision.ALLOW for outcome in outcomes])
        lenient[otherwise] = True
        scoreless = rows["nsfw_score"].combine_chunks().is_null().to_numpy(zero_copy_only=False)
        return np.where(scoreless & lenient[chosen], np.int32(otherwise + 1), chosen)

    def _evaluated(self, rows: pa.Table, expression: duckdb.Expression) -> pa.Array:
        try:
            found = self._connection.from_arrow(rows).select(expression.alias("found")).to_arrow_table()
        except duckdb.Error as error:
            raise PolicyError(
                f"a rule of {self.policy.identity} fails on a row: {str(error).splitlines()[0]}"
            ) from error
        column = found["found"].combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column

    def _columns_asked_for(self) -> list[str]:
        policy, found = self.policy, {"nsfw_score"}  # for the guard
        if policy.overrides or any(rule.sample is not None for rule in policy.rules):
            found.add("uri")
        for rule in policy.under().rules:
            found |= columns_of(self._connection, rule.when)
        return [name for name in VISIBLE.names if name in found]


def matching(rule: Rule) -> duckdb.Expression:
    """Whether a row matches a rule: its condition is true, and the row is of its sample, if it takes one."""
    if rule.sample is None:
        return condition(rule.when)
    return condition(rule.when) & in_sample(rule.sample, rule.seed, rule.name)


def _mark(applies: duckdb.Expression) -> duckdb.Expression:
    return duckdb.CaseExpression(applies, ConstantExpression("1")).otherwise(ConstantExpression("0"))


def _finite(table: pa.Table) -> pa.Table:
    """NaN and infinity as null: in SQL `NaN >= 0.95` is true, and a score that is no number must not decide."""
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table[field.name]
            table = table.set_column(i, field, pc.if_else(pc.is_finite(column), column, None))
    return table
