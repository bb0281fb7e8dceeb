"""Compute every figure of one checkpoint, as JSON values.

There are two tasks: `classes`, the category of an image, and `nsfw`, its side, whatever its category. The second
applies to every checkpoint, the first to one that knows all categories of the data. Images without a score are in no
figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

from nsfwscan.schema import NSFW_CATEGORIES, Category, score_column
from training.evaluate.calibration import Scored, calibration
from training.evaluate.curves import curves
from training.evaluate.held_out import Predictions
from training.evaluate.intervals import f1, macro_f1, wilson
from training.evaluate.operating import Flags, operating_points

SIDES_OF_NSFW = ("safe", "nsfw")


def figures(predictions: Mapping[str, Predictions], categories: Sequence[Category]) -> dict[str, Any]:
    """Return all figures of the test split; temperatures are fitted and thresholds chosen on validation.

    Args:
        predictions: `validation` and `test`.
        categories: of the checkpoint.

    Returns:
        `nsfw` and `classes` (None where it does not apply), each with `images`, `accuracy`, `macro_f1`, `by_class`,
        `confusion`, `curves` and `calibration`; `operating_points`; `false_positive_rate` of the neutral images.
    """
    validation, test = predictions["validation"], predictions["test"]
    known = tuple(category for category in Category if category in categories)
    return {
        "classes": _classes(validation, test, known) if covers(known, test) else None,
        "nsfw": _nsfw(validation, test),
        "operating_points": operating_points(flags(validation), flags(test)),
        "false_positive_rate": _false_positive_rate(test),
    }


def covers(known: Sequence[Category], predictions: Predictions) -> bool:
    """Return whether a checkpoint knows all categories of the images."""
    return set(predictions.truth) <= set(known)


def right_class(predictions: Predictions) -> NDArray[np.bool_]:
    """Return whether the label of each image is the truth: bool [images], false without a label."""
    return np.array(
        [row["label"] == truth for row, truth in zip(predictions.rows, predictions.truth, strict=True)], bool
    )


def right_side(predictions: Predictions) -> NDArray[np.bool_]:
    """Return whether the label of each image is on the side of the truth (drawings are safe): bool [images], false
    without a label."""
    pairs = [(row["label"], truth) for row, truth in zip(predictions.rows, predictions.truth, strict=True)]
    return np.array([a is not None and (a in NSFW_CATEGORIES) == (b in NSFW_CATEGORIES) for a, b in pairs], bool)


def flags(predictions: Predictions) -> Flags:
    """Return the scored images by `nsfw_score`."""
    scored = predictions.scored
    nsfw = np.array([truth in NSFW_CATEGORIES for truth in predictions.truth], bool)
    return Flags(predictions.column("nsfw_score")[scored], nsfw[scored])


def _classes(validation: Predictions, test: Predictions, known: Sequence[Category]) -> dict[str, Any]:
    names = [str(category) for category in known]
    scored = _scored(test, known)
    labels = [row["label"] for row in test.rows if row["nsfw_score"] is not None]
    return _measured(names, scored.truth, np.array([names.index(label) for label in labels], np.int64)) | {
        "curves": {name: curves(scored.truth == i, scored.probabilities[:, i]) for i, name in enumerate(names)},
        "calibration": calibration(_scored(validation, known), scored),
    }


def _nsfw(validation: Predictions, test: Predictions) -> dict[str, Any]:
    found = flags(test)
    labels = [row["label"] for row in test.rows if row["nsfw_score"] is not None]
    called = np.array([label in NSFW_CATEGORIES for label in labels], bool)
    return _measured(SIDES_OF_NSFW, found.nsfw.astype(np.int64), called.astype(np.int64)) | {
        "curves": {"nsfw": curves(found.nsfw, found.scores)},
        "calibration": calibration(_two_sided(flags(validation)), _two_sided(found)),
    }


def _scored(predictions: Predictions, known: Sequence[Category]) -> Scored:
    scored = predictions.scored
    columns = np.stack([predictions.column(score_column(category))[scored] for category in known], axis=1)
    place = {category: i for i, category in enumerate(known)}
    truth = np.array([place.get(t, 0) for t in predictions.truth], np.int64)[scored]
    return Scored(columns / np.maximum(columns.sum(axis=1, keepdims=True), 1e-10), truth)


def _two_sided(found: Flags) -> Scored:
    scores = found.scores.clip(0, 1)
    return Scored(np.stack([1 - scores, scores], axis=1), found.nsfw.astype(np.int64))


def _measured(names: Sequence[str], truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[str, Any]:
    """Measure labels alone. Precision is None for a class never predicted, recall for one without images."""
    counts = confusion_matrix(truth, predicted, labels=range(len(names)))
    total, right = int(counts.sum()), int(np.trace(counts))
    return {
        "images": total,
        "accuracy": wilson(right, total).as_json(),
        "macro_f1": macro_f1(counts).as_json(),
        "by_class": {name: _one_class(counts, i) for i, name in enumerate(names)},
        "confusion": {"labels": list(names), "counts": counts.tolist()},
    }


def _one_class(counts: NDArray[np.int64], i: int) -> dict[str, Any]:
    right, images, called = int(counts[i, i]), int(counts[i].sum()), int(counts[:, i].sum())
    return {
        "images": images,
        "called": called,
        "precision": wilson(right, called).as_json(),
        "recall": wilson(right, images).as_json(),
        "f1": f1(right, called - right, images - right).as_json(),
    }


def _false_positive_rate(test: Predictions) -> dict[str, Any]:
    """Count the neutral images with an NSFW label."""
    labels = [
        row["label"]
        for row, truth in zip(test.rows, test.truth, strict=True)
        if truth == Category.NEUTRAL and row["nsfw_score"] is not None
    ]
    called = sum(label in NSFW_CATEGORIES for label in labels)
    return {"neutral": len(labels), "false_positives": called, "rate": wilson(called, len(labels)).as_json()}
