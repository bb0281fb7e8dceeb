"""Names for what is not scanned: right, in plain English, and never a coincidence."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nsfwscan.errors import RowError, Status
from nsfwscan.images.decoder import decode
from nsfwscan.images.formats.content_names import ContentKind, content_of


def _saved(fmt: str, mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.linear_gradient("L").resize((40, 30)).convert(mode).save(out, fmt)
    return out.getvalue()


def _zip(*names: str, first: bytes = b"x") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, first)
    return out.getvalue()


def _tar(fmt: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        member = tarfile.TarInfo("a.jpg")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return out.getvalue()


def _v7_tar() -> bytes:
    """A tar archive as it was before POSIX, without a signature."""
    header = bytearray(_tar(tarfile.USTAR_FORMAT)[:512])
    header[257:512] = bytes(255)
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + bytes(1024)


def _media(brand: bytes, *others: bytes) -> bytes:
    body = b"ftyp" + brand + b"\0\0\2\0" + b"".join(others)
    return (len(body) + 4).to_bytes(4, "big") + body + bytes(100)


_S3_ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>No</Message></Error>'
_LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4" * 64 + b"\nsize 12345\n"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'

NAMED: list[tuple[str, bytes, ContentKind, str]] = [
    ("no bytes", b"", ContentKind.EMPTY, "an empty file: 0 bytes"),
    ("zeros", bytes(5000), ContentKind.EMPTY, "nothing but zero bytes"),
    ("ones", b"\xff" * 4096, ContentKind.EMPTY, "nothing but the byte 0xFF, over and over"),
    ("noise", random.Random(12).randbytes(900), ContentKind.UNKNOWN, "unknown binary data"),
    ("zeros, then noise", bytes(600) + random.Random(1).randbytes(900), ContentKind.UNKNOWN, "unknown binary data"),
    ("xor", bytes(b ^ 0xFF for b in _saved("JPEG")), ContentKind.UNKNOWN, "unknown binary data"),
    ("text", b"Dear diary,\nnothing today.\n", ContentKind.TEXT, "plain text"),
    ("text with marks", "naïve ‒ 👩‍🔬 \u00ad\x1b[31m\n".encode(), ContentKind.TEXT, "plain text"),
    ("latin text", "Übergrößenträger für Ärzte, Öfen und Käse".encode("latin-1"), ContentKind.TEXT, "plain text"),
    ("UTF-16 text", "naïve text".encode("utf-16"), ContentKind.TEXT, "plain text"),
    ("cut text", ("ä" * 40_000).encode(), ContentKind.TEXT, "plain text"),
    ("Git LFS", _LFS, ContentKind.POINTER, "a Git LFS pointer, not the object"),
    ("git-annex", b"/annex/objects/SHA256E-s5--ab.jpg\n", ContentKind.POINTER, "a git-annex pointer, not the object"),
    ("dvc", b"outs:\n- md5: ab\n  size: 3\n  path: a.jpg\n", ContentKind.POINTER, "a DVC pointer, not the object"),
    ("html", b"\n\n <html><body>404</body></html>", ContentKind.RESPONSE, "an HTML page"),
    ("html 5", b"<!-- x --><!DOCTYPE html>\n<title>x</title>", ContentKind.RESPONSE, "an HTML page"),
    ("xhtml", b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C"><html/>', ContentKind.RESPONSE, "an HTML page"),
    ("bare html", b"<h1>502 Bad Gateway</h1>", ContentKind.RESPONSE, "an HTML page"),
    ("s3 error", _S3_ERROR, ContentKind.RESPONSE, "an XML error document (AccessDenied)"),
    ("json error", b'{"error": "not found"}', ContentKind.RESPONSE, "a JSON document"),
    ("json", json.dumps({"a": [1, 2]}).encode(), ContentKind.TEXT, "a JSON document"),
    ("long json", json.dumps(["x" * 50] * 9000).encode(), ContentKind.TEXT, "a JSON document"),
    ("no json", b"[draft] to be written", ContentKind.TEXT, "plain text"),
    ("http", b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n" + _saved("JPEG"), ContentKind.RESPONSE,
     "a web server's answer with its headers (HTTP)"),
    ("data uri", b"data:image/jpeg;base64,/9j/4AAQ", ContentKind.TEXT,
     "an image written as a data: URI, not as its bytes"),
    ("base64", base64.b64encode(_saved("JPEG")), ContentKind.TEXT, "an image written as base64, not as its bytes"),
    ("base64 png", base64.b64encode(_saved("PNG")), ContentKind.TEXT, "an image written as base64, not as its bytes"),
    ("xml", b'<?xml version="1.0"?>\n<note/>', ContentKind.TEXT, "an XML document"),
    ("svg", _SVG, ContentKind.IMAGE, "an SVG image (Scalable Vector Graphics)"),
    ("svg with a mark", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- made by x -->\n' + _SVG, ContentKind.IMAGE,
     "an SVG image (Scalable Vector Graphics)"),
    ("svg with a doctype", b'<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "x.dtd">' + _SVG, ContentKind.IMAGE,
     "an SVG image (Scalable Vector Graphics)"),
    ("svgz", gzip.compress(_SVG), ContentKind.ARCHIVE,
     "a gzip-compressed file with an SVG image (Scalable Vector Graphics) in it"),
    ("gzipped", gzip.compress(_saved("JPEG")), ContentKind.ARCHIVE, "a gzip-compressed file with a JPEG in it"),
    ("gzipped noise", gzip.compress(random.Random(2).randbytes(999)), ContentKind.ARCHIVE, "a gzip-compressed file"),
    ("bzip2", bz2.compress(b"x"), ContentKind.ARCHIVE, "a bzip2-compressed file"),
    ("empty bzip2", bz2.compress(b""), ContentKind.ARCHIVE, "a bzip2-compressed file"),
    ("xz", lzma.compress(b"x"), ContentKind.ARCHIVE, "an xz-compressed file"),
    ("lzma", lzma.compress(b"x" * 99, lzma.FORMAT_ALONE), ContentKind.ARCHIVE, "an LZMA-compressed file"),
    ("zstd", b"\x28\xb5\x2f\xfd\x04\x58\x19\0\0abc", ContentKind.ARCHIVE, "a Zstandard-compressed file (zstd)"),
    ("zip", _zip("a.jpg"), ContentKind.ARCHIVE, "a ZIP archive"),
    ("empty zip", _zip(), ContentKind.ARCHIVE, "a ZIP archive"),
    ("docx", _zip("[Content_Types].xml", "word/document.xml"), ContentKind.DOCUMENT, "an Office document (Word)"),
    ("epub", _zip("mimetype", first=b"application/epub+zip"), ContentKind.DOCUMENT, "an e-book (EPUB)"),
    ("tar", _tar(tarfile.PAX_FORMAT), ContentKind.ARCHIVE, "a tar archive"),
    ("gnu tar", _tar(tarfile.GNU_FORMAT), ContentKind.ARCHIVE, "a tar archive"),
    ("old tar", _v7_tar(), ContentKind.ARCHIVE, "a tar archive"),
    ("pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", ContentKind.DOCUMENT,
     "a PDF document (Portable Document Format)"),
    ("AppleDouble", b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60), ContentKind.SIDECAR,
     "an AppleDouble file (._…), which macOS keeps beside an object"),
    (".DS_Store", b"\0\0\0\1Bud1\0\0\x10\0", ContentKind.SIDECAR, "a folder's settings of macOS (.DS_Store)"),
    ("jxl", b"\xff\x0a\xfa\x7f\x01" + b"\x90" * 200, ContentKind.IMAGE, "a JPEG XL image"),
    ("boxed jxl", b"\0\0\0\x0cJXL \r\n\x87\n" + _media(b"jxl ", b"jxl "), ContentKind.IMAGE, "a JPEG XL image"),
    ("jp2", _saved("JPEG2000"), ContentKind.IMAGE, "a JPEG 2000 image"),
    ("j2k", b"\xff\x4f\xff\x51\0\x2f\0\0", ContentKind.IMAGE, "a JPEG 2000 codestream"),
    ("psd", b"8BPS\0\1" + bytes(6) + b"\0\3\0\0\0\x10\0\0\0\x10\0\x08\0\3", ContentKind.IMAGE,
     "a Photoshop document (PSD)"),
    ("qoi", b"qoif\0\0\0\x10\0\0\0\x10\3\0" + bytes(50), ContentKind.IMAGE, "a QOI image"),
    ("exr", b"v/1\1\2\0\0\0" + bytes(50), ContentKind.IMAGE, "an OpenEXR image"),
    ("ppm", _saved("PPM"), ContentKind.IMAGE, "a Netpbm image (PBM, PGM, PPM)"),
    ("tga", _saved("TGA"), ContentKind.IMAGE, "a Targa image (TGA)"),
    ("sgi", _saved("SGI"), ContentKind.IMAGE, "an SGI image"),
    ("pcx", _saved("PCX"), ContentKind.IMAGE, "a PCX image"),
    ("dds", _saved("DDS"), ContentKind.IMAGE, "a DirectDraw texture (DDS)"),
    ("icns", _saved("ICNS", "RGBA"), ContentKind.IMAGE, "an Apple icon (ICNS)"),
    ("cr3", _media(b"crx ", b"crx ", b"isom"), ContentKind.IMAGE, "a camera raw of Canon (CR3)"),
    ("raf", b"FUJIFILMCCD-RAW 0201FF" + bytes(100), ContentKind.IMAGE, "a camera raw of Fujifilm (RAF)"),
    ("orf", b"IIRO\x08\0\0\0" + bytes(100), ContentKind.IMAGE, "a camera raw of Olympus (ORF)"),
    ("rw2", b"IIU\0\x18\0\0\0" + bytes(100), ContentKind.IMAGE, "a camera raw of Panasonic (RW2)"),
    ("mp4", _media(b"isom", b"isom", b"iso2", b"avc1", b"mp41"), ContentKind.VIDEO, "an MP4 video (MPEG-4)"),
    ("rare mp4", _media(b"zzzz", b"mp42"), ContentKind.VIDEO, "an MP4 video (MPEG-4)"),
    ("m4v", _media(b"M4V ", b"isom"), ContentKind.VIDEO, "an MP4 video (MPEG-4)"),
    ("m4a", _media(b"M4A ", b"isom"), ContentKind.AUDIO, "an MPEG-4 recording (M4A)"),
    ("mov", _media(b"qt  ", b"qt  "), ContentKind.VIDEO, "a QuickTime video (MOV)"),
    ("old mov", b"\0\0\0\x08wide\0\0\x10\0mdat" + bytes(50), ContentKind.VIDEO, "a QuickTime video (MOV)"),
    ("3gp", _media(b"3gp4", b"isom"), ContentKind.VIDEO, "a mobile phone's video (3GP)"),
    ("unknown brand", _media(b"zzzz"), ContentKind.UNKNOWN, "a media file of an unknown brand (ISO 14496-12)"),
    ("webm", b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\x82\x84webm" + bytes(50), ContentKind.VIDEO, "a WebM video"),
    ("mkv", b"\x1aE\xdf\xa3\x01\0\0\0\0\0\0\x1fB\x82\x88matroska", ContentKind.VIDEO, "a Matroska video (MKV)"),
    ("avi", b"RIFF\x10\0\0\0AVI LIST", ContentKind.VIDEO, "an AVI video"),
    ("ts", (b"G" + bytes([64, 0, 16]) + random.Random(3).randbytes(184)) * 4, ContentKind.VIDEO,
     "an MPEG transport stream (TS)"),
    ("mp3", b"ID3\3\0\0\0\0\0\x0a" + bytes(30), ContentKind.AUDIO, "an MP3 recording"),
    ("wav", b"RIFF\x10\0\0\0WAVEfmt ", ContentKind.AUDIO, "a WAV recording"),
    ("sqlite", b"SQLite format 3\0\x10", ContentKind.DATA, "an SQLite database"),
    ("elf", b"\x7fELF\2\1\1" + bytes(20), ContentKind.DATA, "a program (ELF)"),
    ("font", b"wOF2\0\1\0\0" + bytes(20), ContentKind.DATA, "a font"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "kind", "name"), [case[1:] for case in NAMED], ids=[case[0] for case in NAMED])
def test_content_is_named_rightly(data: bytes, kind: ContentKind, name: str) -> None:
    """Each common thing that is no scanned image has its kind and its name, whatever it is called in the store."""
    content = content_of(data)
    assert (content.kind, content.name) == (kind, name)
    if kind != ContentKind.EMPTY and not name.endswith((" in it", "a JPEG", "Graphics)")):
        with pytest.raises(RowError) as caught:
            decode(data, max_pixels=10**6)
        assert caught.value.status == Status.UNSUPPORTED
        assert caught.value.message == f"not a format that is scanned: looks like {name}"


def test_a_rare_format_has_the_name_that_puremagic_knows() -> None:
    """What the own table leaves out is named by a signature of at least four different bytes."""
    assert content_of(b"\x7fELF"[::-1] + bytes(40)).kind == ContentKind.UNKNOWN
    found = content_of(b"REGEDIT\0\1\2\3\4\5\6\7")
    assert found.kind == ContentKind.DATA
    assert "Registry" in found.name


@pytest.mark.long
def test_no_noise_has_a_name() -> None:
    """Of twenty thousand files of noise, at the bytes' beginning zeros or not, none is taken for something."""
    chance = random.Random(5)
    found = {content_of(bytes(n % 5) + chance.randbytes(300)).kind for n in range(20_000)}
    assert found == {ContentKind.UNKNOWN}


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda path: path.name)
def test_program_text_is_text(path: Path) -> None:
    """Text that is none of the known kinds is called text, wherever it is cut."""
    data = path.read_bytes()
    for end in (20, 100, len(data)):
        assert content_of(data[:end]).kind == ContentKind.TEXT


@settings(max_examples=300, deadline=None)
@given(head=st.sampled_from([data[:40] for _, data, _, _ in NAMED]), tail=st.binary(max_size=200))
def test_any_bytes_have_a_name(head: bytes, tail: bytes) -> None:
    """Whatever comes, there is a printable name of at most 120 characters, and nothing raises."""
    content = content_of(head + tail)
    assert content.name.isprintable()
    assert 0 < len(content.name) <= 120


@pytest.mark.parametrize(
    "piece", [b" ", b"<!-- -->", b"<?x?>", b"<!--", b"<?", b"<!DOCTYPE a [", b"<a:", b"\n<", b"[{"]
)
@pytest.mark.parametrize("head", [b"", b"<?xml version='1.0'?>", b"<!-- -->"])
def test_long_texts_are_named_at_once(head: bytes, piece: bytes) -> None:
    """What repeats a pattern's beginning without end takes no time that grows faster than it does."""
    assert content_of(head + piece * (60_000 // len(piece)) + b"x").name
