"""Charts of an evaluation for the template: ROC, precision-recall, reliability.

Curves and bins are as `evaluation.json` has them; both axes go from 0 to 1. A chart with nothing to draw is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

from nsfwscan.reports.charts import Chart, Line, Mark, marked, points


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
    lines = [Line(points(c["points"]) if kind == "roc" else _stepped(c["points"]), i) for i, _, c in drawn]
    return Chart(title, x_name, y_name, points(enumerate(guide)), legend, lines)


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
    return Chart(title, "confidence", "accuracy", points([(0, 0), (1, 1)]), legend, marks=marks)


def _marks(measured: dict[str, Any], series: int) -> Iterator[Mark]:
    for found in measured["bins"]:
        share, accuracy = found["images"] / measured["images"], found["accuracy"]
        said = f"{found['images']:,} images, confidence {found['confidence']:.3f}, accuracy {accuracy['value']:.3f}"
        span = (accuracy["low"], accuracy["high"])
        yield marked(found["confidence"], accuracy["value"], span, share, series, said)


def _stepped(found: Sequence[Sequence[float]]) -> str:
    """Turn (recall, precision) in rising order into a line: each precision holds back to the recall before it."""
    made = [(found[0][0], found[0][1])]
    for (before, _), (recall, precision) in pairwise(found):
        made += [(before, precision), (recall, precision)]
    return points(made)
