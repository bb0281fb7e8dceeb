"""Replace named thresholds (`nsfw_score >= $explicit`) with decimal literals, so that they decide as written numbers.

DuckDB's own tokens tell names from text in strings, comments and quoted identifiers. `rules.py` refuses unknown names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

import duckdb

THRESHOLD_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_NAME_HERE = re.compile(THRESHOLD_NAME.encode())


def thresholds_in(when: str) -> list[str]:
    """Return the thresholds that a condition names, each as often as it does."""
    return [name for _, _, name in _found(when)]


def with_numbers(when: str, thresholds: Mapping[str, float]) -> str:
    """Return the condition with a number for each name; all must be known."""
    text, done, start = when.encode(), b"", 0
    for at, end, name in _found(when):
        done += text[start:at] + _literal(thresholds[name]).encode()
        start = end
    return (done + text[start:]).decode()


def _found(when: str) -> list[tuple[int, int, str]]:
    """Return start, end and name of each: the bytes of UTF-8 from `$` to the end of the name."""
    text = when.encode()
    found: list[tuple[int, int, str]] = []
    for at, kind in duckdb.tokenize(when):
        name = _NAME_HERE.match(text, at + 1)
        if kind is duckdb.token_type.operator and text[at : at + 1] == b"$" and name is not None:
            found.append((at, name.end(), name.group().decode()))
    return found


def _literal(number: float) -> str:
    """Return the number without an exponent, which would make it a DOUBLE: 0.9 as DOUBLE is less than as FLOAT."""
    return f"({Decimal(repr(number)):f})"
