"""Curves are scikit-learn's, in few points."""

from __future__ import annotations

import numpy as np
import pytest

from tests.later import later

metrics = later("sklearn.metrics")
curves = later("training.evaluate.curves")


def test_few_points_tell_the_same() -> None:
    """Of thousands of images at most 200 points are kept, and the area under them is the curve's."""
    random = np.random.default_rng(0)
    truth = random.uniform(size=20_000) < 0.3
    scores = random.normal(truth * 1.5, 1)
    found = curves.curves(truth, scores)
    points = np.array(found["roc"]["points"])
    assert len(points) <= curves.MOST_POINTS and len(found["pr"]["points"]) <= curves.MOST_POINTS
    assert points[0].tolist() == [0, 0] and points[-1].tolist() == [1, 1]
    assert found["roc"]["area"] == metrics.roc_auc_score(truth, scores)
    assert metrics.auc(points[:, 0], points[:, 1]) == pytest.approx(found["roc"]["area"], abs=2e-3)
    recall = [point[0] for point in found["pr"]["points"]]
    assert recall == sorted(recall) and recall[-1] == 1.0
    assert found["prevalence"] == pytest.approx(truth.mean())


@pytest.mark.parametrize("truth", [[], [True], [False, False]])
def test_one_side_alone_has_no_curve(truth: list[bool]) -> None:
    """Without both kinds of images there is no curve, and no warning."""
    found = curves.curves(np.array(truth, bool), np.linspace(0, 1, len(truth)))
    assert found["roc"] == {"area": None, "points": []} and found["prevalence"] is None


def test_few_points_stay_as_they_are() -> None:
    """A curve of few points is kept point by point."""
    assert curves.thinned(np.array([0.0, 0.5, 1.0]), np.array([0.0, 1.0, 1.0])) == [[0, 0], [0.5, 1], [1, 1]]
