"""Read an S3 Inventory: the listing of a bucket that S3 itself writes, daily or weekly, where it is too large to be
listed.

Its parts are CSV, Parquet or ORC. Rows are the current object of each key, as `read_manifest` gives them; old versions
and delete markers are passed over.

The parts lie where the manifest says, in the destination bucket. For a manifest that lies elsewhere, they are first
looked for beside it, so that a copy of an inventory is complete in itself: `../data/PART` as S3 lays them out,
`data/PART` or `PART`. Each is copied to a temporary file, and its size and MD5, where the manifest gives them, are
checked before its first row is used: a damaged or missing part is a `SourceError`, and so is a row that cannot be
understood.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/storage-inventory-location.html
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import IO, Any, Literal
from urllib.parse import unquote_plus

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.sources.manifests import checked
from nsfwscan.storage.columns import Columns, Row
from nsfwscan.storage.failures import STORE_ERRORS, retry, setup_error
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.objects import open_file
from nsfwscan.storage.tables import READING_ERRORS, Shape, rows_in

Parser = Callable[[IO[bytes], str], Iterator[Row]]
"""Function that yields the rows of a part, with the keys of `_WANTED` that it has; its place is for errors."""

_ATTEMPTS = 3
_WANTED = frozenset({"bucket", "key", "islatest", "isdeletemarker", "size", "lastmodifieddate", "etag"})
_FLAGS = {"true": True, "false": False, "": None}


@dataclass(frozen=True, slots=True)
class _Part:
    key: str
    size: int | None
    md5: str | None

    @property
    def name(self) -> str:
        return self.key.rsplit("/", 1)[-1]

    def is_sound(self) -> bool:
        """Return whether the manifest's JSON has text, a number and text here, and a name that leads to no other
        folder."""
        typed = isinstance(self.key, str) and isinstance(self.size, int | None) and isinstance(self.md5, str | None)
        return typed and self.name not in ("", ".") and ".." not in self.key.split("/")


def read_inventory(inventory: Location, storage: StorageConfig) -> Iterator[Row]:
    """Yield the current objects of an inventory: `uri`, `size`, `etag` and `modified_at` where given, and `truth`:
    None.

    Args:
        inventory: where its `manifest.json` is.

    Raises:
        SourceError: this is no inventory's manifest; a part is missing, damaged or malformed, or has no `Bucket` or
            `Key`; a row cannot be understood. It is named.
        OSError: the manifest cannot be read.
    """
    manifest, uri = _manifest(inventory, storage), inventory.uri
    parse = _parser(manifest, uri)
    for part in _parts(manifest, uri):
        with tempfile.NamedTemporaryFile(prefix="nsfwscan-inventory-") as scratch:
            _copy_part(part, _places(part, manifest, inventory), storage, uri, scratch.name)
            with open(scratch.name, "rb") as file:
                yield from _objects(parse, file, inventory, f"{uri}, part {part.name}")


def source_bucket(inventory: Location, storage: StorageConfig) -> str | None:
    """Return the bucket that an inventory says it is of. Raises as `read_inventory` does."""
    named = _manifest(inventory, storage).get("sourceBucket")
    return named.rsplit(":", 1)[-1] if isinstance(named, str) else None


def _objects(parse: Parser, file: IO[bytes], inventory: Location, place: str) -> Iterator[Row]:
    number = 0
    try:
        for number, row in enumerate(parse(file, place), start=1):
            where = f"{place}, row {number}"
            if _is_current(row, where):
                yield _object(row, inventory, where)
    except (*READING_ERRORS, OSError) as error:
        raise SourceError(f"{place} cannot be read{f' after row {number}' if number else ''}: {error}") from error


def _manifest(inventory: Location, storage: StorageConfig) -> dict[str, Any]:
    uri = inventory.uri
    with open_file(inventory, storage) as file:
        try:
            manifest = json.load(file)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{uri} is no S3 Inventory manifest: it is not JSON ({error})") from None
    found = manifest if isinstance(manifest, dict) else {}
    kinds = {"destinationBucket": str, "fileFormat": str, "fileSchema": str, "files": list}
    missing = [name for name, kind in kinds.items() if not isinstance(found.get(name), kind)]
    if missing:
        raise SourceError(
            f"{uri} is no S3 Inventory manifest: it has no {', '.join(missing)}. Lists of another kind are "
            "manifests under another name (.parquet, .csv, .jsonl)"
        )
    return found


def _parts(manifest: dict[str, Any], uri: str) -> list[_Part]:
    parts = []
    for number, file in enumerate(manifest["files"], start=1):
        entry = file if isinstance(file, dict) else {}
        part = _Part(entry.get("key", ""), entry.get("size"), entry.get("MD5checksum"))
        if not part.is_sound():
            raise SourceError(f"{uri}: file {number} is not {{key, size, MD5checksum}} but {str(file)[:200]}")
        parts.append(part)
    return parts


# Where the parts lie


def _places(part: _Part, manifest: dict[str, Any], inventory: Location) -> list[Location]:
    """Return where a part may lie, the likeliest place first."""
    bucket = manifest["destinationBucket"].rsplit(":", 1)[-1]  # an ARN: arn:aws:s3:::bucket
    folder = inventory.absolute().parent()
    said = Location.of(f"s3://{bucket}/{part.key}")
    end = "/".join(part.key.split("/")[-2:])  # data/PART
    beside = [folder.child(end), folder.child(part.name)]
    if folder.is_local or "/" in folder.uri.split("://")[-1]:  # above a bucket there is nothing
        beside = [folder.parent().child(end), *beside]
    return [said, *beside] if inventory.is_s3 and inventory.authority == bucket else [*beside, said]


def _copy_part(part: _Part, places: list[Location], storage: StorageConfig, uri: str, target: str) -> None:
    """Copy a part from the first place where it lies to a local file, whole."""
    reasons = []
    for place in places:
        try:
            _copy_checked(part, place, storage, uri, target)
        except STORE_ERRORS as error:  # also "denied", which is how S3 says "absent" where listing is not allowed
            reasons.append(str(setup_error(error, place.uri)))
        else:
            return
    raise SourceError(f"{uri}: its part {part.name} cannot be read. Looked for at " + "; ".join(reasons))


def _copy_checked(part: _Part, place: Location, storage: StorageConfig, uri: str, target: str) -> None:
    def attempt() -> None:
        if place.is_local:
            shutil.copyfile(place.path, target)
        else:
            filesystem(place, storage).get_file(place.uri, target)
        if damage := _damage(part, target):
            raise _Damaged(damage)

    try:
        retry(attempt, attempts=1 if place.is_local else _ATTEMPTS)
    except _Damaged as damage:
        raise SourceError(f"{uri}: its part {place.uri} is damaged: {damage}") from None


class _Damaged(Exception):
    """A copy that is not what the manifest announces; from a store, a body may have broken off on its way."""


def _damage(part: _Part, path: str) -> str | None:
    size = os.path.getsize(path)
    if part.size is not None and size != part.size:
        return f"{size:,} bytes where the manifest says {part.size:,}"
    if part.md5 is not None:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        if found != part.md5.lower():
            return f"its MD5 is {found} where the manifest says {part.md5}"
    return None


# What is in them


def _parser(manifest: dict[str, Any], uri: str) -> Parser:
    written = manifest["fileFormat"].upper()
    if written == "CSV":
        return partial(_csv, _columns(manifest["fileSchema"].split(","), uri))
    if written in ("PARQUET", "ORC"):
        return partial(_table, "parquet" if written == "PARQUET" else "orc")
    raise SourceError(f"{uri}: inventories of format {manifest['fileFormat']} are not read; CSV, Parquet and ORC are")


def _columns(names: Sequence[str], place: str) -> list[str]:
    """Return the columns in one spelling: `LastModifiedDate` of CSV is `last_modified_date` of the others."""
    columns = [name.strip().lower().replace("_", "") for name in names]
    missing = [name for name in ("Bucket", "Key") if name.lower() not in columns]
    if missing:
        raise SourceError(f"{place}: the inventory has no column {' and no column '.join(missing)}")
    return columns


def _csv(columns: list[str], file: IO[bytes], place: str) -> Iterator[Row]:
    """Yield the rows of CSV, whose keys are written as in HTML forms: a blank is `+`, a plus `%2B`."""
    with gzip.open(file) as unpacked:
        lines = csv.reader(io.TextIOWrapper(unpacked, encoding="utf-8", newline=""))
        for number, cells in enumerate(lines, start=1):
            if len(cells) != len(columns):
                raise SourceError(f"{place}, row {number}: {len(cells)} cells, not the {len(columns)} of fileSchema")
            row: Row = {name: cell or None for name, cell in zip(columns, cells, strict=True)}
            yield row | {"key": unquote_plus(row["key"] or "", errors="strict")}


class _InventoryColumns(Columns):
    """Columns of a Parquet or ORC part that are read, in the spelling of `_columns`."""

    def chosen(self, names: Sequence[str]) -> dict[int, str]:
        """Return the indices of the columns that are read, with our names. Raises SourceError without bucket or key."""
        return {i: name for i, name in enumerate(_columns(names, self.place)) if name in _WANTED}


def _table(kind: Literal["parquet", "orc"], file: IO[bytes], place: str) -> Iterator[Row]:
    return rows_in(file, Shape(kind), _InventoryColumns(place, None))


def _is_current(row: Row, where: str) -> bool:
    """Return whether reading the key would give this version; of an inventory of current versions only, it would."""
    return _flag(row.get("islatest"), where) is not False and _flag(row.get("isdeletemarker"), where) is not True


def _flag(value: Any, where: str) -> bool | None:
    found = _FLAGS.get(value.lower(), value) if isinstance(value, str) else value
    if found is None or isinstance(found, bool):
        return found
    raise SourceError(f"{where}: {value!r} is neither true nor false")


def _object(row: Row, inventory: Location, where: str) -> Row:
    bucket, key = row.get("bucket"), row.get("key")
    if not isinstance(bucket, str) or not isinstance(key, str) or not bucket or not key:
        raise SourceError(f"{where}: no bucket or no key: {str(row)[:200]}")
    named = {"uri": f"s3://{bucket}/{key}", "size": row.get("size"), "etag": row.get("etag")}
    return checked(named | {"modified_at": row.get("lastmodifieddate")}, inventory, where)
