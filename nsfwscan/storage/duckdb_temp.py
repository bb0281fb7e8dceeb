"""Open a DuckDB that sorts and joins more than memory holds.

Its database and what it spills lie in a temporary folder that is removed with the connection. A full local disk is a
`duckdb.Error`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

MEMORY_LIMIT = "1GB"


@contextmanager
def spilling(purpose: str, *, threads: int | None = None) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Yield the connection, and its folder, for files of the caller's own.

    Args:
        purpose: for the folder's name.
        threads: unset: one for each core.
    """
    with tempfile.TemporaryDirectory(prefix=f"nsfwscan-{purpose}-") as folder:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": MEMORY_LIMIT,
            "temp_directory": folder,
        }
        if threads is not None:
            config["threads"] = threads
        with duckdb.connect(f"{folder}/{purpose}.db", config=config) as connection:
            connection.execute("SET enable_progress_bar = false")  # it would show itself where there is no terminal
            yield connection, Path(folder)
