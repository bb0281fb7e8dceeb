"""The rows of a committed report, batch by batch and column by column.

In: a run. Out: tables of some of the report's columns, with flat memory; a column that the run did not know yet is
null. A part that is absent, or not what the run recorded, is a `StoreError` before a row of it is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from nsfwscan.runs.record import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA

_BATCH_ROWS = 131_072
_WORDS = ("decision", "queue", "skill", "shield")
"""Columns of few different values, which no rule looks at: read as dictionaries, several times as fast."""


def read_rows(run: Run, record: RunRecord, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of a run's report, with these columns; decisions and their like as dictionaries.

    Args:
        record: the content of its `run.json`.
    """
    for file in record.files_in("report"):
        parquet = run.parquet(file, dictionaries=_WORDS)
        known = [name for name in columns if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=known, use_threads=False):
            yield with_all(pa.Table.from_batches([batch]), columns)


def with_all(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """The rows with exactly these columns of the report; those that an older report lacks are null, and what it has of
    another type is cast."""
    return pa.table({name: _column(rows, name) for name in columns})


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    kind = REPORT_SCHEMA.field(name).type
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows, kind)
    column = rows[name]
    return column if pa.types.is_dictionary(column.type) else column.cast(kind)
