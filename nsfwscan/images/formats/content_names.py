"""What a file is that is not scanned, for a person and for counting.

In: the bytes of a file. Out: a `Content`: its kind, and a name in plain English ("a ZIP archive"). Nothing raises. A
name is never a coincidence: a signature has at least four bytes, or further bytes that must fit; what has none is
`unknown binary data`. The table of common formats comes first; puremagic knows rarer ones.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import puremagic


class ContentKind(StrEnum):
    """What sort of thing a file is. Only `IMAGE` shows a still picture."""

    IMAGE = "image"
    """A picture, camera raws and vector graphics among them; whether it is scanned, the decoder knows."""
    VIDEO = "video"
    AUDIO = "audio"
    ARCHIVE = "archive"
    """Other files packed or compressed."""
    DOCUMENT = "document"
    RESPONSE = "response"
    """What a web server says in place of an object: a page, an error, headers."""
    POINTER = "pointer"
    """A few lines that say where the object is."""
    SIDECAR = "sidecar"
    """What a system or a program keeps beside a file: an AppleDouble (`._x`), a list of thumbnails."""
    TEXT = "text"
    DATA = "data"
    """Known, and none of the others: a database, a program, a font."""
    EMPTY = "empty"
    """No bytes, or nothing but one byte over and over."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Content:
    """What a file is: `kind`, and a `name` with its article, which goes on from "looks like"."""

    kind: ContentKind
    name: str


UNKNOWN = Content(ContentKind.UNKNOWN, "unknown binary data")
PLAIN_TEXT = Content(ContentKind.TEXT, "plain text")

_HEAD = 65536
_NAME_LIMIT = 120
_REPEATED = 8
"""Bytes of one value that are worth naming."""
_PUREMAGIC_BYTES = 4
"""Different bytes that a match of puremagic must rest on; its table has signatures of zeros, and of a byte or two."""

_SIGNATURES: dict[ContentKind, list[tuple[bytes, str]]] = {
    ContentKind.IMAGE: [
        (rb"\xff\xd8\xff", "a JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "a PNG"),
        (rb"GIF8[79]a", "a GIF"),
        (rb"RIFF....WEBP", "a WebP image"),
        (rb"BM.{4}\0\0\0\0.{4}[\x0c-\x7c]\0\0\0", "a BMP"),
        (rb"\0\0\x01\0[^\0]\0...\0[\0\x01]\0[\0\x01\x04\x08\x10\x18\x20]\0", "an icon (ICO)"),
        (rb"\0\0\x02\0[^\0]\0...\0.\0.\0", "a mouse pointer (CUR)"),
        (rb"RIFF....ACON", "an animated mouse pointer (ANI)"),
        (rb"\0\0\0\x0cJXL \r\n\x87\n|\xff\x0a[\x00-\xff]{8}", "a JPEG XL image"),
        (rb"\0\0\0\x0cjP {2}\r\n\x87\n", "a JPEG 2000 image"),
        (rb"\xff\x4f\xff\x51\0", "a JPEG 2000 codestream"),
        (rb"II\xbc\x01", "a JPEG XR image"),
        (rb"FUJIFILMCCD-RAW ", "a camera raw of Fujifilm (RAF)"),
        (rb"IIR[OS]\x08\0\0\0|MMOR\0\0\0\x08", "a camera raw of Olympus (ORF)"),
        (rb"IIU\0[\x08-\x40]\0\0\0", "a camera raw of Panasonic (RW2)"),
        (rb"II\x1a\0\0\0HEAPCCDR", "a camera raw of Canon (CRW)"),
        (rb"FOVb", "a camera raw of Sigma (X3F)"),
        (rb"\0MRM", "a camera raw of Minolta (MRW)"),
        (rb"II[\x2a\x2b]\0|MM\0[\x2a\x2b]", "a TIFF"),
        (rb"8BPS\0[\x01\x02]\0{6}", "a Photoshop document (PSD)"),
        (rb"gimp xcf ", "a GIMP image (XCF)"),
        (rb"qoif.{8}[\x03\x04][\0\x01]", "a QOI image"),
        (rb"\x76\x2f\x31\x01", "an OpenEXR image"),
        (rb"#\?(?:RADIANCE|RGBE)\n", "a Radiance HDR image"),
        (rb"DDS \x7c\0\0\0", "a DirectDraw texture (DDS)"),
        (rb"\xabKTX [12][10]\xbb\r\n\x1a\n", "a Khronos texture (KTX)"),
        (rb"\x13\xab\xa1\x5c", "an ASTC texture"),
        (rb"VTF\0\x07\0\0\0", "a Valve texture (VTF)"),
        (rb"icns.{4}[\x20-\x7e]{4}", "an Apple icon (ICNS)"),
        (rb"BPG\xfb", "a BPG image"),
        (rb"FLIF[\x31-\x64][\x30-\x32]", "a FLIF image"),
        (rb"\x8aMNG\r\n\x1a\n", "an MNG animation"),
        (rb"\x8bJNG\r\n\x1a\n", "a JNG image"),
        (rb"AT&TFORM....DJV", "a DjVu document"),
        (rb"FORM....(?:ILBM|PBM )", "an Amiga image (ILBM)"),
        (rb"P[1-6](?:\s+(?:#[^\n]*\n\s*)*[0-9]+){2}\s", "a Netpbm image (PBM, PGM, PPM)"),
        (rb"P7\nWIDTH |P7\n(?:#|[A-Z])", "a Netpbm image (PAM)"),
        (rb"P[Ff]\n[0-9]+[ \n]", "a Netpbm image of floats (PFM)"),
        (rb"/\* XPM \*/", "an X pixmap (XPM)"),
        (rb"#define [A-Za-z0-9_]*width [0-9]+", "an X bitmap (XBM)"),
        (rb"\x01\xda[\0\x01][\x01\x02]\0[\x01-\x03]", "an SGI image"),
        (rb"\x59\xa6\x6a\x95", "a Sun raster image"),
        (rb"\x0a[\0\x02-\x05]\x01[\x01\x02\x04\x08].{60}\0[\x01-\x04]", "a PCX image"),
        (rb"\xd7\xcd\xc6\x9a\0\0", "a Windows metafile (WMF)"),
        (rb"\x01\0\0\0.{36} EMF", "an enhanced Windows metafile (EMF)"),
        (rb"SIMPLE  = {12}", "a FITS image"),
        (rb".{128}DICM", "a medical image (DICOM)"),
        (rb"(?:SDPX|XPDS).{4}V[12]\.", "a DPX film frame"),
    ],
    ContentKind.VIDEO: [
        (rb"\x1a\x45\xdf\xa3.{0,60}webm", "a WebM video"),
        (rb"\x1a\x45\xdf\xa3.{0,60}matroska", "a Matroska video (MKV)"),
        (rb"RIFF....AVI |RIFX....AVI ", "an AVI video"),
        (rb"[\0-\x08].{3}(?:moov.{4}(?:mvhd|cmov|udta)|mdat)", "a QuickTime video (MOV)"),
        (rb"[\0-\x08].{3}(?:wide|free|skip).{0,16}(?:mdat|moov)", "a QuickTime video (MOV)"),
        (rb"FLV\x01[\x01\x04\x05]\0\0\0\x09", "a Flash video (FLV)"),
        (rb"[FCZ]WS[\x01-\x32].{3}\0", "a Flash film (SWF)"),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a Windows Media file (ASF, WMV)"),
        (rb"\0\0\x01\xba[\x21\x44-\x7f]", "an MPEG video"),
        (rb"\0\0\x01\xb3.{7}", "an MPEG video"),
        (rb"\x47.{187}\x47.{187}\x47|.{4}\x47.{191}\x47.{191}\x47", "an MPEG transport stream (TS)"),
        (rb"\.RMF\0\0\0", "a RealMedia file"),
        (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02", "an MXF video"),
        (rb"DKIF\0\0\x20\0", "an IVF video"),
        (rb"YUV4MPEG2 ", "a raw video (Y4M)"),
    ],
    ContentKind.AUDIO: [
        (rb"ID3[\x02-\x04]\0", "an MP3 recording"),
        (rb"fLaC\0\0\0\x22", "a FLAC recording"),
        (rb"(?:RIFF|RF64|RIFX)....WAVE", "a WAV recording"),
        (rb"FORM....AIF[FC]", "an AIFF recording"),
        (rb"MThd\0\0\0\x06", "a MIDI file"),
        (rb"#!AMR", "an AMR recording"),
        (rb"OggS\0.{23,60}(?:vorbis|OpusHead|Speex|FLAC)", "an Ogg recording"),
        (rb"OggS\0", "an Ogg media file"),
    ],
    ContentKind.ARCHIVE: [
        (rb"\x1f\x8b\x08[\0-\x1f]", "a gzip-compressed file"),
        (rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)", "a bzip2-compressed file"),
        (rb"\xfd7zXZ\0", "an xz-compressed file"),
        (rb"\x28\xb5\x2f\xfd", "a Zstandard-compressed file (zstd)"),
        (rb"\x04\x22\x4d\x18", "an LZ4-compressed file"),
        (rb"\xff\x06\0\0sNaPpY", "a Snappy-compressed file"),
        (rb"\x89LZO\0\r\n\x1a\n", "an LZO-compressed file"),
        (rb"LZIP\x01", "a lzip-compressed file"),
        (rb"\x5d\0\0[\0-\xff]{2}(?:\xff{8}|.{5}\0{3})", "an LZMA-compressed file"),
        (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
        (rb"Rar!\x1a\x07", "a RAR archive"),
        (rb".{257}ustar", "a tar archive"),
        (rb"MSCF\0\0\0\0", "a Windows cabinet (CAB)"),
        (rb"!<arch>\n", "an archive of Unix's ar (.a, .deb)"),
        (rb"07070[127][0-9a-fA-F]{6}", "a cpio archive"),
        (rb".{2}-l[hz][0-9ds]-.{13}[\0-\x03]", "an LHA archive"),
        (rb"xar!\0\x1c", "an xar archive"),
        (rb"\xed\xab\xee\xdb", "an RPM package"),
        (rb".{32769}CD001", "a disc image (ISO 9660)"),
    ],
    ContentKind.DOCUMENT: [
        (rb".{0,1023}?%PDF-[0-9]", "a PDF document (Portable Document Format)"),
        (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"),
        (rb"\{\\rtf", "a rich text document (RTF)"),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an older Office document or other OLE file (.doc, .msg, Thumbs.db)"),
    ],
    ContentKind.SIDECAR: [
        (rb"\0\x05\x16\x07\0[\x01\x02]\0\0", "an AppleDouble file (._…), which macOS keeps beside an object"),
        (rb"\0\x05\x16\0\0[\x01\x02]\0\0", "an AppleSingle file"),
        (rb"\0\0\0\x01Bud1", "a folder's settings of macOS (.DS_Store)"),
        (rb"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0", "a Windows shortcut (.lnk)"),
    ],
    ContentKind.DATA: [
        (rb"SQLite format 3\0", "an SQLite database"),
        (rb"PAR1\x15", "a Parquet file"),
        (rb"ARROW1\0\0", "an Arrow file"),
        (rb"Obj\x01", "an Avro file"),
        (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (rb"\x93NUMPY[\x01-\x03]\0", "a NumPy array"),
        (rb"\x7fELF[\x01\x02][\x01\x02]\x01", "a program (ELF)"),
        (rb"MZ.{60}\0\0", "a Windows program (EXE)"),
        (rb"\xcf\xfa\xed\xfe.{3}[\0\x01]|\xce\xfa\xed\xfe.{3}\0", "a macOS program (Mach-O)"),
        (rb"\xca\xfe\xba\xbe\0\0\0[\x2d-\x50]", "a Java class"),
        (rb"\0asm\x01\0\0\0", "a WebAssembly program"),
        (rb"OTTO\0.\0|\0\x01\0\0\0[\x04-\x30]\0|true\0.\0|wOF[F2].{8}|ttcf\0[\x01\x02]\0\0", "a font"),
        (rb".{36}acsp", "a colour profile (ICC)"),
        (rb"bplist0[0-9]", "an Apple property list"),
        (rb"d\d+:(?:announce|created by)", "a BitTorrent file"),
        (rb"Salted__", "a file encrypted by OpenSSL"),
        (rb"LUKS\xba\xbe", "an encrypted disk (LUKS)"),
    ],
}  # fmt: skip
"""Patterns at a file's first byte, in order; `.` is any byte."""

_BRANDS: list[tuple[str, ContentKind, str]] = [
    ("crx ", ContentKind.IMAGE, "a camera raw of Canon (CR3)"),
    ("jxl ", ContentKind.IMAGE, "a JPEG XL image"),
    ("jp2 |jpx |jpm |jph ", ContentKind.IMAGE, "a JPEG 2000 image"),
    ("avif|avis|avio", ContentKind.IMAGE, "an AVIF image"),
    ("hei[cmsx]|he[vi][cmsx]|mif[12]|msf1|vvic|jpeg|j2ki", ContentKind.IMAGE, "an HEIF image"),
    ("qt  ", ContentKind.VIDEO, "a QuickTime video (MOV)"),
    ("M4A |M4B |M4P |F4A |F4B ", ContentKind.AUDIO, "an MPEG-4 recording (M4A)"),
    ("3g[2gprs].", ContentKind.VIDEO, "a mobile phone's video (3GP)"),
    ("mjp2|mj2s", ContentKind.VIDEO, "a Motion JPEG 2000 video"),
    ("iso[0-9m]|mp4[0-9]|avc1|M4V.|dash|MSNV|f4v |ndx?.|XAVC|hvc1|cmf.|MP4.", ContentKind.VIDEO,
     "an MP4 video (MPEG-4)"),
]  # fmt: skip
"""Major and compatible brands of ISO media files (ISO 14496-12, mp4ra.org)."""

_ROOTS = {
    "svg": Content(ContentKind.IMAGE, "an SVG image (Scalable Vector Graphics)"),
    "html": Content(ContentKind.RESPONSE, "an HTML page"),
    "error": Content(ContentKind.RESPONSE, "an XML error document"),
    "listbucketresult": Content(ContentKind.RESPONSE, "a store's listing in XML"),
    "rss": Content(ContentKind.TEXT, "a news feed in XML"),
    "plist": Content(ContentKind.DATA, "an Apple property list"),
    "xmpmeta": Content(ContentKind.SIDECAR, "an XMP sidecar"),
}
"""XML by its first element, without its prefix, in lower case."""

_TEXTS: list[tuple[str, ContentKind, str]] = [
    (r"version https://(?:git-lfs\.github\.com|hawser\.github\.com)/spec/", ContentKind.POINTER,
     "a Git LFS pointer, not the object"),
    (r"(?:\.\./)*(?:\.git)?/annex/objects/\S+\s*$", ContentKind.POINTER, "a git-annex pointer, not the object"),
    (r"(?:md5: \S+\s+)?outs:\s+- (?:md5|etag|hash|size|path):", ContentKind.POINTER, "a DVC pointer, not the object"),
    (r"\[InternetShortcut\]", ContentKind.POINTER, "a link to a web page (.url)"),
    (r"HTTP/[0-9.]+ [0-9]{3}\b", ContentKind.RESPONSE, "a web server's answer with its headers (HTTP)"),
    (r"data:image/[\w.+-]+[;,]", ContentKind.TEXT, "an image written as a data: URI, not as its bytes"),
    (r"(?:/9j/|iVBORw0KGgo|R0lGOD[dl]h|UklGR.{8}XRUJQ)", ContentKind.TEXT,
     "an image written as base64, not as its bytes"),
    (r"-----BEGIN [A-Z0-9 ]+-----", ContentKind.DATA, "a key or certificate (PEM)"),
    (r"#EXTM3U", ContentKind.TEXT, "a playlist (M3U)"),
    (r"BEGIN:V(?:CARD|CALENDAR)", ContentKind.TEXT, "a contact or calendar entry"),
    (r"#!\s*/", ContentKind.TEXT, "a script"),
]  # fmt: skip
"""Texts by how they begin, after white space."""

_COMPILED = [
    (re.compile(pattern, re.DOTALL), Content(kind, name))
    for kind, signatures in _SIGNATURES.items()
    for pattern, name in signatures
]
_BEFORE_ROOT = re.compile(r"\s+|<\?.*?\?>|<!--.*?-->|<!DOCTYPE\s[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL | re.IGNORECASE)
_UNWRITTEN = re.compile(r"[\0-\x06\x0e-\x19\x1c-\x1f\x7f]")
"""Control characters that no text has; bells, tabs, page breaks, escapes and an old end mark are seen in some."""
_DOCTYPE = re.compile(r"(?:\s++|<\?.*?\?>|<!--.*?-->)*+<!DOCTYPE\s+(\w+)", re.DOTALL | re.IGNORECASE)
_ELEMENT = re.compile(r"<(?:[\w.-]+:)?([A-Za-z][\w.-]*)(?=[\s/>])")
_HTML = {
    "html",
    "head",
    "body",
    "title",
    "meta",
    "script",
    "div",
    "p",
    "h1",
    "center",
    "a",
    "br",
    "table",
    "pre",
    "link",
}
_CODE = re.compile(r"<(?:\w+:)?code>\s*([A-Za-z][\w.]{0,60})\s*<", re.IGNORECASE)


def content_of(data: bytes) -> Content:
    """What the bytes are, by their beginning."""
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
    """A ZIP, or one of the many formats packed as one: the first entries' names tell."""
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
    """An ISO media file by its brands: the major one first, then those that it is compatible with."""
    head = data[:_HEAD]
    if head[4:8] != b"ftyp":
        return None
    end = min(int.from_bytes(head[:4], "big"), 256)
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))]
    for brand in brands:
        text = brand.decode("latin-1")
        for pattern, kind, name in _BRANDS:
            if re.fullmatch(pattern, text):
                return Content(kind, name)
    return Content(ContentKind.UNKNOWN, "a media file of an unknown brand (ISO 14496-12)")


def _signed(data: bytes) -> Content | None:
    head = data[:_HEAD]
    found = next((content for pattern, content in _COMPILED if pattern.match(head)), None)
    return _with_inside(found, head) if found is not None and head.startswith(b"\x1f\x8b") else found


def _with_inside(outside: Content, head: bytes) -> Content:
    """What is compressed, where its beginning can be read."""
    try:
        inside = zlib.decompressobj(wbits=31).decompress(head, 1024)
    except zlib.error:
        return outside
    content = content_of(inside) if inside else UNKNOWN
    if content.kind in (ContentKind.UNKNOWN, ContentKind.EMPTY):
        return outside
    return Content(ContentKind.ARCHIVE, f"{outside.name} with {content.name} in it"[:_NAME_LIMIT])


def _structured(data: bytes) -> Content | None:
    """What has no signature, but sums or an end that must fit."""
    if data.endswith(b"TRUEVISION-XFILE.\0"):
        return Content(ContentKind.IMAGE, "a Targa image (TGA)")
    digits = re.match(rb" *([0-7]+)[ \0]", data[148:156])  # a tar older than POSIX: the sum of its first 512 bytes
    if digits and len(data) >= 512 and int(digits[1], 8) == sum(data[:148]) + 8 * 0x20 + sum(data[156:512]):
        return Content(ContentKind.ARCHIVE, "a tar archive")
    return None


def _written(data: bytes) -> Content | None:
    text = _text(data)
    return None if text is None else _text_content(text)


def _text(data: bytes) -> str | None:
    """The beginning as text, without its mark; None where it is none."""
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


def _text_content(text: str) -> Content:
    text = text.lstrip()
    for pattern, kind, name in _TEXTS:
        if re.match(pattern, text):
            return Content(kind, name)
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
    """A whole document, or the beginning of one that is longer than what is looked at."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return len(text) > _HEAD // 8 and bool(re.match(r"[\[{][\s\[{]*[\"\d\-tfn]", text))
    return True


def _by_puremagic(data: bytes) -> Content | None:
    matches = sorted(
        _matches(data[:_HEAD]), key=lambda m: (-len(m.byte_match), -m.confidence, m.name)
    )  # equals come from a set
    if not matches:
        return None
    name = "".join(c for c in matches[0].name if c.isprintable()).strip()
    return Content(ContentKind.DATA, f"a file of this kind: {name}"[:_NAME_LIMIT])


def _matches(head: bytes) -> Iterator[puremagic.PureMagicWithConfidence]:
    try:
        found = puremagic.magic_string(head)
    except (puremagic.PureError, ValueError):
        return
    for match in found:
        if match.name.strip() and len(set(match.byte_match)) >= _PUREMAGIC_BYTES:
            yield match
