"""Rows to decisions: the one function for commit, replay and `classify`, so that they agree by construction.

In: a table with the columns that a policy may ask for. Out: the decision columns. A row without a score never becomes
`allow`, neither by falling through nor by a rule: the guard is here, in code, where no policy can delete it.
"""

from __future__ import annotations

from functools import reduce

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from duckdb import ConstantExpression

from nsfwscan.errors import PolicyError
from nsfwscan.policy.rules import GUARD, VISIBLE, Outcome, Policy, connect, predicate
from nsfwscan.schema import DECISION_COLUMNS, Decision

_UNDETERMINED = Outcome(decision=Decision.UNDETERMINED)


class Decider:
    """A policy, ready to decide tables of any length."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._connection = connect()
        self._outcomes: list[tuple[str, Outcome]] = [
            *((rule.name, rule) for rule in policy.rules),
            ("otherwise", policy.otherwise),
            (GUARD, _UNDETERMINED),
        ]

    def __call__(self, table: pa.Table) -> pa.Table:
        """The decision columns (`DECISION_COLUMNS`) of a table that has the columns of `VISIBLE`; the same order.

        Raises:
            PolicyError: a rule cannot be evaluated on a row, as where a cast does not take its value.
        """
        rows = _finite(table.select(VISIBLE.names))
        chosen = self._first_match(rows)
        guarded = len(self._outcomes) - 1
        scoreless = rows["nsfw_score"].combine_chunks().is_null()
        lenient = pa.array([outcome.decision is Decision.ALLOW for _, outcome in self._outcomes]).take(chosen)
        otherwise = pc.equal(chosen, guarded - 1)
        caught = pc.and_(scoreless, pc.or_(lenient, otherwise))
        return self._columns(pc.if_else(caught, pa.scalar(guarded, pa.int32()), chosen), caught)

    def _first_match(self, rows: pa.Table) -> pa.Array:
        """For each row the index of the first rule that is true; the number of rules where none is."""
        rules = self.policy.rules
        if not rules:
            return pa.array([0] * rows.num_rows, pa.int32())
        case = reduce(
            lambda expression, indexed: expression.when(predicate(indexed[1]), ConstantExpression(indexed[0])),
            list(enumerate(rules))[1:],
            duckdb.CaseExpression(predicate(rules[0]), ConstantExpression(0)),
        ).otherwise(ConstantExpression(len(rules)))
        try:
            found = self._connection.from_arrow(rows).select(case.cast("INTEGER").alias("rule")).to_arrow_table()
        except duckdb.Error as error:
            raise PolicyError(
                f"a rule of {self.policy.identity} fails on a row: {str(error).splitlines()[0]}"
            ) from error
        column: pa.Array = found["rule"].combine_chunks()
        return column.chunk(0) if isinstance(column, pa.ChunkedArray) else column

    def _columns(self, chosen: pa.Array, caught: pa.Array) -> pa.Table:
        outcomes = self._outcomes
        values = {
            "decision": pa.array([str(o.decision) for _, o in outcomes]).take(chosen),
            "rule": pa.array([name for name, _ in outcomes]).take(chosen),
            "queue": pa.array([o.queue for _, o in outcomes], pa.string()).take(chosen),
            "shield": pa.array([str(o.shield) for _, o in outcomes]).take(chosen),
            "severity": pa.array([o.severity for _, o in outcomes], pa.int32()).take(chosen),
            "decided_by": pc.if_else(caught, "guard", "policy"),
            "policy": pa.array([self.policy.identity] * len(chosen), pa.string()),
        }
        return pa.table([values[f.name] for f in DECISION_COLUMNS], schema=pa.schema(DECISION_COLUMNS))


def _finite(table: pa.Table) -> pa.Table:
    """NaN and infinity as null: in SQL `NaN >= 0.95` is true, and a score that is no number must not decide."""
    for i, field in enumerate(table.schema):
        if pa.types.is_floating(field.type):
            column = table[field.name]
            table = table.set_column(i, field, pc.if_else(pc.is_finite(column), column, None))
    return table
