"""Predicates and DuckDB: what a rule's condition may be, and the expressions that it is evaluated by.

In: the text of a condition, and a rule's sample. Out: expressions over report columns, in a DuckDB that reaches no file
and no network. A text that is no condition, names a column that is not there, or follows from more than its row is a
`PolicyError` that names the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from nsfwscan.errors import PolicyError
from nsfwscan.schema import DECISION_COLUMNS, REPORT_SCHEMA
from nsfwscan.signals import SIGNAL_MAP

_HIDDEN = {field.name for field in DECISION_COLUMNS} | {
    "truth",
    "false_positive",
    "run_id",
    "carried_from",
    "accounted_as",
}

VISIBLE = pa.schema(
    [f.with_type(SIGNAL_MAP) if f.name == "signals" else f for f in REPORT_SCHEMA if f.name not in _HIDDEN]
)
"""The columns that a rule may ask for: all that are known before anything is decided, but truth, which measures the
decisions and must not make them, and what only says how this run came by the row. Signals are a map:
`signals['name']`."""

_NULLABLE = pa.schema([field.with_nullable(True) for field in VISIBLE])

SAMPLE_DIGITS = 12
"""Of the MD5 that decides on a sample; a share is exact to 16^-12."""


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that reaches no file and no network, whatever a predicate says; one thread."""
    return duckdb.connect(config={"enable_external_access": "false", "threads": 1, "lock_configuration": "true"})


def condition(when: str) -> duckdb.Expression:
    """The condition as it is evaluated: never null, on lines of its own, since it may end in a comment."""
    return duckdb.SQLExpression(f"coalesce((\n{when}\n), false)")


def in_sample(share: float, seed: int, name: str) -> duckdb.Expression:
    """Whether a row is of a rule's sample: by its URI alone, so that it is or is not in every run and on any engine.

    True where the first `SAMPLE_DIGITS` hex digits of MD5(`<seed>:<rule>:<uri>`) are below that share of what they can
    be. The rule's name is in it, so that the samples of two rules are independent.
    """
    limit = format(int(share * 16**SAMPLE_DIGITS), f"0{SAMPLE_DIGITS}x")
    text = FunctionExpression("concat", ConstantExpression(f"{seed}:{name}:"), ColumnExpression("uri"))
    digits = FunctionExpression("left", FunctionExpression("md5", text), ConstantExpression(SAMPLE_DIGITS))
    return digits < ConstantExpression(limit)


def lies_in(place: str) -> duckdb.Expression:
    """Whether a row's URI begins with a place, or matches it, where it is a glob; `*` crosses `/`."""
    how = "~~~" if set(place) & set("*?[") else "starts_with"
    return FunctionExpression(how, ColumnExpression("uri"), ConstantExpression(place))


def columns_of(connection: duckdb.DuckDBPyConnection, when: str) -> set[str]:
    """The columns of `VISIBLE` that a bound condition may look at."""
    named: set[str] = set()
    for node in _nodes(_parsed(connection, when)):
        if node.get("class") == "STAR":  # COLUMNS(…): whichever match
            return set(VISIBLE.names)
        named |= {str(name).lower() for name in node.get("column_names", ())}
    return {name for name in VISIBLE.names if name in named}


def shape_of(connection: duckdb.DuckDBPyConnection, when: str) -> str:
    """A condition without its spelling (spaces, comments, brackets, letter case of keywords): equal ones mean the
    same."""
    return json.dumps(_without_places(_parsed(connection, when)), sort_keys=True)


def _parsed(connection: duckdb.DuckDBPyConnection, when: str) -> Any:
    """DuckDB's syntax tree of a condition."""
    found = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{when}\n)"]).fetchall()
    return json.loads(found[0][0])


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for inner in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _nodes(inner)


def _without_places(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {k: _without_places(v) for k, v in tree.items() if not k.startswith("query_location")}
    return [_without_places(inner) for inner in tree] if isinstance(tree, list) else tree


_OTHER_ROWS = {"WINDOW", "SUBQUERY"}
_UNSTABLE = "SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
_CLOCKS = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "age"})
"""SQL's names for the time of the query, which DuckDB parses as columns; `age` of one argument reckons from today."""


def _foreign(connection: duckdb.DuckDBPyConnection, when: str) -> str | None:
    """What makes a predicate follow from more than its row: a decision could then not be repeated."""
    nodes = list(_nodes(_parsed(connection, when)))
    if any(node.get("class") in _OTHER_ROWS for node in nodes):
        return "a window or subquery"
    unstable = {name for (name,) in connection.execute(_UNSTABLE).fetchall()} | _CLOCKS
    called = {str(node["function_name"]).lower() for node in nodes if "function_name" in node} & unstable
    named = {name.lower() for node in nodes for name in node.get("column_names", ()) if len(node["column_names"]) == 1}
    return next(iter(sorted(called | (named & _CLOCKS))), None)


def bind(connection: duckdb.DuckDBPyConnection, name: str, when: str, source: str) -> None:
    """Lets DuckDB parse a condition as one expression, asks for its type, and evaluates it on no row and on one.

    Args:
        name: the rule's.
        source: where the policy came from.

    Raises:
        PolicyError: it is no condition over `VISIBLE`, or does not follow from the row alone.
    """
    empty = VISIBLE.empty_table()
    try:
        bound = connection.from_arrow(empty).select(duckdb.SQLExpression(when).alias("matches"))
        kind = str(bound.types[0])
        if kind != "BOOLEAN" or len(bound.types) != 1:
            raise PolicyError(f"{source}: rule {name!r}: `when` must be true or false, this is {kind}: {when}")
        tables = [empty, pa.Table.from_pylist([{}], schema=_NULLABLE)]
        rows = [len(connection.from_arrow(table).select(condition(when)).fetchall()) for table in tables]
        foreign = "an aggregate" if rows != [0, 1] else _foreign(connection, when)
    except duckdb.Error as error:
        detail = str(error).splitlines()[0]
        raise PolicyError(
            f"{source}: rule {name!r}: {detail}\n  when: {when}\n  columns: {', '.join(VISIBLE.names)}"
        ) from None
    if foreign is not None:
        raise PolicyError(
            f"{source}: rule {name!r}: `when` must follow from the row alone, so that a decision can be repeated; "
            f"{foreign} does not: {when}"
        )
