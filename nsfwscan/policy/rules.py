"""A policy: ordered rules over the report's columns, read from YAML and bound when the file loads.

In: a file, or a preset's name. Out: a `Policy`, whose predicates are known to be boolean SQL over columns that exist.
An unknown key or column, a predicate that is no predicate, a duplicate rule name is a `PolicyError` that names it.
"""

from __future__ import annotations

import datetime
import re
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import duckdb
import pyarrow as pa
import yaml
from pydantic import BeforeValidator, Field, ValidationError

from nsfwscan.config import Frozen, digest_of
from nsfwscan.errors import PolicyError
from nsfwscan.schema import DECISION_COLUMNS, REPORT_SCHEMA, Decision, Shield

_PRESETS = Path(__file__).parent / "presets"
_HIDDEN = {field.name for field in DECISION_COLUMNS} | {
    "truth",
    "false_positive",
    "run_id",
    "carried_from",
    "accounted_as",
}

VISIBLE = pa.schema([field for field in REPORT_SCHEMA if field.name not in _HIDDEN])
"""The columns that a rule may ask for: all that are known before anything is decided, but truth, which measures the
decisions and must not make them, and what only says how this run came by the row."""

_NULLABLE = pa.schema([field.with_nullable(True) for field in VISIBLE])

GUARD = "no-score"
"""The rule named in a row that had no score and matched no rule; users cannot take the name, nor remove the rule."""


class Outcome(Frozen):
    """What a rule says of the rows that it matches."""

    decision: Decision
    queue: str | None = None
    shield: Shield = Shield.NONE
    severity: Annotated[int, Field(ge=0, le=4)] = 0


class Rule(Outcome):
    """A name, an SQL predicate over report columns, and the outcome."""

    name: Annotated[str, Field(min_length=1)]
    when: Annotated[str, Field(min_length=1)]


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int | float | datetime.date) else value


class Policy(Frozen):
    """Ordered rules; the first that matches wins, `otherwise` stands for the rest."""

    name: str
    version: Annotated[str, BeforeValidator(_as_text)]
    description: str = ""
    rules: tuple[Rule, ...]
    otherwise: Outcome

    @cached_property
    def identity(self) -> str:
        """`name@digest`, as it stands in the report. The digest is over all that decides."""
        return f"{self.name}@{digest_of(self.model_dump(mode='json'))[:16]}"


def preset_names() -> list[str]:
    """The policies that come with the package."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def load_policy(source: str) -> Policy:
    """Reads a policy from a YAML file or by a preset's name, and binds it.

    Raises:
        PolicyError: it is not there, malformed, or does not bind.
    """
    path = _PRESETS / f"{source}.yaml" if source in preset_names() else Path(source)
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(
            f"cannot read the policy {source}: {error.strerror} (presets: {', '.join(preset_names())})"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PolicyError(f"the policy {source} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise PolicyError(f"the policy {source} must be a mapping with version, rules and otherwise")
    return parse_policy({"name": path.stem, **loaded}, source)


def parse_policy(loaded: dict[str, Any], source: str = "policy") -> Policy:
    """A policy from its parsed YAML, bound to the report's columns. Raises PolicyError."""
    try:
        policy = Policy.model_validate(loaded)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or 'policy'}: {e['msg']}" for e in error.errors()]
        raise PolicyError(f"{source}: wrong policy:\n  " + "\n  ".join(lines)) from None
    names = [rule.name for rule in policy.rules]
    for name in names:
        if names.count(name) > 1:
            raise PolicyError(f"{source}: two rules are called {name!r}")
        if name in (GUARD, "otherwise"):
            raise PolicyError(f"{source}: the rule name {name!r} is reserved")
    with connect() as connection:
        for rule in policy.rules:
            _bind(connection, rule, source)
    return policy


def connect() -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that reaches no file and no network, whatever a predicate says; one thread."""
    return duckdb.connect(config={"enable_external_access": "false", "threads": 1, "lock_configuration": "true"})


def predicate(rule: Rule) -> duckdb.Expression:
    """The rule's condition as it is evaluated: never null, on lines of its own, since it may end in a comment."""
    return duckdb.SQLExpression(f"coalesce((\n{rule.when}\n), false)")


_OTHER_ROWS = re.compile(r'"class":"(?:WINDOW|SUBQUERY)"')
_FUNCTION = re.compile(r'"function_name":"([^"]*)"')
_COLUMN = re.compile(r'"column_names":\["([^"]*)"\]')
"""In DuckDB's JSON of a query: what a predicate calls and names. A constant's quotes are escaped there."""

_UNSTABLE = "SELECT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
_CLOCKS = frozenset({"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "age"})
"""SQL's names for the time of the query, which DuckDB parses as columns; `age` of one argument reckons from today."""


def _foreign(connection: duckdb.DuckDBPyConnection, when: str) -> str | None:
    """What makes a predicate follow from more than its row: a decision could then not be repeated."""
    parsed = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [f"SELECT (\n{when}\n)"]).fetchall()[0][0]
    if _OTHER_ROWS.search(parsed):
        return "a window or subquery"
    unstable = {name for (name,) in connection.execute(_UNSTABLE).fetchall()} | _CLOCKS
    called = {name.lower() for name in _FUNCTION.findall(parsed)} & unstable
    clocks = {name.lower() for name in _COLUMN.findall(parsed)} & _CLOCKS
    return next(iter(sorted(called | clocks)), None)


def _bind(connection: duckdb.DuckDBPyConnection, rule: Rule, source: str) -> None:
    """Lets DuckDB parse the predicate as one expression, asks for its type, and evaluates it on no row and on one."""
    empty = VISIBLE.empty_table()
    try:
        bound = connection.from_arrow(empty).select(duckdb.SQLExpression(rule.when).alias("matches"))
        kind = str(bound.types[0])
        if kind != "BOOLEAN" or len(bound.types) != 1:
            raise PolicyError(
                f"{source}: rule {rule.name!r}: `when` must be true or false, this is {kind}: {rule.when}"
            )
        tables = [empty, pa.Table.from_pylist([{}], schema=_NULLABLE)]
        rows = [len(connection.from_arrow(table).select(predicate(rule)).fetchall()) for table in tables]
        foreign = "an aggregate" if rows != [0, 1] else _foreign(connection, rule.when)
    except duckdb.Error as error:
        detail = str(error).splitlines()[0]
        raise PolicyError(
            f"{source}: rule {rule.name!r}: {detail}\n  when: {rule.when}\n  columns: {', '.join(VISIBLE.names)}"
        ) from None
    if foreign is not None:
        raise PolicyError(
            f"{source}: rule {rule.name!r}: `when` must follow from the row alone, so that a decision can be repeated; "
            f"{foreign} does not: {rule.when}"
        )
