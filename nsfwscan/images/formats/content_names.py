"""Name a file that is not scanned, in plain English ("a ZIP archive"), and its kind for counting.

A name is never a coincidence: a signature has at least four bytes, or further bytes that must fit; a file without one
is `unknown binary data`. The tables of `content_names.yaml` come first; puremagic knows rarer formats.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import puremagic

from nsfwscan.documents import load_yaml
from nsfwscan.errors import ErrorCode


class ContentKind(StrEnum):
    """Kinds of files. Only `IMAGE` shows a still picture."""

    IMAGE = "image"
    """A picture, camera raws and vector graphics among them; `registry.py` lists those that are scanned."""
    VIDEO = "video"
    AUDIO = "audio"
    ARCHIVE = "archive"
    """Other files packed or compressed."""
    DOCUMENT = "document"
    RESPONSE = "response"
    """A web server's answer in place of an object: a page, an error, headers."""
    POINTER = "pointer"
    """A few lines that say where the object is."""
    SIDECAR = "sidecar"
    """A file that a system or a program keeps beside another: an AppleDouble (`._x`), a list of thumbnails."""
    TEXT = "text"
    DATA = "data"
    """Known, and none of the others: a database, a program, a font."""
    EMPTY = "empty"
    """No bytes, or nothing but one byte over and over."""
    UNKNOWN = "unknown"

    @property
    def code(self) -> ErrorCode:
        """Return the code of a row whose file is of this kind."""
        return _CODES.get(self) or ErrorCode(self)


_CODES = {
    ContentKind.IMAGE: ErrorCode.CODEC_MISSING,
    ContentKind.RESPONSE: ErrorCode.WEB_RESPONSE,
    ContentKind.DATA: ErrorCode.OTHER_DATA,
    ContentKind.UNKNOWN: ErrorCode.UNKNOWN_DATA,
}
"""Codes with another name than the kind."""


@dataclass(frozen=True)
class Content:
    """Kind of a file, and its name with an article, which goes on from "looks like"."""

    kind: ContentKind
    name: str


UNKNOWN = Content(ContentKind.UNKNOWN, "unknown binary data")
PLAIN_TEXT = Content(ContentKind.TEXT, "plain text")

_HEAD = 65536
_NAME_LIMIT = 120
_SPARE = (b"free", b"skip")
_REPEATED = 8
"""So many bytes of one value are worth naming."""
_PUREMAGIC_BYTES = 4
"""A match of puremagic must rest on so many different bytes: it has signatures of zeros, and of a byte or two."""

_TABLES: dict[str, Any] = load_yaml(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
_SIGNATURES = [
    (re.compile(pattern.encode(), re.DOTALL), Content(ContentKind(kind), name))
    for kind, signatures in _TABLES["signatures"].items()
    for pattern, name in signatures
]
_BRANDS, _TEXTS = (
    [(re.compile(pattern), Content(ContentKind(kind), name)) for pattern, kind, name in _TABLES[table]]
    for table in ("brands", "texts")
)
_ROOTS = {root: Content(ContentKind(kind), name) for root, (kind, name) in _TABLES["roots"].items()}
_HTML = frozenset(_TABLES["html"])
_BEFORE_ROOT = re.compile(r"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL | re.IGNORECASE)
_UNWRITTEN = re.compile(r"[\0-\x06\x0e-\x19\x1c-\x1f\x7f]")
"""Control characters that no text has; some texts have bells, tabs, page breaks, escapes and an old end mark."""
_DOCTYPE = re.compile(r"(?:\s++|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE\s+(\w+)", re.DOTALL | re.IGNORECASE)
_ELEMENT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z][\w.-]*)(?=[\s/>])")
_CODE = re.compile(r"<(?:\w+:)?code>\s*([A-Za-z][\w.]{0,60})\s*<", re.IGNORECASE)


def content_of(data: bytes) -> Content:
    """Return what a file is, by its bytes. Never raises."""
    for look in (_empty, _packed, _media, _signed, _written, _structured, _by_puremagic):
        content = look(data)
        if content is not None:
            return content
    return UNKNOWN


def _empty(data: bytes) -> Content | None:
    if not data:
        return Content(ContentKind.EMPTY, "an empty file: 0 bytes")
    if len(data) < _REPEATED or data.count(data[:1]) < len(data):
        return None
    words = "nothing but zero bytes" if data[0] == 0 else f"nothing but the byte 0x{data[0]:02X}, over and over"
    return Content(ContentKind.EMPTY, words)


def _packed(data: bytes) -> Content | None:
    """Name a ZIP, or one of the many formats that are ZIPs: the names of its first entries tell."""
    head = data[:_HEAD]
    if not head.startswith((b"PK\3\4", b"PK\5\6", b"PK\7\x08")):
        return None
    if head[30:38] == b"mimetype":
        inside = re.match(rb"[\w/.+-]+", head[38:120])
        kind = inside[0].decode() if inside else ""
        for word, name in (("epub", "an e-book (EPUB)"), ("opendocument", "an OpenDocument file")):
            if word in kind:
                return Content(ContentKind.DOCUMENT, name)
        for word, name in (("krita", "a Krita image"), ("openraster", "an OpenRaster image")):
            if word in kind:
                return Content(ContentKind.IMAGE, name)
    if b"[Content_Types].xml" in head[:4096]:
        for folder, name in ((b"word/", "Word"), (b"xl/", "Excel"), (b"ppt/", "PowerPoint")):
            if folder in head:
                return Content(ContentKind.DOCUMENT, f"an Office document ({name})")
        return Content(ContentKind.DOCUMENT, "an Office document")
    return Content(ContentKind.ARCHIVE, "a ZIP archive")


def _media(data: bytes) -> Content | None:
    """Name an ISO media file by its brands: the major one first, then the compatible ones. Players pass over spare
    boxes before them."""
    head = data[:_HEAD]
    while head[4:8] in _SPARE and (size := int.from_bytes(head[:4], "big")) >= 8:
        head = head[size:]
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    for brand in brands:
        text = brand.decode("latin-1")
        for pattern, content in _BRANDS:
            if pattern.fullmatch(text):
                return content
    return Content(ContentKind.UNKNOWN, "a media file of an unknown brand (ISO 14496-12)")


def _signed(data: bytes) -> Content | None:
    head = data[:_HEAD]
    found = next((content for pattern, content in _SIGNATURES if pattern.match(head)), None)
    return _with_inside(found, head) if found is not None and head.startswith(b"\x1f\x8b") else found


def _with_inside(outside: Content, head: bytes) -> Content:
    """Name the compressed file, too, where its beginning can be read."""
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, 1024)
    except zlib.error:
        return outside
    content = content_of(inside) if inside else UNKNOWN
    if content.kind in (ContentKind.UNKNOWN, ContentKind.EMPTY):
        return outside
    return Content(ContentKind.ARCHIVE, f"{outside.name} with {content.name} in it"[:_NAME_LIMIT])


def _structured(data: bytes) -> Content | None:
    """Name a file without a signature by a checksum or an end that must fit."""
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return Content(ContentKind.IMAGE, "a Targa image (TGA)")
    digits = re.match(rb" *([0-7]+)[ \0]", data[148:156])  # a tar older than POSIX: the sum of its first 512 bytes
    if digits and len(data) >= 512 and int(digits[1], 8) == sum(data[:148]) + 8 * 0x20 + sum(data[156:512]):
        return Content(ContentKind.ARCHIVE, "a tar archive")
    return None


def _text(data: bytes) -> str | None:
    """Return the beginning as text, without its byte order mark; None where it is no text."""
    head, whole = data[:_HEAD], len(data) <= _HEAD
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if head.startswith(mark):
            return _printable(head[2:], encoding, whole)
    text = _printable(head.removeprefix(codecs.BOM_UTF8), "utf-8", whole)
    if text is not None:
        return text
    if head.startswith(b"HTTP/"):  # its body may be anything
        return head[:64].decode("latin-1")
    plain = sum(0x20 <= byte < 0x7F or byte in b"\t\r\n" for byte in head)
    return _printable(head, "latin-1", whole) if len(head) >= 32 and plain > 0.75 * len(head) else None


def _printable(head: bytes, encoding: str, whole: bool) -> str | None:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except UnicodeDecodeError:
        return None
    return None if _UNWRITTEN.search(text) else text


def _written(data: bytes) -> Content | None:
    text = _text(data)
    if text is None:
        return None
    text = text.lstrip()
    for pattern, content in _TEXTS:
        if pattern.match(text):
            return content
    if text.startswith("<"):
        return _markup(text)
    if text.startswith(("{", "[")) and _is_json(text):
        error = re.match(r"\{\s*\"(?:error|errors|message|code|status)\"", text)
        return Content(ContentKind.RESPONSE if error else ContentKind.TEXT, "a JSON document")
    return PLAIN_TEXT


def _markup(text: str) -> Content:
    doctype = _DOCTYPE.match(text)
    if doctype and doctype[1].lower() in _ROOTS:
        return _ROOTS[doctype[1].lower()]
    at = 0
    while before := _BEFORE_ROOT.match(text, at):
        at = before.end()
    element = _ELEMENT.match(text, at)
    if element is None:
        return Content(ContentKind.TEXT, "an XML document") if text.startswith("<?xml") else PLAIN_TEXT
    root = element[1].lower()
    if root in _ROOTS:
        code = _CODE.search(text) if root == "error" else None
        return Content(_ROOTS[root].kind, f"{_ROOTS[root].name} ({code[1]})") if code else _ROOTS[root]
    if root in _HTML and not text.startswith("<?xml"):
        return _ROOTS["html"]
    return Content(ContentKind.TEXT, "an XML document")


def _is_json(text: str) -> bool:
    """Return whether a text is a JSON document, or the beginning of one that goes on beyond `_HEAD`."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return len(text) > _HEAD // 8 and bool(re.match(r"[\[{][\s\[{]*[\"\d\-tfn]", text))
    return True


def _by_puremagic(data: bytes) -> Content | None:
    try:
        found = puremagic.magic_string(data[:_HEAD])
    except (puremagic.PureError, ValueError):
        return None
    sure = [match for match in found if match.name.strip() and len(set(match.byte_match)) >= _PUREMAGIC_BYTES]
    if not sure:
        return None
    best = min(sure, key=lambda match: (-len(match.byte_match), -match.confidence, match.name))  # equals, from a set
    name = "".join(c for c in best.name if c.isprintable()).strip()
    return Content(ContentKind.DATA, f"a file of this kind: {name}"[:_NAME_LIMIT])
