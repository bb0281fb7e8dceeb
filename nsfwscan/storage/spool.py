"""Copy a large object into a file, range by range: one version of it, and no more than a range in memory.

From S3, each range after the first is asked for with the first one's etag (`If-Match`), and each answer must have it. A
local file must be the same, by size and time, at its end as at its beginning. Where the object changes meanwhile, it is
copied from its beginning again. Other stores give the whole object at once (`objects.fetch`).
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Any

from fsspec.asyn import sync

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ErrorCode, NsfwscanError, RowError
from nsfwscan.location import Location
from nsfwscan.storage.failures import NotWhole, Wait, error_code, is_transient, retry, row_error
from nsfwscan.storage.filesystems import coroutine, filesystem
from nsfwscan.storage.objects import Check, fetch, open_local, too_large, unchecked, unquoted
from nsfwscan.storage.rate_limit import UNPACED

_PIECE_BYTES = 2**20
RANGE_BYTES = 16 * 2**20
"""Bytes of a range: few requests, and a cut connection costs no more than this."""


@dataclass(frozen=True)
class Spooled:
    """A copy of an object.

    Attributes:
        data: the whole of it, mapped into memory from a temporary file without a name, which ends with it.
        etag: the version tag that the store returned with it.
    """

    data: mmap.mmap | bytes
    etag: str | None


class _Changed(Exception):
    """Another version of the object came."""


@dataclass(frozen=True)
class _Range:
    """A range of an object, the object's size in bytes, and a tag that another version would not have."""

    data: bytes
    size: int
    tag: str


_Read = Callable[[int, str | None], _Range]
"""A function that reads the range from an offset on, of the version with a tag."""


def spool(
    place: Location,
    storage: StorageConfig,
    *,
    max_bytes: int,
    timeout_s: float,
    attempts: int,
    wait: Wait = UNPACED.wait,
    check: Check = unchecked,
) -> Spooled:
    """Copy one object. Raises RowError and NsfwscanError as `fetch`, and NsfwscanError where the disk has no room.

    Args:
        max_bytes: a larger object is not copied.
        timeout_s: for each attempt to read a range.
        attempts: how often a range, or an object that changes meanwhile, is tried.
        wait: called before each attempt.
        check: that of `fetch`.
    """
    with tempfile.TemporaryFile(prefix="nsfwscan-") as file:
        for _ in range(attempts):
            with suppress(_Changed):
                etag = _copied(place, storage, file, max_bytes, timeout_s, attempts, wait, check)
                file.flush()
                data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if file.tell() else b""
                return Spooled(data, etag)
    raise RowError(ErrorCode.INCOMPLETE, f"it changed while it was read, in each of {attempts} attempts")


def _copied(
    place: Location,
    storage: StorageConfig,
    file: IO[bytes],
    max_bytes: int,
    timeout_s: float,
    attempts: int,
    wait: Wait,
    check: Check,
) -> str | None:
    """Write the object into an empty file, and return its etag."""
    file.seek(0)
    file.truncate()
    if not place.is_local and not place.is_s3:
        found = fetch(place, storage, max_bytes=max_bytes, timeout_s=timeout_s, attempts=attempts, wait=wait)
        _write(file, found.data)
        return found.etag
    read: _Read = partial(_s3_range, place, storage, timeout_s)
    if place.is_local:
        read = partial(_local_range, place.path, check)
    tag: str | None = None
    size = 1
    while file.tell() < size:
        try:
            found_range = retry(partial(read, file.tell(), tag), attempts, wait)
        except (RowError, _Changed):
            raise
        except Exception as error:
            raise row_error(error, attempts if is_transient(error) else 1) from error
        if tag is not None and found_range.tag != tag:
            raise _Changed
        tag, size = found_range.tag, found_range.size
        if size > max_bytes:
            raise too_large(size, max_bytes)
        _write(file, found_range.data)
    return None if place.is_local else unquoted(tag)


def _write(file: IO[bytes], data: bytes) -> None:
    try:
        file.write(data)
    except OSError as error:
        words = f"cannot keep a large video in {tempfile.gettempdir()}: {error.strerror}"
        raise NsfwscanError(f"{words}; make room there, or set TMPDIR to a folder on a larger disk") from error


def _local_range(path: str, check: Check, start: int, tag: str | None) -> _Range:
    with open_local(path, check) as file:
        before = os.fstat(file.fileno())
        data = os.pread(file.fileno(), RANGE_BYTES, start)
        after = os.fstat(file.fileno())
    tags = [f"{one.st_ino} {one.st_size} {one.st_mtime_ns}" for one in (before, after)]
    if tags[0] != tags[1] or (not data and start < after.st_size):
        raise _Changed
    return _Range(data, after.st_size, tags[1])


def _s3_range(place: Location, storage: StorageConfig, timeout_s: float, start: int, tag: str | None) -> _Range:
    place = place.absolute()
    fs = filesystem(place, storage)
    try:
        found: _Range = sync(fs.loop, _get_range, fs, place, start, tag, timeout=timeout_s)
    except Exception as error:  # fsspec's own, for the store's answer
        if error_code(error) in (
            "PreconditionFailed",
            "412",
            "InvalidRange",
            "416",
        ):  # another version, or a shorter one
            raise _Changed from error
        raise
    return found


async def _get_range(fs: Any, place: Location, start: int, tag: str | None) -> _Range:
    wanted = {"Range": f"bytes={start}-{start + RANGE_BYTES - 1}", **({"IfMatch": tag} if tag else {})}
    response = await coroutine(fs, "call_s3")("get_object", Bucket=place.authority, Key=place.path, **wanted)
    if "ContentRange" not in response:
        raise RowError(
            ErrorCode.FETCH_ERROR, "the store gives no ranges of an object, and this one is too large without"
        )
    data = bytearray()
    async with response["Body"] as body:
        while len(data) <= RANGE_BYTES and (piece := await body.read(_PIECE_BYTES)):
            data += piece
    size = int(response["ContentRange"].rpartition("/")[2])
    if len(data) != (whole := min(RANGE_BYTES, size - start)):
        raise NotWhole(f"read {len(data):,} of {whole:,} bytes")
    return _Range(bytes(data), size, response.get("ETag") or "")
