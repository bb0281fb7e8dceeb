"""Class folders inside a zip, listed and read in place: a path, a URI, or the hub's `deepghs/nsfw_detect`.

A member that cannot be read (encrypted, damaged, larger than allowed, larger than it says) is a `RowError`; an archive
that cannot be opened is a `SourceError`. No member's name ever becomes a path on this machine, so `../` leads nowhere.
"""

from __future__ import annotations

import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ErrorCode, RowError, SourceError
from nsfwscan.location import Location
from nsfwscan.schema import BYTES
from nsfwscan.stages.base import Row, Stage, map_rows
from nsfwscan.storage.failures import STORE_ERRORS, setup_error
from nsfwscan.storage.objects import open_file, too_large

HUB_ARCHIVES = {"deepghs/nsfw_detect": "nsfw_dataset_v1.zip"}
"""Data sets of the hub that are one zip of class folders."""

_ENCRYPTED = 0x1  # APPNOTE.TXT 4.4.4, general purpose bit 0
_SCHEME = "zip://"
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive, as the archive's directory declares it.

    Attributes:
        uri: `zip://NAME::ARCHIVE`, as fsspec chains URIs.
        name: within the archive.
        size: bytes, uncompressed.
        crc32: of the uncompressed bytes.
        offset: where it begins; reading in this order reads the archive once, from front to back.
    """

    uri: str
    name: str
    size: int
    crc32: int
    offset: int

    @property
    def version(self) -> str:
        """Member's CRC-32 in place of an etag."""
        return f"{self.crc32:08x}"


def is_archive(uri: str) -> bool:
    """Return whether a source is a zip, by its name."""
    return uri.lower().endswith(".zip") or _is_on_hub(uri)


def archive_of(uri: str) -> str | None:
    """Return the archive in a member's URI; None where the URI is no member's."""
    name, separator, archive = uri.partition("::")
    return archive if separator and name.startswith(_SCHEME) else None


def member_name(uri: str, archive: str) -> str:
    """Return the name within the archive, from a member's URI."""
    return uri.removeprefix(_SCHEME).removesuffix(f"::{archive}")


def archive_uri(uri: str) -> str:
    """Return an archive's own URI, as its members' URIs name it."""
    return f"hf://datasets/{uri}/{HUB_ARCHIVES[uri]}" if _is_on_hub(uri) else Location.of(uri).absolute().uri


def local_members(uris: Sequence[str]) -> list[str]:
    """Return the URIs by which this machine reads objects: members of an archive of the hub's in the copy that was
    downloaded, all others as they are. Raises SourceError."""
    found = list(uris)
    for repo, name in HUB_ARCHIVES.items():
        end = f"::hf://datasets/{repo}/{name}"
        if any(uri.endswith(end) for uri in found):
            copy = f"::{os.path.abspath(_from_hub(repo, name))}"
            found = [uri.removesuffix(end) + copy if uri.endswith(end) else uri for uri in found]
    return found


class Archive:
    """An open zip. Not for several threads. Raises SourceError where it is not there, cannot be reached, or is no
    zip."""

    def __init__(self, uri: str, storage: StorageConfig) -> None:
        self.uri = archive_uri(uri)
        try:
            self._zip = zipfile.ZipFile(_opened(uri, storage))
        except (*_DAMAGED, NotImplementedError) as error:
            raise SourceError(f"{uri} is not a whole zip: {error}") from error
        except STORE_ERRORS as error:
            raise SourceError(str(setup_error(error, f"cannot read {uri}"))) from error

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def uri_of(self, name: str) -> str:
        """Return the URI of a member."""
        return f"{_SCHEME}{name}::{self.uri}"

    def folders(self) -> list[str]:
        """Return the folders that the archive itself lists, without the slash at their end."""
        return [name.rstrip("/") for name in self._zip.NameToInfo if name.endswith("/")]

    def members(self) -> Iterator[Member]:
        """Yield the files, in the order in which they lie in the archive; of several with one name, the last."""
        for info in sorted(self._zip.NameToInfo.values(), key=lambda info: info.header_offset):
            if not info.is_dir():
                yield Member(self.uri_of(info.filename), info.filename, info.file_size, info.CRC, info.header_offset)

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a member's bytes; unpack no more than `max_bytes`, whatever the archive says. Raises RowError."""
        info = self._zip.NameToInfo.get(name)
        if info is None:
            raise RowError(ErrorCode.NOT_FOUND, "not in the archive any more")
        if info.flag_bits & _ENCRYPTED:
            raise RowError(ErrorCode.PASSWORD, "encrypted in the archive")
        if info.file_size > max_bytes:
            raise too_large(info.file_size, max_bytes)
        try:
            with self._zip.open(info) as file:
                data = file.read(max_bytes + 1)
        except (NotImplementedError, RuntimeError) as error:
            raise RowError(ErrorCode.CODEC_MISSING, f"packed in a way that cannot be read: {error}") from error
        except _DAMAGED as error:
            raise RowError(ErrorCode.DECODE_ERROR, f"damaged in the archive: {error}") from error
        except STORE_ERRORS as error:
            raise RowError(ErrorCode.FETCH_ERROR, str(setup_error(error, "cannot read the archive"))) from error
        if len(data) > max_bytes:
            raise too_large(len(data), max_bytes)
        return data


class ReadMembers(Stage):
    """Stage that reads rows, all of them members of one archive."""

    name = "read"
    needs: tuple[str, ...] = ("uri",)
    adds = pa.schema([BYTES])

    def __init__(self, archive: Archive, max_bytes: int) -> None:
        self._archive = archive
        self._max_bytes = max_bytes

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the table with `bytes`."""
        return map_rows(self, table, self._read)

    def _read(self, row: Row) -> Row:
        data = self._archive.read(member_name(row["uri"], self._archive.uri), self._max_bytes)
        return {"bytes": data, "size": len(data)}


def _opened(uri: str, storage: StorageConfig) -> IO[bytes]:
    if _is_on_hub(uri):
        return open(_from_hub(uri, HUB_ARCHIVES[uri]), "rb")
    file = open_file(Location.of(uri), storage)
    if not file.seekable():
        return io.BytesIO(file.read())
    return file


def _is_on_hub(uri: str) -> bool:
    return uri in HUB_ARCHIVES and not os.path.exists(uri)


def _from_hub(repo: str, name: str) -> str:
    """Return the path of the hub's file on this machine; it is downloaded once."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

    try:
        return hf_hub_download(repo, name, repo_type="dataset")
    except GatedRepoError as error:
        raise SourceError(
            f"{repo}: the hub gives it only to those who accepted its conditions: do so at "
            f"https://huggingface.co/datasets/{repo}, and set HF_TOKEN to a token of that account"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise SourceError(
            f"{repo}: cannot be had from the hub ({reason}): set HF_TOKEN, since it is gated, or give the path or URI "
            f"of {name}"
        ) from error
