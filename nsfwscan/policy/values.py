"""Find comparisons with values that a column never has: `label = 'Neutral'`, `nsfw_score > 95`, `camera = NULL`.

Reads DuckDB's syntax tree of a condition. Reports only what is certain: a part that this module does not understand may
be true, false or null.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

import pyarrow as pa

from nsfwscan.images.formats.containers import CONTAINERS
from nsfwscan.images.formats.registry import FORMATS
from nsfwscan.policy.rules import Policy
from nsfwscan.policy.sql import VISIBLE, columns_of, connect, nodes_of, parsed, without_places
from nsfwscan.schema import RANGES, WORDS

Value = str | float | bool | None
Row = Mapping[str, Value]

_MEANT = {"jpg": "JPEG", "jpe": "JPEG", "tif": "TIFF", "heic": "HEIF", "heics": "HEIF", "mpo": "JPEG", "success": "ok"}
"""Words that people write for a value spelled quite differently."""
_CLOSED_SIGNALS = {
    "exif": ("camera_absent", "exposure_absent", "dimensions_differ", "dates_contradict", "gps_out_of_range"),
    "prefilter": ("nsfw",),
    "thumbnail": ("distance",),
}
"""All names in the groups of signals that have a fixed set of names."""
_MOST_ROWS = 20_000
"""Limit of combinations to try; a condition with more is left alone."""
_OTHER = "\x00another"
"""A text that stands for all that no rule names."""


@dataclass(frozen=True)
class Known:
    """Values that columns have in a run; None: not known."""

    labels: tuple[str, ...] | None = None
    banks: tuple[str, ...] | None = None
    signals: frozenset[str] | None = None
    fixed: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    """For some columns all values that they have in the rows in question."""

    def words(self, column: str) -> tuple[str, ...] | None:
        """Return all texts that a column may have; None: any."""
        given = {"label": self.labels, "match_bank": self.banks}.get(column)
        return given if given is not None else (*FORMATS, *CONTAINERS) if column == "format" else WORDS.get(column)


@dataclass(frozen=True)
class _Operand:
    """A column or a signal, and the function applied to its value before it is compared."""

    column: str
    change: Callable[[Value], Value] = lambda value: value
    is_changed: bool = False


@dataclass(frozen=True)
class Read:
    """A condition as far as it is understood; `always` is its value for all rows, None where it depends on the row."""

    findings: tuple[str, ...]
    always: bool | None


def read(tree: Any, known: Known | None = None) -> Read:
    """Read the condition in the tree of `SELECT (condition)`."""
    [node] = tree["statements"][0]["node"]["select_list"]
    found = _Condition(known or Known())
    holds = found.compiled(node)
    return Read(tuple(dict.fromkeys(found.findings)), found.always(holds))


def signal_of(operand: str) -> str | None:
    """Return NAME of `signals['NAME']`; None of a column."""
    return operand[len("signals['") : -len("']")] if operand.startswith("signals[") else None


def asked_by(policy: Policy) -> dict[str, list[str]]:
    """Return what a policy's rules ask for, columns and `signals['NAME']`, and which rules ask for each, in order."""
    found: dict[str, list[str]] = {}
    for rule in policy.under().rules:
        for name in _asked(rule.when):
            found.setdefault(name, []).append(rule.name)
    return found


@lru_cache(maxsize=1000)
def _asked(when: str) -> tuple[str, ...]:
    with connect() as connection:
        operands = map(_operand, nodes_of(parsed(connection, when)))
        signals = {one.column for one in operands if one is not None and signal_of(one.column)}
        return tuple(sorted(columns_of(connection, when) | signals))


Holds = Callable[[Row], bool | None]
_NOT = {True: False, False: True, None: None}
_COMPARE: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "COMPARE_EQUAL": ("=", lambda a, b: a == b),
    "COMPARE_NOTEQUAL": ("<>", lambda a, b: a != b),
    "COMPARE_GREATERTHAN": (">", lambda a, b: a > b),
    "COMPARE_GREATERTHANOREQUALTO": (">=", lambda a, b: a >= b),
    "COMPARE_LESSTHAN": ("<", lambda a, b: a < b),
    "COMPARE_LESSTHANOREQUALTO": ("<=", lambda a, b: a <= b),
}
_TURNED = {">": "<", "<": ">", ">=": "<=", "<=": ">="}
_LIKE = {"~~": (False, 0), "!~~": (True, 0), "~~*": (False, re.IGNORECASE), "!~~*": (True, re.IGNORECASE)}


@dataclass
class _Condition:
    """A condition while it is read: findings, and values worth trying."""

    known: Known
    findings: list[str] = field(default_factory=list)
    constants: dict[str, set[Value]] = field(default_factory=dict)
    free: dict[str, None] = field(default_factory=dict)
    """Parts that are not understood: each may be true, false or null."""

    def compiled(self, node: Any) -> Holds:
        """Return a function from a row to a node's value, in SQL's three-valued logic."""
        kind, name = node.get("class"), node.get("type", "")
        if kind == "CONJUNCTION":
            parts = [self.compiled(child) for child in node["children"]]
            return _all(parts) if name == "CONJUNCTION_AND" else _any(parts)
        if kind == "OPERATOR" and name == "OPERATOR_NOT":
            inner = self.compiled(node["children"][0])
            return lambda row: _NOT[inner(row)]
        return (
            self._null_test(node)
            or self._comparison(node)
            or self._listed(node)
            or self._like(node)
            or self._open(node)
        )

    def _null_test(self, node: Any) -> Holds | None:
        if node.get("type") not in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            return None
        operand, wanted = _operand(node["children"][0]), node["type"] == "OPERATOR_IS_NULL"
        if operand is None:
            return None
        self._look_at(operand)
        return lambda row: (operand.change(row[operand.column]) is None) == wanted

    def _comparison(self, node: Any) -> Holds | None:
        kind = node.get("class")
        if kind == "BETWEEN":
            low = {"class": "COMPARISON", "left": node["input"], "right": node["lower"]}
            high = {"class": "COMPARISON", "left": node["input"], "right": node["upper"]}
            parts = [
                self._comparison(low | {"type": "COMPARE_GREATERTHANOREQUALTO"}),
                self._comparison(high | {"type": "COMPARE_LESSTHANOREQUALTO"}),
            ]
            return None if None in parts else _all([part for part in parts if part is not None])
        if kind != "COMPARISON" or node["type"] not in _COMPARE:
            return None
        sign, compare = _COMPARE[node["type"]]
        operand, constant = _operand(node["left"]), _constant(node["right"])
        if operand is None:
            operand, constant, sign = _operand(node["right"]), _constant(node["left"]), _TURNED.get(sign, sign)
            compare = next(found for written, found in _COMPARE.values() if written == sign)
        if operand is None or constant is None:
            return None
        return self._compared(operand, sign, compare, constant[0])

    def _compared(
        self, operand: _Operand, sign: str, compare: Callable[[Any, Any], bool], value: Value
    ) -> Holds | None:
        if value is None:
            instead = "IS NOT NULL" if sign == "<>" else "IS NULL"
            self.findings.append(f"`{operand.column} {sign} NULL` is never true: write `{operand.column} {instead}`")
            return lambda row: None
        typed = self._typed(operand, value)
        if typed is None:
            return None
        self._check(operand, sign, typed)
        if not self._is_complete(operand, typed, sign):
            return None
        self._look_at(operand, typed)

        def holds(row: Row) -> bool | None:
            found = operand.change(row[operand.column])
            return None if found is None else compare(found, typed)

        return holds

    def _listed(self, node: Any) -> Holds | None:
        """Read `IN (…)` and `IN […]`."""
        if node.get("type") == "COMPARE_IN":
            first, *rest = node["children"]
        elif node.get("function_name") == "contains" and _arguments(node)[0].get("function_name") == "list_value":
            first, rest = _arguments(node)[1], _arguments(_arguments(node)[0])
        else:
            return None
        operand, values = _operand(first), [_constant(child) for child in rest]
        if operand is None or None in values:
            return None
        if (None,) in values:
            self.findings.append(f"`{operand.column} IN (…, NULL)`: nothing equals NULL; leave it out of the list")
        equal = _COMPARE["COMPARE_EQUAL"][1]
        parts = [self._compared(operand, "=", equal, value[0]) for value in values if value not in (None, (None,))]
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        nothing: Holds = lambda row: None  # noqa: E731  # what `= NULL` is
        return _any([*known, *([nothing] if (None,) in values else [])])

    def _like(self, node: Any) -> Holds | None:
        """Read `LIKE` on a column with known words."""
        if node.get("function_name") not in _LIKE:
            return None
        first, second = _arguments(node)
        operand, constant = _operand(first), _constant(second)
        if operand is None or constant is None or not isinstance(constant[0], str):
            return None
        words, (refused, flags) = self.known.words(operand.column), _LIKE[node["function_name"]]
        if words is None:
            return None
        regex = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in constant[0])
        pattern = re.compile("".join(regex), flags | re.DOTALL)
        if not any(pattern.fullmatch(str(operand.change(word))) for word in words):
            self.findings.append(
                f"no {operand.column} is like {constant[0]!r}{self._meant(operand, constant[0], words)}"
            )
        self._look_at(operand)

        def holds(row: Row) -> bool | None:
            found = operand.change(row[operand.column])
            return None if found is None else (pattern.fullmatch(str(found)) is not None) != refused

        return holds

    def _open(self, node: Any) -> Holds:
        """Read a boolean constant, or keep a node as one that is not understood."""
        value = _constant(node)
        if value is not None and isinstance(value[0], bool | None):
            return lambda row: value[0]  # type: ignore[return-value]
        name = repr(without_places(node))
        self.free[name] = None
        return lambda row: row[name]  # type: ignore[return-value]

    def _typed(self, operand: _Operand, value: Value) -> Value:
        """Return the constant in the column's type; None, with a finding, where it does not fit."""
        kind = _kind(operand.column)
        if kind == "number" and isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                self.findings.append(f"{operand.column} is a number, and {value!r} is none")
                return None
        if kind == "text" and not isinstance(value, str) and not operand.is_changed:
            self.findings.append(f"{operand.column} is a text, and {_shown(value)} a number: write '{_shown(value)}'")
            return None
        return value if kind in ("number", "text") else None

    def _check(self, operand: _Operand, sign: str, value: Value) -> None:
        """Add a finding for a value that the column never has."""
        name, words = operand.column, self.known.words(operand.column)
        if value == operand.change(None):
            return
        if isinstance(value, str):
            if name.startswith("signals["):
                return
            if words is not None and sign in ("=", "<>") and value not in {operand.change(word) for word in words}:
                self.findings.append(f"{name} is never {value!r}{self._meant(operand, value, words)}")
            return
        low, high = RANGES.get(name, (-math.inf, math.inf))
        number = float(value or 0)
        if operand.is_changed or (low <= number <= high and (sign, number) not in ((">", high), ("<", low))):
            return
        span = f"{_shown(low)} to {_shown(high)}" if high < math.inf else f"{_shown(low)} and more"
        meant = f"; did you mean {_shown(number / 100)}?" if high == 1 and 1 < number <= 100 else ""
        self.findings.append(f"`{name} {sign} {_shown(number)}`: {name} is {span}{meant}")

    def _meant(self, operand: _Operand, value: str, words: Sequence[str]) -> str:
        plain = value.strip("%").lower().lstrip(".")
        by_case = {str(operand.change(word)).lower(): str(operand.change(word)) for word in words}
        close = get_close_matches(plain, by_case, 1, 0.7)
        guess = by_case.get(plain) or (_MEANT.get(plain) if _MEANT.get(plain) in words else None)
        guess = guess or (by_case[close[0]] if close else None)
        return f"; did you mean {guess!r}?" if guess else f": it is one of {', '.join(words) or 'none'}"

    def _is_complete(self, operand: _Operand, value: Value, sign: str) -> bool:
        """Return whether a few values stand for all values of the column in this comparison."""
        if self.known.words(operand.column) is not None or not isinstance(value, str):
            return True
        return sign in ("=", "<>") and not operand.is_changed

    def _look_at(self, operand: _Operand, *values: Value) -> None:
        self._check_signal(operand.column)
        self.constants.setdefault(operand.column, set()).update(values)

    def _check_signal(self, column: str) -> None:
        name = signal_of(column)
        if name is None:
            return
        group, _, rest = name.partition(".")
        known = self.known.signals
        closed = {f"{group}.{one}" for one in _CLOSED_SIGNALS.get(group, ())}
        if (closed and name not in closed) or (rest == "" and known is None):
            close = get_close_matches(name, sorted(closed | (known or set())), 1, 0.6)
            meant = f"; did you mean {close[0]!r}?" if close else ": it is `<detector>.<label>`" if not rest else ""
            self.findings.append(f"there is no signal {name!r}{meant}")

    def always(self, holds: Holds) -> bool | None:
        """Return the condition's value for all rows, judged by the named values and values between them."""
        choices = {name: self._tried(name, values) for name, values in self.constants.items()}
        choices |= dict.fromkeys(self.free, (True, False, None))
        if math.prod(map(len, choices.values())) > _MOST_ROWS:
            return None
        seen: set[bool] = set()
        for values in product(*choices.values()):
            seen.add(holds(dict(zip(choices, values, strict=True))) is True)
            if len(seen) == 2:
                return None
        return seen.pop()

    def _tried(self, name: str, values: set[Value]) -> tuple[Value, ...]:
        if name in self.known.fixed:
            return self.known.fixed[name]
        empty: tuple[Value, ...] = () if name == "uri" else (None,)
        words = self.known.words(name)
        if words is not None:
            return (*words, *empty)
        if _kind(name) != "number":
            return (*sorted(v for v in values if isinstance(v, str)), _OTHER, *empty)
        low, high = RANGES.get(name, (-math.inf, math.inf))
        named = sorted(float(v) for v in values if v is not None)
        if name in VISIBLE.names and pa.types.is_integer(VISIBLE.field(name).type):
            tried = {float(math.floor(v) + step) for v in named for step in (-1, 0, 1, 2)}
        else:
            between = [(a + b) / 2 for a, b in pairwise(named)]
            tried = {*named, *between, *((named[0] - 1, named[-1] + 1) if named else (0.5,))}
        ends = {end for end in (low, high) if math.isfinite(end)}
        return (*sorted(v for v in {*tried, *ends} if low <= v <= high), *empty)


def _all(parts: Sequence[Holds]) -> Holds:
    def holds(row: Row) -> bool | None:
        values = [part(row) for part in parts]
        return False if False in values else None if None in values else True

    return holds


def _any(parts: Sequence[Holds]) -> Holds:
    def holds(row: Row) -> bool | None:
        values = [part(row) for part in parts]
        return True if True in values else None if None in values else False

    return holds


def _kind(column: str) -> str:
    if column.startswith("signals["):
        return "number"
    kind = VISIBLE.field(column).type
    if pa.types.is_string(kind):
        return "text"
    return "number" if pa.types.is_integer(kind) or pa.types.is_floating(kind) else "other"


def _arguments(node: Any) -> list[Any]:
    return [argument.get("expression", argument) for argument in node.get("arguments", ())]


_CHANGES: dict[str, Callable[[str], str]] = {"lower": str.lower, "upper": str.upper, "trim": str.strip}


def _operand(node: Any) -> _Operand | None:
    """Return a column, a signal, or `lower`, `upper`, `trim` or `coalesce` of a column; None for anything else."""
    if node.get("class") == "COLUMN_REF" and len(node["column_names"]) == 1:
        name = str(node["column_names"][0]).lower()
        return _Operand(name) if name in VISIBLE.names and _kind(name) != "other" else None
    if node.get("type") == "ARRAY_EXTRACT":
        column, key = node["children"]
        names, asked = column.get("column_names", ()), _constant(key)
        if len(names) == 1 and names[0].lower() == "signals" and asked is not None and isinstance(asked[0], str):
            return _Operand(f"signals['{asked[0]}']")
    change = _CHANGES.get(node.get("function_name", ""))
    if change is not None and len(_arguments(node)) == 1:
        inner = _operand(_arguments(node)[0])
        if inner is not None and not inner.is_changed and _kind(inner.column) == "text":
            return _Operand(inner.column, lambda value: None if value is None else change(str(value)), True)
    if node.get("type") == "OPERATOR_COALESCE" and len(node["children"]) == 2:
        inner, default = _operand(node["children"][0]), _constant(node["children"][1])
        if inner is not None and not inner.is_changed and default is not None:
            return _Operand(inner.column, lambda value: default[0] if value is None else value, True)
    return None


def _constant(node: Any) -> tuple[Value] | None:
    """Return a constant's value in a tuple; None where the node is no constant."""
    literal = node.get("literal")
    if node.get("class") != "CONSTANT" or not isinstance(literal, dict):
        return None
    kind, text = literal.get("kind"), str(literal.get("text"))
    if kind == "NULL_LITERAL":
        return (None,)
    if kind == "STRING":
        return (text,)
    if kind in ("INTEGER", "NUMERIC"):
        try:
            return (float(text),)
        except ValueError:
            return None
    return (text.lower() == "true",) if kind == "BOOLEAN" else None


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
