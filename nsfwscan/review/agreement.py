"""Measure how well people agree who gave the same items a word each: Krippendorff's alpha and Cohen's kappa.

Alpha is 1 less the disagreement seen over the disagreement that chance would make; it takes any number of people and
missing answers (K. Krippendorff, Content Analysis, 4th edition 2018, chapter 12; for words without an order). Kappa is
of two people (J. Cohen, Educational and Psychological Measurement 1960, 20: 37). Intervals are of resampled items,
corrected for bias and skewness (BCa; B. Efron, Journal of the American Statistical Association 1987, 82: 171).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
_RESAMPLES = 2000
Floats = NDArray[np.float64]
Answers = Sequence[Sequence[str | None]]
"""By item and person, the word; None where a person gave none."""


@dataclass(frozen=True)
class Agreement:
    """A coefficient and its interval; None where all gave the same word, so that chance would agree, too."""

    value: float | None
    low: float | None
    high: float | None
    items: int
    """Items with two answers at least."""


def alpha(answers: Answers) -> Agreement:
    """Return Krippendorff's alpha of words without an order."""
    counts = _counted(answers)
    sizes = counts.sum(axis=1)
    counts, sizes = counts[sizes > 1], sizes[sizes > 1]
    unlike = (sizes**2 - (counts**2).sum(axis=1)) / np.maximum(sizes - 1, 1)

    def of(weights: Floats) -> Floats:
        pairable, words = weights @ sizes, weights @ counts
        chance = pairable**2 - (words**2).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(1 - (pairable - 1) * (weights @ unlike) / chance)

    return _with_interval(of, len(sizes))


def kappa(one: Sequence[str | None], other: Sequence[str | None]) -> Agreement:
    """Return Cohen's kappa of two people, over the items that both gave a word."""
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    words = sorted({word for pair in pairs for word in pair})
    first, second = (np.array([[pair[i] == word for word in words] for pair in pairs], np.float64) for i in (0, 1))
    same = np.array([a == b for a, b in pairs], np.float64)

    def of(weights: Floats) -> Floats:
        total = weights.sum(axis=1)
        seen = weights @ same / total
        chance = ((weights @ first) * (weights @ second)).sum(axis=1) / total**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((seen - chance) / (1 - chance))

    return _with_interval(of, len(pairs))


def _counted(answers: Answers) -> Floats:
    """Return how many gave each word to each item: float64 [items, words]."""
    words = sorted({word for said in answers for word in said if word is not None})
    return np.array([[said.count(word) for word in words] for said in map(list, answers)], np.float64).reshape(
        len(answers), len(words)
    )


def _with_interval(of: Callable[[Floats], Floats], items: int) -> Agreement:
    """Return a coefficient with its BCa interval.

    Args:
        of: the coefficients, float64 [resamples], where each item counts so often: float64 [resamples, items].
    """
    if not items:
        return Agreement(None, None, None, 0)
    value = float(of(np.ones((1, items)))[0])
    if not np.isfinite(value):
        return Agreement(None, None, None, items)
    random = np.random.default_rng(0)
    found = of(random.multinomial(items, np.full(items, 1 / items), _RESAMPLES).astype(np.float64))
    found = found[np.isfinite(found)]
    left_out = of(np.ones((items, items)) - np.eye(items)) if items > 1 else np.array([value])
    low, high = _bca(value, found, left_out[np.isfinite(left_out)])
    return Agreement(value, low, high, items)


def _bca(value: float, found: Floats, left_out: Floats) -> tuple[float, float]:
    from scipy.stats import norm

    below = ((found < value).sum() + (found <= value).sum()) / (2 * len(found))
    bias = norm.ppf(np.clip(below, 1 / len(found), 1 - 1 / len(found)))
    off = left_out.mean() - left_out if len(left_out) else left_out  # none is finite of two items, say
    skew = (off**3).sum() / (6 * (off**2).sum() ** 1.5) if (off**2).sum() > 0 else 0.0
    ends = bias + norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(found, norm.cdf(bias + ends / (1 - skew * ends)))
    return float(low), float(high)
