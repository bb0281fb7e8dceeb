"""The `signals` column: names and numbers beside the model's own.

In: for each row its signals, or None. Out: a column of lists of names and values, null where a row has none; or maps of
them, which is how rules see it. What is no finite number is left out: in SQL `NaN >= 0.9` is true, and the guard of the
policy does not look into signals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import pyarrow as pa

from nsfwscan.schema import SIGNALS

SIGNAL_MAP = pa.map_(pa.string(), pa.float32())
"""As a rule sees the column: `signals['name']`."""


def signals_array(rows: Sequence[Mapping[str, float] | None]) -> pa.Array:
    """The column, of `SIGNALS`, names in order."""
    return pa.array([entries_of(row) for row in rows], SIGNALS)


def merged(column: pa.Array | pa.ChunkedArray, more: Sequence[Mapping[str, float] | None]) -> pa.Array:
    """The column with further signals of each row; of two of one name, the further one."""
    there = map(signals_of_row, column.to_pylist())
    return signals_array([{**old, **(new or {})} for old, new in zip(there, more, strict=True)])


def signals_of_row(value: Iterable[Mapping[str, Any]] | None) -> dict[str, float]:
    """Names and values of one row, as Arrow gives it."""
    return {entry["name"]: entry["value"] for entry in value or ()}


def as_maps(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as maps, in the same memory."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    names, values = lists.values.flatten()
    fields = [SIGNAL_MAP.key_field, SIGNAL_MAP.item_field]
    entries = pa.StructArray.from_arrays([names, values], fields=fields)
    validity, offsets = lists.buffers()[:2]
    return pa.Array.from_buffers(SIGNAL_MAP, len(lists), [validity, offsets], offset=lists.offset, children=[entries])


def entries_of(row: Mapping[str, float] | None) -> list[dict[str, Any]] | None:
    """One row's signals as Arrow takes them, names in order; None where there are none."""
    finite = [{"name": name, "value": value} for name, value in sorted((row or {}).items()) if isfinite(value)]
    return finite or None
