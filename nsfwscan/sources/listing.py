"""List what there is to scan: local paths, S3 prefixes, any fsspec URI, lists of objects, S3 inventories.

A listing comes a few thousand rows at a time, so it never lives in memory. Objects are taken whatever their name: no
extension, hidden and `_`-names too. A source that does not exist or cannot be listed in full is a `SourceError`: a
report must not pass over what it could not see.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import pyarrow as pa

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location, local_uri
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.sources.local_listing import Walk
from nsfwscan.sources.manifests import list_shape, read_manifest
from nsfwscan.sources.patterns import Choice
from nsfwscan.sources.reach import Links, Reach
from nsfwscan.sources.s3_inventory import read_inventory, source_bucket
from nsfwscan.sources.s3_listing import is_folder_marker, list_prefix
from nsfwscan.sources.truth import truth_from_path
from nsfwscan.sources.web_listing import list_pages
from nsfwscan.storage.failures import STORE_ERRORS, error_code, setup_error
from nsfwscan.storage.filesystems import filesystem, stripped
from nsfwscan.storage.objects import etag_of, moment, told_time
from nsfwscan.storage.rate_limit import UNPACED, Pace
from nsfwscan.warning import WarningKind, Warnings

_BATCH_ROWS = 4096
_PAGE_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Listed:
    """One object as its store lists it; `name` is its place within the source, for globs. `is_wanted` is True where
    these were asked before."""

    uri: str
    name: str
    size: int | None = None
    etag: str | None = None
    modified_at: datetime | None = None
    truth: str | None = None
    refused: str | None = None
    is_wanted: bool = False


def list_sources(
    source: SourceConfig,
    storage: StorageConfig,
    *,
    store: str | None = None,
    pace: Pace = UNPACED,
    warnings: Warnings | None = None,
) -> Iterator[pa.Table]:
    """Yield all objects of all sources, filtered, with the truth that path or list gives, as tables of
    `LISTING_SCHEMA`; source by source.

    Without a limit a large S3 prefix is listed by many requests at once, in no order. With one it is listed in the
    order of its keys: the same objects each time. Raises SourceError where a source does not exist, is malformed, or
    cannot be listed in full.

    Args:
        store: the report store's URI; its own files are no media, should it lie within a source.
        pace: of the requests that list S3 prefixes.
        warnings: where it is counted what was odd and stops nothing.
    """
    noticed = Warnings() if warnings is None else warnings
    choice = Choice(source, noticed)
    ordered = source.limit is not None
    lister = _Lister(storage, store, choice, noticed, pace, ordered=ordered, allow=source.allow)
    objects: Iterator[Listed] = (o for uri in source.uris for o in lister.objects(uri))
    if source.limit is not None:
        objects = islice(objects, source.limit)
    listed = 0
    while batch := list(islice(objects, _BATCH_ROWS)):
        listed += len(batch)
        yield _table(batch, by_path=source.truth == "path")
    choice.conclude(listed_all=listed != source.limit)


@dataclass(frozen=True)
class _Lister:
    """Lists one source after the other.

    Attributes:
        store: the report store's URI; what lies below it is no media.
        ordered: S3 in the order of its keys.
        allow: what the rows of lists may name beside what `Reach` lets them.
    """

    storage: StorageConfig
    store: str | None
    choice: Choice
    warnings: Warnings
    pace: Pace
    ordered: bool
    allow: Sequence[str] = ()

    def objects(self, uri: str) -> Iterator[Listed]:
        """Yield all objects of a source that are wanted. Raises SourceError."""
        try:
            for found in self._all(Location.of(uri).absolute()):
                if self.store is not None and found.uri.startswith(f"{self.store}/"):
                    continue
                if found.is_wanted or self.choice.wants(found.name, found.uri):
                    yield found
        except STORE_ERRORS as error:
            if error_code(error) in ("NoSuchBucket", "404"):
                raise SourceError(f"{uri}: the bucket does not exist") from error
            raise SourceError(str(setup_error(error, f"cannot list {uri}"))) from error

    def _all(self, source: Location) -> Iterator[Listed]:
        shape = list_shape(source, self.storage)
        if shape is not None:
            inventory = shape.format == "inventory"
            return _list_manifest(source, self.storage, self.allow, inventory, self.warnings)
        if source.is_local:
            return self._local(source.path)
        return self._s3(source) if source.is_s3 else self._fsspec(source)

    def _local(self, path: str) -> Iterator[Listed]:
        if not os.path.lexists(path):
            raise SourceError(f"{path}: no such file or directory")
        if os.path.isdir(path):
            above = len(path.rstrip("/")) + 1
            links = Links.of(self.choice.source)
            for found in Walk(path, self.choice, links, self.warnings).files():
                name = found.path[above:]
                if found.refused is None:
                    yield self._file(found.path, name)
                else:
                    yield Listed(local_uri(found.path), name, refused=found.refused, is_wanted=found.is_folder)
        else:
            yield self._file(path, os.path.basename(path))

    def _file(self, path: str, name: str) -> Listed:
        uri = local_uri(path)
        name = name if uri == path else uri
        try:
            info = os.stat(path)
        except OSError:  # reading it will say why
            return Listed(uri, name)
        if not stat.S_ISREG(info.st_mode):
            return Listed(uri, name)
        return Listed(uri, name, info.st_size, None, self._time(info.st_mtime_ns / 1e9, uri))

    def _time(self, told: Any, uri: str) -> datetime | None:
        """Return the time that a store tells, of whatever type; None, and count it, where no calendar has it."""
        found = moment(told)
        if found is None and told is not None:
            self.warnings.add(WarningKind.ODD_TIME, uri, detail=f"the last one: {told}")
        return found

    def _s3(self, source: Location) -> Iterator[Listed]:
        folder = source.path[: source.path.rfind("/") + 1]

        def skip(below: str) -> bool:
            return self.choice.leaves_out(below.removeprefix(folder))

        pages = list_prefix(source, self.storage, self.pace, ordered=self.ordered, skip=skip, warnings=self.warnings)
        for objects in pages:
            for item in objects:
                key = item["Key"]
                found = f"s3://{source.authority}/{key}"
                if is_folder_marker(key, item.get("Size")):
                    self.warnings.add(WarningKind.FOLDER_MARKER, found)
                    continue
                changed = self._time(item.get("LastModified"), found)
                yield Listed(found, key.removeprefix(folder), item.get("Size"), etag_of(item), changed)

    def _fsspec(self, source: Location) -> Iterator[Listed]:
        fs, uri, root = filesystem(source, self.storage), source.uri, stripped(source.uri)
        if source.is_web and uri.endswith("/"):
            yield from (Listed(url, url.removeprefix(uri)) for url in list_pages(uri, fs, _PAGE_TIMEOUT_S))
            return
        try:
            info = fs.info(uri)  # `exists` and `isfile` take any failure for a no
        except FileNotFoundError:
            yield from self._globbed(fs, uri, root)
            return
        if info["type"] == "file" and not self._is_prefix_too(fs, uri, root, info):
            yield self._fsspec_object(fs, root, os.path.basename(root), info)
            return
        folders = [root]
        while folders:
            folder = folders.pop()
            found = {str(i["name"]).rstrip("/"): i for i in fs.ls(folder, detail=True)}
            found.pop(folder.rstrip("/"), None)  # itself, where a store lists an empty object of that name
            below = []
            for path, info in sorted(found.items()):
                name = path.removeprefix(root).lstrip("/")
                if info["type"] != "directory":
                    yield self._fsspec_object(fs, path, name, info)
                elif not self.choice.leaves_out(name):
                    below.append(str(info["name"]))
            folders += reversed(below)

    def _globbed(self, fs: Any, uri: str, root: str) -> Iterator[Listed]:
        """Yield the files that match a pattern, as in `zip://*.jpg::…`. Raises SourceError where there is none."""
        found = fs.glob(uri, detail=True) if set(root) & set("*?[") else {}
        if not found:
            raise SourceError(f"{uri}: no such file or directory")
        for path, info in sorted(found.items()):
            if info["type"] == "file":
                yield self._fsspec_object(fs, path, path, info)

    def _is_prefix_too(self, fs: Any, uri: str, root: str, info: dict[str, Any]) -> bool:
        """Return whether an empty object has others below its name, as object stores allow."""
        if info.get("size") != 0:
            return False
        try:
            below = [path for path in fs.ls(f"{root.rstrip('/')}/", detail=False) if path.rstrip("/") != root]
        except (FileNotFoundError, NotADirectoryError):
            return False
        if below:
            self.warnings.add(WarningKind.OBJECT_AND_PREFIX, uri)
        return bool(below)

    def _fsspec_object(self, fs: Any, path: str, name: str, info: dict[str, Any]) -> Listed:
        uri = fs.unstrip_protocol(path)
        return Listed(uri, name, info.get("size"), etag_of(info), self._time(told_time(info), uri))


def _list_manifest(
    source: Location, storage: StorageConfig, allow: Sequence[str], inventory: bool, warnings: Warnings
) -> Iterator[Listed]:
    """Yield a list's objects. Patterns match their URIs, and an inventory's keys: it is the listing of a bucket."""
    reach = Reach(source, allow, source_bucket(source, storage) if inventory else None)
    for row in read_inventory(source, storage) if inventory else read_manifest(source, storage, warnings):
        place = Location.of(row["uri"])
        refused = reach.refusal(place)
        found = row["uri"] if refused else _as_stored(place)
        name = place.path if inventory else found
        yield Listed(found, name, row["size"], row["etag"], row["modified_at"], row["truth"], refused)


def _as_stored(place: Location) -> str:
    """Return the URI of a local file in the Unicode form that its file system has, where it has no such name in the
    form that is written; any other URI as it is."""
    if place.uri.isascii() or not place.is_local or os.path.lexists(place.path):
        return place.uri
    path = "/"
    for part in place.path.strip("/").split("/"):
        forms = [part, *(unicodedata.normalize(form, part) for form in ("NFC", "NFD"))]
        there = [form for form in forms if os.path.lexists(os.path.join(path, form))]
        if not there:
            return place.uri
        path = os.path.join(path, there[0])
    return local_uri(path)


def _table(batch: list[Listed], *, by_path: bool) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [getattr(o, name) for o in batch] for name in LISTING_SCHEMA.names}
    if by_path:
        columns["truth"] = [o.truth or truth_from_path(o.uri) for o in batch]
    return pa.table(columns, schema=LISTING_SCHEMA)
