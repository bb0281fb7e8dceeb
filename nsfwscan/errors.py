"""The exceptions of the project: a `RowError` goes into a row, and a `NsfwscanError` stops the run.

Bad data is a `RowError` and becomes values in that object's row. A broken set-up is a `NsfwscanError` and stops the run
at once, with a message that says what happened, to what, and what to do. Secrets in messages are blanked (`redacted`)
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self

from nsfwscan.text import redacted


class Status(StrEnum):
    """Outcome of reading and decoding one object."""

    OK = "ok"
    NOT_FOUND = "not_found"
    DENIED = "denied"
    FETCH_ERROR = "fetch_error"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    DECODE_ERROR = "decode_error"
    TIMEOUT = "timeout"
    CRASHED = "crashed"


class ErrorCode(StrEnum):
    """What went wrong with one object, in a word to group by; `error` says it in a sentence.

    The list is closed: a code is never renamed, and never comes to mean something else. A status has its own name among
    the codes, for what nothing finer is known of.

    Attributes:
        status: the status of every row with this code.
        doc: what it means.
    """

    status: Status
    doc: str

    def __new__(cls, word: str, status: Status = Status.OK, doc: str = "") -> Self:
        """Return the code of a word."""
        code = str.__new__(cls, word)
        code._value_, code.status, code.doc = word, status, doc
        return code

    NOT_FOUND = "not_found", Status.NOT_FOUND, "the store has no such object, though it was listed"
    DENIED = "denied", Status.DENIED, "permissions forbid reading it"
    HTTP_401 = "http_401", Status.DENIED, "the store wants credentials for it"
    HTTP_403 = "http_403", Status.DENIED, "the store forbids reading it (`AccessDenied`)"
    OUT_OF_REACH = (
        "out_of_reach",
        Status.DENIED,
        "a list names it, or a link leads to it, and may not: it lies outside of what was asked for",
    )
    FETCH_ERROR = "fetch_error", Status.FETCH_ERROR, "reading failed otherwise"
    THROTTLED = "throttled", Status.FETCH_ERROR, "the store asked for fewer requests until the last attempt"
    ARCHIVED = "archived", Status.FETCH_ERROR, "the store keeps it in an archive, from which it must be restored"
    HTTP_4XX = "http_4xx", Status.FETCH_ERROR, "the store refused the request otherwise"
    HTTP_5XX = "http_5xx", Status.FETCH_ERROR, "the store failed"
    CONNECTION = "connection", Status.FETCH_ERROR, "the store could not be reached, or the connection broke"
    INCOMPLETE = "incomplete", Status.FETCH_ERROR, "fewer bytes came than were announced, or it changed meanwhile"
    CHECKSUM = "checksum", Status.FETCH_ERROR, "the bytes do not match the store's checksum"
    NOT_A_FILE = "not_a_file", Status.FETCH_ERROR, "a directory, a pipe, a socket or a device"
    IO_ERROR = "io_error", Status.FETCH_ERROR, "the disk or the mounted file system failed"
    TIMEOUT = "timeout", Status.TIMEOUT, "it took too long"
    READ_TIMEOUT = "read_timeout", Status.TIMEOUT, "reading took longer than `read.timeout_s`"
    DECODE_TIMEOUT = "decode_timeout", Status.TIMEOUT, "decoding took longer than `decode.timeout_s`"
    TOO_LARGE = "too_large", Status.TOO_LARGE, "it is over a limit"
    TOO_MANY_BYTES = "too_many_bytes", Status.TOO_LARGE, "more bytes than `--max-bytes`"
    TOO_MANY_PIXELS = "too_many_pixels", Status.TOO_LARGE, "more pixels than `--max-pixels`, as in decompression bombs"
    UNSUPPORTED = "unsupported", Status.UNSUPPORTED, "no image that is scanned"
    CODEC_MISSING = "codec_missing", Status.UNSUPPORTED, "an image or a video of a kind that nothing here decodes"
    PASSWORD = "password", Status.UNSUPPORTED, "it is encrypted"
    EMPTY = "empty", Status.UNSUPPORTED, "no bytes, or one byte over and over"
    VIDEO = "video", Status.UNSUPPORTED, "a video, where `nsfwscan[video]` is not installed, or of a rare format"
    AUDIO = "audio", Status.UNSUPPORTED, "a sound"
    ARCHIVE = "archive", Status.UNSUPPORTED, "files packed or compressed"
    DOCUMENT = "document", Status.UNSUPPORTED, "a document"
    WEB_RESPONSE = "web_response", Status.UNSUPPORTED, "a web server's answer in the object's place: a page, an error"
    POINTER = "pointer", Status.UNSUPPORTED, "a few lines that say where the object is (Git LFS)"
    SIDECAR = "sidecar", Status.UNSUPPORTED, "what a system keeps beside another file (`._x`, thumbnails)"
    TEXT = "text", Status.UNSUPPORTED, "text"
    OTHER_DATA = "other_data", Status.UNSUPPORTED, "a known kind of file, and none of these"
    UNKNOWN_DATA = "unknown_data", Status.UNSUPPORTED, "an unknown kind of file"
    DECODE_ERROR = "decode_error", Status.DECODE_ERROR, "the file is damaged"
    TRUNCATED = "truncated", Status.DECODE_ERROR, "the file ends before its end"
    CRASHED = "crashed", Status.CRASHED, "it crashed its decoder"
    OUT_OF_MEMORY = "out_of_memory", Status.CRASHED, "decoding took more memory than `decode.max_memory_bytes`"
    KILLED = "killed", Status.CRASHED, "its decoder was killed, as where the machine's memory is full"
    NO_SCORE = "no_score", Status.OK, "the model returned no finite score"


POISON = (Status.TIMEOUT, Status.CRASHED)
"""What a file is that costs a decoder its time or its life, where its bytes could be read."""


class RowError(Exception):
    """One object could not be read or decoded; the run goes on, and the object's row says so.

    Args:
        code: the row's `error_code`, which gives its status too; never `ErrorCode.NO_SCORE`.
        message: one sentence for the row's `error`.
        values: columns that became known before the failure (a truncated JPEG still has a width).
    """

    def __init__(self, code: ErrorCode, message: str, values: Mapping[str, Any] | None = None) -> None:
        message = redacted(message)
        super().__init__(code, message, values)
        self.code, self.status = code, code.status
        self.message = message
        self.values = dict(values or {})

    def __str__(self) -> str:
        return self.message


class NsfwscanError(Exception):
    """The base of all errors that stop a run: it cannot start or cannot go on, and nothing that was done is lost. Exit
    code 1, unless a class says otherwise."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))


class SourceError(NsfwscanError):
    """A source does not exist, cannot be listed, or lists nothing."""


class StoreError(NsfwscanError):
    """The report store cannot be read or written."""


class BrokenRecord(StoreError):
    """A run's own file (`run.json`, `plan.json`), or one that it records, is not what was written.

    Args:
        where: the file's URI.
        why: what is wrong with it; goes on from its name.
    """

    def __init__(self, where: str, why: str, way_out: str | None = None) -> None:
        self.where, self.reason, self._way_out = where, why, way_out
        restored = "put it back from a backup (`nsfwscan verify` says more)"
        super().__init__(f"{where} {why}; {way_out or restored}")

    def __reduce__(self) -> tuple[type[BrokenRecord], tuple[str, str, str | None]]:
        """Pickle the arguments: workers raise it, too."""
        return type(self), (self.where, self.reason, self._way_out)


class ForeignRecord(BrokenRecord):
    """A `run.json` in the folder of a run is that of another run: it was moved or copied there."""


class ModelError(NsfwscanError):
    """A checkpoint cannot be found, loaded, or trusted to mean what its labels say."""


class BankError(NsfwscanError):
    """A hash bank cannot be read, or holds no hash that could be used."""


class PolicyError(NsfwscanError):
    """A policy file is malformed or does not bind to the report's columns."""


class ConfigError(NsfwscanError):
    """An option or a configuration file is wrong. Exit code 2, as for any wrong usage."""

    exit_code = 2


class RunConflict(NsfwscanError):
    """The run id is alive elsewhere, or was begun with other settings."""


class TooManyDeleted(NsfwscanError):
    """Too many of the known objects are not listed any more; nothing was committed. Exit code 6."""

    exit_code = 6


class Drifted(NsfwscanError):
    """Objects of the golden set are not scored or decided as before; nothing was committed. Exit code 10."""

    exit_code = 10


class DeadlineReached(NsfwscanError):
    """The run's time is up; it is unfinished and can be resumed."""


class Stalled(NsfwscanError):
    """No worker has moved for too long, or one shard kills every worker that takes it; the run can be resumed."""


class BalanceError(Exception):
    """The report does not account for every listed object exactly once; it was not committed. Exit code 3."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
