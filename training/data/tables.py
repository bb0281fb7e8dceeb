"""Labels in a file: a table of `uri,label`, or the verdicts of reviewers; Parquet, CSV or JSON lines.

A table has `uri` (or `file_name`, as Hugging Face's have) and `label` (or `truth`). A file of verdicts has `uri` and
`verdict`, and may have `sha256` (of the bytes that were reviewed), `reviewer` and `reviewed_at`. `size`, `etag` and
`modified_at` are used where they are there; other columns are passed over. Relative URIs are relative to the file. A
malformed file, or an unknown label, is a `SourceError` with the row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.models.labels import category_of
from nsfwscan.schema import Category
from nsfwscan.sources.manifests import checked, rows_of
from nsfwscan.storage.failures import in_words
from nsfwscan.storage.objects import open_file
from nsfwscan.storage.tables import READING_ERRORS

_SUFFIXES = (".parquet", ".csv", ".jsonl")
FILE_COLUMNS = ("file_name", "image_file_name")
"""Columns of an image's name in Hugging Face's metadata."""
_LABEL_COLUMNS = ("verdict", "label", "truth")
_COLUMNS = {
    *("uri", "source-ref", *FILE_COLUMNS, *_LABEL_COLUMNS, "sha256", "reviewer", "reviewed_at"),
    *("size", "etag", "modified_at"),
}
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LabelRow:
    """A row of a table or of a file of verdicts; `label` is None where a reviewer gave none."""

    uri: str
    label: Category | None
    size: int | None
    etag: str | None
    modified_at: datetime | None
    sha256: str | None
    reviewer: str | None
    reviewed_at: datetime | None


@dataclass(frozen=True)
class Disagreement:
    """Different verdicts on one image; the latest counts."""

    uri: str
    taken: Category
    verdicts: tuple[tuple[Category, str | None, datetime | None], ...]
    """(verdict, reviewer, time), oldest first."""


def is_table(uri: str) -> bool:
    """Return whether a source is a table or a file of verdicts, by its name."""
    return uri.lower().endswith(_SUFFIXES)


def kind_of(uri: str, storage: StorageConfig) -> Literal["table", "verdicts"]:
    """Return the kind of a file, by its columns. Raises SourceError where it has neither labels nor verdicts."""
    there = set(_column_names(uri, storage))
    if "verdict" in there:
        return "verdicts"
    if {"label", "truth"} & there:
        return "table"
    raise SourceError(
        f"{uri}: no column `label`, nor `verdict`: its columns are {', '.join(sorted(there)) or 'none at all'}"
    )


def read_labels(uri: str, storage: StorageConfig, extra: dict[str, str], column: str) -> Iterator[LabelRow]:
    """Yield the rows of a file. Raises SourceError.

    Args:
        extra: labels that the alias table does not know.
        column: `label` (or `truth` in its place), of which every row has one; or `verdict`, which may be empty.
    """
    for number, row in enumerate(_rows(uri, storage), start=1):
        where = f"{uri}, row {number}"
        named = next((row[column] for column in FILE_COLUMNS if row.get(column)), None)
        known = checked({**row, "uri": row.get("uri") or named, "truth": None}, Location.of(uri), where)
        given = row.get("truth") if column == "label" and row.get("label") is None else row.get(column)
        if given is None and column == "label":
            raise SourceError(f"{where}: no `label`")
        reviewer = row.get("reviewer")
        yield LabelRow(
            uri=known["uri"],
            label=None if given is None else category_in(given, extra, where),
            size=known["size"],
            etag=known["etag"],
            modified_at=known["modified_at"],
            sha256=_sha256(row.get("sha256"), where),
            reviewer=None if reviewer is None else str(reviewer),
            reviewed_at=_time(row.get("reviewed_at"), where),
        )


def latest_verdicts(rows: Iterable[LabelRow]) -> tuple[list[LabelRow], list[Disagreement]]:
    """Return the latest verdict on each URI; without times, the last in the file. Verdicts without a label (a reviewer
    who passed) do not count."""
    by_uri: dict[str, list[LabelRow]] = {}
    for row in rows:
        if row.label is not None:
            by_uri.setdefault(row.uri, []).append(row)
    latest, disagreements = [], []
    for uri, given in by_uri.items():
        given.sort(key=lambda row: row.reviewed_at or _LONG_AGO)  # stable: equals stay in the file's order
        latest.append(given[-1])
        if len({row.label for row in given}) > 1:
            verdicts = tuple((row.label, row.reviewer, row.reviewed_at) for row in given if row.label)
            disagreements.append(Disagreement(uri, verdicts[-1][0], verdicts))
    return latest, disagreements


def category_in(label: Any, extra: Mapping[str, str], where: str) -> Category:
    """Return the category of a row's label; a number of a float column counts without its `.0`. Raises SourceError."""
    value = f"{label:g}" if isinstance(label, float) else str(label)
    category = category_of(value, extra)
    if category is None:
        raise SourceError(
            f"{where}: unknown label {value!r}; say what it means with --label '{value}=CATEGORY' "
            f"(one of {', '.join(Category)})"
        )
    return category


def _sha256(value: Any, where: str) -> str | None:
    if value is None:
        return None
    text = str(value).lower()
    if len(text) != 64 or set(text) - set("0123456789abcdef"):
        raise SourceError(f"{where}: sha256 {value!r} is not 64 hex digits")
    return text


def _time(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        raise SourceError(f"{where}: reviewed_at {value!r} is not an ISO 8601 time") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _column_names(uri: str, storage: StorageConfig) -> Iterable[str]:
    if PurePosixPath(uri.lower()).suffix == ".parquet":
        with open_list(uri, storage) as file:
            try:
                names: list[str] = pq.ParquetFile(file).schema_arrow.names
            except pa.ArrowInvalid as error:
                raise SourceError(f"{uri} cannot be read: {error}") from error
            return names
    return [name.strip().lower() for name in next(iter(_rows(uri, storage, None)), {})]


def _rows(uri: str, storage: StorageConfig, columns: Collection[str] | None = _COLUMNS) -> Iterator[dict[str, Any]]:
    try:
        with open_list(uri, storage) as file:
            yield from rows_of(file, uri, columns)
    except READING_ERRORS as error:
        raise SourceError(f"{uri} cannot be read: {error}") from error


def open_list(uri: str, storage: StorageConfig) -> IO[bytes]:
    """Open a list of labels. Raises SourceError where it cannot be read."""
    with in_words(f"cannot read {uri}", SourceError):
        return open_file(Location.of(uri), storage)
