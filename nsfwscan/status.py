"""What became of an object, in a word. Imports nothing, so that the process that decodes needs no Arrow."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What became of reading and decoding one object."""

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
