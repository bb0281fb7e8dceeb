"""Make text safe to show: no control characters, no spreadsheet formulas, no secrets; and numbers for a person.

`printable` escapes what a terminal acts on or what hides its order, `write_csv` what a spreadsheet would compute, and
`redacted` writes `***` for each secret, in time that grows with the text's length alone. Rows keep the exact `uri`,
which is the object's identity.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal


def printable(text: str) -> str:
    """Return the text with everything escaped that a terminal would act on, or that hides its order; newlines, too."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, marked: bool = False) -> None:
    """Write a CSV that a spreadsheet may open: a text that it would take for a formula begins with an apostrophe
    (OWASP, "CSV Injection"). Raises OSError.

    Args:
        marked: begin with the mark of UTF-8, without which Excel takes a file for one of the machine's own code page.
    """
    with path.open("w", newline="", encoding="utf-8-sig" if marked else "utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([f"'{cell}" if _is_formula(cell) else cell for cell in row] for row in rows)


def _is_formula(cell: Any) -> bool:
    """Return whether a spreadsheet would compute a text: also behind blanks, and where its first sign is a full-width
    one, which is taken for the plain one in East Asian settings."""
    if not isinstance(cell, str):
        return False
    return cell.startswith(("\t", "\r", "\n")) or cell.lstrip().startswith(tuple("=+-@＝＋－＠"))


def printable_lines(text: str) -> str:
    """Escape as `printable` does, but keep the lines, for a text of our own."""
    return "\n".join(map(printable, text.split("\n")))


LogFormat = Literal["text", "json"]
Level = Literal["info", "warning", "error"]


def log_line(form: LogFormat, level: Level, message: str) -> str:
    """Return a message as a log has it, with the time (UTC, ISO 8601) and the level: `text`, on each of its lines;
    `json`, one object with `time`, `level` and `message`."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if form == "json":
        return json.dumps({"time": now, "level": level, "message": message})
    return "\n".join(f"{now} {level.upper():<7} {line}" for line in message.split("\n"))


def size(count: int | None) -> str:
    """Return bytes for a person: `1.4 GiB`."""
    if count is None:
        return "–"
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while amount >= 1023.95 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return f"{amount:,.0f} B" if units[0] == "B" else f"{amount:,.1f} {units[0]}"


def duration(seconds: float) -> str:
    """Return seconds for a person: `0.4 s`, `4 min 09 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{min(seconds, 59):.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60:,} h {minutes % 60:02d} min"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 object`, `1,204 objects`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def money(amount: float | None, currency: str) -> str:
    """Return an amount for a person: `USD 1,204`, `USD 3.17`, `USD 0.0042`; a dash where it is not known."""
    if amount is None:
        return "–"
    if 0 < amount < 0.0001:
        return f"<{currency} 0.0001"
    digits = 0 if amount >= 100 or amount == 0 else 2 if amount >= 1 else 4
    return f"{currency} {amount:,.{digits}f}"


_BLANK = "***"

# Every pattern begins where a run of characters begins and takes it whole (`++`), or has a bounded length: there is no
# text for which it looks at the same characters again and again.
_ESCAPED = r"%(?:25){0,3}"
"""Percent-encoding, also of what was encoded before."""
_AUTHORITY = re.compile(r"((?:(?<![\w.+-])[\w.+-]++)?)://([^/\s]*+)")
_ESCAPED_USER = re.compile(
    rf"({_ESCAPED}3A(?:{_ESCAPED}2F){{2}})(?:(?!{_ESCAPED}(?:2F|40))[^/\s&;\"'<>]){{1,300}}+(?={_ESCAPED}40)",
    re.IGNORECASE,
)
_NAME = re.compile(
    rf"(?<![\w-])(?P<name>[\w-]++)(?P<is>=|{_ESCAPED}3D|['\"]\s{{0,8}}:\s{{0,8}}(?=['\"])|:\s{{1,8}})", re.IGNORECASE
)
_VALUE = re.compile(rf"'[^']*+'|\"[^\"]*+\"|(?:(?!{_ESCAPED}26)[^&;\s\"'<>])++", re.IGNORECASE)
_VALUE_IN_WORDS = re.compile(r"'[^']*+'|\"[^\"]*+\"|[^\s&,;'\")]++")
"""Of `Credential=…, Signature=…`, and in parentheses."""
_SEPARATOR = re.compile(r"^(?:25){0,3}(?:3F|3B|26|23)", re.IGNORECASE)
"""What is left of an encoded `?`, `;`, `&` or `#` before a name."""
_SECRET = re.compile(
    r"secret|passw(?:or)?d|passphrase|^pwd$|^pass$|^jwt$|credential|signature"
    r"|(?:^|[_-])(?:session|access|refresh|auth|id|security|bearer)[_-]?token$"
    r"|(?:api|access|private|account|subscription|shared)[_-]?key(?:id)?$",
    re.IGNORECASE,
)
"""Names whose value is a secret wherever they stand."""
_SECRET_IN_QUERY = re.compile(r"token|^sig$|^key$|[_-]key$|^auth$|^code$", re.IGNORECASE)
"""Names that are so in the query of a URI; elsewhere they are words like others."""
_HEADERS = frozenset(
    {"authorization", "proxy-authorization", "cookie", "set-cookie", "x-api-key", "x-amz-security-token"}
)
_TOKEN = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{12,60}+"  # AWS access key ids
    r"|eyJ[\w-]{8,4000}+\.[\w-]{1,4000}+\.[\w-]{0,4000}+"  # JSON Web Tokens (RFC 7519)
    r"|hf_[A-Za-z0-9]{20,80}+|gh[pousr]_[A-Za-z0-9]{20,255}+|github_pat_\w{20,255}+)"
)
_BEARER = re.compile(r"(\bBearer\s{1,8})[\w.~+/-]{8,4000}+=*", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return the text with its secrets blanked; see the module for what they are."""
    text = _AUTHORITY.sub(_without_user, text)
    text = _ESCAPED_USER.sub(rf"\g<1>{_BLANK}", text)
    text = _BEARER.sub(rf"\g<1>{_BLANK}", text)
    return _TOKEN.sub(_BLANK, _without_values(text))


def redacted_json(value: Any) -> Any:
    """Return a JSON value with secrets blanked in all its strings, as the signature in a source's URI; keys stay."""
    if isinstance(value, dict):
        return {key: redacted_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redacted_json(inner) for inner in value]
    return redacted(value) if isinstance(value, str) else value


def has_password(uri: str) -> bool:
    """Return whether a URI is of the form `scheme://user:password@…`."""
    return any(_is_password(found) for found in _AUTHORITY.finditer(uri))


def _is_password(found: re.Match[str]) -> bool:
    """Return whether an authority holds `user:password@`, whatever characters the password has but `/`; an `@` further
    on belongs to a path or a key. `github://org:repo@branch/` has none."""
    user, at, _ = found[2].rpartition("@")
    return bool(at) and ":" in user and found[1].lower() != "github"


def _without_user(found: re.Match[str]) -> str:
    user, at, host = found[2].rpartition("@")
    is_token = bool(at) and bool(user) and found[1].lower() in ("http", "https")  # as in https://TOKEN@github.com/
    if _is_password(found) or is_token:
        return f"{found[1]}://{_BLANK}@{host}"
    return found[0]


def _without_values(text: str) -> str:
    """Blank the values of secret names. A value that is not secret is looked into: it may be a URI itself."""
    parts, done = [], 0
    found = _NAME.search(text)
    while found is not None:
        value = _value_of(found)
        end = found.end() if value is None else value.end()
        if value is not None:
            parts += [text[done : found.end()], _BLANK]
            done = end
        found = _NAME.search(text, end)
    return "".join([*parts, text[done:]])


def _value_of(found: re.Match[str]) -> re.Match[str] | None:
    """Return the secret after a name; None where it is none."""
    text, before = found.string, found.string[found.start() - 1 : found.start()]
    name = _SEPARATOR.sub("", found["name"]) if before == "%" else found["name"]
    if found["is"].startswith(":"):
        return _VALUE.match(text, found.end()) if name.lower() in _HEADERS else None
    if before in ("?", "&", ";", "%") and found["is"][0] in "=%":
        is_secret = _SECRET.search(name) or _SECRET_IN_QUERY.search(name)
        return _VALUE.match(text, found.end()) if is_secret else None
    return _VALUE_IN_WORDS.match(text, found.end()) if _SECRET.search(name) else None
