"""What a stage is, and how stages run one after the other.

A stage is a callable `Table -> Table` that declares its columns. It never changes the number or the order of rows, nor
`uri`; it leaves alone the rows that lack what it needs; bad data becomes values in the row, a broken set-up raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.errors import RowError, Status
from nsfwscan.policy.signals import entries_of, merged, signals_array
from nsfwscan.schema import COST, SIGNAL_COLUMNS


class Stage(Protocol):
    """One station of the pipeline.

    Attributes:
        name: for messages and timings.
        needs: columns that must not be null in a row for the stage to touch it.
        adds: the columns it puts in, with their types.
        drops: the columns it takes out.
    """

    name: str
    needs: tuple[str, ...]
    adds: pa.Schema
    drops: tuple[str, ...]

    def open(self) -> None:
        """Builds what is heavy (clients, models), on the worker; called once before the first table."""

    def __call__(self, table: pa.Table) -> pa.Table:
        """The table with this stage's work done."""


Row = Mapping[str, Any]


def map_rows(stage: Stage, table: pa.Table, work: Callable[[Row], Row], adds: pa.Schema | None = None) -> pa.Table:
    """Runs `work` on every row that has what the stage needs; the one place where a row's failure is caught.

    Args:
        work: takes the row's `needs`, and its `uri`, `size` and `index`; returns values for `adds`, or for columns that
            are there already; raises `RowError` for bad data, whose status, message and values go into the row. A file
            is a memoryview, valid as long as the table.
        adds: those of the stage's columns that `work` gives; unset: all.
    """
    given = {name: _values(table[name]) for name in {"uri", "size", *stage.needs}} | {"index": range(table.num_rows)}
    todo = [i for i in range(table.num_rows) if all(given[name][i] is not None for name in stage.needs)]
    results = map(_guarded(work), ({k: v[i] for k, v in given.items()} for i in todo))
    changed: dict[int, Row] = dict(zip(todo, results, strict=True))
    table = _merge(table, stage.adds if adds is None else adds, changed)
    return table.drop_columns([name for name in stage.drops if name in table.column_names])


def _values(column: pa.ChunkedArray) -> list[Any]:
    """A column's values; files where they lie, since to copy one takes as long as to digest it."""
    if not pa.types.is_large_binary(column.type):
        return list(column.to_pylist())
    return [value for chunk in column.chunks for value in _views(chunk)]


def _views(files: pa.LargeBinaryArray) -> Iterator[memoryview | None]:
    _, offsets, data = files.buffers()
    ends = np.frombuffer(offsets, np.int64)[files.offset : files.offset + len(files) + 1].tolist()
    view = memoryview(data if data is not None else b"")
    for start, end, there in zip(ends, ends[1:], files.is_valid().to_pylist(), strict=False):
        yield view[start:end] if there else None


def _guarded(work: Callable[[Row], Row]) -> Callable[[Row], Row]:
    def guarded(row: Row) -> Row:
        try:
            return work(row)
        except RowError as error:
            return {**error.values, "status": error.status, "error": error.message}

    return guarded


def _merge(table: pa.Table, adds: pa.Schema, changed: dict[int, Row]) -> pa.Table:
    """Writes the changed values over the table's columns, and adds what is new."""
    touched = {name for row in changed.values() for name in row}
    for field in [*table.schema, *adds]:
        there = field.name in table.column_names
        if there and field.name not in touched:
            continue
        values = table[field.name].to_pylist() if there else [None] * table.num_rows
        for i, row in changed.items():
            if field.name in row:
                value = row[field.name]
                values[i] = entries_of(value) if isinstance(value, Mapping) else value  # signals, by name
        column = pa.array(values, field.type)
        if there:
            table = table.set_column(table.schema.get_field_index(field.name), field, column)
        else:
            table = table.append_column(field, column)
    return table


def with_signals(table: pa.Table, found: Sequence[Mapping[str, float] | None]) -> pa.Table:
    """The table with further signals of each row."""
    [field] = SIGNAL_COLUMNS
    return _with_merged(table, field, found)


def with_cost(table: pa.Table, stage: str, asked: NDArray[np.bool_], seconds: float) -> pa.Table:
    """The table with the seconds that a stage took, in equal parts on the rows that it worked on."""
    each = {stage: seconds / max(1, int(asked.sum()))}
    return _with_merged(table, COST, [each if one else None for one in asked])


def _with_merged(table: pa.Table, field: pa.Field, found: Sequence[Mapping[str, float] | None]) -> pa.Table:
    if field.name not in table.column_names:
        return table.append_column(field, signals_array(found))
    return table.set_column(table.schema.get_field_index(field.name), field, merged(table[field.name], found))


def run(stages: Sequence[Stage], table: pa.Table) -> pa.Table:
    """The table after all stages, in order."""
    for stage in stages:
        table = stage(table)
    return table


def run_overlapped(
    stages: Sequence[Stage], table: pa.Table, chunk_bytes: int, moved: Callable[[], None] = lambda: None
) -> pa.Table:
    """As `run`, in chunks: while one chunk goes through the later stages, the first stage already reads the next.

    Args:
        chunk_bytes: listed bytes in a chunk; bounds the encoded bytes in memory to two chunks of it.
        moved: called after each chunk.
    """
    first, rest = stages[0], stages[1:]
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as ahead:
        chunks = _chunks(table, chunk_bytes)
        pending = ahead.submit(first, next(chunks))
        done: list[pa.Table] = []
        for chunk in chunks:
            current, pending = pending.result(), ahead.submit(first, chunk)
            done.append(run(rest, current))
            moved()
            del current
        done.append(run(rest, pending.result()))
    return pa.concat_tables(done)


_CHUNK_ROWS = 64
_UNKNOWN_SIZE = 1_000_000
"""Bytes assumed for an object whose listing gives no size (a manifest)."""


def _chunks(table: pa.Table, chunk_bytes: int) -> Iterator[pa.Table]:
    start = held = 0
    for i, size in enumerate(table["size"].to_pylist()):
        weight = _UNKNOWN_SIZE if size is None else size
        if i > start and (held + weight > chunk_bytes or i - start >= _CHUNK_ROWS):
            yield table.slice(start, i - start)
            start, held = i, 0
        held += weight
    yield table.slice(start)


def fresh(table: pa.Table) -> pa.Table:
    """A listing with the outcome columns that every stage may write: `status` ok, `error` null."""
    rows = table.num_rows
    return table.append_column("status", pa.array([Status.OK] * rows, pa.string())).append_column(
        "error", pa.nulls(rows, pa.string())
    )
