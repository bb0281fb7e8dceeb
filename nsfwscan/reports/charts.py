"""Charts for the templates, as numbers in SVG's units; both axes go from 0 to 1. `templates/charts.html` draws them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

LEFT, TOP, WIDTH, HEIGHT = 48.0, 10.0, 342.0, 280.0
"""Plot within the drawing, which is 400 × 340."""
_LARGEST, _SMALLEST = 9.0, 3.0
"""Radius of a mark."""


@dataclass(frozen=True)
class Line:
    """A curve: the `points` attribute of a polyline, and which series (0, 1) it belongs to."""

    points: str
    series: int


@dataclass(frozen=True)
class Mark:
    """A dot with a whisker, and its title."""

    x: float
    y: float
    radius: float
    low: float
    high: float
    series: int
    words: str


@dataclass(frozen=True)
class Tick:
    """A label at `x` on the one axis, and at `y` on the other."""

    label: str
    x: float
    y: float


@dataclass(frozen=True)
class Chart:
    """A drawing of 400 × 340 units, and its legend: a series and its words each."""

    title: str
    x_name: str
    y_name: str
    guide: str
    legend: list[tuple[int, str]]
    lines: list[Line] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    @property
    def ticks(self) -> list[Tick]:
        """Ticks of both axes: 0, 0.2 … 1."""
        return [Tick(f"{i / 5:.1f}", _x(i / 5), _y(i / 5)) for i in range(6)]


def marked(x: float, y: float, span: tuple[float, float], share: float, series: int, words: str) -> Mark:
    """Return a mark at a point.

    Args:
        span: ends of its whisker.
        share: of all that the marks of the series stand for; makes the dot larger.
    """
    radius = round(_SMALLEST + (_LARGEST - _SMALLEST) * share**0.5, 1)
    return Mark(_x(x), _y(y), radius, _y(span[0]), _y(span[1]), series, words)


def points(found: Iterable[Sequence[float]]) -> str:
    """Return pairs of x and y as the `points` of a polyline."""
    return " ".join(f"{_x(x):g},{_y(y):g}" for x, y in found)


def _x(value: float) -> float:
    return round(LEFT + WIDTH * value, 1)


def _y(value: float) -> float:
    return round(TOP + HEIGHT * (1 - value), 1)
