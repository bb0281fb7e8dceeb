"""Ask a whole report store in SQL: its committed runs, the rows of all of them, and verdicts, as tables of DuckDB.

`store_sql` is the SQL that opens a store, for DuckDB's own shell; `query_store` runs a statement over the same tables
in this process, which reaches S3 as nsfwscan does. Only files that a committed run names are read. Their digests are
not checked: `nsfwscan verify` does that.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from nsfwscan.reports.query import quoted, secret_of
from nsfwscan.reports.reading import answer
from nsfwscan.runs.catalogue import CATALOGUE, catalogue
from nsfwscan.runs.changes import CHANGES_SCHEMA
from nsfwscan.runs.drift import DRIFT_SCHEMA
from nsfwscan.runs.escalations import ESCALATION_SCHEMA
from nsfwscan.runs.false_positives import FALSE_POSITIVE_SCHEMA
from nsfwscan.schema import DETECTION_SCHEMA, EMBEDDING_SCHEMA, LINE_SCHEMA, REPORT_SCHEMA, TIMESTAMP, VIEW_SCHEMA
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import FOLDER as VERDICTS
from nsfwscan.verdicts.kept import all_verdicts, part_names

TABLES = {
    "rows": ("report", REPORT_SCHEMA),
    "changes": ("changes", CHANGES_SCHEMA),
    "views": ("views", VIEW_SCHEMA),
    "detections": ("detections", DETECTION_SCHEMA),
    "embeddings": ("embeddings", EMBEDDING_SCHEMA),
    "text": ("text", LINE_SCHEMA),
    "escalations": ("escalations", ESCALATION_SCHEMA),
    "false_positives": ("false_positives", FALSE_POSITIVE_SCHEMA),
    "drift": ("drift", DRIFT_SCHEMA),
}
"""Tables beside `runs` and `files`, each with the folder of a run that it is made of, and the columns of a new one."""
_WITH_RUN_ID = {"rows", "escalations"}
"""Tables whose rows name their run themselves: DuckDB passes over the parts of other runs."""


def store_sql(store: Store) -> str:
    """Return the SQL that opens a store. It holds as long as the store has `runs.parquet`, for later runs, too."""
    table, parts = catalogue(store), quoted(store.locate(f"{VERDICTS}/*.parquet"))
    lines = [
        f"-- The report store {store.uri}: save this, then `duckdb -init FILE`.",
        *(secret_of(store.storage, store.endpoint_url) if store.location.is_s3 else []),
        f"CREATE OR REPLACE TEMP VIEW runs AS FROM read_parquet({quoted(store.locate(CATALOGUE))});",
        *_views(store, table),
        *([f"CREATE OR REPLACE TEMP VIEW verdicts AS FROM read_parquet({parts});"] if part_names(store) else []),
    ]
    return "\n".join(lines) + "\n"


def _views(store: Store, table: pa.Table) -> Iterator[str]:
    """Yield the statements that make the tables, but for those that no run has a part of."""
    yield "CREATE OR REPLACE TEMP VIEW files AS"
    path = f"{quoted(store.uri + '/')} || file.path"
    yield f"SELECT run_id, kind, committed_at, file.folder, {path} AS filename, file.rows"
    yield "FROM (SELECT *, unnest(files) AS file FROM runs);"
    there = {file["folder"] for files in table["files"].to_pylist() for file in files}
    for name, (folder, _) in TABLES.items():
        if folder not in there:
            yield f"-- {name}: no run has any"
            continue
        named = name in _WITH_RUN_ID
        parts = f"SELECT list(filename) FROM files WHERE folder = {quoted(folder)}"
        yield f"SET VARIABLE {name}_files = ({parts});"
        yield f"CREATE OR REPLACE TEMP VIEW {name} AS"
        own = "part.* EXCLUDE (filename, run_id)" if named else "part.* EXCLUDE (filename)"
        yield f"SELECT run.run_id, run.kind AS run_kind, run.committed_at, {own}"
        yield f"FROM read_parquet(getvariable('{name}_files'), union_by_name = true, filename = true) AS part"
        yield f"JOIN {'runs' if named else 'files'} AS run USING ({'run_id' if named else 'filename'});"


def query_store(store: Store, statement: str) -> pa.Table:
    """Return the result of an SQL statement over the tables of a store, all in memory.

    Raises:
        ConfigError: DuckDB cannot run the statement.
        StoreError: the store fails, or a file of verdicts is broken.
    """
    table = catalogue(store)
    with spilling("store") as (connection, folder):
        if not store.is_local:
            connection.register_filesystem(filesystem(store.location, store.storage))
        connection.register("runs", table)
        connection.register("verdicts", all_verdicts(store))
        for name, (_, schema) in TABLES.items():
            connection.register(name, _without_rows(schema))  # a view of parts goes before it
        connection.execute("\n".join(_views(store, table)))
        return answer(connection, statement, [str(folder), store.uri])


def _without_rows(schema: pa.Schema) -> pa.Table:
    own = pa.schema([("run_id", pa.string()), ("run_kind", pa.string()), ("committed_at", TIMESTAMP)])
    return pa.schema([*own, *(field for field in schema if field.name not in own.names)]).empty_table()
