"""A DuckDB that is opened once in a process, for the plans and commits of its scans: opening one takes 10 to 30 ms of CPU
time, a tenth of a small scan, and each scan opens two. Their tables lie in a file of their own, as ever.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import TracebackType

import duckdb

from nsfwscan.storage.duckdb_temp import MEMORY_LIMIT, Config, open_database

_NUMBERS = count()


class Lender:
    """Opens databases as `open_database` does; a plan's and a commit's within one DuckDB, which lasts as long as this."""

    def __init__(self, temporary: Path) -> None:
        self._config: Config = {"memory_limit": MEMORY_LIMIT, "temp_directory": str(temporary)}
        self._shared: duckdb.DuckDBPyConnection | None = None

    def open(self, path: str, config: Config) -> duckdb.DuckDBPyConnection | _Lent:
        if Path(path).stem not in ("plan", "duplicates"):
            return open_database(path, config)
        if self._shared is None:
            self._shared = open_database(":memory:", self._config)
        return _Lent(self._shared.cursor(), path)


class _Lent:
    """A connection to a file, of which nothing is left in the shared DuckDB afterwards."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._name = f"lent_{next(_NUMBERS)}"

    def __enter__(self) -> duckdb.DuckDBPyConnection:
        quoted = self._path.replace("'", "''")
        self._connection.execute(f"ATTACH '{quoted}' AS {self._name}; USE {self._name}")
        return self._connection

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._connection.execute(f"RESET disabled_optimizers; USE memory; DETACH {self._name}")
        self._connection.close()
