"""Count the values of a column, in Arrow: no value becomes a Python object before it is counted."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def counts_of(column: pa.Array | pa.ChunkedArray, *, nulls: bool = False) -> dict[Any, int]:
    """Return how often each value occurs, in the order of their first occurrence.

    Args:
        nulls: whether to count nulls, too, as None.
    """
    found = column.value_counts().to_pylist()
    return {one["values"]: one["counts"] for one in found if nulls or one["values"] is not None}
