"""Estimate from a drawn sample how much is harmful, and what a policy misses, with intervals.

Each drawn object stands for one over its probability of being drawn (Horvitz and Thompson 1952). The interval of a sum
over strata is put together from those of the strata (Zou and Donner's MOVER; Statistics in Medicine 2008, 27: 1693):
from Clopper and Pearson's exact one where a stratum has no hit or few, from Wilson's elsewhere, each narrowed by the
share of the stratum that was looked at. That of a ratio of two sums is put together the same way (Donner and Zou,
Statistical Methods in Medical Research 2012, 21: 347).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

CONFIDENCE = 0.95
_FEW = 4
"""Hits, or misses, below which the exact interval is taken: Wilson's is too narrow for rare ones (Brown, Cai and
DasGupta 2001, Statistical Science 16: 101)."""


@dataclass(frozen=True)
class Stratum:
    """A stratum that was looked at.

    Attributes:
        size: objects of it.
        looked_at: drawn objects that people decided.
        harmful: those of them that people removed.
        flagged: whether the policy flags its objects.
    """

    size: int
    looked_at: int
    harmful: int
    flagged: bool = False
    all_views: float = 0.0
    """Views of all of its objects."""
    views: tuple[tuple[float, bool], ...] = ()
    """Of each object that was looked at its views, and whether it is harmful."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    value: float | None
    """None where nothing is known of it, as recall where nothing harmful was found."""
    low: float
    high: float


@dataclass(frozen=True)
class Estimates:
    """Estimates that a sample gives of its population."""

    harmful: Estimate
    """Number of harmful objects."""
    prevalence: Estimate
    recall: Estimate
    """Share of the harmful objects that the policy flags."""
    false_positive_rate: Estimate
    """Share of the harmless objects that the policy flags."""
    views: int
    plain_views: int | None
    """Views that a plain random sample would have taken for an interval as narrow; None where nothing was found."""


def estimate(strata: Sequence[Stratum], confidence: float = CONFIDENCE) -> Estimates:
    """Return the estimates. Each stratum needs an object that was looked at."""
    size = sum(one.size for one in strata)
    harmful = _total(strata, confidence)
    caught = _total([one for one in strata if one.flagged], confidence)
    missed = _total([one for one in strata if not one.flagged], confidence)
    flagged = sum(one.size for one in strata if one.flagged)
    wrong, right = _rest(flagged, caught), _rest(size - flagged, missed)
    prevalence = Estimate((harmful.value or 0) / size, harmful.low / size, harmful.high / size)
    views, plain = sum(one.looked_at for one in strata), _plain_views(prevalence, size, confidence)
    return Estimates(harmful, prevalence, _share(caught, missed), _share(wrong, right), views, plain)


@dataclass(frozen=True)
class ViewEstimates:
    """Estimates of the views of a population: how often people saw what."""

    all_views: float
    prevalence: Estimate
    recall: Estimate
    false_positive_rate: Estimate


def estimate_views(strata: Sequence[Stratum], confidence: float = CONFIDENCE) -> ViewEstimates:
    """Return the estimates by views, each object weighed by how often it was seen. Some views are needed."""
    seen = sum(one.all_views for one in strata)
    harmful = _total_views(strata, confidence)
    caught = _total_views([one for one in strata if one.flagged], confidence)
    missed = _total_views([one for one in strata if not one.flagged], confidence)
    flagged = sum(one.all_views for one in strata if one.flagged)
    prevalence = Estimate((harmful.value or 0) / seen, harmful.low / seen, harmful.high / seen)
    wrong, right = _rest(flagged, caught), _rest(seen - flagged, missed)
    return ViewEstimates(seen, prevalence, _share(caught, missed), _share(wrong, right))


def _total(strata: Sequence[Stratum], confidence: float) -> Estimate:
    """Return the number of harmful objects of some strata."""
    found = sum(one.harmful for one in strata)
    most = sum(one.size - (one.looked_at - one.harmful) for one in strata)
    parts = [(one.size, one.harmful / one.looked_at, *_interval(one, confidence)) for one in strata]
    return _summed(parts, found, most)


def _total_views(strata: Sequence[Stratum], confidence: float) -> Estimate:
    """Return the views of harmful objects of some strata.

    The share of a stratum is that of the views of its objects that were looked at (a ratio estimate; Cochran, Sampling
    Techniques, 1977, section 6.3); with no hit, or nothing but hits, its interval is the one by objects.
    """
    parts = []
    for one in strata:
        looked_at, harmful = sum(v for v, _ in one.views), sum(v for v, is_harmful in one.views if is_harmful)
        share = harmful / looked_at if looked_at else one.harmful / one.looked_at
        low, high = _interval(one, confidence)
        if 0 < one.harmful < one.looked_at and looked_at:
            spread = sum((v * is_harmful - share * v) ** 2 for v, is_harmful in one.views) / (one.looked_at - 1)
            variance = spread / one.looked_at / (looked_at / one.looked_at) ** 2
            low, high = _of_weighted(share, variance, confidence)
            left = math.sqrt(1 - one.looked_at / one.size)
            low, high = share - (share - low) * left, share + (high - share) * left
        parts.append((one.all_views, share, min(low, share), max(high, share)))
    return _summed(parts, 0.0, sum(one.all_views for one in strata))


def _of_weighted(share: float, variance: float, confidence: float) -> tuple[float, float]:
    """Return the exact interval of a share for as many objects as would give it this variance if they weighed the same
    (Korn and Graubard 1998, Survey Methodology 24: 193)."""
    if not 0 < share < 1 or not variance:
        return share, share
    from scipy import stats

    objects, tail = share * (1 - share) / variance, (1 - confidence) / 2
    hits = share * objects
    low = stats.beta.ppf(tail, hits, objects - hits + 1)
    return float(low), float(stats.beta.ppf(1 - tail, hits + 1, objects - hits))


def _summed(parts: Sequence[tuple[float, float, float, float]], least: float, most: float) -> Estimate:
    """Return the sum of some sizes times their shares, with the interval that those of the shares make.

    Args:
        parts: size, share, and the interval of the share.
        least, most: what the sum is known to lie between.
    """
    value = sum(size * share for size, share, _, _ in parts)
    below = math.sqrt(sum((size * (share - low)) ** 2 for size, share, low, _ in parts))
    above = math.sqrt(sum((size * (high - share)) ** 2 for size, share, _, high in parts))
    return Estimate(value, max(least, value - below), min(most, value + above))


def _interval(one: Stratum, confidence: float) -> tuple[float, float]:
    """Return the interval of the share of harmful objects in a stratum, narrowed by what was looked at."""
    if one.looked_at >= one.size:
        return one.harmful / one.looked_at, one.harmful / one.looked_at
    found = _of_share(one.harmful, one.looked_at, confidence)
    share, left = one.harmful / one.looked_at, math.sqrt(1 - one.looked_at / one.size)
    return share - (share - found.low) * left, share + (found.high - share) * left


@cache
def _of_share(hits: int, of: int, confidence: float) -> Any:
    from scipy import stats  # dear to load, and every command would

    method = "exact" if min(hits, of - hits) < _FEW else "wilson"
    return stats.binomtest(hits, of).proportion_ci(confidence, method)


def _rest(size: float, part: Estimate) -> Estimate:
    return Estimate(size - (part.value or 0), size - part.high, size - part.low)


def _share(one: Estimate, other: Estimate) -> Estimate:
    """Return `one / (one + other)`, from the interval of the ratio `other / one`."""
    a, b = one.value or 0.0, other.value or 0.0
    if not a + b:
        return Estimate(None, 0.0, 1.0)
    if not a:
        return Estimate(0.0, 0.0, one.high / (one.high + b) if one.high + b else 1.0)
    low, high = _ratio(b, other.low, other.high, a, one.low, one.high)
    return Estimate(a / (a + b), 1 / (1 + high) if math.isfinite(high) else 0.0, 1 / (1 + low))


def _ratio(a: float, low_a: float, high_a: float, b: float, low_b: float, high_b: float) -> tuple[float, float]:
    """Return the interval of `a / b` for `b > 0`, from the intervals of both (MOVER-R); no upper bound where `b` may
    be nothing."""
    under = (a * b) ** 2 - low_a * high_b * (2 * a - low_a) * (2 * b - high_b)
    below = high_b * (2 * b - high_b)
    low = (a * b - math.sqrt(max(under, 0))) / below if below > 0 else low_a / high_b
    over = (a * b) ** 2 - high_a * low_b * (2 * a - high_a) * (2 * b - low_b)
    above = low_b * (2 * b - low_b)
    high = (a * b + math.sqrt(max(over, 0))) / above if above > 0 else math.inf
    return max(0.0, low), high


def _plain_views(prevalence: Estimate, size: int, confidence: float) -> int | None:
    """Return the views of a plain random sample whose interval is as wide, by the normal approximation with the
    correction for a finite population."""
    share, half = prevalence.value or 0.0, (prevalence.high - prevalence.low) / 2
    if not 0 < share < 1 or not half:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    plain = z * z * share * (1 - share) / (half * half)
    return math.ceil(plain / (1 + (plain - 1) / size))
