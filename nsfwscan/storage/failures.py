"""Decide what a store's failure means: what is tried again, and what is said of it when it stays.

A failure is another attempt; or a `RowError` with its own status, for one object; or a `NsfwscanError` where it would
fail every object alike, such as refused credentials.
"""

from __future__ import annotations

import errno
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Protocol, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProfileNotFound,
    SSOError,
    TokenRetrievalError,
)
from botocore.parsers import ResponseParserError

from nsfwscan.errors import ErrorCode, NsfwscanError, RowError, StoreError
from nsfwscan.storage.rate_limit import UNPACED
from nsfwscan.storage.s3_dialect import NotAListing
from nsfwscan.text import printable

STORE_ERRORS = (OSError, BotoCoreError, ClientError, ValueError)
"""Errors that a filesystem raises for a store that is not there, refuses or fails."""

NOT_A_LISTING = (NotAListing, ResponseParserError)
"""Errors for a listing's answer that is none; another attempt may bring one."""

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_THROTTLED = frozenset(
    {
        *("SlowDown", "503", "429", "ServiceUnavailable", "Throttling", "ThrottlingException"),
        *("RequestLimitExceeded", "TooManyRequests"),
    }
)
_BAD_CREDENTIALS = frozenset(
    {
        *("InvalidAccessKeyId", "ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestTimeTooSkewed"),
        *("ExpiredTokenException", "RequestExpired"),
    }
)
_FULL = frozenset(
    {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)
_NO_CREDENTIALS = (
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)
_CREDENTIALS_HELP = (
    "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN or --profile (a public bucket: --anonymous)"
)
_SIGNATURE_HELP = (
    "either the secret key is another one (check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, --profile), or it is right "
    "and the store, or a proxy before it, does not sign as AWS does: try --s3-compatibility basic, --region as the "
    "store has it, --s3-addressing path"
)
_DIALECT = frozenset(
    {
        *("NotImplemented", "501", "MethodNotAllowed", "405", "MissingContentLength", "411"),
        *("XAmzContentSHA256Mismatch", "MissingContentMD5", "UnsupportedHeader", "XNotImplemented"),
    }
)
"""Codes of stores that speak less of S3 than they were asked in, or less usual parts of it."""
_DIALECT_HELP = (
    "the store does not take requests in this form: try --s3-compatibility basic (Content-MD5 in place of checksum "
    "headers) or aws, as its manual says"
)
_LISTING_HELP = (
    "A gateway, a login page or another service may stand in the store's place, or it has trouble: check the endpoint, "
    "then run the same command again"
)
_SPOKEN_OF = re.compile(r"checksum|x-amz-|content-md5|trailer|aws-chunked|unsupported header", re.IGNORECASE)
_ADDRESSING = {"SecondLevelDomainForbidden": "virtual", "PathStyleDomainForbidden": "virtual"}
_REGION = frozenset({"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidLocationConstraint"})

_PERMANENT = (
    *(FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError),
    *(ValueError, TypeError, ParamValidationError, RowError, NsfwscanError, *_NO_CREDENTIALS),
)
_PERMANENT_ERRNO = frozenset(
    {errno.EINVAL, errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}
)


_CHECKSUM_ERROR = "FlexibleChecksumError"


class NotWhole(OSError):
    """Bytes that were read are not one version of the object, from its first byte to its last."""


class Wait(Protocol):
    """A function that returns when the next request may go, and not before `after_s` seconds; `Pace.wait` is one."""

    def __call__(self, after_s: float = 0.0, /) -> None:
        """Wait."""


_Result = TypeVar("_Result")


def retry(call: Callable[[], _Result], attempts: int = 4, wait: Wait = UNPACED.wait) -> _Result:
    """Call again, with backoff, where a bad moment may have failed: a cut connection, a part of a body, a time-out."""
    for attempt in count(1):
        wait(backoff_s(attempt))
        try:
            return call()
        except Exception as error:  # whatever the filesystem's library raises
            if attempt < attempts and is_transient(error):
                continue
            real = _unmasked(error)
            if _is_http(real) and not isinstance(real, STORE_ERRORS):
                raise ConnectionError(_detail(real)) from real
            raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def backoff_s(attempt: int) -> float:
    """Return the seconds to wait before an attempt: nothing before the first, then a quarter of a second, doubled each
    time up to 8 s, give or take half: the threads of all workers must not come back in step."""
    return 0.0 if attempt == 1 else min(8.0, 0.25 * 2 ** (attempt - 2)) * random.uniform(0.5, 1.5)


def error_code(error: BaseException | None) -> str | None:
    """Return the store's code behind an exception: S3's, such as `NoSuchKey`, or an HTTP status; None where no store
    answered."""
    while error is not None:
        if isinstance(error, ClientError):
            answer = error.response.get("Error", {})
            return str(answer.get("Code") or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
        if (status := _http_status(error)) is not None:
            return str(status)
        error = error.__cause__
    return None


def row_error(error: Exception, attempts: int) -> RowError:
    """Return what a failed read means for its row. Raises NsfwscanError where the credentials are missing or refused,
    which no other object would survive either."""
    error = _unmasked(error)
    code = error_code(error)
    said = f" ({code})" if code else ""
    if isinstance(error, _NO_CREDENTIALS) or "credentials are still expired" in str(error):
        raise NsfwscanError(f"no AWS credentials ({error}): {_CREDENTIALS_HELP}") from None
    if code in _BAD_CREDENTIALS:
        raise NsfwscanError(f"the store refuses the credentials{said}: {_CREDENTIALS_HELP}") from None
    if code == "SignatureDoesNotMatch":
        raise NsfwscanError(f"the store finds the signature wrong{said}: {_SIGNATURE_HELP}") from None
    if help_ := _dialect_help(error, code):
        raise NsfwscanError(f"{help_}{said}: {_detail(error)}") from None
    tries = f" after {attempts} attempts" if attempts > 1 else ""
    if code in _THROTTLED:
        return RowError(ErrorCode.THROTTLED, f"throttled by the store{said}, retries used up")
    if code == "InvalidObjectState":
        return RowError(ErrorCode.ARCHIVED, f"archived by the store: restore it before scanning{said}")
    if isinstance(error, FileNotFoundError):
        return RowError(ErrorCode.NOT_FOUND, f"no such object{said}")
    if isinstance(error, PermissionError) or code in ("401", "403"):
        denied = {None: ErrorCode.DENIED, "401": ErrorCode.HTTP_401}.get(code, ErrorCode.HTTP_403)
        return RowError(denied, f"permission denied{said}")
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return RowError(ErrorCode.READ_TIMEOUT, f"the read timed out{tries}")
    return RowError(_code_of(error), f"{_detail(error)}{said}{tries}")


def _code_of(error: Exception) -> ErrorCode:
    """Return the code of a failed read that is neither throttled, archived, absent, denied nor timed out."""
    if isinstance(error, NotWhole):
        return ErrorCode.INCOMPLETE
    if isinstance(error, IsADirectoryError) or getattr(error, "errno", None) == errno.ENXIO:  # that is a socket
        return ErrorCode.NOT_A_FILE
    if type(error).__name__ == _CHECKSUM_ERROR:
        return ErrorCode.CHECKSUM
    if (status := _status_of(error)) is not None:
        return ErrorCode.HTTP_5XX if status >= 500 else ErrorCode.HTTP_4XX
    if isinstance(error, ConnectionError | BotoCoreError) or _is_http(error):
        return ErrorCode.CONNECTION
    return ErrorCode.IO_ERROR if getattr(error, "errno", None) is not None else ErrorCode.FETCH_ERROR


def _status_of(error: BaseException | None) -> int | None:
    """Return the HTTP status behind an exception; None where no server answered."""
    while error is not None:
        if isinstance(error, ClientError):
            found: int | None = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return found
        if (status := _http_status(error)) is not None:
            return status
        error = error.__cause__
    return None


def _dialect_help(error: Exception, code: str | None) -> str | None:
    """Return what to try where an S3 store does not understand us, whatever the object; None for other failures."""
    if _is_http(error):
        return None
    if code in _DIALECT or (code in ("InvalidArgument", "InvalidRequest") and _SPOKEN_OF.search(str(error))):
        return _DIALECT_HELP
    if code in _ADDRESSING:
        return f"the store wants the bucket's name elsewhere: try --s3-addressing {_ADDRESSING[code]}"
    return "the request was signed for another region than the store's: try --region" if code in _REGION else None


def is_unknown_to_store(error: Exception) -> bool:
    """Return whether an S3 store says that it does not know a request, such as a condition or a bulk delete."""
    return _dialect_help(error, error_code(error)) == _DIALECT_HELP


def _detail(error: Exception) -> str:
    known = {  # the words of aiohttp and botocore are about chunks and digests, and are others each time
        "ClientPayloadError": "the connection broke off before the end of the body",
        _CHECKSUM_ERROR: "the bytes do not match the store's checksum",
    }.get(type(error).__name__)
    return known or (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0][:200]


def _unmasked(error: Exception) -> Exception:
    """Return the error behind a FileNotFoundError that is none: fsspec's HTTP filesystem raises it for whatever
    happens."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and _is_http(cause):
        return error if _http_status(cause) in (404, 410) else cause
    return error


def _http_status(error: BaseException) -> int | None:
    return getattr(error, "status", None) if _is_http(error) else None


def _is_http(error: BaseException) -> bool:
    """Return whether it is aiohttp's; the package takes an eighth of a second to import, and not every command needs
    it."""
    return type(error).__module__.startswith("aiohttp.")


def is_transient(error: Exception) -> bool:
    """Return whether another attempt may help: a broken connection, a part of a body, a time-out, a server in trouble.
    botocore has retried S3's own answers already."""
    error = _unmasked(error)
    if isinstance(error, _PERMANENT) or getattr(error, "errno", None) in _PERMANENT_ERRNO:
        return False
    status = _http_status(error)
    if status is not None:
        return status in (408, 425, 429) or status >= 500
    return error_code(error) is None


def setup_error(error: Exception, doing: str) -> NsfwscanError:
    """Return a store's failure outside of any row (listing, writing the report), in words."""
    code = error_code(error)
    strerror = error.strerror if isinstance(error, OSError) and code is None else None
    if code in _FULL or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        why = f"the store is full ({strerror or code}): make room, then run the same command again"
    elif getattr(error, "errno", None) == errno.EROFS:
        why = f"{strerror}: mount it for writing, or name another place"
    elif strerror:
        why = strerror
    elif isinstance(error, NOT_A_LISTING):
        cut = "the answer is no whole XML: it is cut, or not a store's"
        why = f"{error if isinstance(error, NotAListing) else cut}. {_LISTING_HELP}"
    else:
        try:
            why = str(row_error(error, 1))
        except NsfwscanError as credentials:
            why = str(credentials)
    return StoreError(printable(f"{doing}: {why}"))


@contextmanager
def in_words(
    doing: str, kind: type[NsfwscanError] = StoreError, errors: tuple[type[Exception], ...] = STORE_ERRORS
) -> Iterator[None]:
    """Raise a store's failure within the block as a `kind`, in words that begin with what was being done."""
    try:
        yield
    except errors as error:
        raise kind(str(setup_error(error, doing))) from error
