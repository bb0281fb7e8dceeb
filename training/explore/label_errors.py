"""Labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang, 2021, arXiv:1911.00068).

In: a vector, a label and a group for each image. Out: the images that a classifier, which has seen neither them nor
their similar images, takes for another class with confidence. Data of which too little is there to judge give None.

A logistic regression is fitted to four fifths of the groups and asked about the rest, in turn. A class's threshold is
the mean probability that its own images get; where an image is above another class's threshold, it counts as one of
that class. The counts, scaled to all images, say how many labels of one class should be another; so many images are
suspects, those that the other class is furthest ahead in ("prune by noise rate").
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

_FOLDS = 5
_STRENGTH = 0.02
"""C of the logistic regression: strong regularisation, since there are hundreds of features and maybe few images."""
_ROUNDS = 300


@dataclass(frozen=True, slots=True)
class Suspect:
    """An image whose label is likely wrong.

    Attributes:
        row: which image.
        given, suggested: indices of classes.
        given_probability, suggested_probability: by the classifier that has not seen it, 0 to 1.
    """

    row: int
    given: int
    suggested: int
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class LabelErrors:
    """What was found, and how good the judge is.

    Attributes:
        suspects: most confident first.
        accuracy: of the cross-validated classifier on the labels as given: a judge that is often wrong accuses often.
        chance: what always naming the largest class would reach.
    """

    suspects: list[Suspect]
    accuracy: float
    chance: float


def find_label_errors(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64], *, seed: int
) -> LabelErrors | None:
    """Judges every label; None where a class has fewer than two groups, or there is only one class.

    Args:
        vectors: float32 [images, features].
        labels: int64 [images], 0 to classes - 1, none left out.
        groups: int64 [images]; similar images share one, so that a copy does not vouch for a copy.
    """
    classes = np.unique(labels)
    folds = min(_FOLDS, *(len(np.unique(groups[labels == label])) for label in classes))
    if len(classes) < 2 or folds < 2:
        return None
    judge = make_pipeline(StandardScaler(), LogisticRegression(C=_STRENGTH, max_iter=_ROUNDS, class_weight="balanced"))
    split = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # nearly there is good enough for a judge
        probabilities = cross_val_predict(judge, vectors, labels, groups=groups, cv=split, method="predict_proba")
    return LabelErrors(
        suspects(probabilities, labels),
        accuracy=float((probabilities.argmax(axis=1) == labels).mean()),
        chance=float(np.bincount(labels).max() / len(labels)),
    )


def suspects(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> list[Suspect]:
    """Confident learning on out-of-sample probabilities [images, classes]; most confident first."""
    rows = np.arange(len(labels))
    given = probabilities[rows, labels]
    margins = probabilities - given[:, None]
    errors = _joint(probabilities, labels)
    best: dict[int, int] = {}
    for label, suggested in zip(*np.nonzero(errors), strict=True):
        those = rows[(labels == label) & (margins[:, suggested] > 0)]
        for row in those[np.argsort(-margins[those, suggested], kind="stable")][: errors[label, suggested]]:
            if row not in best or margins[row, suggested] > margins[row, best[row]]:
                best[int(row)] = int(suggested)
    found = [
        Suspect(row, int(labels[row]), suggested, float(given[row]), float(probabilities[row, suggested]))
        for row, suggested in best.items()
    ]
    return sorted(found, key=lambda s: (s.given_probability - s.suggested_probability, s.row))


def _joint(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many images of each given class are really of each other one: int64 [given, real], 0 on the diagonal.

    Images of which the classifier is confident are counted, and the counts scaled to all images of the class."""
    classes = probabilities.shape[1]
    thresholds = np.array([probabilities[labels == label, label].mean() for label in range(classes)])
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    real = confident.argmax(axis=1)
    sure = confident.max(axis=1) >= 0
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[sure], real[sure]), 1)
    totals = np.bincount(labels, minlength=classes)[:, None]
    joint: NDArray[np.int64] = np.rint(counts / np.maximum(1, counts.sum(axis=1, keepdims=True)) * totals).astype(
        np.int64
    )
    np.fill_diagonal(joint, 0)
    return joint
