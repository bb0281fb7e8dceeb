"""Cut a picture into overlapping tiles, so that a small part of it is not lost when all of it is reduced."""

from __future__ import annotations

from math import ceil

LEAST_PIXELS = 1_000_000
"""A smaller picture is not cut, unless it is a strip."""
LEAST_PIXELS_CLOSER = 10_000
"""The same of a picture whose score lies in the band."""
_STRIP = 3.0
"""Length divided by width from which on a picture is a strip: most checkpoints squeeze it, or see its middle alone."""
_LONG = 1.25
_OVERLAP = 0.25
"""Share of a tile that the next one has, too: what a cut goes through is whole in one of them."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


def tiles_of(size: tuple[int, int], most: int, least_pixels: int = LEAST_PIXELS) -> list[Box]:
    """Return the tiles of a picture, row by row: of a strip one after the other, else two by two, or three by two where
    it is longer than wide; none of a small picture.

    Args:
        size: width and height in pixels.
        most: number of tiles at most; with fewer than four, only strips are cut.
        least_pixels: a picture of fewer is small.
    """
    short, long = sorted(size)
    if short < 1 or (size[0] * size[1] < least_pixels and long < _STRIP * short):
        return []
    if long >= _STRIP * short:
        along, across = min(most, ceil(long / short)), 1
    else:
        along, across = (3 if long >= _LONG * short and most >= 6 else 2), 2
    if along < 2 or along * across > most:
        return []
    columns, rows = (along, across) if size[0] >= size[1] else (across, along)
    spans = [_spans(edge, count) for edge, count in zip(size, (columns, rows), strict=True)]
    return [(left, top, right, bottom) for top, bottom in spans[1] for left, right in spans[0]]


def _spans(edge: int, count: int) -> list[tuple[int, int]]:
    """Return where so many overlapping parts of an edge begin and end."""
    length = edge / (count - _OVERLAP * (count - 1))
    starts = [(edge - length) * place / max(1, count - 1) for place in range(count)]
    return [(round(start), max(round(start) + 1, round(start + length))) for start in starts]
