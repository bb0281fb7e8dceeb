"""Contract of a stage, and the functions that run stages one after the other.

A stage is a callable `Table -> Table` that declares its columns. It never changes the number or the order of rows, nor
`uri`; it leaves rows alone that lack what it needs; bad data becomes values in the row, a broken set-up raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.errors import RowError, Status
from nsfwscan.models.scorer import Mask, Scorer
from nsfwscan.policy.gate import Gate
from nsfwscan.policy.signals import entries_of, merged, signals_array
from nsfwscan.schema import COST, SIGNAL_COLUMNS
from nsfwscan.storage.threads import Call, Threads


class Stage(Protocol):
    """One step of the pipeline; subclass it.

    Attributes:
        name: for messages and timings.
        needs: columns that must not be null in a row for the stage to touch it.
        adds: the columns it adds, with their types.
        drops: the columns it removes.
    """

    name: str
    needs: tuple[str, ...]
    adds: pa.Schema
    drops: tuple[str, ...] = ()

    def open(self) -> None:
        """Build what is heavy (clients, models), on the worker; called once before the first table."""
        return

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with this stage's work done."""


class ScoringStage(Stage):
    """A stage with a model."""

    _scorer: Scorer

    def open(self) -> None:
        """Load the weights."""
        self._scorer.open()


Row = Mapping[str, Any]


def map_rows(stage: Stage, table: pa.Table, work: Callable[[Row], Row], adds: pa.Schema | None = None) -> pa.Table:
    """Run `work` on every row that has what the stage needs; the one place where a row's failure is caught.

    Args:
        work: takes the row's `needs`, and its `uri`, `size` and `index`; returns values for `adds`, or for columns that
            the table has already; raises `RowError` for bad data, which goes into the row with its values. A file is a
            memoryview, valid as long as the table.
        adds: the columns that `work` gives; unset: all that the stage adds.
    """
    given = {name: values_of(table[name]) for name in {"uri", "size", *stage.needs}} | {"index": range(table.num_rows)}
    changed: dict[int, Row] = {}
    for i in range(table.num_rows):
        if all(given[name][i] is not None for name in stage.needs):
            try:
                changed[i] = work({name: values[i] for name, values in given.items()})
            except RowError as error:
                changed[i] = {**error.values, "status": error.status, "error": error.message, "error_code": error.code}
    table = _merge(table, stage.adds if adds is None else adds, changed)
    return table.drop_columns([name for name in stage.drops if name in table.column_names])


def put(table: pa.Table, field: pa.Field, column: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Return the table with a column, in place of the one of that name if there is one."""
    place = table.schema.get_field_index(field.name)
    return table.append_column(field, column) if place < 0 else table.set_column(place, field, column)


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values; files as views, since copying one takes as long as digesting it."""
    if not pa.types.is_large_binary(column.type):
        return list(column.to_pylist())
    return [value for chunk in column.chunks for value in _views(chunk)]


def _views(files: pa.LargeBinaryArray) -> Iterator[memoryview | None]:
    _, offsets, data = files.buffers()
    ends = np.frombuffer(offsets, np.int64)[files.offset : files.offset + len(files) + 1].tolist()
    view = memoryview(data if data is not None else b"")
    for start, end, there in zip(ends, ends[1:], files.is_valid().to_pylist(), strict=False):
        yield view[start:end] if there else None


def _merge(table: pa.Table, adds: pa.Schema, changed: dict[int, Row]) -> pa.Table:
    """Write the changed values over the table's columns, and add the new columns."""
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
        table = put(table, field, pa.array(values, field.type))
    return table


def with_signals(
    table: pa.Table, found: Sequence[Mapping[str, float] | None], field: pa.Field = SIGNAL_COLUMNS[0]
) -> pa.Table:
    """Return the table with further signals of each row, or further entries of a field like it."""
    there = field.name in table.column_names
    return put(table, field, merged(table[field.name], found) if there else signals_array(found))


def with_cost(table: pa.Table, stage: str, asked: NDArray[np.bool_], seconds: float) -> pa.Table:
    """Return the table with the seconds that a stage took, in equal parts on the rows that it worked on."""
    each = {stage: seconds / max(1, int(asked.sum()))}
    return with_signals(table, [each if one else None for one in asked], COST)


def gated(table: pa.Table, gate: Gate | None, column: str) -> tuple[Mask | None, pa.Table]:
    """Return which rows a detector is asked about, None for all, and the table with what its gate says of each.

    Args:
        column: which is null in rows that the detector cannot look at.
    """
    if gate is None:
        return None, table
    wanted, there = gate(table), table[column].is_valid().to_numpy()
    said = [{f"gate.{gate.name}": float(one)} if here else None for one, here in zip(wanted, there, strict=True)]
    return wanted | gate.in_shadow(table["sha256"].to_pylist()), with_signals(table, said)


def run(stages: Sequence[Stage], table: pa.Table) -> pa.Table:
    """Return the table after all stages, in order."""
    for stage in stages:
        table = stage(table)
    return table


def run_overlapped(
    stages: Sequence[Stage], table: pa.Table, chunk_bytes: int, moved: Callable[[], None] = lambda: None
) -> pa.Table:
    """Do as `run` in chunks, all of which are in memory in the end: see `overlapped`."""
    return pa.concat_tables(overlapped(stages, table, chunk_bytes, moved))


def overlapped(
    stages: Sequence[Stage], table: pa.Table, chunk_bytes: int, moved: Callable[[], None] = lambda: None
) -> Iterator[pa.Table]:
    """Yield the table after all stages, in chunks: while one chunk passes the later stages, the first stage already
    reads the next one. Where this ends early, nobody waits for what is being read.

    Args:
        chunk_bytes: listed bytes in a chunk; no more than two chunks are in memory.
        moved: called after each chunk.
    """
    first, rest = stages[0], stages[1:]
    ahead = Threads(1, "ahead")
    cuts = cut(table["size"].to_pylist(), CHUNK_ROWS, chunk_bytes)
    chunks = (table.slice(rows.start, rows.stop - rows.start) for rows in cuts)
    pending = ahead.submit(partial(_begun, first, next(chunks)))
    for chunk in chunks:
        current, pending = pending.result(), ahead.submit(partial(_begun, first, chunk))
        current = run(rest, current)
        moved()
        yield current
        del current
    yield run(rest, pending.result())


def _begun(stage: Stage, chunk: pa.Table, _: Call[pa.Table]) -> pa.Table:
    return stage(chunk)


CHUNK_ROWS = 64
"""Rows of a chunk at most."""
_UNKNOWN_SIZE = 1_000_000
"""Assumed size of an object whose listing gives none (a manifest)."""


def cut(sizes: Sequence[int | None], most_rows: int, most_bytes: int) -> Iterator[slice]:
    """Yield slices of rows with so many listed bytes at most, or of one row; the last one may be empty."""
    start = held = 0
    for i, size in enumerate(sizes):
        weight = _UNKNOWN_SIZE if size is None else size
        if i > start and (held + weight > most_bytes or i - start >= most_rows):
            yield slice(start, i)
            start, held = i, 0
        held += weight
    yield slice(start, len(sizes))


def fresh(table: pa.Table) -> pa.Table:
    """Return a listing with the columns that every stage may write: `status` (ok), `error` and `error_code` (null)."""
    none = pa.nulls(table.num_rows, pa.string())
    statuses = pa.array([Status.OK] * table.num_rows, pa.string())
    for name, column in (("status", statuses), ("error", none), ("error_code", none)):
        table = table.append_column(name, column)
    return table
