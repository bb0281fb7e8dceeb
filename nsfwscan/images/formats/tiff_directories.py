"""Read the directories that belong to a page of a TIFF: those of a camera raw, and its SubIFDs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from nsfwscan.images.formats.tiff_layout import Tag, many, number

_CFA, _LINEAR_RAW = 32803, 34892
_RAW_COMPRESSIONS = (32767, 32769, 32770, 34713, 65000, 65535)
"""Of Sony, Epson and Samsung, Nikon, Kodak and Pentax."""
_RAWS = {"NIKON": "of Nikon (NEF)", "SONY": "of Sony (ARW)", "CANON": "of Canon (CR2)", "PENTAX": "of Pentax (PEF)",
         "RICOH": "of Pentax (PEF)", "SAMSUNG": "of Samsung (SRW)", "HASSELBLAD": "of Hasselblad (3FR)",
         "KODAK": "of Kodak (DCR)", "EPSON": "of Epson (ERF)", "LEAF": "of Leaf (MOS)", "PHASE": "of Phase One (IIQ)",
         "OLYMPUS": "of Olympus (ORF)", "PANASONIC": "of Panasonic (RW2)", "LEICA": "of Leica"}  # fmt: skip
_MOST_DIRECTORIES = 8
_MOST_PAGES = 64
_BIG = 43
"""A BigTIFF's version."""


def raw_name(tags: ImageFileDirectory_v2, file: Any) -> str | None:
    """Return the kind of camera raw; a raw has a colour filter array on some page, whatever its previews are."""
    if Tag.DNG_VERSION in tags:
        return "a camera raw (DNG)"
    file.seek(0)
    head = file.read(16)
    if head[8:10] == b"CR" and head[2:3] in (b"\x2a", b"\0"):
        return "a camera raw of Canon (CR2)"
    maker = str(tags.get(Tag.MAKE, "")).upper()
    if not any(_is_raw(page) for page in _pages(tags, file)):
        return None
    return f"a camera raw {next((name for make, name in _RAWS.items() if make in maker), 'in a TIFF')}"


def _is_raw(tags: ImageFileDirectory_v2) -> bool:
    return number(tags, Tag.PHOTOMETRIC) in (_CFA, _LINEAR_RAW) or number(tags, Tag.COMPRESSION) in _RAW_COMPRESSIONS


def _pages(tags: ImageFileDirectory_v2, file: Any) -> Iterator[ImageFileDirectory_v2]:
    """Yield the page, and a few of those that belong to it."""
    yield tags
    for offset in islice(many(tags, Tag.SUB_IFDS) or _big_sub_ifds(tags, file), _MOST_DIRECTORIES):
        page = _directory(file, offset)
        if page is not None:
            yield page
    if Tag.MAKE in tags and tags.next:
        page = _directory(file, tags.next)
        if page is not None:
            yield page


def _big_sub_ifds(tags: ImageFileDirectory_v2, file: Any) -> list[int]:
    """Return the SubIFDs of a BigTIFF; Pillow does not know the type of their pointers (IFD8)."""
    file.seek(0)
    if file.read(4)[2:3] != bytes([_BIG]):
        return []
    file.seek(tags._offset)
    for _ in range(min(int.from_bytes(file.read(8), "little"), 1000)):
        entry = file.read(20)
        if int.from_bytes(entry[:2], "little") == Tag.SUB_IFDS:
            count, place = int.from_bytes(entry[4:12], "little"), int.from_bytes(entry[12:20], "little")
            if count == 1:
                return [place]
            file.seek(place)
            pointers = file.read(8 * min(count, _MOST_DIRECTORIES))
            return [int.from_bytes(pointers[at : at + 8], "little") for at in range(0, len(pointers), 8)]
    return []


def _directory(file: Any, offset: int) -> ImageFileDirectory_v2 | None:
    try:
        file.seek(0)
        head = file.read(16)
        page = ImageFileDirectory_v2(head if head[2] == _BIG else head[:8])
        file.seek(offset)
        page.load(file)
    except Exception:  # noqa: BLE001  # a pointer to nowhere is no raw
        return None
    return page


def sub_pages(data: bytes) -> Iterator[bytes]:
    """Yield the SubIFDs of a file's pages, a few of each, as files whose first page each is. Raises nothing but
    MemoryError."""
    file = io.BytesIO(data)
    width = 8 if data[2:4] in (b"\x2b\0", b"\0\x2b") else 4
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    for tags in islice(_chain(file, int.from_bytes(data[width : 2 * width], order)), _MOST_PAGES):
        for offset in islice(many(tags, Tag.SUB_IFDS) or _big_sub_ifds(tags, file), _MOST_DIRECTORIES):
            if _directory(file, offset) is not None:
                yield data[:width] + offset.to_bytes(width, order) + data[2 * width :]


def _chain(file: Any, offset: int) -> Iterator[ImageFileDirectory_v2]:
    """Yield the pages from one on, each once."""
    seen: set[int] = set()
    while offset and offset not in seen and (page := _directory(file, offset)) is not None:
        seen.add(offset)
        yield page
        offset = page.next or 0
