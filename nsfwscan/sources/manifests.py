"""Read lists of objects that somebody else made, in any form that `tables.py` knows.

A column names the objects (`columns.py`); `size`, `etag`, `modified_at` and `truth` are used where they are there, and
other columns are passed over. Relative URIs are relative to the list.

A list is used for what can be understood of it. A missing value is None, also as pandas and others write it (`NaN`,
`null`, `N/A`, …). A value of `size`, `modified_at` or `truth` that cannot be understood is None, and counted as a
warning; a column of which no value can be understood is a `SourceError`, since something else is wrong then. So is a
row that names no object: it cannot be a row of the report, and must not be passed over.

Sizes are whole numbers, also as `41537.0`. Times are ISO 8601 (UTC, where no zone is given), HTTP dates, or numbers
since 1970, whose unit is taken from how large they are: up to 10^11 seconds (year 5138), up to 10^14 milliseconds, up
to 10^17 microseconds, else nanoseconds; eight digits that are a date (`20261101`) are one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import IO, Any

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.models.labels import category_of
from nsfwscan.schema import Category
from nsfwscan.storage.columns import Columns
from nsfwscan.storage.failures import STORE_ERRORS
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.objects import open_file, written_time
from nsfwscan.storage.tables import HEAD_BYTES, READING_ERRORS, Shape, is_named_list, refusal, rows_in, shape_of
from nsfwscan.text import printable
from nsfwscan.warning import WarningKind, Warnings

_COLUMNS = ("uri", "size", "etag", "modified_at", "truth")
_NOTHING = frozenset(("", "nan", "none", "null", "nil", "na", "n/a", "<na>", "nat", "#n/a"))
_ENOUGH = 1000
"""Values of a column after which it is wholly wrong if none was understood; all of them, where there are fewer."""


def is_manifest(uri: str) -> bool:
    """Return whether a file lists objects by its name alone, as runs knew it that did not look: see `list_shape`."""
    return uri.lower().endswith((".parquet", ".csv", ".jsonl", ".manifest")) or is_inventory(uri)


def is_inventory(uri: str) -> bool:
    """Return whether a file is the manifest of an S3 Inventory, by its name: `manifest.json`."""
    return uri.lower().rsplit("/", 1)[-1] == "manifest.json"


def list_shape(place: Location, storage: StorageConfig) -> Shape | None:
    """Return what a source is written in that is a list of objects; None for one that is none, or has no bytes of its
    own: an image, a folder, a prefix. Its first bytes decide. Raises SourceError where its name says that it is a list
    and it is none that is read, or it is an archive or a workbook; STORE_ERRORS where its name says that it is a list,
    and it cannot be read."""
    try:
        head = _head(place, storage)
    except STORE_ERRORS:
        if is_named_list(place.uri):
            raise
        return None  # listing it will say what is wrong
    if head is None:
        return None
    return Shape("inventory") if is_inventory(place.uri) else shape_of(head, place.uri)


def _head(place: Location, storage: StorageConfig) -> bytes | None:
    """Return the first bytes of a file; None where there is none."""
    if place.is_local:
        if not os.path.isfile(place.path):
            return None
        with open(place.path, "rb") as file:
            return file.read(HEAD_BYTES)
    if place.uri.endswith("/") or (place.is_s3 and not place.path):
        return None
    fs = filesystem(place, storage)
    if place.is_s3:
        found: bytes = fs.cat_file(place.uri, start=0, end=HEAD_BYTES)
        return found
    with fs.open(place.uri, "rb", block_size=HEAD_BYTES) as file:
        head: bytes = file.read(HEAD_BYTES)
        return head


def read_manifest(
    manifest: Location, storage: StorageConfig, warnings: Warnings | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list: `uri` (absolute), and `size`, `etag`, `modified_at`, `truth` where given.

    Args:
        warnings: where it is counted what could not be understood.

    Raises:
        SourceError: the file is no list, or is damaged; no column names objects, a row names none, or a column is
            wholly wrong.
        OSError: the file cannot be read.
    """
    uri = manifest.uri
    doubts = _Doubts(uri, Warnings() if warnings is None else warnings)
    with open_file(manifest, storage) as file:
        try:
            for number, row in enumerate(rows_of(file, uri, _COLUMNS, doubts.seen), start=1):
                yield checked(row, manifest, f"{uri}, row {number}", doubts)
        except READING_ERRORS as error:
            remedy = ": write it in UTF-8" if isinstance(error, UnicodeError) else ""
            raise SourceError(f"{uri} cannot be read as a manifest: {str(error) or 'it breaks off'}{remedy}") from error
    doubts.settle()


def rows_of(
    file: IO[bytes], uri: str, columns: Collection[str] | None = None, seen: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a list as they were written, whatever it is written in; an empty row for what is no row.

    Args:
        file: at its start, and seekable.
        columns: those that are wanted beside `uri`, however they are capitalised; unset: all.
        seen: becomes the names of the columns, as they were written.

    Raises:
        SourceError: the file is no list; no column names objects, or several do.
        READING_ERRORS: it is damaged.
    """
    shape = shape_of(file.read(HEAD_BYTES), uri, wanted=True)
    file.seek(0)
    if shape is None or shape.format == "inventory":
        raise SourceError(refusal(uri, "is no list of objects but the manifest of an S3 Inventory"))
    chooser = Columns(uri, columns)
    for row in rows_in(file, shape, chooser):
        if seen is not None:
            seen[:] = chooser.seen or list(row)
        yield row


@dataclass
class _Doubts:
    """Values of a list that could not be understood."""

    uri: str
    warnings: Warnings
    seen: list[str] = field(default_factory=list)
    _good: set[str] = field(default_factory=set)
    _bad: dict[str, list[str]] = field(default_factory=dict)
    """Columns, and the complaints about their values: all of them as long as no value was good, then none."""

    def good(self, column: str) -> None:
        """Note that a value was understood."""
        self._good.add(column)

    def bad(self, column: str, complaint: str) -> None:
        """Count one that was not. Raises SourceError where so many were bad and none was good."""
        self.warnings.add(_KINDS[column], complaint)
        if column not in self._good:
            self._bad.setdefault(column, []).append(complaint)
            if len(self._bad[column]) >= _ENOUGH:
                self.settle()

    def settle(self) -> None:
        """Raise SourceError where a column has values and none was understood."""
        for column, complaints in self._bad.items():
            if column not in self._good:
                raise SourceError(
                    f"{self.uri}: of the {len(complaints):,} values of `{column}` none is understood. {complaints[0]}. "
                    f"Its columns are {', '.join(printable(name)[:60] for name in self.seen[:20])}: mend `{column}`, "
                    "or leave it out"
                )


_KINDS = {"size": WarningKind.LISTED_SIZE, "modified_at": WarningKind.LISTED_TIME, "truth": WarningKind.LISTED_TRUTH}


def checked(row: dict[str, Any], manifest: Location, where: str, doubts: _Doubts | None = None) -> dict[str, Any]:
    """Return a row as `read_manifest` gives it, from values as they were written.

    Args:
        where: the place of the row, for the message.
        doubts: where values are counted that cannot be understood; unset: they are errors.

    Raises:
        SourceError: the row names no object; without `doubts`, also where a value cannot be understood.
    """
    uri = row.get("uri") or row.get("source-ref") or _of_bucket(row)
    if not isinstance(uri, str):
        shown = printable(str({name: value for name, value in row.items() if value is not None} or "empty")[:200])
        raise SourceError(
            f"{where}: no `uri` (nor `source-ref`); a manifest names one object a row, and this one is {shown}"
        )

    def value(column: str, read: Any) -> Any:
        written = row.get(column)
        if is_nothing(written):
            return None
        try:
            found = read(written, where)
        except SourceError as error:
            if doubts is None:
                raise
            doubts.bad(column, str(error))
            return None
        if doubts is not None:
            doubts.good(column)
        return found

    etag = row.get("etag")
    return {
        "uri": _absolute(Location.of(_text(uri, where)), manifest).uri,
        "size": value("size", _size),
        "etag": None if is_nothing(etag) else _text(str(etag), where).strip('"'),
        "modified_at": value("modified_at", _timestamp),
        "truth": value("truth", _truth),
    }


def _of_bucket(row: dict[str, Any]) -> str | None:
    bucket, key = row.get("bucket"), row.get("key")
    return f"s3://{bucket}/{key}" if isinstance(bucket, str) and isinstance(key, str) and bucket and key else None


def is_nothing(value: Any) -> bool:
    """Return whether a value is a missing one, as one tool or another writes it."""
    if isinstance(value, str):
        return value.strip().lower() in _NOTHING
    return value is None or (isinstance(value, float | Decimal) and math.isnan(value))


def _text(value: str, where: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise SourceError(f"{where}: {value!r} is not text that UTF-8 can hold") from None
    return value


def _absolute(place: Location, manifest: Location) -> Location:
    """Return a location as a listing would write it, so that the same object has the same URI."""
    if not place.is_local:
        return place
    if manifest.is_local:
        return Location.local(os.path.join(os.path.dirname(manifest.path), place.path)).absolute()
    return place.absolute() if place.path.startswith("/") else manifest.parent().child(place.path)


def _truth(value: Any, where: str) -> Category:
    category = category_of(str(value).strip())
    if category is None:
        raise SourceError(f"{where}: unknown truth {value!r}; one of {', '.join(Category)}")
    return category


def _size(value: Any, where: str) -> int:
    try:
        size = None if isinstance(value, bool) else Decimal(str(value).strip())
        if size is not None and size == size.to_integral_value() and 0 <= size < 2**63:
            return int(size)
    except (ArithmeticError, ValueError):
        pass
    raise SourceError(f"{where}: size {value!r} is not a number of bytes")


def _timestamp(value: Any, where: str) -> datetime:
    try:
        found = _time(value)
    except (ValueError, OverflowError, ArithmeticError, OSError, TypeError, IndexError):
        raise SourceError(f"{where}: modified_at {value!r} is not an ISO 8601 time, nor a number since 1970") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


def _time(value: Any) -> datetime:
    """Return a time. Raise ValueError and its like where a value is none, or not of the years 1 to 9999."""
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    if isinstance(value, bool):
        raise ValueError("neither true nor false is a time")
    text = str(value).strip()
    if len(text) == 8 and text.isdigit() and "19" <= text[:2] <= "20":
        return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC)
    try:
        number = Decimal(text)
    except ArithmeticError:
        return written_time(text)
    size = abs(number)
    unit = 0 if size < 10**11 else 3 if size < 10**14 else 6 if size < 10**17 else 9
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(number.scaleb(6 - unit)))
