"""Figures of a classifier from true and predicted labels.

In: label indices. Out: accuracy, macro-F1, and precision, recall and F1 of each class, 0 to 1. A class that is never
predicted has precision 0, one without images recall 0 and no part in macro-F1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def confusion(truth: ArrayLike, predicted: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Counts [classes, classes]: rows are the truth, columns what was predicted."""
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (np.asarray(truth, np.int64), np.asarray(predicted, np.int64)), 1)
    return counts


def summarise(counts: NDArray[np.int64], names: Sequence[str]) -> dict[str, Any]:
    """`images, accuracy, macro_f1, classes` (by name) and the `confusion` matrix itself, as JSON values."""
    right = np.diag(counts).astype(float)
    support, called = counts.sum(axis=1), counts.sum(axis=0)
    recall = np.divide(right, support, out=np.zeros_like(right), where=support > 0)
    precision = np.divide(right, called, out=np.zeros_like(right), where=called > 0)
    both = precision + recall
    f1 = np.divide(2 * precision * recall, both, out=np.zeros_like(right), where=both > 0)
    total = int(counts.sum())
    return {
        "images": total,
        "accuracy": float(right.sum() / total) if total else 0.0,
        "macro_f1": float(f1[support > 0].mean()) if total else 0.0,
        "classes": {
            name: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "images": int(support[i])}
            for i, name in enumerate(names)
        },
        "confusion": counts.tolist(),
    }
