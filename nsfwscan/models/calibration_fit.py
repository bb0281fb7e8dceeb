"""Fit maps from scores to probabilities to what people said of drawn objects.

Everything is weighted: an object that was drawn with a probability of 0.01 stands for a hundred. Which method is taken
is chosen by cross-validation within the objects that are fitted; those that it is measured on later are not touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsfwscan.models.calibration import Floats, Method, ScoreMap, log_odds

_FOLDS = 5
_LEAST = 1e-6
"""Probabilities closer to 0 or 1 than this count as this, so that a single surprise costs no infinite loss."""
_EDGE = 4.0
"""Natural logarithm of the highest temperature that is searched; the lowest is its inverse."""
_UNREGULARISED = 1e6
"""Inverse strength of scikit-learn's penalty on the slope: none to speak of."""
_KNOTS = 200
"""Most knots of an isotonic map."""


@dataclass(frozen=True)
class Sample:
    """Objects that were drawn, and what people said.

    Attributes:
        scores: float64 [objects], `nsfw_score`.
        removed: bool [objects].
        weights: float64 [objects], in proportion to one over the probability of being drawn; their mean is 1.
    """

    scores: Floats
    removed: NDArray[np.bool_]
    weights: Floats

    def only(self, some: NDArray[np.bool_]) -> Sample:
        """Return some of the objects."""
        return Sample(self.scores[some], self.removed[some], self.weights[some] / self.weights[some].mean())


def methods_for(categories: int) -> tuple[Method, ...]:
    """Return the methods that fit a model with so many categories."""
    return ("temperature", "platt") if categories > 2 else ("platt", "isotonic")


def fit(method: Method, sample: Sample) -> ScoreMap | None:
    """Return a map; None where scores do not rise with what people remove, so that no such map fits them."""
    return {"temperature": _temperature, "platt": _platt, "isotonic": _isotonic}[method](sample)


def choose(methods: Sequence[Method], sample: Sample) -> Method:
    """Return the method whose maps have the least loss on the folds that they were not fitted to."""
    if len(methods) == 1:
        return methods[0]
    folds = folds_of(sample.removed, _FOLDS)
    losses = {method: sum(_left_out(method, sample, folds == fold) for fold in range(_FOLDS)) for method in methods}
    return min(methods, key=lambda method: losses[method])


def _left_out(method: Method, sample: Sample, out: NDArray[np.bool_]) -> float:
    found, rest = fit(method, sample.only(~out)), sample.weights[out]
    if found is None:
        return float("inf")
    return float((rest * losses(found(sample.scores[out]), sample.removed[out])).sum())


def folds_of(removed: NDArray[np.bool_], folds: int) -> NDArray[np.int64]:
    """Return the fold of each object: int64 [objects]. Each has as many removed ones as any other, or one fewer."""
    numbers = np.empty(len(removed), np.int64)
    for answer in (False, True):
        numbers[removed == answer] = np.arange((removed == answer).sum()) % folds
    return numbers


def losses(probabilities: Floats, removed: NDArray[np.bool_]) -> Floats:
    """Return the negative log-likelihood of each object, in nats: float64 [objects]."""
    said = np.where(removed, probabilities, 1 - probabilities)
    return np.asarray(-np.log(np.clip(said, _LEAST, None)))


def _temperature(sample: Sample) -> ScoreMap | None:
    from scipy.optimize import minimize_scalar

    def loss(cold: float) -> float:
        found = ScoreMap(method="temperature", slope=float(np.exp(cold)))
        return float((sample.weights * losses(found(sample.scores), sample.removed)).sum())

    best = float(minimize_scalar(loss, bounds=(-_EDGE, _EDGE), method="bounded").x)
    return ScoreMap(method="temperature", slope=float(np.exp(best)))


def _platt(sample: Sample) -> ScoreMap | None:
    """Return Platt's sigmoid (1999), with his targets, which keep it finite where scores part the answers without an
    overlap: each object counts in parts as removed and as approved."""
    from sklearn.linear_model import LogisticRegression

    hits, misses = sample.removed.sum(), (~sample.removed).sum()
    targets = np.where(sample.removed, (hits + 1) / (hits + 2), 1 / (misses + 2))
    odds = np.tile(log_odds(sample.scores), 2)[:, None]
    answers = np.repeat([1, 0], len(targets))
    weights = np.concatenate([sample.weights * targets, sample.weights * (1 - targets)])
    found = LogisticRegression(C=_UNREGULARISED, max_iter=1000).fit(odds, answers, weights)
    slope, intercept = float(found.coef_[0, 0]), float(found.intercept_[0])
    return ScoreMap(method="platt", slope=slope, intercept=intercept) if slope > 0 else None


def _isotonic(sample: Sample) -> ScoreMap | None:
    from sklearn.isotonic import IsotonicRegression

    found = IsotonicRegression(y_min=0, y_max=1).fit(sample.scores, sample.removed, sample.weights)
    scores, values = found.X_thresholds_, found.y_thresholds_
    if values[0] == values[-1]:
        return None
    if len(scores) > _KNOTS:
        some = np.unique(np.linspace(0, len(scores) - 1, _KNOTS).round().astype(int))
        scores, values = scores[some], values[some]
    return ScoreMap(method="isotonic", scores=tuple(map(float, scores)), values=tuple(map(float, values)))
