"""DuckDB: a process in which it cannot be opened is told so, and is not aborted."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import duckdb
import pytest

from nsfwscan.policy import sql

_WHERE = {
    "no working directory": "folder = tempfile.mkdtemp(); os.chdir(folder); os.rmdir(folder)",
    "no file descriptor": "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))",
}
_OPEN = {
    "policy": "from nsfwscan.policy.sql import connect\nwith connect() as found: print(found.sql('SELECT 1').fetchall())",
    "file": "from nsfwscan.storage.duckdb_temp import open_database\nopen_database(FILE, {})",
}


@pytest.mark.parametrize(
    ("where", "opened"),
    [("no working directory", "policy"), ("no file descriptor", "policy"), ("no file descriptor", "file")],
)
def test_a_database_that_cannot_be_opened_is_an_error(where: str, opened: str) -> None:
    """duckdb 2.0.0 ended the process with SIGABRT there (exit code 134, at a commit on a cluster)."""
    imports, call = _OPEN[opened].split("\n")
    code = [
        "import os, resource, tempfile",
        "from nsfwscan.errors import NsfwscanError",
        imports,
        "FILE = tempfile.mkdtemp() + '/x.db'",
        _WHERE[where],
        "try:",
        f"    {call}",
        "except NsfwscanError as error:",
        "    print(error)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cannot open a DuckDB in this process: IO Error: ") and "ulimit -n" in done.stdout


def test_policies_share_a_database_and_see_nothing_of_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one connection has made for itself is not there for the next, and a database that broke is opened again."""
    monkeypatch.setattr(sql, "_database", cache(sql._database.__wrapped__))  # not that of the other tests
    with sql.connect() as one, sql.connect() as other:
        one.execute("CREATE TEMP TABLE mine AS SELECT 1")
        with pytest.raises(duckdb.CatalogException, match="mine"):
            other.execute("FROM mine")
        sql._database(os.getpid()).close()
        with sql.connect() as again:
            assert again.execute("SELECT 2").fetchall() == [(2,)]
