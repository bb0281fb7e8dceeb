"""Convert the `signals` column: lists of `{name, value}` in reports, maps in rules; null where a row has none.

Numbers that are not finite are left out: in SQL `NaN >= 0.9` is true, and the policy's guard does not look at signals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import pyarrow as pa

from nsfwscan.schema import SIGNAL_GROUPS, SIGNALS

COUNTS = frozenset({"chars", "lines", "profanity", "codes", "hosts", "blocked", "allowed", "other", "odd"})
"""What readers of pictures count: `nsfwscan/texts/ocr.py`, `nsfwscan/texts/codes.py`."""
SIGNAL_MAP = pa.map_(pa.string(), pa.float32())
"""Type of the column in rules: `signals['name']`."""


def signals_array(rows: Sequence[Mapping[str, float] | None]) -> pa.Array:
    """Return the column, of type `SIGNALS`, names sorted."""
    return pa.array([entries_of(row) for row in rows], SIGNALS)


def merged(column: pa.Array | pa.ChunkedArray, more: Sequence[Mapping[str, float] | None]) -> pa.Array:
    """Return the column with more signals for each row; they replace signals of the same name."""
    there = map(signals_of_row, column.to_pylist())
    return signals_array([{**old, **(new or {})} for old, new in zip(there, more, strict=True)])


def signals_of_row(value: Iterable[Mapping[str, Any]] | None) -> dict[str, float]:
    """Return the names and values of one row, as Arrow gives it."""
    return {entry["name"]: entry["value"] for entry in value or ()}


def probabilities_of(signals: Mapping[str, float]) -> dict[str, float]:
    """Return what detectors say as probabilities: without what a file or a gate says, the numbers that a reader of
    pictures counts, and single hints of its patterns."""
    readers = {name.rpartition(".")[0] for name in signals if name.endswith((".chars", ".codes"))}
    return {
        name: value
        for name, value in signals.items()
        if name.partition(".")[0] not in SIGNAL_GROUPS
        and not (
            name.partition(".")[0] in readers and ("." in name.partition(".")[2] or name.partition(".")[2] in COUNTS)
        )
    }


def as_maps(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return the column as maps, in the same memory."""
    lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    names, values = lists.values.flatten()
    fields = [SIGNAL_MAP.key_field, SIGNAL_MAP.item_field]
    entries = pa.StructArray.from_arrays([names, values], fields=fields)
    validity, offsets = lists.buffers()[:2]
    return pa.Array.from_buffers(SIGNAL_MAP, len(lists), [validity, offsets], offset=lists.offset, children=[entries])


def entries_of(row: Mapping[str, float] | None) -> list[dict[str, Any]] | None:
    """Return one row's signals as Arrow takes them, names sorted; None where there are none."""
    finite = [{"name": name, "value": value} for name, value in sorted((row or {}).items()) if isfinite(value)]
    return finite or None
