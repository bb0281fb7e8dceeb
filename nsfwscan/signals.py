"""The `signals` column: names and numbers beside the model's own.

In: for each row its signals, or None. Out: a column of maps, null where a row has none. What is no finite number is
left out: in SQL `NaN >= 0.9` is true, and the guard of the policy does not look into maps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

import pyarrow as pa

from nsfwscan.schema import SIGNAL_COLUMNS

_TYPE = SIGNAL_COLUMNS[0].type


def signals_array(rows: Sequence[Mapping[str, float] | None]) -> pa.Array:
    """The column, map<string, float32>, names in order."""
    return pa.array([_entries(row) for row in rows], _TYPE)


def merged(column: pa.Array | pa.ChunkedArray, more: Sequence[Mapping[str, float] | None]) -> pa.Array:
    """The column with further signals of each row; of two of one name, the further one."""
    there = (dict(entries or ()) for entries in column.to_pylist())
    return signals_array([{**old, **(new or {})} for old, new in zip(there, more, strict=True)])


def _entries(row: Mapping[str, float] | None) -> list[tuple[str, float]] | None:
    finite = [(name, value) for name, value in sorted((row or {}).items()) if isfinite(value)]
    return finite or None
