"""What may be shown: words of strangers and of libraries, without secrets and without what a terminal acts on.

In: any text. Out: the same text with passwords, signatures and AWS key ids blanked (`redacted`), or with control
characters and hidden order escaped (`printable`). Rows keep the exact `uri`, which is the object's identity; everything
else that is written down or printed comes through here. Nothing goes wrong.
"""

from __future__ import annotations

import re
from typing import Any

_BLANK = "***"

_PASSWORD = re.compile(r"(?<=://)[^/\s]*:[^/\s]*@")
"""`user:password@`, whatever characters the password has but `/`; an `@` further on belongs to a path or a key."""
_QUERY_VALUE = re.compile(
    r"([?&;](?:x-(?:amz|goog)-(?:signature|credential)|awsaccesskeyid|sig|signature|key|[\w-]*[_-]key|password"
    r"|[\w-]*(?:token|secret)[\w-]*)=)[^&;\s\"'<>]+",
    re.IGNORECASE,
)
_NAMED_VALUE = re.compile(
    r"(\b(?:password|credential|signature|\w*secret\w*|\w*session_token)(?:=|['\"]\s*:\s*(?=['\"])))"
    r"(?:'[^']*'|\"[^\"]*\"|[^\s&,;'\")]+)",
    re.IGNORECASE,
)
"""`secret='…'`, `"password": "…"`, and as an AWS signature has it: `Credential=…, Signature=…`."""
_AWS_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")


def redacted(text: str) -> str:
    """The text with `user:password@`, values of secret query parameters and AWS access key ids blanked."""
    text = _PASSWORD.sub(f"{_BLANK}@", text)
    text = _QUERY_VALUE.sub(rf"\g<1>{_BLANK}", text)
    text = _NAMED_VALUE.sub(rf"\g<1>{_BLANK}", text)
    return _AWS_KEY_ID.sub(_BLANK, text)


def redacted_json(value: Any) -> Any:
    """A JSON value with secrets blanked in all its strings, such as the signature in a source's URI; keys stay."""
    if isinstance(value, dict):
        return {key: redacted_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted_json(inner) for inner in value]
    return redacted(value) if isinstance(value, str) else value


def has_password(uri: str) -> bool:
    """Whether a URI is of the form `scheme://user:password@…`."""
    return _PASSWORD.search(uri) is not None


def printable(text: str) -> str:
    """The text with everything a terminal would act on, or that hides its order, escaped; newlines, too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """As `printable`, for a text of our own that has several lines: they stay."""
    return "\n".join(map(printable, text.split("\n")))
