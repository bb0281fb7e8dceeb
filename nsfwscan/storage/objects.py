"""Read objects, wherever they are.

What can go wrong with one object is a `RowError` with its own status; refused credentials are a `NsfwscanError`, since
they would fail every object alike.

Which bytes are an object (`fetch` holds it, for every kind of store):

- They are as many as the store itself says with the read: S3's Content-Length, another filesystem's `info`, the size of
  a local file. A local file must have the same size and time of change before and after.
- Where the listing gave an etag and the read returns the same, they are as many as the listing says, too: the version
  is the listed one, so other bytes are a part of it. Fewer or more are tried again, and then a `fetch_error`.
- They are never more than `max_bytes`, whatever length was announced, or none: reading stops there.
- Where the etags differ, or one of them is not known, the object may have changed since it was listed: it is taken as
  it is now, with its own size and etag, even where nothing is left of it.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
import zlib
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import IO, Any

from fsspec.asyn import sync

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ErrorCode, RowError, Status
from nsfwscan.location import Location
from nsfwscan.storage.failures import STORE_ERRORS, NotWhole, Wait, is_transient, retry, row_error
from nsfwscan.storage.filesystems import coroutine, filesystem, get_url, taking_turns
from nsfwscan.storage.rate_limit import UNPACED

_BUFFER_BYTES = 4 * 2**20
_PIECE_BYTES = 2**20
_MOST_OF_OURS = 4 * 2**30
"""Of a file of ours that is read at once; the largest, such as parts of reports, have far less."""
_ANY_ZLIB = 32 + zlib.MAX_WBITS
"""gzip or zlib, as the first bytes have it."""


Check = Callable[[str, str], None]
"""A function that raises RowError where a local file must not be read, by the path that names it, and by the path
without any link that this leads to."""


def unchecked(path: str, real: str) -> None:
    """Let a local file be read wherever it is."""


@dataclass(frozen=True)
class Fetched:
    """One object's bytes, and the version tag that the store returned with them."""

    data: bytes
    etag: str | None


def submit_s3(place: Location, storage: StorageConfig, method: str, **arguments: Any) -> Future[dict[str, Any]]:
    """Begin an S3 API call on the bucket of a location without waiting for it: many at once need no threads. Cancelling
    the future drops the request."""
    fs = filesystem(place, storage)
    call: Any = coroutine(fs, "call_s3")(method, Bucket=place.authority, **arguments)
    return asyncio.run_coroutine_threadsafe(call, fs.loop)


def fetch(
    place: Location,
    storage: StorageConfig,
    *,
    max_bytes: int,
    timeout_s: float,
    attempts: int,
    size: int | None = None,
    etag: str | None = None,
    wait: Wait = UNPACED.wait,
    check: Check = unchecked,
) -> Fetched:
    """Read one object whole. Raises RowError where this object cannot be read, with the status that says why;
    NsfwscanError where the credentials are refused.

    Args:
        max_bytes: a larger object is not read.
        timeout_s: for each attempt, from its start to its last byte. A filesystem that blocks (a local disk,
            fsspec's synchronous ones) cannot be interrupted: who calls must see to that, as the stage `read` does.
        attempts: how often a cut connection, a part of a body or a time-out is tried again, with backoff (S3's own 5xx
            answers are retried below this, with another).
        size, etag: as listed, where that is known.
        wait: called before each attempt.
        check: of the place to which the path of a local file leads.
    """

    def attempt() -> Fetched:
        found = _fetch(place, storage, max_bytes, timeout_s, check)
        if etag is not None and found.etag == etag and size is not None:
            _check_whole(len(found.data), size)
        return found

    try:
        return retry(attempt, attempts, wait)
    except RowError:
        raise
    except Exception as error:
        raise row_error(error, attempts if is_transient(error) else 1) from error


def read_file(place: Location, storage: StorageConfig) -> bytes:
    """Return the bytes of a file of ours that is not local; a cut connection is tried again. Raises what the filesystem
    does."""

    def attempt() -> bytes:
        return _fetch(place, storage, _MOST_OF_OURS, None).data

    try:
        return retry(attempt)
    except RowError as error:
        said = f"it has more than {_MOST_OF_OURS:,} bytes" if error.status == Status.TOO_LARGE else str(error)
        raise OSError(errno.EFBIG, said) from None


def open_file(place: Location, storage: StorageConfig) -> IO[bytes]:
    """Open a file, wherever it lies, to be read from its start on; cut connections are tried again. Raises what the
    filesystem does."""
    if place.is_local:
        return open(place.path, "rb")
    fs = filesystem(place, storage)
    if retry(lambda: fs.info(place.uri)).get("size") is None:  # an HTTP server may not say how long it is
        return io.BytesIO(read_file(place, storage))
    return io.BufferedReader(RemoteFile(place, storage), _BUFFER_BYTES)


class RemoteFile(io.RawIOBase):
    """A file that is not local and is read here and there, such as a Parquet file's footer and some of its columns; a
    cut connection is tried again. Raises what the filesystem does."""

    def __init__(self, place: Location, storage: StorageConfig) -> None:
        self._uri = place.uri
        self._fs = filesystem(place, storage)
        self._size: int = retry(lambda: self._fs.info(self._uri))["size"]
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset in bytes from the start, from here, or from the end."""
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readall(self) -> bytes:
        """Return the rest of the file, in one request."""
        return self.read(max(0, self._size - self._position)) or b""

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with the bytes from here on, in one request."""
        start, end = self._position, min(self._position + len(buffer), self._size)
        if start >= end:
            return 0

        def attempt() -> bytes:
            data: bytes = self._fs.cat_file(self._uri, start=start, end=end)
            _check_whole(len(data), end - start)
            return data

        buffer[: end - start] = retry(attempt)
        self._position = end
        return end - start


def read_head(place: Location, storage: StorageConfig, size: int, check: Check = unchecked) -> bytes:
    """Return the first bytes of an object, of so many at most; nothing where they cannot be read. `check` is that of
    `fetch`."""
    with suppress(RowError, *STORE_ERRORS):
        if place.is_local:
            with open_local(place.path, check) as file:
                return file.read(size)
        return RemoteFile(place.absolute(), storage).read(size) or b""
    return b""


def _check_whole(read: int, expected: int | None) -> None:
    if expected is not None and read != expected:
        raise NotWhole(f"read {read:,} of {expected:,} bytes")


def _fetch(
    place: Location, storage: StorageConfig, max_bytes: int, timeout_s: float | None, check: Check = unchecked
) -> Fetched:
    if place.is_local:
        return _read_local(place.path, max_bytes, check)
    place = place.absolute()
    fs = filesystem(place, storage)
    if fs.async_impl:
        read = _get_object if place.is_s3 else _get_page if place.is_web else _cat
        fetched: Fetched = sync(fs.loop, read, fs, place, max_bytes, timeout=timeout_s)
        return fetched
    with taking_turns(fs):
        info = fs.info(place.uri)
        return _taken(fs.cat_file(place.uri, **_up_to(info, max_bytes)), info, max_bytes)


def open_local(path: str, check: Check = unchecked) -> IO[bytes]:
    """Open a regular file of this machine. Nothing else is opened, not even for a moment: to open a pipe may wait for
    its writer, and to open a device may start it. Raises OSError, RowError, and what `check` raises."""
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise RowError(ErrorCode.NOT_A_FILE, "not a regular file")
        itself = f"/proc/self/fd/{handle}"
        check(path, os.readlink(itself))  # of what is held: a link that is put there now leads nowhere else
        return open(os.open(itself, os.O_RDONLY | os.O_CLOEXEC), "rb")
    finally:
        os.close(handle)


def _read_local(path: str, max_bytes: int, check: Check) -> Fetched:
    with open_local(path, check) as file:
        before = os.fstat(file.fileno())
        _check_size(before.st_size, max_bytes)
        data = file.read(before.st_size + 1)  # one more, to see one that grows
        after = os.fstat(file.fileno())
    _check_whole(len(data), after.st_size)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise NotWhole("it changed while it was read")
    return Fetched(data, None)


async def _get_object(fs: Any, place: Location, max_bytes: int) -> Fetched:
    """Return the bytes as the store keeps them: an object that says `Content-Encoding: gzip` is not unpacked, since its
    size, its etag and its hashes are those of the packed bytes."""
    response = await coroutine(fs, "call_s3")("get_object", Bucket=place.authority, Key=place.path)
    async with response["Body"] as body:
        size = response.get("ContentLength")
        _check_size(size, max_bytes)
        come = _Plain(max_bytes)
        while piece := await body.read(_PIECE_BYTES):  # to its end, where the checksum is looked at
            come.add(piece)
    data = come.whole()
    _check_whole(len(data), size)
    return Fetched(data, unquoted(response.get("ETag")))


async def _get_page(fs: Any, place: Location, max_bytes: int) -> Fetched:
    """Return a page or picture as a browser gets it: what the server packs for the way, which it was asked not to, is
    unpacked, up to the limit and no further."""
    async with get_url(fs, place.uri) as answer:
        packed = (answer.headers.get("Content-Encoding") or "").strip().lower() in ("gzip", "x-gzip", "deflate")
        _check_size(None if packed else answer.content_length, max_bytes)
        body = _Unpacked(max_bytes) if packed else _Plain(max_bytes)
        while piece := await answer.content.readany():
            body.add(piece)
    return Fetched(body.whole(), unquoted(answer.headers.get("ETag")))


class _Plain:
    """Bytes of a body so far. Raises RowError where they are more than allowed, whatever length was announced."""

    def __init__(self, max_bytes: int) -> None:
        self._data = bytearray()
        self._max_bytes = max_bytes

    def add(self, piece: bytes) -> None:
        """Take the next piece."""
        self._data += piece
        _check_came(len(self._data), self._max_bytes)

    def whole(self) -> bytes:
        """Return the body, which has come to its end."""
        return bytes(self._data)


class _Unpacked(_Plain):
    """A body in gzip or zlib, of which no more is unpacked than is allowed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(max_bytes)
        self._unpack = zlib.decompressobj(_ANY_ZLIB)
        self._ended = False

    def add(self, piece: bytes) -> None:
        """Unpack the next piece. Raises NotWhole where it is damaged."""
        try:
            while piece:
                super().add(self._unpack.decompress(piece, self._max_bytes + 1 - len(self._data)))
                piece, self._ended = self._unpack.unconsumed_tail, self._unpack.eof
                if self._ended:  # gzip may go on with another member
                    piece, self._unpack = self._unpack.unused_data, zlib.decompressobj(_ANY_ZLIB)
        except zlib.error as error:
            raise NotWhole(f"the packed body is damaged ({error})") from None

    def whole(self) -> bytes:
        """Return the body. Raises NotWhole where its end is missing."""
        if not self._ended:
            raise NotWhole("the packed body ends before its end")
        return super().whole()


def _check_came(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise RowError(ErrorCode.TOO_MANY_BYTES, f"it goes on over the limit of {max_bytes:,} bytes (--max-bytes)")


async def _cat(fs: Any, place: Location, max_bytes: int) -> Fetched:
    info = await coroutine(fs, "info")(place.uri)
    return _taken(await coroutine(fs, "cat_file")(place.uri, **_up_to(info, max_bytes)), info, max_bytes)


def _up_to(info: dict[str, Any], max_bytes: int) -> dict[str, int]:
    """Return the range to read of an object: one byte more than is allowed, to see an object that has more than it
    says. Raises RowError where it is a directory, or says itself that it is too large."""
    if info.get("type") == "directory":
        raise RowError(ErrorCode.NOT_A_FILE, "not an object but a directory")
    _check_size(info.get("size"), max_bytes)
    return {} if info.get("size") == 0 else {"start": 0, "end": max_bytes + 1}  # no range lies in an empty object


def _taken(data: bytes, info: dict[str, Any], max_bytes: int) -> Fetched:
    _check_came(len(data), max_bytes)
    _check_whole(len(data), info.get("size"))
    return Fetched(data, etag_of(info))


def _check_size(size: int | None, max_bytes: int) -> None:
    if size is not None and size > max_bytes:
        raise too_large(size, max_bytes)


def too_large(size: int, max_bytes: int) -> RowError:
    """Return the error of an object that is not read for its size in bytes."""
    return RowError(
        ErrorCode.TOO_MANY_BYTES, f"{size:,} bytes, over the limit of {max_bytes:,} (--max-bytes)", {"size": size}
    )


def etag_of(info: dict[str, Any]) -> str | None:
    """Return the version tag in an fsspec `info` answer, whatever the filesystem calls it."""
    for key in ("ETag", "etag", "e_tag", "md5Hash"):
        if info.get(key):
            return unquoted(str(info[key]))
    return f"crc32-{info['CRC']:08x}" if isinstance(info.get("CRC"), int) else None  # of a zip's member


def modified_of(info: dict[str, Any]) -> datetime | None:
    """Return the time of the last change in an fsspec `info` answer; None where it has none, or one that `moment` does
    not know."""
    return moment(told_time(info))


def told_time(info: dict[str, Any]) -> Any:
    """Return the time of the last change as an fsspec `info` answer has it, whatever its type; None without one."""
    keys = ("LastModified", "last_modified", "updated", "mtime", "created")
    return next((info[key] for key in keys if info.get(key)), None)


def moment(told: Any) -> datetime | None:
    """Return the time (UTC) that seconds since 1970, an ISO 8601 or HTTP date, or a datetime stand for.

    None where it is none of these, and where it is not within the years 1 to 9999, which is what Python, and so every
    reader of a report in pandas or Arrow, can tell apart.
    """
    try:
        if isinstance(told, int | float):
            return datetime.fromtimestamp(told, UTC)
        if isinstance(told, str):
            told = written_time(told)
        if not isinstance(told, datetime) or told != told:  # noqa: PLR0124  # pandas' NaT is a datetime, too
            return None
        return told.replace(tzinfo=UTC) if told.tzinfo is None else told.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        return None


def written_time(text: str) -> datetime:
    """Return the time that ISO 8601 or an HTTP date says. Raises ValueError and its like."""
    iso = text
    for zone in (" UTC", " GMT", " Z"):
        iso = f"{text.removesuffix(zone)}Z" if text.endswith(zone) else iso
    try:
        return datetime.fromisoformat(iso)
    except ValueError:
        return parsedate_to_datetime(text)


def unquoted(etag: str | None) -> str | None:
    """Return a version tag as reports have it."""
    return etag.removeprefix("W/").strip('"') if etag else None
