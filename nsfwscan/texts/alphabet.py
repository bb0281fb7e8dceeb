"""Say which letters the reader of text can give, and which patterns have others: those are never found in a picture.

The recognition model names its letters in its ONNX file (`character`, a line each). They are read by themselves: a
process that plans a run loads no model for them. A file without them raises `ModelError`.
"""

from __future__ import annotations

import mmap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from nsfwscan.errors import ModelError
from nsfwscan.texts import ocr
from nsfwscan.texts.folding import letters_of, plain
from nsfwscan.texts.patterns import PatternList

SCRIPTS = "Latin, Greek, Chinese and kana"
"""What the letters belong to."""
_METADATA, _KEY, _VALUE = 14, 1, 2
"""Fields of ONNX: `metadata_props` of ModelProto, `key` and `value` of StringStringEntryProto (onnx.proto3)."""
_VARINT, _OF_LENGTH = 0, 2
"""Kinds of fields in protobuf's encoding; ONNX has no others in these messages."""
_FEW = 3
"""Letters, and patterns, that a note names."""


def unread_notes(lists: Sequence[PatternList]) -> Iterator[str]:
    """Yield one sentence for each list with patterns whose letters the reader cannot give, and what to do. Raises
    ModelError where the letters are not known."""
    for one in lists:
        unread = {pattern: lacking for pattern in one.patterns if (lacking := letters_of(pattern) - letters())}
        if unread:
            signs = sorted(frozenset[str]().union(*unread.values()))
            named = unicodedata.name(signs[0], "a sign without a name")
            yield (
                f"{one.uri}: {len(unread)} of {len(one.patterns)} patterns have letters that {ocr.NAME} does not read "
                f"({_some(signs)}: {named}): {_some(map(repr, unread))}. What is written with them is not found in "
                f"pictures. It reads {SCRIPTS}: add how people write it in those, or do not count on these patterns"
            )


def _some(values: Iterable[str]) -> str:
    listed = list(values)
    more = len(listed) - _FEW
    return ", ".join(listed[:_FEW]) + (f" and {more:,} more" if more > 0 else "")


@cache
def letters() -> frozenset[str]:
    """Return all letters and signs that the reader can give, as `plain` leaves them. Raises ModelError where the
    weights are missing, or do not name them."""
    *_, recognition = ocr.weights()
    named = metadata_of(recognition).get("character")
    if not named:
        raise ModelError(f"{recognition} does not name its letters: install the rapidocr of constraints.txt")
    return frozenset("".join(map(plain, named.split("\n"))))


def metadata_of(graph: Path) -> dict[str, str]:
    """Return the metadata of an ONNX file, without reading its weights. Raises ModelError where it is none."""
    try:
        with graph.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            entries = [
                {key: data[begin:end].decode() for key, begin, end in _fields(data, *place)}
                for number, *place in _fields(data, 0, len(data))
                if number == _METADATA
            ]
    except (OSError, ValueError, IndexError) as error:
        raise ModelError(f"{graph} is no ONNX file that can be read: {error}") from None
    return {entry.get(_KEY, ""): entry.get(_VALUE, "") for entry in entries}


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, begin and end of each field of a protobuf message that has a length."""
    while at < end:
        tag, at = _varint(data, at)
        number, kind = tag >> 3, tag & 7
        length, at = _varint(data, at)
        if kind == _OF_LENGTH:
            if at + length > end:
                raise ValueError("it is cut off")
            yield number, at, at + length
            at += length
        elif kind != _VARINT:
            raise ValueError(f"a field of the kind {kind}")


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """Return an integer of variable length, and where it ends."""
    value = shift = 0
    while data[at] & 0x80:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1
