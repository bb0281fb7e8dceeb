"""Context of objects from a file of the user's, such as the age of the account and the number of reports on it.

The file is CSV, JSON lines or Parquet with a column `uri`; its other columns are free (`account_age_days`,
`prior_reports`, …) and become JSON. The file is read batch by batch. A malformed file, or a row without a URI, is a
`SourceError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import isfinite
from typing import Any

import pyarrow as pa

from nsfwscan.config import StorageConfig, given_place
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.review.ranking import CONTEXT_SCHEMA
from nsfwscan.sources.manifests import checked, rows_of
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.objects import open_file
from nsfwscan.storage.tables import READING_ERRORS

_NAMES = ("uri", "source-ref")
_BATCH = 4096


def read_context(uri: str, storage: StorageConfig) -> Iterator[pa.RecordBatch]:
    """Return the rows of a context file as batches of `CONTEXT_SCHEMA`. CSV holds only text; its values stay text.
    Raises ConfigError for what is no place; SourceError where the file is absent or malformed, or a row names no
    object."""
    return _rows(uri, given_place(uri, "the context"), storage)


def _rows(uri: str, place: Location, storage: StorageConfig) -> Iterator[pa.RecordBatch]:
    rows: list[dict[str, Any]] = []
    try:
        with open_file(place, storage) as file:
            for number, row in enumerate(rows_of(file, uri), start=1):
                named = {name: row.pop(name, None) for name in _NAMES}
                found = checked(named, place, f"{uri}, row {number}")["uri"]
                rows.append({"uri": found, "number": number, "context": json.dumps(_plain(row))})
                if len(rows) == _BATCH:
                    yield pa.RecordBatch.from_pylist(rows, schema=CONTEXT_SCHEMA)
                    rows.clear()
    except READING_ERRORS as error:
        raise SourceError(f"{uri} cannot be read as context: {error}") from error
    except STORE_ERRORS as error:
        raise SourceError(str(setup_error(error, f"cannot read the context {uri}"))) from error
    yield pa.RecordBatch.from_pylist(rows, schema=CONTEXT_SCHEMA)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: times and the like as text, null for NaN and infinity."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
