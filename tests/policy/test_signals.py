"""The signals' column: what is no number never gets into it."""

from __future__ import annotations

import math

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.policy.signals import as_maps, merged, signals_array, signals_of_row
from nsfwscan.schema import REPORT_SCHEMA

_rows = st.lists(
    st.none() | st.dictionaries(st.text(max_size=3), st.floats(width=32, allow_nan=True, allow_infinity=True)),
    max_size=5,
)


def test_signals_are_the_reports_column() -> None:
    """Names are in order, rows without any are null, and NaN and infinity are left out."""
    column = signals_array([{"b": 0.5, "a": 1.0, "c": math.nan}, None, {}, {"d": math.inf}])
    assert column.type == REPORT_SCHEMA.field("signals").type
    assert column.to_pylist() == [[{"name": "a", "value": 1.0}, {"name": "b", "value": 0.5}], None, None, None]


@given(rows=_rows, more=st.data())
def test_merging_adds_and_replaces(rows: list[dict[str, float] | None], more: st.DataObject) -> None:
    """Each row has its own signals and the further ones, and of one name the further one's number."""
    others = [more.draw(st.none() | st.dictionaries(st.text(max_size=3), st.floats(0, 1, width=32))) for _ in rows]
    column = pa.chunked_array([signals_array(rows)])
    found = [signals_of_row(row) for row in merged(column, others).to_pylist()]
    old = [{name: value for name, value in (row or {}).items() if math.isfinite(value)} for row in rows]
    assert found == [{**first, **(second or {})} for first, second in zip(old, others, strict=True)]


@given(rows=_rows, cut=st.data())
def test_rules_see_a_map(rows: list[dict[str, float] | None], cut: st.DataObject) -> None:
    """Of the same names and numbers, null where there are none, also of a part of a table."""
    start = cut.draw(st.integers(0, len(rows)))
    column = pa.chunked_array([signals_array(rows)]).slice(start)
    found = [None if row is None else dict(row) for row in as_maps(column).to_pylist()]
    assert found == [None if row is None else signals_of_row(row) for row in column.to_pylist()]
