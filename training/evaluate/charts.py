"""Charts for the template: ROC, precision-recall, reliability, as numbers in SVG's units.

Curves and bins are as `evaluation.json` has them; both axes go from 0 to 1. A chart with nothing to draw is None.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

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


def roc_chart(title: str, models: Sequence[tuple[str, dict[str, Any]]]) -> Chart | None:
    """Draw the ROC curves of several models, each a title and the result of `curves`."""
    return _curves(title, "roc", "false positive rate", "recall (true positive rate)", models)


def pr_chart(title: str, models: Sequence[tuple[str, dict[str, Any]]]) -> Chart | None:
    """Draw precision-recall curves, in the steps that average precision adds up; arguments as for `roc_chart`."""
    return _curves(title, "pr", "recall", "precision", models)


def _curves(
    title: str, kind: Literal["roc", "pr"], x_name: str, y_name: str, models: Sequence[tuple[str, dict[str, Any]]]
) -> Chart | None:
    drawn = [(i, name, c[kind]) for i, (name, c) in enumerate(models) if c[kind]["points"]]
    if not drawn:
        return None
    area, guide = "area", (0.0, 1.0)
    if kind == "pr":
        area, guide = "average", (models[drawn[0][0]][1]["prevalence"],) * 2
    legend = [(i, f"{name}, {area} {curve['area']:.4f}") for i, name, curve in drawn]
    lines = [Line(_points(c["points"]) if kind == "roc" else _stepped(c["points"]), i) for i, _, c in drawn]
    return Chart(title, x_name, y_name, _points(enumerate(guide)), legend, lines)


def reliability_chart(title: str, calibration: dict[str, Any]) -> Chart | None:
    """Draw confidence against accuracy, before and after scaling by the temperature."""
    before, after = calibration["before"], calibration["after"]
    if before is None:
        return None
    legend = [(0, f"as scored, ECE {before['ece']:.3f}")]
    marks = list(_marks(before, 0))
    if after is not None:
        legend.append((1, f"at temperature {calibration['temperature']:.2f}, ECE {after['ece']:.3f}"))
        marks += _marks(after, 1)
    return Chart(title, "confidence", "accuracy", _points([(0, 0), (1, 1)]), legend, marks=marks)


def _marks(measured: dict[str, Any], series: int) -> Iterator[Mark]:
    for found in measured["bins"]:
        share, accuracy = found["images"] / measured["images"], found["accuracy"]
        yield Mark(
            _x(found["confidence"]),
            _y(accuracy["value"]),
            round(_SMALLEST + (_LARGEST - _SMALLEST) * share**0.5, 1),
            _y(accuracy["low"]),
            _y(accuracy["high"]),
            series,
            f"{found['images']:,} images, confidence {found['confidence']:.3f}, accuracy {accuracy['value']:.3f}",
        )


def _stepped(points: Sequence[Sequence[float]]) -> str:
    """Turn (recall, precision) in rising order into a line: each precision holds back to the recall before it."""
    made = [(points[0][0], points[0][1])]
    for (before, _), (recall, precision) in pairwise(points):
        made += [(before, precision), (recall, precision)]
    return _points(made)


def _points(points: Iterable[Sequence[float]]) -> str:
    return " ".join(f"{_x(x):g},{_y(y):g}" for x, y in points)


def _x(value: float) -> float:
    return round(LEFT + WIDTH * value, 1)


def _y(value: float) -> float:
    return round(TOP + HEIGHT * (1 - value), 1)
