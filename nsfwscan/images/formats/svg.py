"""Draw an SVG, packed by gzip or not, from nothing but its own bytes: no network, no other file, no script.

What resvg gets is not the file but what is left of it: elements of SVG, with references to their own file and pictures
within it. A document is refused (`too_large`) that has too many elements, counting those that a reference repeats, or
too deep ones: resvg would take minutes for it, or its stack would end. Text is not drawn: fonts differ from machine to
machine, and so would scores. What an animation or a style sheet shows later is not drawn, but pictures are found
wherever they stand, as in `<foreignObject>`, which resvg leaves out.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from PIL import Image, ImageFile

from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.images.formats import bmp, ico
from nsfwscan.images.formats.orientation import orientation_of, upright

EDGE = 1024
"""Pixels of the longest edge of a drawing."""
_MOST_BYTES = 64 * 2**20
"""Of a packed file, unpacked."""
_MOST_ELEMENTS, _DEEPEST = 100_000, 200
_MOST_PIXELS = 2**27
"""Of all pictures within a file; resvg has no limit of its own."""
_INSIDE = ("PNG", "JPEG", "GIF", "WEBP", "AVIF")
"""Formats of pictures that browsers show within an SVG, beside BMP and ICO."""
_DRAWN = ("PNG", "JPEG", "GIF", "WEBP")
"""Those of them that resvg draws."""
_CSS_DPI = 96
"""Pixels of an inch in a browser (CSS Values and Units, 6.2), so that a size in millimetres has some."""
_SVG = "http://www.w3.org/2000/svg"
_GZIP = b"\x1f\x8b"
_HEAD_BYTES = 2**16
_LEFT_OUT = ("script", "foreignObject")
_MOST_WITHIN = 3
"""Documents that lie in each other; resvg draws two."""
_OUTSIDE = re.compile(r"url\(\s*['\"]?\s*(?!\s*['\"]?#)[^)]*\)?|@import[^;]*;?", re.IGNORECASE)
"""What a style takes from elsewhere."""
_WITHIN = re.compile(r"url\(\s*['\"]?\s*#([^)'\"\s]+)")
_OF_STYLE = re.compile(r"url\(\s*['\"]?\s*(data:[^)'\"]*)", re.IGNORECASE)


class SvgFile(ImageFile.ImageFile):
    """A file that was read and cleaned; `load` draws it. Until then its size is the largest that it can have.

    Attributes:
        n_frames: the drawing and the pictures within it.
    """

    format = "SVG"
    format_description = "Scalable Vector Graphics"

    def _open(self) -> None:
        assert self.fp is not None
        data = self.fp.read()
        if not claims(data):
            raise SyntaxError("no SVG")
        self._document = _Document()
        self._text = _Cleaner(self._document).read(_unpacked(data))
        self._document.check()
        self.n_frames = 1 + len(self._document.pictures) + self._document.left
        self._size, self._mode = (EDGE, EDGE), "RGB"

    def load(self) -> Any:
        """Draw the picture, on white."""
        if self._im is None:
            import resvg_py  # takes a millisecond, of the few processes that meet an SVG

            how: dict[str, Any] = {"width": EDGE, "height": EDGE, "dpi": _CSS_DPI}  # its shape stays as it is
            png = resvg_py.svg_to_bytes(self._text, background="white", skip_system_fonts=True, **how)
            drawn = Image.open(io.BytesIO(png), formats=["PNG"]).convert("RGB")
            self._size, self.im = drawn.size, drawn.im
        return Image.Image.load(self)

    def pictures(self) -> Iterator[tuple[bytes, str]]:
        """Yield the pictures within the file, encoded, and the format of each."""
        yield from self._document.pictures.items()


def accepts(prefix: bytes) -> bool:
    """Return whether a file may be an SVG by its first bytes: XML, or something packed."""
    text = prefix.removeprefix(b"\xef\xbb\xbf").lstrip()
    return text[:1] in (b"<", b"") or prefix[:2] in (_GZIP, b"\xff\xfe", b"\xfe\xff")


def claims(data: bytes) -> bool:
    """Return whether a file is an SVG: the first element of its XML is."""
    found: list[str] = []

    def begins(name: str, _: dict[str, str]) -> None:
        found.append(name)
        raise _Stop

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartElementHandler = begins
    with suppress(_Stop, expat.ExpatError, LookupError):  # an encoding that nobody knows
        parser.Parse(_unpacked(data, _HEAD_BYTES), False)
    return bool(found) and found[0] in ("svg", f"{_SVG} svg")


class _Stop(Exception):
    pass


def _unpacked(data: bytes, head: int | None = None) -> bytes:
    """Return the XML of a file, or its beginning. Raises RowError where all of it is too much."""
    if not data.startswith(_GZIP):
        return data
    unpack = zlib.decompressobj(wbits=31)
    try:
        text = unpack.decompress(data, _MOST_BYTES + 1 if head is None else head)
    except zlib.error:
        return b""
    if len(text) > _MOST_BYTES:
        raise _too_large(f"more than {_MOST_BYTES:,} bytes, unpacked")
    return text


def _too_large(what: str) -> RowError:
    return RowError(ErrorCode.TOO_LARGE, f"the SVG has {what}", {"format": "SVG"})


@dataclass
class _Document:
    """Content of a document, and of those within it.

    Attributes:
        pictures: encoded, each once, in their order, with their formats.
        drawn: the URIs that draw them.
        pixels: of the pictures together.
        left: number of pictures that are too large.
        read: number of elements so far.
        elements: number of elements in each part that has an id; in "" those outside of all.
        references: ids that each part refers to, or has within it.
    """

    pictures: dict[bytes, str] = field(default_factory=dict)
    drawn: dict[bytes, str | None] = field(default_factory=dict)
    pixels: int = 0
    left: int = 0
    read: int = 0
    elements: dict[str, int] = field(default_factory=lambda: {"": 0})
    references: dict[str, list[str]] = field(default_factory=lambda: {"": []})

    def check(self) -> None:
        """Raise RowError where it has too many elements, or too deep ones, with those that references repeat."""
        _measured("", self, {}, 0)

    def add(self, picture: bytes) -> str | None:
        """Keep a picture; return the URI that draws it, None where it is none, or too large."""
        if picture in self.drawn:
            return self.drawn[picture]
        try:
            image = _opened(picture)
        except (OSError, SyntaxError, ValueError, struct.error, RowError, Image.DecompressionBombError):
            return None
        width, height = image.size
        if self.pixels + width * height > _MOST_PIXELS:
            self.left += 1
            return None
        self.pixels += width * height
        self.pictures[picture], self.drawn[picture] = str(image.format), _drawn(image, picture)
        return self.drawn[picture]


def _opened(picture: bytes) -> Image.Image:
    for accepts, decoder in ((bmp.accepts, bmp.BmpFile), (ico.accepts, ico.IcoFile)):
        if accepts(picture[:16]):
            return decoder(io.BytesIO(picture), "")
    return Image.open(io.BytesIO(picture), formats=_INSIDE)


def _drawn(image: Image.Image, picture: bytes) -> str | None:
    """Return a URI of a picture that resvg draws: upright, and of a format that it knows. None where it is damaged; it
    is looked at by itself all the same."""
    kind = str(image.format)
    try:
        orientation = orientation_of(image, picture)
        if kind not in _DRAWN or orientation != 1:
            shown, encoded = upright(image.convert("RGBA"), orientation), io.BytesIO()
            shown.thumbnail((EDGE, EDGE))
            shown.save(encoded, "PNG", compress_level=1)
            picture, kind = encoded.getvalue(), "PNG"
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # Pillow's plugins raise nearly anything on a malformed file
        return None
    return f"data:image/{kind.lower()};base64,{base64.b64encode(picture).decode()}"


def _measured(part: str, document: _Document, known: dict[str, tuple[int, int]], above: int) -> tuple[int, int]:
    """Return how many elements a part has with all that it refers to, and how deep references go in it."""
    if part in known:
        return known[part]
    if above > _DEEPEST:
        raise _too_large(f"references more than {_DEEPEST} deep")
    known[part] = (0, 0)  # what refers to itself is left out
    inner = [_measured(one, document, known, above + 1) for one in document.references.get(part, ())]
    count = document.elements.get(part, 0) + sum(count for count, _ in inner)
    depth = 1 + max((depth for _, depth in inner), default=0)
    if count > _MOST_ELEMENTS:
        raise _too_large(f"more than {_MOST_ELEMENTS:,} elements, with those that references repeat")
    if depth > _DEEPEST:
        raise _too_large(f"references more than {_DEEPEST} deep")
    known[part] = count, depth
    return count, depth


class _Cleaner:
    """Reads XML, and writes what is left of it to a document. Expat expands entities within limits of its own, and
    reads no other file.

    Args:
        within: number of documents that this one lies in.
    """

    def __init__(self, document: _Document, within: int = 0) -> None:
        self._document, self._within = document, within
        self._parts: list[str] = []
        self._open: list[tuple[str, str]] = []
        """Names of the elements around, each with the part that it belongs to."""
        self._dropped = 0
        """Number of the elements around from the first on that is left out."""

    def read(self, data: bytes) -> str:
        """Return the text that is left. Raises ValueError where the XML is damaged, RowError where it is too much."""
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler = self._begin, self._end
        parser.CharacterDataHandler = self._say
        try:
            parser.Parse(data, True)
        except (expat.ExpatError, LookupError) as error:
            raise ValueError(str(error)) from None
        return "".join(self._parts)

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        space, _, local = name.rpartition(" ")
        if len(self._open) >= _DEEPEST:
            raise _too_large(f"elements more than {_DEEPEST} deep")
        own = self._attributes(attributes)
        part = self._part_of(own)
        self._open.append((local, part))
        if self._dropped or space not in ("", _SVG) or local in _LEFT_OUT:
            self._dropped += 1
            return
        own |= {"xmlns": _SVG} if len(self._open) == 1 else {}
        self._parts.append(f"<{local}{''.join(f' {key}={quoteattr(value)}' for key, value in own.items())}>")

    def _end(self, _: str) -> None:
        local, _ = self._open.pop()
        if self._dropped:
            self._dropped -= 1
        else:
            self._parts.append(f"</{local}>")

    def _say(self, text: str) -> None:
        """Write the text of a style sheet; no other is drawn."""
        for found in _OF_STYLE.finditer(text):
            self._held(found[1])
        if not self._dropped and self._open[-1][0] == "style":
            self._parts.append(escape(_OUTSIDE.sub("none", text)))

    def _attributes(self, given: dict[str, str]) -> dict[str, str]:
        """Return what is left of attributes, and keep the pictures in them. `href` hides `xlink:href`."""
        kept: dict[str, str] = {}
        for key, value in sorted(given.items(), key=lambda item: " " not in item[0]):
            space, _, local = key.rpartition(" ")
            held = self._held(value.strip()) if value.lstrip()[:5].lower() == "data:" else None
            for found in _OF_STYLE.finditer(value):
                self._held(found[1])
            if local == "href":
                kept[local] = value if value.startswith("#") else held or ""
            elif not space:
                kept[local] = _OUTSIDE.sub("none", value)
        return {key: value for key, value in kept.items() if key != "href" or value}

    def _part_of(self, attributes: dict[str, str]) -> str:
        """Count an element, and what it refers to; return the part of the document that it belongs to."""
        document, part = self._document, self._open[-1][1] if self._open else ""
        name = attributes.get("id", "")
        if name and name not in document.elements:
            document.references[part].append(name)
            document.elements[name], document.references[name] = 0, []
            part = name
        document.elements[part] += 1
        document.read += 1
        if document.read > _MOST_ELEMENTS:
            raise _too_large(f"more than {_MOST_ELEMENTS:,} elements")
        href = attributes.get("href", "")
        document.references[part] += [href[1:]] if href.startswith("#") else []
        document.references[part] += [id for value in attributes.values() for id in _WITHIN.findall(value)]
        return part

    def _held(self, uri: str) -> str | None:
        """Keep the picture in a `data:` URI (RFC 2397), or those of the SVG in it. Return the URI to write, None
        where there is nothing to draw."""
        head, _, body = uri[5:].partition(",")
        try:
            data = unquote_to_bytes(body)
            data = (
                base64.b64decode(data + b"==") if head.rstrip().lower().endswith("base64") else data
            )  # it may lack "="
        except (binascii.Error, ValueError):
            return None
        if not claims(data):
            return self._document.add(data)
        if self._within >= _MOST_WITHIN:
            return None
        try:
            text = _Cleaner(self._document, self._within + 1).read(_unpacked(data))
        except ValueError:
            return None
        return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
