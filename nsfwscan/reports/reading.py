"""Read a committed report in Python: as an Arrow table, or by an SQL statement.

Only files that the run's record names are read, and exactly the bytes that it recorded; a file that is absent or has
others is a `StoreError`. A column that the report does not have, and a statement that DuckDB does not understand, are a
`ConfigError`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from nsfwscan.errors import ConfigError
from nsfwscan.policy.signals import SIGNAL_MAP, as_maps
from nsfwscan.reports.query import quoted
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.duckdb_temp import spilling


def read_report(run: Run, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of a run's report, all in memory, with the types of `REPORT_SCHEMA`.

    Args:
        columns: to read; unset: all. A column that an older report lacks is null.
    """
    names = _checked(REPORT_SCHEMA.names if columns is None else columns)
    schema = pa.schema([REPORT_SCHEMA.field(name) for name in names])
    tables = [rows.cast(schema) for rows in read_rows(run, run.record(), names)]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def with_signal_maps(table: pa.Table) -> pa.Table:
    """Return the table with its signals, if it has them, as maps from name to value."""
    place = table.schema.get_field_index("signals")
    return table if place < 0 else table.set_column(place, pa.field("signals", SIGNAL_MAP), as_maps(table["signals"]))


def shown_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows as Python's values, for people: a float32 is the shortest decimal that is the same float32, as
    0.04, and not its 0.0399999991 as a float64. Wherever it stands, in lists, structs and maps, too."""
    columns = [
        [_shown(table.schema.field(i).type, v) for v in table.column(i).to_pylist()] for i in range(table.num_columns)
    ]
    return [dict(zip(table.column_names, values, strict=True)) for values in zip(*columns, strict=True)]


def shortest(value: float) -> float:
    """Return the number with the fewest digits that is the same float32 as a value that is one."""
    return float(str(np.float32(value)))


def _shown(kind: pa.DataType, value: Any) -> Any:
    if value is None or not _has_float32(kind):
        return value
    if pa.types.is_float32(kind):
        return shortest(value)
    if pa.types.is_map(kind):
        return [(key, _shown(kind.item_type, item)) for key, item in value]
    if pa.types.is_struct(kind):
        return {field.name: _shown(field.type, value[field.name]) for field in kind}
    return [_shown(kind.value_type, item) for item in value]


def _has_float32(kind: pa.DataType) -> bool:
    inner = [kind.field(i).type for i in range(kind.num_fields)]
    return bool(pa.types.is_float32(kind)) or any(map(_has_float32, inner))


def query_report(run: Run, statement: str) -> pa.Table:
    """Return the result of an SQL statement over the table `report`, all in memory.

    The report is copied into a temporary DuckDB on disk, part by part: only the result must fit into memory.
    Signals are a map: `signals['exif.camera_absent']`. The statement reaches no other file and no network.
    """
    with spilling("query") as (connection, folder):
        connection.register("empty", with_signal_maps(REPORT_SCHEMA.empty_table()))
        connection.execute("CREATE TABLE report AS SELECT * FROM empty")
        for rows in read_rows(run, run.record(), REPORT_SCHEMA.names):
            connection.register("part", with_signal_maps(rows))
            connection.execute("INSERT INTO report SELECT * FROM part")
        for name in ("empty", "part"):
            connection.unregister(name)
        return answer(connection, statement, [str(folder)])


def answer(connection: duckdb.DuckDBPyConnection, statement: str, allowed: Iterable[str]) -> pa.Table:
    """Return the result of a stranger's statement, which reaches no file but those below the allowed places and no
    network; the connection stays locked. Raises ConfigError where DuckDB cannot run it."""
    connection.execute(f"SET allowed_directories = [{', '.join(map(quoted, allowed))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET python_enable_replacements = false")
    connection.execute("SET lock_configuration = true")
    try:
        found = connection.sql(statement)
        return pa.table({}) if found is None else found.to_arrow_table()
    except duckdb.Error as error:
        raise ConfigError(f"the statement cannot be run: {error}") from None


def _checked(columns: Iterable[str]) -> list[str]:
    """Return the columns, each once. Raises ConfigError for one that no report has."""
    if isinstance(columns, str):
        raise ConfigError(f"columns is the text {columns!r}: give a list of names, [{columns!r}]")
    names = list(dict.fromkeys(columns))
    if unknown := [name for name in names if name not in REPORT_SCHEMA.names]:
        raise ConfigError(
            f"a report has no column {', '.join(map(repr, unknown))}; it has {', '.join(REPORT_SCHEMA.names)}"
        )
    return names
