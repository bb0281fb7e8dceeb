"""Figures of a classifier from true and predicted labels, by scikit-learn.

Figures are 0 to 1. A class that is never predicted has precision 0; one without images has recall 0 and no part in
macro-F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support


def summarise(truth: ArrayLike, predicted: ArrayLike, names: Sequence[str]) -> dict[str, Any]:
    """Return `images, accuracy, macro_f1, classes` (by name) and the `confusion` matrix, as JSON values, from the true
    and the predicted index into `names` of each image."""
    labels = range(len(names))
    figures = precision_recall_fscore_support(truth, predicted, labels=labels, zero_division=0.0)
    f1, images = figures[2], figures[3]
    return {
        "images": int(images.sum()),
        "accuracy": float(np.equal(truth, predicted).mean()) if images.any() else 0.0,
        "macro_f1": float(f1[images > 0].mean()) if images.any() else 0.0,
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "images": int(n)}
            for name, p, r, f, n in zip(names, *figures, strict=True)
        },
        "confusion": confusion_matrix(truth, predicted, labels=labels).tolist(),
    }
