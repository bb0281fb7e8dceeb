"""Decide rows by a policy: the one function for commit, replay and `classify`, so that they agree by construction.

Three things are fixed here, in code, where no policy can delete them:

- A row that nothing has looked at never becomes `allow`: it takes a score, a match in an `allow` bank, or a filter.
  Where a rule asks for `calibrated_score`, it takes that one, too.
- A match of an `illegal` bank is escalated, hidden and of the highest severity. The first true rule that escalates may
  name its queue and skill.
- A match of a `block` bank is blocked. Only a rule that names the match (`sql.MATCH_NAMES`) may say otherwise.

What people decided holds, too, whatever the scores and the banks say, but for illegal matches: what they removed is
blocked and what they approved is allowed, both without a queue; what they escalated or disagree on goes to a `lead`.
Only a rule that names the verdict (`sql.VERDICT_NAMES`) may say otherwise. What a person approved was looked at.

A match of an `allow` bank is decided by all rules, as a scan decides it, in which no model sees a matched image: a rule
that does not name the match finds no score in its row, though a carried row may have one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from nsfwscan.policy.rules import BLOCKED, GUARD, ILLEGAL, JUDGED, NO_QUEUE, OTHERWISE, Outcome, Policy, Rule
from nsfwscan.policy.signals import as_maps
from nsfwscan.policy.sql import (
    MATCH_NAMES,
    SCORE_NAMES,
    VERDICT_NAMES,
    VISIBLE,
    columns_of,
    condition,
    connect,
    in_sample,
    lies_in,
    limited,
)
from nsfwscan.schema import (
    CALIBRATED,
    DECISION_COLUMNS,
    DUPLICATE_COLUMNS,
    FLAGGED,
    SIGNALS,
    VERDICT_COLUMNS,
    BankKind,
    Decision,
    Shield,
    StandingVerdict,
)

Indices = npt.NDArray[np.int32]
UNDETERMINED_OUTCOME = Outcome(decision=Decision.UNDETERMINED)
BLOCKED_OUTCOME = Outcome(decision=Decision.BLOCK, queue="known", shield=Shield.BLUR, severity=3)
ILLEGAL_OUTCOME = Outcome(decision=Decision.ESCALATE, queue="legal", shield=Shield.HIDDEN, severity=4)
_FOR_A_LEAD = Outcome(decision=Decision.ESCALATE, skill="lead", shield=Shield.BLUR, severity=3)
JUDGED_OUTCOMES = {
    StandingVerdict.APPROVE: Outcome(decision=Decision.ALLOW),
    StandingVerdict.REMOVE: Outcome(decision=Decision.BLOCK, queue=NO_QUEUE, shield=Shield.BLUR, severity=3),
    StandingVerdict.ESCALATE: _FOR_A_LEAD,
    StandingVerdict.DISPUTED: _FOR_A_LEAD,
}
_MOST_S = 600.0
"""Limit for all rules on one table of rows, which takes well under a second: no rule may hold up a commit for ever."""
_LOOKED_AT = ("nsfw_score", "match_kind", "filtered_by", "verdict")
"""Columns that this module itself looks at."""


@dataclass(frozen=True)
class Choice:
    """One possible end of a row: an outcome with its final queue, the rule it is reported under, and who decided."""

    rule: str
    outcome: Outcome
    by: str = "policy"


_GUARD, _BLOCK, _ESCALATE, _JUDGED = 1, 2, 3, 4
_BY_RULE = _JUDGED + len(JUDGED)
"""Where these choices stand after those of the rules; see `choices_of`."""


def choices_of(plain: Policy) -> list[Choice]:
    """List all choices of a plain policy: one for each rule, those that are built in, and the rules again for illegal
    matches."""
    return [
        *(Choice(rule.name, _queued(rule)) for rule in plain.rules),
        Choice(OTHERWISE, _queued(plain.otherwise)),
        Choice(GUARD, _queued(UNDETERMINED_OUTCOME), "guard"),
        Choice(BLOCKED, BLOCKED_OUTCOME, "bank"),
        Choice(ILLEGAL, ILLEGAL_OUTCOME, "bank"),
        *(Choice(rule, _queued(JUDGED_OUTCOMES[verdict]), "person") for verdict, rule in JUDGED.items()),
        *(Choice(rule.name, _escalated(rule), "bank") for rule in plain.rules),
    ]


def _queued(outcome: Outcome) -> Outcome:
    return outcome if outcome.queue == outcome.sends_to else outcome.model_copy(update={"queue": outcome.sends_to})


def _escalated(rule: Rule) -> Outcome:
    queue = ILLEGAL_OUTCOME.queue if rule.queue in (None, NO_QUEUE) else rule.queue
    return ILLEGAL_OUTCOME.model_copy(update={"queue": queue, "skill": rule.skill})


class Decider:
    """A policy, ready to decide tables of any length, also in several threads.

    Attributes:
        policy: as it was loaded.
        columns: what a table must have; it may have others.
        choices: what `choose` returns indices of. It grows as overrides apply.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._connection = connect()
        self.choices: list[Choice] = []
        self._plain: dict[str, tuple[Policy, int]] = {}
        self._lock = threading.Lock()
        self._rules_under("0" * len(policy.overrides))
        asked = [columns_of(self._connection, rule.when) for rule in policy.under().rules]
        self.naming = tuple(not MATCH_NAMES.isdisjoint(columns) for columns in asked)
        """For each rule whether it names the match."""
        self.naming_verdict = tuple(not VERDICT_NAMES.isdisjoint(columns) for columns in asked)
        """For each rule whether it names the verdict."""
        needed = set(_LOOKED_AT).union(*asked)
        if policy.overrides or any(rule.sample is not None for rule in policy.rules):
            needed.add("uri")
        self.columns = [name for name in VISIBLE.names if name in needed]

    def __call__(self, table: pa.Table, chosen: Indices | None = None) -> pa.Table:
        """Return the decision columns (`DECISION_COLUMNS`) of a table, in the same order, by what `choose` returned for
        it. Raises PolicyError where a rule cannot be evaluated on a row, for instance because a cast does not take its
        value."""
        places, choices = pa.array(self.choose(table) if chosen is None else chosen), self.choices

        def column(value: Callable[[Choice], Any], kind: pa.DataType) -> pa.Array:
            return pa.array(map(value, choices), kind).take(places)

        allowed = column(lambda choice: choice.outcome.decision is Decision.ALLOW, pa.bool_())
        values = {
            "decision": column(lambda choice: str(choice.outcome.decision), pa.string()),
            "rule": column(lambda choice: choice.rule, pa.string()),
            "queue": column(lambda choice: choice.outcome.queue, pa.string()),
            "skill": column(lambda choice: choice.outcome.skill, pa.string()),
            "shield": column(lambda choice: str(choice.outcome.shield), pa.string()),
            "severity": column(lambda choice: choice.outcome.severity, pa.int32()),
            "decided_by": _with_filters(column(lambda choice: choice.by, pa.string()), allowed, table),
            "policy": pa.repeat(pa.scalar(self.policy.identity, pa.string()), len(places)),
        }
        return pa.table([values[f.name] for f in DECISION_COLUMNS], schema=pa.schema(DECISION_COLUMNS))

    def choose(self, table: pa.Table) -> Indices:
        """Return for each row the index of its choice. Raises PolicyError, as calling the decider does."""
        rows = _for_rules(_asked(table, self.columns))
        chosen = np.zeros(rows.num_rows, np.int32)
        for overrides, here, part in self._places(rows):
            plain, start = self._rules_under(overrides)
            chosen[here] = start + self._guarded(self._first_match(part, plain.rules), part, plain)
        return chosen

    def flagged(self, chosen: Indices) -> npt.NDArray[np.bool_]:
        """Return which of these choices are flagged (`FLAGGED`)."""
        return np.array([choice.outcome.decision in FLAGGED for choice in self.choices])[chosen]

    def matches(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Return for each row (first axis) and rule (second axis) whether the rule is true, whatever precedes it."""
        rows = _for_rules(_asked(table, self.columns))
        found = np.zeros((rows.num_rows, len(self.policy.rules)), bool)
        for overrides, here, part in self._places(rows):
            for i, rule in enumerate(self._rules_under(overrides)[0].rules):
                found[here, i] = self._evaluated(part, matching(rule)).to_numpy(zero_copy_only=False)
        return found

    def applying(self, table: pa.Table) -> npt.NDArray[np.bool_]:
        """Return for each row (first axis) and override (second axis) whether it applies."""
        rows = _asked(table, self.columns)
        found = np.zeros((rows.num_rows, len(self.policy.overrides)), bool)
        for overrides, here, _ in self._places(rows):
            found[here] = [applies == "1" for applies in overrides]
        return found

    def _rules_under(self, applying: str) -> tuple[Policy, int]:
        """Return the plain policy where these overrides apply (`1` for each that does), and where its choices begin."""
        with self._lock:
            if applying not in self._plain:
                pairs = zip(self.policy.overrides, applying, strict=True)
                plain = self.policy.under([override for override, applies in pairs if applies == "1"])
                self._plain[applying] = plain, len(self.choices)
                self.choices += choices_of(plain)
            return self._plain[applying]

    def _places(self, rows: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.bool_] | slice, pa.Table]]:
        """Yield which overrides apply, as `_rules_under` takes it, with the index of their rows, and these rows."""
        if not self.policy.overrides:
            yield "", slice(None), rows
            return
        marks = [
            duckdb.CaseExpression(reduce(or_, map(lies_in, self.policy.places(override))), ConstantExpression("1"))
            .otherwise(ConstantExpression("0"))
            for override in self.policy.overrides
        ]  # fmt: skip
        found = self._evaluated(rows, FunctionExpression("concat", *marks)).dictionary_encode()
        codes = found.indices.to_numpy()
        for code, applying in enumerate(found.dictionary.to_pylist()):
            yield applying, codes == code, rows.filter(pa.array(codes == code))

    def _first_match(self, rows: pa.Table, rules: tuple[Rule, ...]) -> Indices:
        """Return for each row the index of the first true rule; the number of rules where none is true."""
        if not rules:
            return np.zeros(rows.num_rows, np.int32)
        case = duckdb.CaseExpression(matching(rules[0]), ConstantExpression(0))
        for i, rule in enumerate(rules[1:], 1):
            case = case.when(matching(rule), ConstantExpression(i))
        found = self._evaluated(rows, case.otherwise(ConstantExpression(len(rules))).cast("INTEGER"))
        return np.array(found.to_numpy(), np.int32)  # a copy, since Arrow's memory is read-only

    def _first_of(self, rows: pa.Table, rules: tuple[Rule, ...], some: Iterable[int]) -> Indices:
        """Return for each row the index among all rules of the first true one of some of them."""
        places = [*some, len(rules)]
        found = self._first_match(rows, tuple(rules[i] for i in places[:-1]))
        return np.array(places, np.int32)[found]

    def _guarded(self, chosen: Indices, rows: pa.Table, plain: Policy) -> Indices:
        """Return the choice of each row after what is fixed in code; see the top of this module."""
        rules, end = plain.rules, len(plain.rules)
        scoreless, kinds, verdicts = _nulls(rows["nsfw_score"]), rows["match_kind"], rows["verdict"]
        if CALIBRATED.name in rows.column_names:
            scoreless |= _nulls(rows[CALIBRATED.name])
        if not scoreless.any() and kinds.null_count == len(kinds) and verdicts.null_count == len(verdicts):
            return chosen
        allowed, blocked, illegal = (_is(kinds, kind) for kind in (BankKind.ALLOW, BankKind.BLOCK, BankKind.ILLEGAL))
        if allowed.any():
            chosen[allowed] = self._unscored(rows.filter(pa.array(allowed)), rules)
        if blocked.any():
            strict = (Decision.BLOCK, Decision.ESCALATE)
            may = (i for i, rule in enumerate(rules) if self.naming[i] or rule.decision in strict)
            found = self._first_of(rows.filter(pa.array(blocked)), rules, may)
            chosen[blocked] = np.where(found == end, end + _BLOCK, found)
        chosen = self._judged(chosen, rows, rules)
        lenient = np.array([*(rule.decision is Decision.ALLOW for rule in rules), True, *[False] * (_BY_RULE - 1)])
        unseen = scoreless & _nulls(rows["filtered_by"]) & ~allowed & ~_is(verdicts, StandingVerdict.APPROVE)
        chosen = np.where(unseen & lenient[chosen], np.int32(end + _GUARD), chosen)
        if illegal.any():
            may = (i for i, rule in enumerate(rules) if rule.decision is Decision.ESCALATE)
            found = self._first_of(rows.filter(pa.array(illegal)), rules, may)
            chosen[illegal] = np.where(found == end, end + _ESCALATE, end + _BY_RULE + found)
        return chosen

    def _judged(self, chosen: Indices, rows: pa.Table, rules: tuple[Rule, ...]) -> Indices:
        """Return the choices with those of people, but where a true rule names the verdict."""
        said = pc.index_in(rows["verdict"], pa.array(map(str, JUDGED), pa.string()))
        judged = np.asarray(said.is_valid().to_numpy())
        if not judged.any():
            return chosen
        some = rows.filter(pa.array(judged))
        found = self._first_of(some, rules, (i for i, naming in enumerate(self.naming_verdict) if naming))
        chosen = chosen.copy()
        chosen[judged] = np.where(found == len(rules), len(rules) + _JUDGED + said.drop_null().to_numpy(), found)
        return chosen

    def _unscored(self, rows: pa.Table, rules: tuple[Rule, ...]) -> Indices:
        """Choose rules for matches of allow banks: those that do not name the match see no score."""
        blank = rows
        for i, field in enumerate(rows.schema):
            if field.name in SCORE_NAMES:
                blank = blank.set_column(i, field, pa.nulls(rows.num_rows, field.type))
        named = self._first_of(rows, rules, (i for i, naming in enumerate(self.naming) if naming))
        others = self._first_of(blank, rules, (i for i, naming in enumerate(self.naming) if not naming))
        return np.minimum(named, others)

    def _evaluated(self, rows: pa.Table, expression: duckdb.Expression) -> pa.Array:
        try:
            with self._connection.cursor() as own, limited(own, _MOST_S):  # for several threads at once
                found = own.from_arrow(rows).select(expression.alias("found")).to_arrow_table()
        except duckdb.Error as error:
            raise PolicyError(
                f"a rule of {self.policy.identity} fails on a row: {str(error).splitlines()[0]}"
            ) from error
        column = found["found"].combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column


def matching(rule: Rule) -> duckdb.Expression:
    """Return the expression that is true where a rule takes a row: its condition, and its sample if it has one."""
    if rule.sample is None:
        return condition(rule.when)
    return condition(rule.when) & in_sample(rule.sample, rule.seed, rule.name)


def _nulls(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(column.is_null().to_numpy())


def _is(column: pa.ChunkedArray, value: str) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.equal(column, value), False).to_numpy())


def _with_filters(by: pa.Array, allowed: pa.Array, table: pa.Table) -> pa.Array:
    """Return who decided, with `filter` where an unscored image is allowed that a filter settled."""
    filters = table["filtered_by"]
    if filters.null_count == len(filters):
        return by
    unscored = pc.and_(pc.is_valid(filters), pc.invert(pc.is_finite(pc.fill_null(table["nsfw_score"], float("nan")))))
    by_policy = pc.equal(by, "policy")
    return pc.if_else(pc.and_(pc.and_(unscored, allowed), by_policy), "filter", by).combine_chunks()


def _asked(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return these columns; null where it is not known yet which objects are alike, what people decided and how true
    the score is, as before the commit."""
    late = {
        field.name: field.type
        for field in (*DUPLICATE_COLUMNS, *VERDICT_COLUMNS, CALIBRATED)
        if field.name not in table.column_names
    }
    return pa.table({name: pa.nulls(table.num_rows, late[name]) if name in late else table[name] for name in columns})


def _for_rules(table: pa.Table) -> pa.Table:
    """Return the columns as rules see them: signals as a map; NaN and infinity as null, since in SQL `NaN >= 0.95` is
    true, and a score that is no number must not decide."""
    for i, field in enumerate(table.schema):
        if field.name == "signals":
            table = table.set_column(i, VISIBLE.field("signals"), as_maps(table[field.name].cast(SIGNALS)))
        if pa.types.is_floating(field.type):
            column = table[field.name]
            table = table.set_column(i, field, pc.if_else(pc.is_finite(column), column, None))
    return table
