"""What may be shown: words of strangers and of libraries, without secrets and without what a terminal acts on.

In: any text. Out: the same text with passwords, signatures and AWS key ids blanked (`redacted`), or with control
characters and hidden order escaped (`printable`). Rows keep the exact `uri`, which is the object's identity; everything
else that is written down or printed comes through here, and so does every CSV. Nothing goes wrong.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
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


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, marked: bool = False) -> None:
    """Writes a CSV that a spreadsheet may open: a text that it would take for a formula begins with an apostrophe
    (OWASP, "CSV Injection"). Raises OSError.

    Args:
        marked: begin with the mark of UTF-8, without which Excel takes a file for one of the machine's own code page.
    """
    with path.open("w", newline="", encoding="utf-8-sig" if marked else "utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"'{cell}" if _is_formula(cell) else cell for cell in row] for row in rows)


def _is_formula(cell: Any) -> bool:
    """Whether a spreadsheet would compute a text: also behind blanks, and where its first sign is a full-width one,
    which is taken for the plain one in East Asian settings."""
    if not isinstance(cell, str):
        return False
    return cell.startswith(("\t", "\r", "\n")) or cell.lstrip().startswith(tuple("=+-@＝＋－＠"))


def printable_lines(text: str) -> str:
    """As `printable`, for a text of our own that has several lines: they stay."""
    return "\n".join(map(printable, text.split("\n")))


def size(count: int | None) -> str:
    """Bytes for a person: `1.4 GiB`."""
    if count is None:
        return "–"
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1023.95 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:,.0f} B" if units[0] == "B" else f"{amount:,.1f} {units[0]}"


def duration(seconds: float) -> str:
    """`0.4 s`, `4 min 09 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{min(seconds, 59):.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def money(amount: float | None, currency: str) -> str:
    """`USD 1,204`, `USD 3.17`, `USD 0.0042`; a dash where it is not known."""
    if amount is None:
        return "–"
    if 0 < amount < 0.0001:
        return f"<{currency} 0.0001"
    digits = 0 if amount >= 100 or amount == 0 else 2 if amount >= 1 else 4
    return f"{currency} {amount:,.{digits}f}"
