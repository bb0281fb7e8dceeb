"""Lists of objects that somebody else made: Parquet, CSV, JSON lines.

In: a file with a `uri` column (or lines of `{"source-ref": "s3://…"}`, as AWS batch moderation and Ground Truth write
them); `size`, `etag`, `modified_at` and `truth` are used where they are there, other columns are passed over. Relative
URIs are relative to the manifest. Out: dicts with those keys. A malformed manifest is a `SourceError` with the row.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import canonical
from nsfwscan.models.labels import category_of
from nsfwscan.schema import Category
from nsfwscan.storage import absolute_uri, local_path, open_remote, scheme_of

_SUFFIXES = (".parquet", ".csv", ".jsonl", ".manifest")
_COLUMNS = {"uri", "source-ref", "size", "etag", "modified_at", "truth"}


def is_manifest(uri: str) -> bool:
    """Whether a file lists objects, by its name: what `read_manifest` or `inventory.read_inventory` reads."""
    return uri.lower().endswith(_SUFFIXES) or is_inventory(uri)


def is_inventory(uri: str) -> bool:
    """Whether a file is the manifest of an S3 Inventory, by its name: `manifest.json`."""
    return uri.lower().rsplit("/", 1)[-1] == "manifest.json"


def read_manifest(uri: str, storage: StorageConfig) -> Iterator[dict[str, Any]]:
    """The rows of a manifest: `uri` (absolute), and `size`, `etag`, `modified_at`, `truth` where given.

    Raises:
        SourceError: the file is malformed, has no `uri`, or a row's value cannot be understood.
        OSError: the file cannot be read.
    """
    with open_source(uri, storage) as file:
        try:
            for number, row in enumerate(rows_of(file, uri, _COLUMNS), start=1):
                yield checked(row, uri, f"{uri}, row {number}")
        except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
            raise SourceError(f"{uri} cannot be read as a manifest: {error}") from error


def open_source(uri: str, storage: StorageConfig) -> IO[bytes]:
    """A file of objects' names, wherever it lies, to be read as bytes."""
    if scheme_of(uri) is None:
        return open(local_path(uri), "rb")
    return open_remote(uri, storage)


def rows_of(file: IO[bytes], uri: str, columns: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a table as they were written, by its name Parquet (of which only those columns; unset: all), CSV, or
    else JSON lines; an empty row for a line that is no JSON object.

    Raises:
        ArrowInvalid, UnicodeDecodeError, csv.Error: the file is malformed.
    """
    suffix = PurePosixPath(uri.lower()).suffix
    if suffix == ".parquet":
        return _parquet(file, columns)
    return _csv(file) if suffix == ".csv" else _json_lines(file)


def _parquet(file: IO[bytes], wanted: Collection[str] | None) -> Iterator[dict[str, Any]]:
    parquet = pq.ParquetFile(file)
    columns = [name for name in parquet.schema_arrow.names if wanted is None or name in wanted]
    for batch in parquet.iter_batches(batch_size=4096, columns=columns):
        yield from batch.to_pylist()


def _csv(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for row in csv.DictReader(io.TextIOWrapper(file, encoding="utf-8-sig", newline="")):
        yield {key: value or None for key, value in row.items() if key is not None}


def _json_lines(file: IO[bytes]) -> Iterator[dict[str, Any]]:
    for line in file:
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        yield row if isinstance(row, dict) else {}


def checked(row: dict[str, Any], manifest: str, where: str) -> dict[str, Any]:
    """A row as `read_manifest` gives it, from values as they were written.

    Args:
        where: the place of the row, for the message.

    Raises:
        SourceError: a value cannot be understood.
    """
    uri = row.get("uri") or row.get("source-ref")
    if not isinstance(uri, str):
        raise SourceError(f"{where}: no `uri` (nor `source-ref`); a manifest names one object a row")
    truth = row.get("truth")
    return {
        "uri": _absolute(_text(uri, where), manifest),
        "size": _size(row.get("size"), where),
        "etag": None if row.get("etag") is None else _text(str(row["etag"]), where).strip('"'),
        "modified_at": _timestamp(row.get("modified_at"), where),
        "truth": None if truth is None else _truth(str(truth), where),
    }


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{where}: {value!r} is not text that UTF-8 can hold") from None
    return value


def _absolute(uri: str, manifest: str) -> str:
    """As a listing would write it, so that the same object has the same URI."""
    uri = canonical(uri)
    if scheme_of(uri) is not None:
        return uri
    path = local_path(uri)
    if scheme_of(manifest) is None:
        return absolute_uri(os.path.join(os.path.dirname(local_path(manifest)), path))
    return absolute_uri(path) if path.startswith("/") else f"{canonical(manifest).rsplit('/', 1)[0]}/{path}"


def _truth(value: str, where: str) -> Category:
    category = category_of(value)
    if category is None:
        raise SourceError(f"{where}: unknown truth {value!r}; one of {', '.join(Category)}")
    return category


def _size(value: Any, where: str) -> int | None:
    if value is None:
        return None
    try:
        size = int(value)
    except (TypeError, ValueError, OverflowError):
        size = -1
    if not 0 <= size < 2**63:
        raise SourceError(f"{where}: size {value!r} is not a number of bytes")
    return size


def _timestamp(value: Any, where: str) -> datetime | None:
    if value is None or isinstance(value, datetime):
        found = value
    else:
        try:
            found = datetime.fromisoformat(str(value))
        except ValueError:
            raise SourceError(f"{where}: modified_at {value!r} is not an ISO 8601 time") from None
    return found.replace(tzinfo=UTC) if found is not None and found.tzinfo is None else found
