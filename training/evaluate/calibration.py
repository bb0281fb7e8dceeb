"""Calibration: whether a classifier is right as often as it is sure. Reliability, ECE, temperature, as JSON values.

The temperature is fitted on validation alone and measured on test. Where validation does not determine it (no images,
or all of them right, so that any confidence is too small), it is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from training.evaluate.intervals import wilson

BINS = 15
"""Of equal width, as in Guo et al. 2017."""
_LEAST = 1e-10
"""Smaller probabilities count as this: half precision rounds them to 0, whose logarithm is infinite."""
LEAST_IMAGES = 50
"""Fewer validation images give no temperature to a checkpoint: two or three of them would decide it."""
_HOTTEST = 20.0
"""Highest temperature that is searched; the lowest is a twentieth."""


@dataclass(frozen=True)
class Scored:
    """Images, and what a model says of them.

    Attributes:
        probabilities: float64 [images, classes], rows that sum to 1.
        truth: int64 [images], columns of the probabilities.
    """

    probabilities: NDArray[np.float64]
    truth: NDArray[np.int64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """True where the most probable class of each image is the truth: bool [images]."""
        found: NDArray[np.bool_] = np.asarray(self.probabilities.argmax(axis=1) == self.truth)
        return found

    def heated(self, temperature: float) -> Scored:
        """Return the images with the probabilities of a softmax at that temperature."""
        return Scored(heated(self.probabilities, temperature), self.truth)


def calibration(validation: Scored, test: Scored, least: int = 1) -> dict[str, Any]:
    """Return the measures of the test images `before` and `after` scaling by `temperature`; `why` that is not known.

    Args:
        least: validation images that determine a temperature.
    """
    enough = len(validation.truth) >= least
    fitted = fit_temperature(validation) if enough else None
    why = None if fitted is not None else _why_not(validation) if enough else _too_few(validation, least)
    return {
        "temperature": fitted,
        "why": why,
        "before": measures(test),
        "after": measures(test.heated(fitted)) if fitted is not None else None,
    }


def fit_temperature(scored: Scored) -> float | None:
    """Return the temperature with the least negative log-likelihood (Guo et al. 2017, 4.2); None where it is not
    determined.

    The logarithm of a softmax is the logits less a constant, which a softmax does not see: no logits are needed.
    """
    if scored.right.all():  # also where there is none
        return None

    def loss(log_temperature: float) -> float:
        return float(_nll(scored.heated(exp(log_temperature))))

    edge = log(_HOTTEST)
    found = float(minimize_scalar(loss, bounds=(-edge, edge), method="bounded", options={"xatol": 1e-5}).x)
    return None if abs(found) > edge - 0.05 else exp(found)


def _too_few(validation: Scored, least: int) -> str:
    return f"only {len(validation.truth)} validation images are scored, and {least} are needed"


def _why_not(validation: Scored) -> str:
    if not len(validation.truth):
        return "no validation image is scored"
    if validation.right.all():
        return "all validation images are right, so that any confidence is too small"
    return "the validation images fit best at the end of the range that is searched"


def heated(probabilities: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Return softmax(log p / T): float64 [images, classes]."""
    shares: NDArray[np.float64] = softmax(np.log(np.maximum(probabilities, _LEAST)) / temperature, axis=1)
    return shares


def measures(scored: Scored) -> dict[str, Any] | None:
    """Return `ece`, `nll` (nats), `brier` (0 to 2: summed over the classes), mean `confidence`, `accuracy`, and the
    `bins` of the reliability diagram that hold images; None without images.

    ECE is the mean distance between confidence and accuracy of 15 bins of confidence, weighted by their images.
    """
    count = len(scored.truth)
    if not count:
        return None
    confidence, right = scored.probabilities.max(axis=1), scored.right
    classes = range(scored.probabilities.shape[1])
    bins = _bins(confidence, right)
    return {
        "images": count,
        "ece": sum(b["images"] / count * abs(b["confidence"] - b["accuracy"]["value"]) for b in bins),
        "nll": _nll(scored),
        "brier": float(brier_score_loss(scored.truth, scored.probabilities, labels=classes, scale_by_half=False)),
        "confidence": float(confidence.mean()),
        "accuracy": float(right.mean()),
        "bins": bins,
    }


def _bins(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    number = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        {
            "low": i / BINS,
            "high": (i + 1) / BINS,
            "images": int((number == i).sum()),
            "confidence": float(confidence[number == i].mean()),
            "accuracy": wilson(int(right[number == i].sum()), int((number == i).sum())).as_json(),
        }
        for i in np.unique(number).tolist()
    ]


def _nll(scored: Scored) -> float:
    given = scored.probabilities[np.arange(len(scored.truth)), scored.truth]
    return float(-np.log(np.maximum(given, _LEAST)).mean())
