"""What is drawn stands where its values are, within the frame."""

from __future__ import annotations

import numpy as np

from nsfwscan.reports.charts import HEIGHT, LEFT, TOP, WIDTH
from tests.later import later
from training.evaluate.charts import pr_chart, reliability_chart, roc_chart

calibration = later("training.evaluate.calibration")
curves = later("training.evaluate.curves")

TRUTH = np.array([True, True, False, True, False])
SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.1])


def places(points: str) -> list[tuple[float, float]]:
    """Return the values behind an SVG polyline."""
    pairs = [tuple(map(float, pair.split(","))) for pair in points.split()]
    return [(round((x - LEFT) / WIDTH, 2), round(1 - (y - TOP) / HEIGHT, 2)) for x, y in pairs]


def test_curves_by_hand() -> None:
    """ROC and precision-recall of five images, whose corners can be counted; the latter in steps."""
    roc, pr = (
        roc_chart("ROC", [("a", curves.curves(TRUTH, SCORES))]),
        pr_chart("PR", [("a", curves.curves(TRUTH, SCORES))]),
    )
    assert roc and pr
    assert {(0, 0), (0, 0.67), (0.5, 0.67), (0.5, 1), (1, 1)} <= set(places(roc.lines[0].points))
    drawn = places(pr.lines[0].points)
    assert drawn[0] == (0, 1) and (0.67, 1) in drawn and (0.67, 0.75) in drawn and drawn[-1] == (1, 0.6)
    assert places(pr.guide) == [(0, 0.6), (1, 0.6)] and pr.legend == [(0, "a, average 0.9167")]


def test_a_second_model_keeps_its_colour() -> None:
    """A model without a curve leaves the other one's series as it is; with none there is no chart."""
    nothing = curves.curves(np.array([True]), np.array([0.5]))
    chart = roc_chart("ROC", [("a", nothing), ("b", curves.curves(TRUTH, SCORES))])
    assert chart and [line.series for line in chart.lines] == [1] and chart.legend[0][1].startswith("b, area")
    assert roc_chart("ROC", [("a", nothing)]) is None and pr_chart("PR", [("a", nothing)]) is None


def test_reliability() -> None:
    """A dot for each bin, larger for more images, with its whisker; a second series at the temperature."""
    scored = calibration.Scored(np.array([[0.9, 0.1]] * 8 + [[0.4, 0.6]] * 2), np.array([0] * 7 + [1, 1, 0]))
    chart = reliability_chart("Reliability", calibration.calibration(scored, scored))
    assert chart and {mark.series for mark in chart.marks} == {0, 1} and len(chart.legend) == 2
    small, large = sorted((mark for mark in chart.marks if mark.series == 0), key=lambda mark: mark.radius)
    assert "2 images" in small.words and "8 images, confidence 0.900, accuracy 0.875" in large.words
    assert all(TOP <= mark.high < mark.y < mark.low <= TOP + HEIGHT for mark in (small, large))
    nothing = calibration.Scored(np.empty((0, 2)), np.empty(0, np.int64))
    assert reliability_chart("Reliability", calibration.calibration(nothing, nothing)) is None
