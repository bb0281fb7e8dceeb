"""Open a DuckDB, in memory or one that sorts and joins more than memory holds.

The database of `spilling`, and what it spills, lie in a temporary folder that is removed with the connection. A process
in which none can be opened is a `NsfwscanError`, a full local disk a `duckdb.Error`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from nsfwscan.errors import NsfwscanError

MEMORY_LIMIT = "1GB"
Config = dict[str, str | bool | int | float | list[str]]


def open_database(path: str, config: Config) -> duckdb.DuckDBPyConnection:
    """Open a database file, or `:memory:`.

    Raises:
        NsfwscanError: this process cannot: its working directory is gone, or it has no file descriptor left.
    """
    try:
        return duckdb.connect(path, config=config)
    except duckdb.IOException as error:
        raise NsfwscanError(
            f"cannot open a DuckDB in this process: {str(error).splitlines()[0]}; run the same command in a folder "
            "that exists, with free file descriptors (`ulimit -n`)"
        ) from None


@contextmanager
def spilling(purpose: str, *, threads: int | None = None) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Yield the connection, and its folder, for files of the caller's own.

    Args:
        purpose: for the folder's name.
        threads: unset: one for each core.
    """
    with tempfile.TemporaryDirectory(prefix=f"nsfwscan-{purpose}-") as folder:
        config: Config = {"memory_limit": MEMORY_LIMIT, "temp_directory": folder}
        if threads is not None:
            config["threads"] = threads
        with open_database(f"{folder}/{purpose}.db", config) as connection:
            with suppress(duckdb.InvalidInputException):  # in a notebook without ipywidgets there is none to switch off
                connection.execute("SET enable_progress_bar = false")  # it would show itself without a terminal
            yield connection, Path(folder)
