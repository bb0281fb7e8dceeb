"""The exceptions of the project: a `RowError` goes into a row, and a `NsfwscanError` stops the run.

Bad data is a `RowError` and becomes values in that object's row. A broken set-up is a `NsfwscanError` and stops the run
at once, with a message that says what happened, to what, and what to do. Secrets in messages are blanked (`redacted`)
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

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


POISON = (Status.TIMEOUT, Status.CRASHED)
"""What a file is that costs a decoder its time or its life, where its bytes could be read."""


class RowError(Exception):
    """One object could not be read or decoded; the run goes on, and the object's row says so.

    Args:
        status: the row's status, never `Status.OK`.
        message: one sentence for the row's `error`.
        values: columns that became known before the failure (a truncated JPEG still has a width).
    """

    def __init__(self, status: Status, message: str, values: Mapping[str, Any] | None = None) -> None:
        message = redacted(message)
        super().__init__(status, message, values)
        self.status = status
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


class DeadlineReached(NsfwscanError):
    """The run's time is up; it is unfinished and can be resumed."""


class Stalled(NsfwscanError):
    """No worker has moved for too long, or one shard kills every worker that takes it; the run can be resumed."""


class BalanceError(Exception):
    """The report does not account for every listed object exactly once; it was not committed. Exit code 3."""

    exit_code = 3

    def __init__(self, message: str) -> None:
        super().__init__(redacted(message))
