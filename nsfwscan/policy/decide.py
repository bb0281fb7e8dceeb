"""Rows to decisions: the one function for commit, replay and `classify`, so that they agree by construction.

In: a table with the columns that the policy asks for. Out: the decision columns. A rule that cannot be evaluated on a
row is a `PolicyError`. Two things are here, in code, where no policy can delete them:

- A row that nothing has looked at never becomes `allow`, neither by falling through nor by a rule. It takes a score, a
  match in an `allow` bank, or a filter that knew it as benign.
- A row that is in an illegal bank is escalated, hidden and of the highest severity. The first rule that matches it and
  escalates may name the queue and the skill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from nsfwscan.policy.rules import GUARD, ILLEGAL, OTHERWISE, Outcome, Policy, Rule
from nsfwscan.policy.signals import as_maps
from nsfwscan.policy.sql import VISIBLE, columns_of, condition, connect, in_sample, lies_in, limited
from nsfwscan.schema import DECISION_COLUMNS, SIGNALS, BankKind, Decision, Shield

Indices = npt.NDArray[np.int32]
_UNDETERMINED = Outcome(decision=Decision.UNDETERMINED)
_ILLEGAL = Outcome(decision=Decision.ESCALATE, queue="legal", shield=Shield.HIDDEN, severity=4)
_MOST_S = 600.0
"""Of all rules on one table of rows, which takes well under a second; no rule keeps a commit for ever."""
_LOOKED_AT = ("nsfw_score", "match_kind", "filtered_by")
"""By what is here in code."""


@dataclass(frozen=True)
class Choice:
    """What may become of a row: an outcome, the rule that stands for it, and who decided."""

    rule: str
    outcome: Outcome
    by: str = "policy"


def choices_of(plain: Policy) -> list[Choice]:
    """All that a plain policy may choose: its rules, `otherwise`, the guard; and for illegal matches the rules again,
    as far as they escalate, and what stands where none does."""
    rules = [Choice(rule.name, rule) for rule in plain.rules]
    settled = [Choice(OTHERWISE, plain.otherwise), Choice(GUARD, _UNDETERMINED, "guard")]
    return [*rules, *settled, *(Choice(rule.name, _escalated(rule), "bank") for rule in plain.rules), _NO_RULE]


def _escalated(rule: Rule) -> Outcome:
    return _ILLEGAL.model_copy(update={"queue": rule.queue or _ILLEGAL.queue, "skill": rule.skill})


_NO_RULE = Choice(ILLEGAL, _ILLEGAL, "bank")


class Decider:
    """A policy, ready to decide tables of any length.

    Attributes:
        policy: as it was loaded.
        columns: those that it looks at; a table must have them, and may have others.
        choices: what `choose` gives indices of. It grows as overrides apply.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._connection = connect()
        self.choices: list[Choice] = []
        self._plain: dict[str, tuple[Policy, int]] = {}
        self._rules_under("0" * len(policy.overrides))
        self.columns = self._columns_asked_for()

    def __call__(self, table: pa.Table) -> pa.Table:
        """The decision columns (`DECISION_COLUMNS`) of a table, in the same order.

        Raises:
            PolicyError: a rule cannot be evaluated on a row, as where a cast does not take its value.
        """
        chosen, choices = pa.array(self.choose(table)), self.choices

        def column(value: Callable[[Choice], Any], kind: pa.DataType) -> pa.Array:
            return pa.array(map(value, choices), kind).take(chosen)

        values = {
            "decision": column(lambda choice: str(choice.outcome.decision), pa.string()),
            "rule": column(lambda choice: choice.rule, pa.string()),
            "queue": column(lambda choice: choice.outcome.queue, pa.string()),
            "skill": column(lambda choice: choice.outcome.skill, pa.string()),
            "shield": column(lambda choice: str(choice.outcome.shield), pa.string()),
            "severity": column(lambda choice: choice.outcome.severity, pa.int32()),
            "decided_by": _with_filters(column(lambda choice: choice.by, pa.string()), self._allowed(chosen), table),
            "policy": pa.repeat(pa.scalar(self.policy.identity, pa.string()), len(chosen)),
        }
        return pa.table([values[f.name] for f in DECISION_COLUMNS], schema=pa.schema(DECISION_COLUMNS))

    def choose(self, table: pa.Table) -> Indices:
        """For each row the index of its outcome. Raises PolicyError, as calling it does."""
        rows = _for_rules(table.select(self.columns))
        chosen = np.zeros(rows.num_rows, np.int32)
        for overrides, here in self._places(rows):
            plain, start = self._rules_under(overrides)
            part = rows if here is None else rows.filter(pa.array(here))
            found = start + self._settled(self._first_match(part, plain.rules), part, plain)
            chosen[slice(None) if here is None else here] = found
        return chosen

    def matches(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """For each row (first axis) and rule (second axis) whether the rule matches, whatever stands before it."""
        rows = _for_rules(table.select(self.columns))
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
            self._plain[applying] = plain, len(self.choices)
            self.choices += choices_of(plain)
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

    def _settled(self, chosen: Indices, rows: pa.Table, plain: Policy) -> Indices:
        """The choice, but for what no policy decides: see the top of this module."""
        rules = plain.rules
        lenient = np.array([rule.decision is Decision.ALLOW for rule in rules] + [True])
        scoreless, kinds = _nulls(rows["nsfw_score"]), rows["match_kind"]
        if not scoreless.any() and kinds.null_count == len(kinds):
            return chosen
        unsettled = _nulls(rows["filtered_by"]) & ~_is(kinds, BankKind.ALLOW)
        chosen = np.where(scoreless & unsettled & lenient[chosen], np.int32(len(rules) + 1), chosen)
        illegal = _is(kinds, BankKind.ILLEGAL)
        if illegal.any():
            chosen[illegal] = self._escalating(rows.filter(pa.array(illegal)), rules)
        return chosen

    def _escalating(self, rows: pa.Table, rules: tuple[Rule, ...]) -> Indices:
        """For each illegal match the choice of the first rule that is true and escalates."""
        places = [i for i, rule in enumerate(rules) if rule.decision is Decision.ESCALATE] + [len(rules)]
        first = self._first_match(rows, tuple(rules[i] for i in places[:-1]))
        return np.array(places, np.int32)[first] + np.int32(len(rules) + 2)

    def _allowed(self, chosen: pa.Array) -> pa.Array:
        return pa.array([choice.outcome.decision is Decision.ALLOW for choice in self.choices]).take(chosen)

    def _evaluated(self, rows: pa.Table, expression: duckdb.Expression) -> pa.Array:
        try:
            with limited(self._connection, _MOST_S):
                found = self._connection.from_arrow(rows).select(expression.alias("found")).to_arrow_table()
        except duckdb.Error as error:
            raise PolicyError(
                f"a rule of {self.policy.identity} fails on a row: {str(error).splitlines()[0]}"
            ) from error
        column = found["found"].combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column

    def _columns_asked_for(self) -> list[str]:
        policy, found = self.policy, set(_LOOKED_AT)
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


def _nulls(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.is_null().to_numpy())


def _is(column: pa.ChunkedArray, value: str) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(column, value), False).to_numpy())


def _with_filters(by: pa.Array, allowed: pa.Array, table: pa.Table) -> pa.Array:
    """Who decided, with the filter where what it settled is allowed."""
    filters = table["filtered_by"]
    if filters.null_count == len(filters):
        return by
    unscored = pc.and_(pc.is_valid(filters), pc.invert(pc.is_finite(pc.fill_null(table["nsfw_score"], float("nan")))))
    return pc.if_else(pc.and_(unscored, allowed), "filter", by).combine_chunks()


def _mark(applies: duckdb.Expression) -> duckdb.Expression:
    return duckdb.CaseExpression(applies, ConstantExpression("1")).otherwise(ConstantExpression("0"))


def _for_rules(table: pa.Table) -> pa.Table:
    """The columns as rules see them: signals as a map; NaN and infinity as null, since in SQL `NaN >= 0.95` is true,
    and a score that is no number must not decide."""
    for i, field in enumerate(table.schema):
        if field.name == "signals":
            table = table.set_column(i, VISIBLE.field("signals"), as_maps(table[field.name].cast(SIGNALS)))
        if pa.types.is_floating(field.type):
            column = table[field.name]
            table = table.set_column(i, field, pc.if_else(pc.is_finite(column), column, None))
    return table
