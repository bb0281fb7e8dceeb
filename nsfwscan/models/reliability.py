"""Measure how true probabilities are, from objects that were drawn with known probabilities, with intervals.

The expected calibration error (ECE) is the mean distance between what was said and what people removed, over bins of
equal width, weighted by the objects that each stands for (Guo et al. 2017). Chance alone makes it larger than 0, so its
interval is not made of its own resamples: it holds each true error under which an error as large as the one seen, and
one as small, are no surprise. Errors seen are simulated for that, in the directions that the bins suggest (a
parametric bootstrap that is inverted; Efron and Tibshirani 1993, chapter 12).
"""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt

import numpy as np

from nsfwscan.config import Frozen
from nsfwscan.models.calibration import Floats
from nsfwscan.models.calibration_fit import Sample, losses

BINS = 15
"""Of equal width, as in Guo et al. 2017."""
CONFIDENCE = 0.95
_DRAWS = 2000
_RESAMPLES = 1000
_FEW = 4


class Interval(Frozen):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Bin(Frozen):
    """Objects with about the same probability.

    Attributes:
        share: of all objects, those that this bin stands for.
        said: mean probability.
        removed: share that people removed.
    """

    objects: int
    share: float
    said: float
    removed: Interval


class Reliability(Frozen):
    """The calibration error and the loss of some probabilities."""

    ece: Interval
    log_loss: float
    """Mean negative log-likelihood, in nats."""
    bins: tuple[Bin, ...]


def measure(probabilities: Floats, sample: Sample) -> Reliability:
    """Return how true the probabilities of drawn objects are: float64 [objects]."""
    numbers = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    bins, shares, gaps, deviations = [], [], [], []
    for number in np.unique(numbers):
        here = numbers == number
        weights, said, removed = sample.weights[here], probabilities[here], sample.removed[here]
        total = weights.sum()
        alike = total**2 / (weights**2).sum()  # objects that would say as much if all weighed the same (Kish 1965)
        rate, gap = float(weights @ removed / total), float(weights @ (removed - said) / total)
        spread = (weights**2 * (removed - said - gap) ** 2).sum() / total**2
        likely = (alike * rate + 0.5) / (alike + 1)  # no hit among a few does not say that there is none
        shares.append(total / sample.weights.sum())
        gaps.append(gap)
        deviations.append(sqrt(max(spread, likely * (1 - likely) / alike)))
        whole = int(here.sum())
        bins.append(
            Bin(objects=whole, share=shares[-1], said=float(weights @ said / total), removed=share_of(rate, alike))
        )
    ece = _error(*map(np.array, (shares, gaps, deviations)))
    loss = float((sample.weights * losses(probabilities, sample.removed)).sum() / sample.weights.sum())
    return Reliability(ece=ece, log_loss=loss, bins=tuple(bins))


def share_of(rate: float, alike: float) -> Interval:
    """Return a share with its interval: Wilson's, and the exact one for few hits (Brown, Cai and DasGupta 2001), each
    for as many objects as say as much (Korn and Graubard 1998, Survey Methodology 24: 193).

    Args:
        alike: objects, each for itself and of one weight, that would say as much.
    """
    from scipy.stats import beta, norm

    hits, tail = rate * alike, (1 - CONFIDENCE) / 2
    if min(hits, alike - hits) < _FEW:
        low = beta.ppf(tail, hits, alike - hits + 1) if hits > 0 else 0.0
        high = beta.ppf(1 - tail, hits + 1, alike - hits) if hits < alike else 1.0
    else:
        z = norm.ppf(1 - tail)
        middle = (rate + z * z / (2 * alike)) / (1 + z * z / alike)
        half = z * sqrt(rate * (1 - rate) / alike + z * z / (4 * alike**2)) / (1 + z * z / alike)
        low, high = middle - half, middle + half
    return Interval(value=rate, low=float(low), high=float(high))


def _error(shares: Floats, gaps: Floats, deviations: Floats) -> Interval:
    """Return the ECE of bins and its interval.

    Args:
        gaps: between what was removed and what was said, in each bin.
        deviations: standard deviations of the gaps.
    """
    seen = float(shares @ abs(gaps))
    noise = np.random.default_rng(0).standard_normal((_DRAWS, len(gaps))) * deviations
    ways = abs(gaps) + deviations
    ways = ways / (shares @ ways)

    def simulated(true: float) -> Floats:
        return np.asarray(abs(true * ways + noise) @ shares)

    tail, most = (1 - CONFIDENCE) / 2, seen + 6 * float(shares @ deviations)
    low = _where(lambda true: bool((simulated(true) >= seen).mean() >= tail), 0.0, seen)
    high = _where(lambda true: bool((simulated(true) <= seen).mean() < tail), 0.0, most)
    return Interval(value=seen, low=min(low, seen), high=min(1.0, high))


def _where(holds: Callable[[float], bool], low: float, high: float) -> float:
    """Return where a condition that is false below begins to hold, by halving."""
    if holds(low):
        return low
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def improvement(before: Floats, after: Floats, sample: Sample) -> Interval:
    """Return by how much the log loss falls, in nats. Its interval is of 1,000 resamples, each measured in its own
    standard errors (the bootstrap-t; Efron and Tibshirani 1993, section 12.5): losses are skewed."""
    gains = losses(before, sample.removed) - losses(after, sample.removed)
    random, count = np.random.default_rng(0), len(gains)
    value, error = (float(one[0]) for one in _means(gains[None], sample.weights[None]))
    if not error:
        return Interval(value=value, low=value, high=value)
    some = random.integers(count, size=(_RESAMPLES, count))
    means, errors = _means(gains[some], sample.weights[some])
    tail = (1 - CONFIDENCE) / 2
    least, most = np.quantile((means - value) / np.maximum(errors, error / 100), [tail, 1 - tail])
    return Interval(value=value, low=value - float(most) * error, high=value - float(least) * error)


def _means(values: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weighted means of rows of values, and their standard errors (linearised)."""
    totals = weights.sum(axis=1)
    means = (weights * values).sum(axis=1) / totals
    spread = (weights**2 * (values - means[:, None]) ** 2).sum(axis=1)
    return means, np.sqrt(spread) / totals
