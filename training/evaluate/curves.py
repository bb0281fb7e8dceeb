"""ROC and precision-recall curves by scikit-learn, of at most 200 points, as JSON values.

Where all images are on one side, the area is None and there are no points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

MOST_POINTS = 200

Truth = NDArray[np.bool_]
Scores = NDArray[np.float64]


def curves(truth: Truth, scores: Scores) -> dict[str, Any]:
    """Return both curves of one class against the rest.

    Args:
        truth: bool [images], true for the images of the class.
        scores: float64 [images], the higher the more likely.

    Returns:
        `roc` with its `area`, and points `[false positive rate, recall]`; `pr` with its `area` (average precision) and
        points `[recall, precision]`; the `prevalence`, which is the precision of a guess.
    """
    if truth.all() or not truth.any():
        return {"roc": {"area": None, "points": []}, "pr": {"area": None, "points": []}, "prevalence": None}
    wrong, found, _ = roc_curve(truth, scores)
    precision, recall, _ = precision_recall_curve(truth, scores, drop_intermediate=True)
    return {
        "roc": {"area": float(roc_auc_score(truth, scores)), "points": thinned(wrong, found)},
        "pr": {"area": float(average_precision_score(truth, scores)), "points": thinned(recall[::-1], precision[::-1])},
        "prevalence": float(truth.mean()),
    }


def thinned(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[list[float]]:
    """Return at most 200 points of a curve, spread evenly along it, with both ends."""
    way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.arange(len(x))
    if len(x) > MOST_POINTS:
        kept = np.unique(np.searchsorted(way, np.linspace(0, way[-1], MOST_POINTS)).clip(max=len(x) - 1))
    return [[round(float(x[i]), 6), round(float(y[i]), 6)] for i in kept]
