"""Read the rows of a committed report, batch by batch, with only the columns asked for.

Memory stays flat. A column that the report lacks, since it is older, is null. A part that is absent, or differs from
what the run recorded, is a `StoreError` before any of its rows is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA

_BATCH_ROWS = 131_072
_WORDS = ("decision", "queue", "skill", "shield")
"""Columns with few distinct values, which no rule reads: as dictionaries they are read several times as fast."""


def read_rows(run: Run, record: RunRecord, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of a run's report with these columns; `_WORDS` come as dictionaries.

    Args:
        record: the content of its `run.json`.
    """
    for file in record.files_in("report"):
        parquet = run.parquet(file, dictionaries=_WORDS)
        known = [name for name in columns if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=known, use_threads=False):
            yield with_all(pa.Table.from_batches([batch]), columns)


def with_all(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the rows with exactly these columns of the report.

    A column that an older report lacks is null; a column of another type is cast.
    """
    return pa.table({name: _column(rows, name) for name in columns})


def _column(rows: pa.Table, name: str) -> pa.ChunkedArray | pa.Array:
    kind = REPORT_SCHEMA.field(name).type
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows, kind)
    column = rows[name]
    return column if pa.types.is_dictionary(column.type) else column.cast(kind)
