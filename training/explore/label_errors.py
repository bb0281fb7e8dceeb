"""Labels that are likely wrong, by confident learning (Northcutt, Jiang and Chuang, 2021, arXiv:1911.00068).

A logistic regression is fitted to four fifths of the images and asked about the rest, in turn; similar images are
judged together. `cleanlab`, by the method's authors, says from its probabilities how many labels of each class should
be another, and which images those are ("prune by noise rate").
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from cleanlab.filter import find_label_issues
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
        given_probability, suggested_probability: by the classifier that has not seen the image, 0 to 1.
    """

    row: int
    given: int
    suggested: int
    given_probability: float
    suggested_probability: float


@dataclass(frozen=True)
class LabelErrors:
    """Likely label errors, and how good the judge is.

    Attributes:
        suspects: most confident first.
        accuracy: of the cross-validated classifier on the labels as given: a judge that is often wrong accuses often.
        chance: accuracy of always naming the largest class.
    """

    suspects: list[Suspect]
    accuracy: float
    chance: float


def find_label_errors(
    vectors: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64], *, seed: int
) -> LabelErrors | None:
    """Judge every label; None where a class has fewer than two groups, or there is only one class.

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
    """Return the suspects by out-of-sample probabilities [images, classes]; most confident first."""
    found = find_label_issues(
        labels,
        probabilities,
        filter_by="prune_by_noise_rate",
        return_indices_ranked_by="normalized_margin",
        n_jobs=1,  # more would be processes
    )
    return [
        Suspect(row, given, suggested, float(probabilities[row, given]), float(probabilities[row, suggested]))
        for row, given, suggested in zip(
            found.tolist(), labels[found].tolist(), probabilities[found].argmax(axis=1).tolist(), strict=True
        )
    ]
