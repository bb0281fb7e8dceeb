"""What is there to scan: local paths, S3 prefixes, any fsspec URI, manifests, S3 inventories.

In: a `SourceConfig`. Out: Arrow tables of `LISTING_SCHEMA`, a few thousand rows at a time, so that a listing never
lives in memory. Objects are taken whatever their name: no extension, hidden and `_`-names too. A source that does not
exist or cannot be listed in full is a `SourceError`: a report must not pass over what it could not see.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import pyarrow as pa

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.failures import STORE_ERRORS, error_code, setup_error
from nsfwscan.pacing import UNPACED, Pace
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.sources.inventory import read_inventory
from nsfwscan.sources.manifests import list_shape, read_manifest
from nsfwscan.sources.prefixes import list_prefix
from nsfwscan.sources.truth import truth_from_path
from nsfwscan.storage import (
    absolute_uri,
    etag_of,
    filesystem,
    is_s3,
    local_path,
    local_uri,
    moment,
    scheme_of,
    split_s3,
    told_time,
)
from nsfwscan.warning import WarningKind, Warnings

_BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as its store lists it; `name` is its place within the source, for globs."""

    uri: str
    name: str
    size: int | None = None
    etag: str | None = None
    modified_at: datetime | None = None
    truth: str | None = None


def list_sources(
    source: SourceConfig,
    storage: StorageConfig,
    *,
    store: str | None = None,
    pace: Pace = UNPACED,
    warnings: Warnings | None = None,
) -> Iterator[pa.Table]:
    """All objects of all sources, filtered, with the truth that path or manifest gives; source by source.

    Without a limit a large S3 prefix is listed by many requests at once, in no order. With one it is listed in the
    order of its keys: the same objects each time.

    Args:
        store: the report store's URI; its own files are no media, should it lie within a source.
        pace: of the requests that list S3 prefixes.
        warnings: where it is counted what was odd and stops nothing.

    Raises:
        SourceError: a source does not exist, is malformed, or cannot be listed in full.
    """
    ordered = source.limit is not None
    noticed = Warnings() if warnings is None else warnings
    listed = (o for uri in source.uris for o in _list(uri, storage, pace, ordered, noticed))
    objects: Iterator[Listed] = (o for o in listed if _wanted(o.name, source))
    if store is not None:
        objects = (o for o in objects if not o.uri.startswith(store + "/"))
    if source.limit is not None:
        objects = islice(objects, source.limit)
    while batch := list(islice(objects, _BATCH_ROWS)):
        yield _table(batch, by_path=source.truth == "path")


def _list(uri: str, storage: StorageConfig, pace: Pace, ordered: bool, warnings: Warnings) -> Iterator[Listed]:
    try:
        uri = absolute_uri(uri)
        shape = list_shape(uri, storage)
        if shape is not None:
            yield from _list_manifest(uri, storage, inventory=shape.format == "inventory", warnings=warnings)
        elif scheme_of(uri) is None:
            yield from _list_local(local_path(uri), warnings)
        elif is_s3(uri):
            yield from _list_s3(uri, storage, pace, ordered, warnings)
        else:
            yield from _list_fsspec(uri, storage, warnings)
    except STORE_ERRORS as error:
        if error_code(error) in ("NoSuchBucket", "404"):
            raise SourceError(f"{uri}: the bucket does not exist") from error
        raise SourceError(str(setup_error(error, f"cannot list {uri}"))) from error


def _list_local(path: str, warnings: Warnings) -> Iterator[Listed]:
    if not os.path.lexists(path):
        raise SourceError(f"{path}: no such file or directory")
    if os.path.isdir(path):
        yield from _walk(path, path, frozenset(), warnings)
    else:
        yield _local_object(path, os.path.basename(path), warnings)


def _walk(folder: str, root: str, above: frozenset[tuple[int, int]], warnings: Warnings) -> Iterator[Listed]:
    """Depth first, by name. Linked folders are entered, but never one that we are in already."""
    try:
        info = os.stat(folder)
        here = (info.st_dev, info.st_ino)
        if here in above:
            return
        with os.scandir(folder) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise SourceError(str(setup_error(error, f"cannot list {local_uri(folder)}"))) from error
    for entry in ordered:
        if _leads_to_folder(entry):
            yield from _walk(entry.path, root, above | {here}, warnings)
        elif entry.is_file(follow_symlinks=False) or entry.is_symlink():
            yield _local_object(entry.path, os.path.relpath(entry.path, root), warnings)


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    """False for a link that leads nowhere: it is listed, and ends as a row that says so."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _local_object(path: str, name: str, warnings: Warnings) -> Listed:
    uri = local_uri(path)
    name = name if uri == path else uri
    try:
        info = os.stat(path)
    except OSError:  # reading it will say why
        return Listed(uri, name)
    if not stat.S_ISREG(info.st_mode):
        return Listed(uri, name)
    return Listed(uri, name, info.st_size, None, _time(info.st_mtime_ns / 1e9, uri, warnings))


def _time(told: Any, uri: str, warnings: Warnings) -> datetime | None:
    """The time that a store tells, of whatever type; None, and counted, where no calendar has it."""
    found = moment(told)
    if found is None and told is not None:
        warnings.add(WarningKind.ODD_TIME, uri, detail=f"the last one: {told}")
    return found


def _list_s3(uri: str, storage: StorageConfig, pace: Pace, ordered: bool, warnings: Warnings) -> Iterator[Listed]:
    bucket, prefix = split_s3(uri)
    folder = prefix[: prefix.rfind("/") + 1]
    for objects in list_prefix(uri, storage, pace, ordered=ordered):
        for item in objects:
            key = item["Key"]
            found = f"s3://{bucket}/{key}"
            changed = _time(item.get("LastModified"), found, warnings)
            yield Listed(found, key.removeprefix(folder), item.get("Size"), etag_of(item), changed)


def _list_fsspec(uri: str, storage: StorageConfig, warnings: Warnings) -> Iterator[Listed]:
    fs = filesystem(uri, storage)
    try:
        info = fs.info(uri)  # `exists` and `isfile` take any failure for a no
    except FileNotFoundError:
        raise SourceError(f"{uri}: no such file or directory") from None
    root = fs._strip_protocol(uri)
    if info["type"] == "file":
        yield _fsspec_object(fs, root, os.path.basename(root), info, warnings)
        return
    for _, _, files in fs.walk(uri, detail=True, on_error="raise"):
        for _, info in sorted(files.items()):
            path = str(info["name"])
            yield _fsspec_object(fs, path, path.removeprefix(root).lstrip("/"), info, warnings)


def _fsspec_object(fs: Any, path: str, name: str, info: dict[str, Any], warnings: Warnings) -> Listed:
    uri = fs.unstrip_protocol(path)
    return Listed(uri, name, info.get("size"), etag_of(info), _time(told_time(info), uri, warnings))


def _list_manifest(uri: str, storage: StorageConfig, *, inventory: bool, warnings: Warnings) -> Iterator[Listed]:
    """A manifest's objects are found by their URIs, an inventory's by their keys: it is the listing of a bucket."""
    for row in read_inventory(uri, storage) if inventory else read_manifest(uri, storage, warnings):
        name = split_s3(row["uri"])[1] if inventory else row["uri"]
        yield Listed(row["uri"], name, row["size"], row["etag"], row["modified_at"], row["truth"])


def _wanted(name: str, source: SourceConfig) -> bool:
    if source.include and not _matches(name, source.include):
        return False
    return not _matches(name, source.exclude)


def _matches(name: str, patterns: Iterable[str]) -> bool:
    """Shell globs over the object's place within the source; `*` crosses `/`, so `*.jpg` matches at any depth."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _table(batch: list[Listed], *, by_path: bool) -> pa.Table:
    columns = [
        [o.uri for o in batch],
        [o.size for o in batch],
        [o.etag for o in batch],
        [o.modified_at for o in batch],
        [o.truth or (truth_from_path(o.uri) if by_path else None) for o in batch],
    ]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, LISTING_SCHEMA, strict=True)], schema=LISTING_SCHEMA)
