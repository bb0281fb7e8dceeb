"""Recognise hashes and names of their kinds, as banks write them."""

from __future__ import annotations

import base64
import binascii
import re

Text = str | None

DIGITS = {"sha256": 64, "md5": 32, "pdq": 64}
"""Kinds of hashes that objects are matched by, with their hex digits; those of the bytes come first."""
OTHERS = {
    **{
        name: name for name in ("sha1", "sha224", "sha384", "sha512", "crc32", "ssdeep", "tlsh", "vpdq", "tmk", "phash")
    },
    **{"photodna": "photodna", "pdna": "photodna", "photodnahash": "photodna", "tmkpdqf": "tmk", "videotmk": "tmk"},
    **{"videopdq": "vpdq", "sha3": "sha3", "sha3256": "sha3"},
}
"""Kinds that no image is matched by, by names that banks use."""
BY_DIGITS = {32: "md5", 40: "sha1", 56: "sha224", 96: "sha384", 128: "sha512", 288: "photodna"}
"""Kind of an untyped hash by its hex digits; 64 may be a SHA-256 or a PDQ hash."""

_BEFORE = ("hash", "photo", "image", "media", "file", "signal", "picture")
_AFTER = ("hash", "hex", "base64", "b64", "value", "digest", "checksum", "sum")
_HEX = re.compile(r"[0-9a-f]+\Z")
_BYTES = re.compile(r"[0-9a-f]{2}(?:([-: ])[0-9a-f]{2})(?:\1[0-9a-f]{2})+\Z")
_UUID = re.compile(r"\{?([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})\}?\Z")
_PREFIX = re.compile(r"(md5|sha-?\d{1,3}|pdq)[:\-=](?=\S{16})", re.IGNORECASE)
_BASE64 = {24: 16, 28: 20, 44: 32, 192: 144}
"""Lengths in base64 and in bytes: MD5, SHA-1, SHA-256 or PDQ, PhotoDNA."""


def bare(name: str) -> str:
    """Return a name in lower case, with letters and digits only."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def named_kind(name: str) -> Text:
    """Return the kind of hash that a column or type of this name holds; None where it names none."""
    word = bare(name)
    for prefix in _BEFORE:
        word = word.removeprefix(prefix) if word != prefix else word
    for suffix in _AFTER:
        word = word.removesuffix(suffix) if word != suffix else word
    return word if word in DIGITS else OTHERS.get(word) or OTHERS.get(bare(name))


def kind_of(name: Text) -> Text:
    """Return the kind for a bank's name of it, whatever its case; an unknown name unchanged; None for no name. Of
    several (`filename|md5`) the last counts."""
    if name is None or not name.strip():
        return None
    last = name.strip().rpartition("|")[2]
    return named_kind(last) or name.strip()


def plain_hex(text: str) -> tuple[Text, str]:
    """Return the kind that a hash names itself (`sha256:…`), and its lower-case hex digits, freed from quotes, `="…"`,
    `0x`, dashes, colons and base64. Anything else comes back in lower case."""
    text = text.strip().strip("\"'").removeprefix('="').strip("\"'").strip()
    kind = None
    if found := _PREFIX.match(text):
        kind, text = named_kind(found[1]), text[found.end() :]
    lowered = text.lower().removeprefix("0x")
    if _HEX.match(lowered):
        return kind, lowered
    if _UUID.match(lowered) or _BYTES.match(lowered):
        return kind, re.sub(r"[^0-9a-f]", "", lowered)
    if len(text) in _BASE64:
        try:
            raw = base64.b64decode(text, altchars=b"-_" if set(text) & set("-_") else None, validate=True)
        except (binascii.Error, ValueError):
            return kind, lowered
        if len(raw) == _BASE64[len(text)]:
            return kind, raw.hex()
    return kind, lowered


def is_hash(text: str) -> bool:
    """Return whether a text is a hash of some kind, however it is written."""
    digits = plain_hex(text)[1]
    return len(digits) in {*BY_DIGITS, 64} and _HEX.match(digits) is not None


def text_of(value: object) -> Text:
    """Return a cell as text; None where it is empty. Bytes are either a raw hash or its digits."""
    if isinstance(value, bytes):
        is_written = len(value) in {*BY_DIGITS, 64} and _HEX.match(value.decode("latin-1").lower())
        value = value.decode() if is_written else value.hex()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = "" if value is None else str(value)
    return text if text.strip() and text != "nan" else None
