"""DuckDB statements over exactly the committed files of a run, for a person to paste.

They never use a glob: a part that no record names is not part of a report.
"""

from __future__ import annotations

from nsfwscan.config import StorageConfig
from nsfwscan.location import Location
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.text import redacted

_NAMED_FILES = 20
"""Largest number of files that the statement itself names; it reads the names of more files from `run.json`."""


def committed_query(record: RunRecord, folder: str, select: str, rest: str, at: str | None = None) -> tuple[str, ...]:
    """Return the lines of `SELECT select FROM` the files of one folder, then `rest`.

    There are no lines if the folder has no files, or if the path to them cannot be shown: a statement with a blanked
    path would find nothing.

    Args:
        folder: `report`, `false_positives` or `changes`.
        select: the columns.
        rest: `WHERE …`, `GROUP BY …`, `ORDER BY …`; may be several lines.
        at: the run's folder now; unset: the folder that the run was written to.
    """
    here = at or f"{record.store}/runs/{record.run_id}"
    paths = [file.path for file in record.files_in(folder)]
    if not paths or not is_shown(here):
        return ()
    storage = record.config.out_storage or record.config.storage
    lines = secret_of(storage, record.store_endpoint) if Location.of(here).is_s3 else []
    source = f"[{', '.join(quoted(f'{here}/{path}') for path in paths)}]"
    if len(paths) > _NAMED_FILES:
        lines += [
            "SET VARIABLE parts = (",
            f"  SELECT list({quoted(here + '/')} || path)",
            "  FROM (SELECT unnest(files, recursive := true)",
            f"        FROM read_json({quoted(here + '/run.json')}, columns = {{files: 'STRUCT(path VARCHAR)[]'}}))",
            f"  WHERE regexp_full_match(path, '{folder}/[A-Za-z0-9_][A-Za-z0-9._-]*')",
            ");",
        ]
        source = "getvariable('parts')"
    return *lines, f"SELECT {select}", f"FROM read_parquet({source})", *f"{rest};".splitlines()


def is_shown(place: str) -> bool:
    """Return whether a path can be shown unchanged: it holds neither what looks like a secret nor a blanked part."""
    return redacted(place) == place and "***" not in place


def secret_of(storage: StorageConfig, endpoint: str | None) -> list[str]:
    """Return the statement by which DuckDB reaches an S3 store, with the environment's credentials."""
    options = ["TYPE s3", "PROVIDER credential_chain"]
    if storage.region:
        options.append(f"REGION {quoted(storage.region)}")
    if endpoint:  # DuckDB reads the environment's credentials, but not its endpoint
        scheme, _, host = endpoint.rpartition("://")
        options += [
            f"ENDPOINT {quoted(host.rstrip('/'))}",
            "URL_STYLE 'path'",
            f"USE_SSL {str(scheme != 'http').lower()}",
        ]
    return [f"CREATE SECRET ({', '.join(options)});"]


def quoted(text: str) -> str:
    """Return a text as SQL's literal."""
    return "'" + text.replace("'", "''") + "'"
