"""Bind the conditions of rules, and evaluate them in a DuckDB that reaches no file and no network.

A text that is no condition, names an unknown column, or depends on more than its row raises `PolicyError`, which names
the rule.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from typing import Any

import duckdb
import pyarrow as pa
from duckdb import ColumnExpression, ConstantExpression, FunctionExpression

from nsfwscan.errors import PolicyError
from nsfwscan.policy.signals import SIGNAL_MAP
from nsfwscan.schema import CALIBRATED, DECISION_COLUMNS, MATCH_COLUMNS, MODEL_COLUMNS, REPORT_SCHEMA, VERDICT_COLUMNS
from nsfwscan.storage.duckdb_temp import open_database

_AFTERWARDS = ("truth", "false_positive", "run_id", "carried_from", "accounted_as")
_HIDDEN = {*(field.name for field in DECISION_COLUMNS), *_AFTERWARDS}

VISIBLE = pa.schema(
    [f.with_type(SIGNAL_MAP) if f.name == "signals" else f for f in REPORT_SCHEMA if f.name not in _HIDDEN]
)
"""Columns that a rule may use: all that are known before the decision, except truth, which measures decisions and
must not make them, and columns about how this run got the row. Signals are a map: `signals['name']`."""

MATCH_NAMES = frozenset(field.name for field in MATCH_COLUMNS)
"""A rule that uses one of these columns names the match, so it may decide it; see `decide.py`."""
VERDICT_NAMES = frozenset(field.name for field in VERDICT_COLUMNS)
"""A rule that uses one of these columns names the verdict, so it may decide what people decided."""
SCORE_NAMES = frozenset(field.name for field in (*MODEL_COLUMNS, CALIBRATED))
"""Columns that the model fills; a scan does not ask it about a matched image."""

_NO_ROW, _ONE_ROW = (
    pa.table({field.name: pa.nulls(rows, field.type) for field in VISIBLE}) for rows in (0, 1)
)  # pyarrow imports pandas, which takes a third of a second, for whatever is made of Python's own values

MEMORY_LIMIT = "2GB"
MOST_CHARACTERS = 16_384
MOST_DEEP = 50
"""Depth of nested brackets in a condition, or of what nests without them (`not not …`)."""

SAMPLE_DIGITS = 12
"""Hex digits of the MD5 that draws a sample; a share is exact to 16^-12."""


def connect() -> duckdb.DuckDBPyConnection:
    """Return a connection to the in-memory DuckDB of this process, which reaches no file and no network, whatever a
    condition says, with one thread and bounded memory. Raises NsfwscanError where this process cannot open one."""
    try:
        connection = _database(os.getpid()).cursor()
        connection.execute("SELECT 1").fetchall()
        return connection
    except duckdb.Error:  # an internal error ends a DuckDB, not those after it
        _database.cache_clear()
        return _database(os.getpid()).cursor()


@cache
def _database(process: int) -> duckdb.DuckDBPyConnection:
    """Open the database of a process, once: it takes 25 ms, and a fork must not use its parent's."""
    return open_database(
        ":memory:",
        {
            "enable_external_access": "false",
            "threads": 1,
            "memory_limit": MEMORY_LIMIT,
            "lock_configuration": "true",
        },
    )


def condition(when: str) -> duckdb.Expression:
    """Return a condition as an expression that is never null. The text gets lines of its own: it may end in a
    comment."""
    return duckdb.SQLExpression(f"coalesce((\n{when}\n), false)")


def in_sample(share: float, seed: int, name: str) -> duckdb.Expression:
    """Return whether a row is in a rule's sample, by its URI alone: the same rows in every run and on any engine.

    True where the first `SAMPLE_DIGITS` hex digits of MD5(`<seed>:<rule>:<uri>`) are below that share of their range.
    The rule's name makes the samples of two rules independent.
    """
    limit = format(int(share * 16**SAMPLE_DIGITS), f"0{SAMPLE_DIGITS}x")
    text = FunctionExpression("concat", ConstantExpression(f"{seed}:{name}:"), ColumnExpression("uri"))
    digits = FunctionExpression("left", FunctionExpression("md5", text), ConstantExpression(SAMPLE_DIGITS))
    return digits < ConstantExpression(limit)


def lies_in(place: str) -> duckdb.Expression:
    """Return whether a row's URI begins with a place, or matches it as a glob; `*` crosses `/`."""
    how = "~~~" if set(place) & set("*?[") else "starts_with"
    return FunctionExpression(how, ColumnExpression("uri"), ConstantExpression(place))


def columns_of(connection: duckdb.DuckDBPyConnection, when: str) -> set[str]:
    """Return the columns of `VISIBLE` that a bound condition may use."""
    named: set[str] = set()
    for node in nodes_of(parsed(connection, when)):
        if node.get("class") == "STAR":  # COLUMNS(…): any that match its pattern
            return set(VISIBLE.names)
        named |= {str(name).lower() for name in node.get("column_names", ())}
    return {name for name in VISIBLE.names if name in named}


def shape_of(connection: duckdb.DuckDBPyConnection, when: str) -> str:
    """Return a condition without its spelling (spaces, comments, brackets, case of keywords): equal shapes mean the
    same."""
    return json.dumps(without_places(parsed(connection, when)), sort_keys=True)


def parsed(connection: duckdb.DuckDBPyConnection, when: str) -> Any:
    """Return DuckDB's syntax tree of `SELECT (condition)`. Raises ValueError where it is too long or too deep."""
    if when not in _TREES:
        parse_all(connection, [when])
    return _TREES[when]


_TREES: dict[str, Any] = {}
_KEPT_TREES = 10_000


def parse_all(connection: duckdb.DuckDBPyConnection, conditions: Iterable[str]) -> None:
    """Parse conditions together, for `parsed` to find. Binds and computes nothing. Raises ValueError as `parsed`."""
    if len(_TREES) > _KEPT_TREES:
        _TREES.clear()
    new = [when for when in dict.fromkeys(conditions) if when not in _TREES]
    if not new:
        return
    for when in new:
        _check_bounds(when)
    texts = [f"SELECT (\n{when}\n)" for when in new]
    found = connection.execute("SELECT json_serialize_sql(text) FROM (SELECT unnest(?::VARCHAR[]) AS text)", [texts])
    for when, (tree,) in zip(new, found.fetchall(), strict=True):
        _TREES[when] = _loaded(tree)


def _check_bounds(when: str) -> None:
    """Raise ValueError for a text that DuckDB's parser should not see: it fails in its own ways."""
    if len(when) > MOST_CHARACTERS:
        raise ValueError(f"has {len(when):,} characters, and may have {MOST_CHARACTERS:,}: long lists belong in a bank")
    depth = 0
    for bracket in _BRACKET.findall(when):
        depth += 1 if bracket in "([{" else -1
        if depth > MOST_DEEP:
            raise ValueError(_TOO_DEEP)


_BRACKET = re.compile(r"[][(){}]")
_TOO_DEEP = f"is nested more than {MOST_DEEP} deep: write several rules"


def _loaded(tree: str) -> Any:
    try:
        loaded = json.loads(tree)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    if _depth(loaded) > MOST_DEEP * 8:
        raise ValueError(_TOO_DEEP)
    return loaded


def _depth(tree: Any) -> int:
    """Return how deep a JSON value is nested, without recursion."""
    depth, level = 0, [tree]
    while level:
        depth += 1
        inside = chain.from_iterable(one.values() if isinstance(one, dict) else one for one in level)
        level = [inner for inner in inside if isinstance(inner, dict | list)]
    return depth


def nodes_of(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all nodes of a syntax tree, in any order."""
    left = [tree]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            yield one
            left += [inner for inner in one.values() if isinstance(inner, dict | list)]
        elif isinstance(one, list):
            left += one


def without_places(tree: Any) -> Any:
    """Return a syntax tree without the positions in the text."""
    if isinstance(tree, dict):
        return {k: without_places(v) for k, v in tree.items() if not k.startswith("query_location")}
    return [without_places(inner) for inner in tree] if isinstance(tree, list) else tree


_OTHER_ROWS = {"WINDOW", "SUBQUERY"}
_FUNCTIONS = "SELECT function_name, function_type, stability, macro_definition FROM duckdb_functions()"
_CALL = re.compile(r"(\w+)\(")
_GROWING = frozenset(
    ("array_resize", "bar", "format", "generate_series", "list_resize", "lpad", "printf", "range", "repeat", "rpad")
)
"""Functions whose result is as large as an argument says; no rule needs them."""
_CLOCKS = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "age"})
"""SQL's names for the time of the query, which DuckDB parses as columns; `age` of one argument counts from today."""


def _foreign(connection: duckdb.DuckDBPyConnection, when: str) -> str | None:
    """Return the part of a condition that depends on more than its row, so that a decision could not be repeated."""
    nodes = list(nodes_of(parsed(connection, when)))
    if any(node.get("class") in _OTHER_ROWS for node in nodes):
        return "a window or subquery"
    unstable, aggregates = _function_names()
    functions = _called(nodes)
    if functions & aggregates:
        return "an aggregate"
    called = functions & unstable
    named = {name.lower() for node in nodes for name in node.get("column_names", ()) if len(node["column_names"]) == 1}
    return next(iter(sorted(called | (named & _CLOCKS))), None)


@cache
def _function_names() -> tuple[frozenset[str], frozenset[str]]:
    """Return the names of functions that are unstable whatever their arguments are (`+` is so for times with a zone
    alone, which a row does not have), and of aggregates, including macros of aggregates."""
    with connect() as connection:
        found = connection.execute(_FUNCTIONS).fetchall()
    stable = {name for name, _, stability, _ in found if stability in (None, "CONSISTENT")}  # with some arguments
    unstable = {name for name, *_ in found} - stable | _CLOCKS
    aggregates = {name for name, kind, _, _ in found if kind == "aggregate"}
    macros = {name for name, _, _, text in found if text and aggregates & set(_CALL.findall(text))}
    return frozenset(unstable), frozenset(aggregates | macros)


def _called(nodes: Iterable[dict[str, Any]]) -> set[str]:
    """Return the functions that a condition calls."""
    return {str(node["function_name"]).lower() for node in nodes if "function_name" in node}


def bind(connection: duckdb.DuckDBPyConnection, conditions: Mapping[str, str], source: str) -> None:
    """Check that each condition is one boolean expression over `VISIBLE`. Evaluates no row of a report. Raises
    PolicyError where one is no such condition, or does not follow from the row alone.

    Args:
        conditions: by the name of the rule.
        source: the policy's file, for messages.
    """
    with suppress(ValueError):  # raised again below, with the rule's name
        parse_all(connection, conditions.values())
    for name, when in conditions.items():
        try:
            _check_text(connection, when)
        except ValueError as error:
            raise PolicyError(f"{source}: rule {name!r}: {error}") from None
    rows = connection.from_arrow(_NO_ROW)
    try:
        kinds = list(map(str, rows.select(*map(duckdb.SQLExpression, conditions.values())).types)) if conditions else []
    except duckdb.Error:
        kinds = []
    in_doubt = kinds != ["BOOLEAN"] * len(conditions)  # one by one, to name the rule
    for name, when in conditions.items():
        foreign = None
        if in_doubt or parsed(connection, when)["error"] or _may_fail(nodes_of(parsed(connection, when))):
            foreign = _bind_one(connection, name, when, source)
        foreign = foreign or _foreign(connection, when)
        if foreign is not None:
            raise PolicyError(
                f"{source}: rule {name!r}: `when` must follow from the row alone, so that a decision can be repeated; "
                f"{foreign} does not: {when}"
            )


def _may_fail(nodes: Iterable[dict[str, Any]]) -> bool:
    """Return whether a condition may fail on a row: it has a call, a cast or a parameter."""
    return any(node.get("class") in ("FUNCTION", "CAST", "PARAMETER", "STAR", "LAMBDA") for node in nodes)


def _check_text(connection: duckdb.DuckDBPyConnection, when: str) -> None:
    """Raise ValueError for a condition that is too long, too deep, or could take any amount of memory, before DuckDB
    computes constants."""
    try:
        growing = sorted(_called(nodes_of(parsed(connection, when))) & _GROWING)
    except ValueError as error:
        raise ValueError(f"`when` {error}") from None
    except duckdb.Error:
        return  # said where it is bound
    if growing:
        raise ValueError(f"{growing[0]}() may take any amount of memory: {when[:200]}")


def _bind_one(connection: duckdb.DuckDBPyConnection, name: str, when: str, source: str) -> str | None:
    """Evaluate a condition on no row and on an empty one, to find what always fails. Takes a moment: only constants are
    computed. Return `an aggregate` where the condition is one over many rows."""
    try:
        with limited(connection, 5):
            kinds = list(map(str, connection.from_arrow(_NO_ROW).select(duckdb.SQLExpression(when)).types))
            if kinds != ["BOOLEAN"]:
                raise PolicyError(f"{source}: rule {name!r}: `when` must be true or false, this is {kinds[0]}: {when}")
            found = [connection.from_arrow(rows).select(condition(when)).fetchall() for rows in (_NO_ROW, _ONE_ROW)]
    except duckdb.Error as error:
        detail = str(error).splitlines()[0]
        raise PolicyError(
            f"{source}: rule {name!r}: {detail}\n  when: {when}\n  columns: {', '.join(VISIBLE.names)}"
        ) from None
    return None if list(map(len, found)) == [0, 1] else "an aggregate"


@contextmanager
def limited(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Interrupt DuckDB after so many seconds, which raises duckdb.InterruptException."""
    timer = threading.Timer(seconds, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # a timer that outlives the interpreter would abort the process
