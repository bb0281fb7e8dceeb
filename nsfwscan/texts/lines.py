"""Say what was read in a picture: lines of text, and what codes hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

LINE = "line"
"""The kind of a line of text; that of a code is its symbology, such as `QRCode`."""
Pixels = NDArray[np.uint8]
"""An upright picture, uint8 [height, width, 3], RGB."""


@dataclass(frozen=True)
class Line:
    """A line of text in a picture, or the content of a code.

    Attributes:
        score: how sure the reader is, 0 to 1.
        place: left, top, width and height, in shares of the picture's.
    """

    kind: str
    text: str
    score: float
    place: tuple[float, float, float, float]


@dataclass(frozen=True)
class TextFindings:
    """The signals and words that the lines of an object come to.

    Attributes:
        signals: numbers, by name without the detector's.
        words: values of columns.
    """

    signals: Mapping[str, float]
    words: Mapping[str, str | None] = field(default_factory=dict)


class Reader(Protocol):
    """A reader of pictures."""

    def open(self) -> None:
        """Load what is heavy. Raises ModelError where it is missing."""

    def read(self, pixels: Pixels) -> list[Line]:
        """Return what stands in a picture, in the order in which it is read."""

    def describe(self, lines: Sequence[Line]) -> TextFindings:
        """Return what all lines of an object come to."""


def place_of(corners: NDArray[np.float64], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """Return the upright box around some corners, [corners, 2] in pixels, in shares of (width, height)."""
    low = (corners.min(axis=0) / size).clip(0, 1)
    high = (corners.max(axis=0) / size).clip(0, 1)
    return float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])
