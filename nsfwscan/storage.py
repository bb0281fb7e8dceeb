"""Reaching objects, wherever they are.

In: URIs (plain paths, `file://`, `s3://`, any fsspec URI) and a `StorageConfig`. Out: filesystems, and an object's
bytes with the version that was read. What can go wrong with one object is a `RowError` with its own status; refused
credentials are a `SetupError`, since they would fail every object alike.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

import fsspec
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
)
from fsspec.asyn import sync

from nsfwscan.config import StorageConfig
from nsfwscan.errors import RowError, SetupError, StoreError
from nsfwscan.schema import Status

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
_S3 = frozenset({"s3", "s3a"})

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_THROTTLED = frozenset(
    {
        "SlowDown",
        "503",
        "429",
        "ServiceUnavailable",
        "Throttling",
        "ThrottlingException",
        "RequestLimitExceeded",
        "TooManyRequests",
    }
)
_BAD_CREDENTIALS = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "ExpiredToken",
        "InvalidToken",
        "TokenRefreshRequired",
        "RequestTimeTooSkewed",
        "ExpiredTokenException",
    }
)
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError, ProfileNotFound)
_CREDENTIALS_HELP = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or --profile (a public bucket: --anonymous)"
)


@dataclass(frozen=True)
class Fetched:
    """One object's bytes, and the version tag that the store returned with them."""

    data: bytes
    etag: str | None


def scheme_of(uri: str) -> str | None:
    """`s3`, `gs`, … in lower case, or None for a local path (plain or `file://`)."""
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else None
    return None if scheme in (None, "file", "local") else scheme


def is_s3(uri: str) -> bool:
    """Whether the URI names an S3 object or prefix."""
    return scheme_of(uri) in _S3


def local_path(uri: str) -> str:
    """The path behind a local URI; `file://` URIs are percent-decoded (RFC 8089)."""
    if _SCHEME.match(uri):
        path = uri.split("://", 1)[1]
        return os.fsdecode(unquote_to_bytes(path.removeprefix("localhost") if path.startswith("localhost/") else path))
    return uri


def local_uri(path: str) -> str:
    """A path as the report writes it: itself, or a percent-encoded `file://` URI where its name is not UTF-8."""
    try:
        path.encode("utf-8")
        return path
    except UnicodeEncodeError:
        return "file://" + quote_from_bytes(os.fsencode(path))


def split_s3(uri: str) -> tuple[str, str]:
    """Bucket and key, byte for byte: `?`, `#` and `%` are ordinary characters of a key."""
    bucket, _, key = uri.split("://", 1)[1].partition("/")
    return bucket, key


@lru_cache(maxsize=16)
def _cached_filesystem(scheme: str, storage: str) -> fsspec.AbstractFileSystem:
    config = StorageConfig.model_validate_json(storage)
    options: dict[str, Any] = {"use_listings_cache": False, **config.options}
    if scheme in _S3:
        options = {
            "anon": config.anonymous,
            "endpoint_url": config.endpoint_url,
            "requester_pays": config.requester_pays,
            "client_kwargs": {"region_name": config.region} if config.region else {},
            # One layer retries: botocore, with its backoff. s3fs would multiply the attempts.
            "config_kwargs": {
                "retries": {"total_max_attempts": 5, "mode": "standard"},
                "connect_timeout": 10,
                "read_timeout": 30,
                "max_pool_connections": 64,
            },
            **({"profile": config.profile} if config.profile else {}),
            **options,
        }
    try:
        fs = fsspec.filesystem(scheme, **options)
    except (ImportError, ValueError) as error:
        raise SetupError(f"cannot read {scheme}:// URIs: {error}") from None
    if scheme in _S3:
        fs.retries = 1
    return fs


def filesystem(uri: str, storage: StorageConfig) -> fsspec.AbstractFileSystem:
    """The fsspec filesystem for a URI that is not local; one per process and configuration.

    Raises:
        SetupError: no package is installed for the scheme, or the AWS profile does not exist.
    """
    return _cached_filesystem(scheme_of(uri) or "file", storage.model_dump_json())


def call_s3(storage: StorageConfig, uri: str, method: str, **arguments: Any) -> dict[str, Any]:
    """One S3 API call with the retries and settings of `storage`; errors as s3fs translates them."""
    result: dict[str, Any] = filesystem(uri, storage).call_s3(method, **arguments)
    return result


def fetch(uri: str, storage: StorageConfig, *, max_bytes: int, timeout_s: float, attempts: int) -> Fetched:
    """Reads one object whole.

    Args:
        uri: a local path or any fsspec URI.
        max_bytes: a larger object is not read.
        timeout_s: for each attempt.
        attempts: how often a cut connection or a time-out is tried again (the store's own 5xx answers are retried
            below this, with backoff).

    Raises:
        RowError: this object cannot be read, with the status that says why.
        SetupError: the credentials are refused.
    """
    if scheme_of(uri) is None:
        return _fetch_local(uri, max_bytes)
    for attempt in range(1, attempts + 1):
        try:
            return _fetch_remote(uri, storage, max_bytes, timeout_s)
        except RowError:
            raise
        except Exception as error:
            if attempt == attempts or not _is_transient(error):
                raise row_error(error, attempt) from error
    raise AssertionError("unreachable: attempts is at least 1")


def _fetch_local(uri: str, max_bytes: int) -> Fetched:
    try:
        # O_NONBLOCK: opening a named pipe must not wait for a writer.
        with open(os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise RowError(Status.FETCH_ERROR, "not a regular file")
            _check_size(info.st_size, max_bytes)
            return Fetched(file.read(), None)
    except (OSError, ValueError) as error:
        raise row_error(error, 1) from error


def _fetch_remote(uri: str, storage: StorageConfig, max_bytes: int, timeout_s: float) -> Fetched:
    fs = filesystem(uri, storage)
    if is_s3(uri):
        fetched: Fetched = sync(fs.loop, _get_object, fs, *split_s3(uri), max_bytes, timeout=timeout_s)
        return fetched
    info = fs.info(uri)
    if info.get("type") == "directory":
        raise RowError(Status.FETCH_ERROR, "not an object but a directory")
    _check_size(info.get("size"), max_bytes)
    return Fetched(fs.cat_file(uri), etag_of(info))


async def _get_object(fs: Any, bucket: str, key: str, max_bytes: int) -> Fetched:
    response = await fs._call_s3("get_object", Bucket=bucket, Key=key)
    async with response["Body"] as body:
        _check_size(response.get("ContentLength"), max_bytes)
        return Fetched(await body.read(), _unquoted(response.get("ETag")))


def _check_size(size: int | None, max_bytes: int) -> None:
    if size is not None and size > max_bytes:
        raise too_large(size, max_bytes)


def too_large(size: int, max_bytes: int) -> RowError:
    """The error of an object that is not read for its size in bytes."""
    return RowError(Status.TOO_LARGE, f"{size:,} bytes, over the limit of {max_bytes:,} (--max-bytes)", {"size": size})


def etag_of(info: dict[str, Any]) -> str | None:
    """The version tag in an fsspec `info` answer, whatever the filesystem calls it."""
    for key in ("ETag", "etag", "e_tag", "md5Hash"):
        if info.get(key):
            return _unquoted(str(info[key]))
    return None


def modified_of(info: dict[str, Any]) -> Any:
    """The time of the last change in an fsspec `info` answer, in whatever type the filesystem gives it."""
    keys = ("LastModified", "last_modified", "updated", "mtime", "created")
    return next((info[key] for key in keys if info.get(key)), None)


def _unquoted(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


def error_code(error: BaseException | None) -> str | None:
    """The S3 error code behind an exception, e.g. `NoSuchKey` or `503`; None where no store answered."""
    while error is not None:
        if isinstance(error, ClientError):
            answer = error.response.get("Error", {})
            return str(answer.get("Code") or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        error = error.__cause__
    return None


def row_error(error: Exception, attempts: int) -> RowError:
    """What a failed read means for its row.

    Raises:
        SetupError: the credentials are missing or refused, which no other object would survive either.
    """
    code = error_code(error)
    if isinstance(error, _NO_CREDENTIALS):
        raise SetupError(f"no AWS credentials ({error}): {_CREDENTIALS_HELP}") from None
    if code in _BAD_CREDENTIALS:
        raise SetupError(f"the store refuses the credentials ({code}): {_CREDENTIALS_HELP}") from None
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    if code in _THROTTLED:
        return RowError(Status.FETCH_ERROR, f"throttled by the store ({code}), retries used up")
    if code == "InvalidObjectState":
        return RowError(Status.FETCH_ERROR, "archived by the store: restore it before scanning (InvalidObjectState)")
    if isinstance(error, FileNotFoundError):
        return RowError(Status.NOT_FOUND, "no such object" + (f" ({code})" if code else ""))
    if isinstance(error, PermissionError):
        return RowError(Status.DENIED, "permission denied" + (f" ({code})" if code else ""))
    if _is_timeout(error):
        return RowError(Status.TIMEOUT, f"the read timed out{tries}")
    detail = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]
    return RowError(Status.FETCH_ERROR, f"{detail}{f' ({code})' if code else ''}{tries}")


def _is_timeout(error: BaseException) -> bool:
    return isinstance(error, TimeoutError | asyncio.TimeoutError) or "Timeout" in type(error).__name__


def _is_transient(error: Exception) -> bool:
    """A cut body, a broken connection or a time-out; answers of the store were already retried by botocore."""
    if isinstance(error, (FileNotFoundError, PermissionError, *_NO_CREDENTIALS)):
        return False
    return error_code(error) is None


def setup_error(error: Exception, doing: str) -> SetupError:
    """A store's failure outside of any row (listing, writing the report), in words."""
    if isinstance(error, OSError) and error.strerror and error_code(error) is None:
        return StoreError(f"{doing}: {error.strerror}")
    try:
        return StoreError(f"{doing}: {row_error(error, 1)}")
    except SetupError as credentials:
        return StoreError(f"{doing}: {credentials}")


STORE_ERRORS = (OSError, BotoCoreError, ClientError, ValueError)
"""What a filesystem raises for a store that is not there, refuses or fails."""
