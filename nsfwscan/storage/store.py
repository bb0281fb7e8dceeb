"""Keep the report store: a folder of small files, on local disk or any object store.

Files appear whole or not at all. A store that fails is a `StoreError`; a file that must be new and is not, a
`FileExistsError`. On local disk nothing is followed out of the store: a symbolic link within it is a `BrokenRecord`,
and is removed as a link (`confined.py`).
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.config import PASSWORD_IN_URI, StorageConfig
from nsfwscan.errors import BrokenRecord, ConfigError, NsfwscanError, StoreError
from nsfwscan.location import Location
from nsfwscan.storage.confined import TEMPORARY, Confined, LinkRefused
from nsfwscan.storage.failures import STORE_ERRORS, error_code, is_unknown_to_store, retry, setup_error
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.objects import modified_of, read_file, submit_s3
from nsfwscan.text import has_password, redacted

_ABSENT = (FileNotFoundError, NotADirectoryError)
"""Of a file that is not there: not even its folder is, or a stray file lies in its place."""
_ALREADY_THERE = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})  # of If-None-Match: *


@dataclass(frozen=True)
class Store:
    """A folder of small files, on local disk or any object store; names are relative to it, with `/`.

    Writes appear whole or not at all: a temporary file and a rename on local disk, one PUT on an object store.
    """

    location: Location
    """Absolute, and without a `/` at its end."""
    storage: StorageConfig
    root: str | None = None
    """On local disk the path of the folder that no name is followed out of; unset: this one."""

    @classmethod
    def at(cls, uri: str, storage: StorageConfig) -> Store:
        """Return the store at a URI; local paths are made absolute. Raises ConfigError for a URI with a password, and
        for what is no place."""
        if has_password(uri):
            raise ConfigError(PASSWORD_IN_URI)
        try:
            place = Location.given(uri).absolute()
        except ValueError as error:
            raise ConfigError(f"the report store: {error}") from None
        return cls(place if place.is_local else Location.of(place.uri.rstrip("/")), storage)

    @property
    def uri(self) -> str:
        """URI of the folder."""
        return self.location.uri

    @property
    def is_local(self) -> bool:
        """True where it is on this machine's disks."""
        return self.location.is_local

    @property
    def endpoint_url(self) -> str | None:
        """S3 endpoint that the configuration or the environment names, to be shown; None for AWS, and where it is not
        S3."""
        environment = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        found = (self.storage.endpoint_url or environment) if self.location.is_s3 else None
        return redacted(found) if found else None

    def locate(self, name: str) -> str:
        """Return the full URI of a name."""
        return self.location.child(name).uri

    def inside(self, folder: str) -> Store:
        """Return a folder of this store as a store."""
        return Store(self.location.child(folder), self.storage, self.root or self.location.path)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file. Raises FileNotFoundError where it is absent, StoreError where the store fails."""
        with _in_words(f"cannot read {self.locate(name)}", *_ABSENT):
            if self.is_local:
                return self._disk.read(self._within(name))
            return read_file(self.location.child(name), self.storage)
        raise FileNotFoundError(self.locate(name))

    def write(self, name: str, data: bytes, *, private: bool = False) -> None:
        """Write a file, over an older one. Raises StoreError.

        Args:
            private: whether, on local disk, nobody but its owner may read it.
        """
        with _in_words(f"cannot write {self.locate(name)}"):
            if self.is_local:
                self._disk.write(self._within(name), data, private=private)
            else:
                self._fs.pipe_file(self.locate(name), data, **self._headers(name))

    def create(self, name: str, data: bytes) -> None:
        """Write a file that must not be there yet. Raises FileExistsError, StoreError.

        Local disks and stores with conditional writes (`If-None-Match: *`) promise that one of many creators wins.
        Where a store refuses the condition or passes over it, we look beforehand and read back afterwards: who finds
        another's content has lost. Two who write within the same moment may then both believe that they have won; a
        run's lease keeps them apart, and `doctor` says that the store is such a one.
        """
        if not self.is_local and self.exists(name):
            raise FileExistsError(self.locate(name))
        if not self._create(name, data):
            self.write(name, data)
        if not self.is_local and self.read(name) != data:
            raise FileExistsError(self.locate(name))

    def refuses_to_overwrite(self, name: str, data: bytes) -> bool:
        """Return whether the store itself keeps a file that is there from being created a second time, with data.
        Raises StoreError."""
        try:
            self._create(name, data)
        except FileExistsError:
            return True
        return False

    def _headers(self, name: str) -> dict[str, str]:
        """Return what makes a browser open a page that lies on S3, and not download it."""
        return {"ContentType": "text/html"} if self.location.is_s3 and name.endswith(".html") else {}

    def _create(self, name: str, data: bytes) -> bool:
        """Write a file on the condition that it is new; return False where the store knows no such condition. Raises
        FileExistsError, StoreError."""
        try:
            if self.is_local:
                self._disk.create(self._within(name), data)
            else:
                self._fs.pipe_file(self.locate(name), data, mode="create", **self._headers(name))
        except FileExistsError:
            raise
        except NotImplementedError:  # of a filesystem that is not S3
            return False
        except STORE_ERRORS as error:
            if error_code(error) in _ALREADY_THERE:
                raise FileExistsError(self.locate(name)) from error
            if is_unknown_to_store(error):
                return False
            raise _failure(error, f"cannot write {self.locate(name)}") from error
        return True

    def exists(self, name: str) -> bool:
        """Return whether there is a file of that name. Raises StoreError where the store does not say."""
        try:
            if self.is_local:
                return self._disk.exists(self._within(name))
            # Neither here nor above `exists` or `isfile`, which take any failure for a file that is not there.
            return bool(self._fs.info(self.locate(name))["type"] == "file")
        except _ABSENT:
            return False
        except STORE_ERRORS as error:
            if error_code(error) in ("400", "403"):  # to HEAD, S3 does not say why; to listing it does
                self.names(name)
            raise _failure(error, f"cannot look into {self.uri}") from error

    def names(self, folder: str) -> list[str]:
        """Return the names directly under a folder, sorted; none where there is no such folder."""
        with _in_words(f"cannot list {self.locate(folder)}", FileNotFoundError):
            if self.is_local:
                return sorted(n for n in self._disk.entries(self._within(folder)) if not n.startswith(TEMPORARY))
            found = retry(lambda: self._fs.ls(self.locate(folder), detail=False, refresh=True))
            return sorted({str(path).rstrip("/").rsplit("/", 1)[-1] for path in found} - {""})
        return []

    def reach(self) -> None:
        """Raise StoreError where nothing can be listed here; the folder need not be there, its bucket must."""
        if not self.location.is_s3:
            self.names("")
            return
        try:
            submit_s3(self.location, self.storage, "list_objects_v2", Prefix=self.location.path, MaxKeys=1).result()
        except STORE_ERRORS as error:
            if error_code(error) in ("NoSuchBucket", "404"):
                raise StoreError(f"cannot list {self.uri}: the bucket does not exist") from error
            raise _failure(error, f"cannot list {self.uri}") from error

    def hidden(self) -> list[str] | None:
        """Return the names directly in this folder that a delete marker hides, in a bucket that keeps versions; None
        where the store does not say. Raises StoreError."""
        if not self.location.is_s3:
            return []
        prefix, found = self.location.path.strip("/") + "/", list[str]()
        asked = {"Prefix": prefix.lstrip("/"), "Delimiter": "/"}
        try:
            while True:
                page = submit_s3(self.location, self.storage, "list_object_versions", **asked).result()
                found += [
                    one["Key"][len(asked["Prefix"]) :] for one in page.get("DeleteMarkers", []) if one["IsLatest"]
                ]
                if not page.get("IsTruncated"):
                    return found
                asked |= {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page.get("NextVersionIdMarker", "")}
        except (*STORE_ERRORS, KeyError) as error:
            if isinstance(error, (PermissionError, KeyError)) or is_unknown_to_store(error):
                return None
            raise _failure(error, f"cannot list the versions in {self.uri}") from error

    def retention(self) -> str | None:
        """Return for how long the bucket keeps each new object by itself (S3 Object Lock), in words; None where it does
        not, or does not say."""
        if not self.location.is_s3:
            return None
        try:
            answer = submit_s3(self.location, self.storage, "get_object_lock_configuration").result()
            rule = answer["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]
        except (*STORE_ERRORS, KeyError):
            return None
        unit = "Years" if rule.get("Years") else "Days"
        return f"{rule[unit]:,} {unit.lower()} ({rule['Mode'].lower()} mode)"

    def newest(self, folder: str) -> datetime | None:
        """Return when a file directly under a folder was last written; None where there is none."""
        with _in_words(f"cannot list {self.locate(folder)}", FileNotFoundError):
            if self.is_local:
                found = [{"mtime": entry.st_mtime} for entry in self._disk.entries(self._within(folder)).values()]
            else:
                listed = self._fs.ls(self.locate(folder), detail=True, refresh=True)
                found = [info for info in listed if info.get("type") == "file"]
            return max(filter(None, map(modified_of, found)), default=None)
        return None

    def modified_at(self, name: str) -> datetime | None:
        """Return when a file was last written, by the store's clock; None where it is absent, or the store does not
        know."""
        with _in_words(f"cannot look into {self.uri}", *_ABSENT):
            if self.is_local:
                return modified_of({"mtime": self._disk.stat(self._within(name)).st_mtime})
            return modified_of(self._fs.info(self.locate(name)))
        return None

    def is_link(self, name: str) -> bool:
        """Return whether a name is a symbolic link, on local disk."""
        with suppress(*_ABSENT):
            return self.is_local and stat.S_ISLNK(self._disk.stat(self._within(name)).st_mode)
        return False

    def leftovers(self, folder: str) -> dict[str, datetime | None]:
        """Return the files under a folder, at any depth, that were never whole, and when they were last written: a
        process that is killed leaves them on local disk. Raises StoreError."""
        found = self._walk(folder) if self.is_local else {}
        named = {path: entry for path, entry in found.items() if path.rpartition("/")[2].startswith(TEMPORARY)}
        return {path: modified_of({"mtime": entry.st_mtime}) for path, entry in named.items()}

    def sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of each file under a folder, at any depth and whole or not. Raises StoreError."""
        if self.is_local:
            return {path: entry.st_size for path, entry in self._walk(folder).items()}
        with _in_words(f"cannot list {self.locate(folder)}", FileNotFoundError):
            listed = retry(lambda: self._fs.find(self.locate(folder), detail=True, refresh=True))
            start = len(self._fs._strip_protocol(self.uri)) + 1  # noqa: SLF001  # as `find` spells this folder
            return {path[start:]: int(info.get("size") or 0) for path, info in listed.items()}
        return {}

    def _walk(self, folder: str) -> dict[str, os.stat_result]:
        """Return the files and links under a folder on local disk, at any depth, links not followed."""
        found: dict[str, os.stat_result] = {}
        folders = [folder]
        with _in_words(f"cannot list {self.locate(folder)}", *_ABSENT):
            while folders:
                here = folders.pop()
                for name, entry in self._disk.entries(self._within(here)).items():
                    path = f"{here}/{name}".lstrip("/")
                    if stat.S_ISDIR(entry.st_mode):
                        folders.append(path)
                    else:
                        found[path] = entry
        return found

    def delete(self, name: str) -> None:
        """Remove a file or a folder with all in it; absent ones are no error, and a link is itself removed. Raises
        StoreError."""
        path = self.locate(name)
        with _in_words(f"cannot delete {path}", FileNotFoundError):
            if self.is_local:
                self._disk.remove(self._within(name))
                return
            try:
                if not set(path) & set("*?["):  # `rm` would take it for a glob
                    self._fs.rm(path, recursive=True)
            except STORE_ERRORS as error:
                if not is_unknown_to_store(error):
                    raise
            for found in self._fs.find(path, refresh=True):  # what a bulk request leaves, of which s3fs says nothing
                self._fs.rm_file(found)

    def delete_files(self, names: Sequence[str]) -> None:
        """Remove files that lie in this store itself, on S3 a thousand with one request; absent ones are no error.
        Raises StoreError."""
        if self.is_local:
            for name in names:
                self.delete(name)
            return
        plain = [path for path in map(self.locate, names) if not set(path) & set("*?[")]  # others are globs to `rm`
        with _in_words(f"cannot delete files of {self.uri}", FileNotFoundError):
            try:
                if plain:
                    self._fs.rm(plain)
            except STORE_ERRORS as error:
                if not is_unknown_to_store(error):  # else one by one, as all that is left
                    raise
        there = set(self.names("")) & set(names)  # s3fs says nothing of those that a bulk request leaves
        for name in sorted(there):
            with _in_words(f"cannot delete {self.locate(name)}", FileNotFoundError):
                self._fs.rm_file(self.locate(name))  # which says why not

    def read_json(self, name: str) -> dict[str, Any] | None:
        """Return a JSON file's content; None where the file is absent or not (yet) whole."""
        with suppress(FileNotFoundError, ValueError):
            loaded = json.loads(self.read(name))
            return loaded if isinstance(loaded, dict) else None
        return None

    @property
    def _disk(self) -> Confined:
        return Confined(self.root or self.location.path, self.storage.mode)

    def _within(self, name: str) -> str:
        """Return a name as seen from the folder that no name is followed out of."""
        return self.location.child(name).path[len(self.root or self.location.path) :]

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return filesystem(self.location, self.storage)


@contextmanager
def _in_words(doing: str, *ignored: type[OSError]) -> Iterator[None]:
    """Raise a failure within the block in words, except one of the kinds `ignored`, which only ends the block."""
    try:
        yield
    except STORE_ERRORS as error:
        if not isinstance(error, ignored):
            raise _failure(error, doing) from error


def _failure(error: Exception, doing: str) -> NsfwscanError:
    """Return what a failure of the store means, in words."""
    if isinstance(error, LinkRefused):
        why = f"{error.strerror}, and nothing is followed out of a report store"
        return BrokenRecord(f"{doing}:", why, "put the files themselves there, or remove the link")
    return setup_error(error, doing)


def from_parquet(data: bytes, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of a Parquet file. Read in this thread alone: one of Arrow's may still hold the bytes after that,
    and would abort a process that ends at that moment (exit code 134)."""
    return pq.ParquetFile(io.BytesIO(data)).read(columns, use_threads=False)


def to_json(value: Any, *, indent: int | None = 2) -> bytes:
    """Return UTF-8 JSON with keys in the given order and a newline at the end; None: in one line, ten times as fast."""
    return (json.dumps(value, indent=indent, ensure_ascii=False) + "\n").encode()
