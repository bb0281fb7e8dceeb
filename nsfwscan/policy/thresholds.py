"""Named thresholds: `nsfw_score >= $explicit` as DuckDB gets it, with the number in the name's place.

In: a predicate and the numbers behind its names. Out: the same text with decimal literals, so that a threshold decides
as the number written out does. Names within strings, comments and quoted identifiers are left alone: DuckDB's own
tokens say where those are. Nothing goes wrong, once `rules.py` has refused unknown names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

import duckdb

THRESHOLD_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_NAME_HERE = re.compile(THRESHOLD_NAME.encode())


def thresholds_in(when: str) -> list[str]:
    """The thresholds that a predicate names, each as often as it does."""
    return [name for _, _, name in _found(when)]


def with_numbers(when: str, thresholds: Mapping[str, float]) -> str:
    """The predicate with a number for each name; all of them must be known."""
    text, done, start = when.encode(), b"", 0
    for at, end, name in _found(when):
        done += text[start:at] + _literal(thresholds[name]).encode()
        start = end
    return (done + text[start:]).decode()


def _found(when: str) -> list[tuple[int, int, str]]:
    """Where the names stand, from `$` to their end in bytes of UTF-8, and what they are."""
    text = when.encode()
    found: list[tuple[int, int, str]] = []
    for at, kind in duckdb.tokenize(when):
        name = _NAME_HERE.match(text, at + 1)
        if kind is duckdb.token_type.operator and text[at : at + 1] == b"$" and name is not None:
            found.append((at, name.end(), name.group().decode()))
    return found


def _literal(number: float) -> str:
    """The number without an exponent, which would make it a DOUBLE: 0.9 as such is less than 0.9 as a score's FLOAT."""
    return f"({Decimal(repr(number)):f})"
