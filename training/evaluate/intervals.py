"""Shares and scores of a classifier, 0 to 1, with 95 % intervals.

A figure that no image tells is None, never 0 or NaN. Every interval has a width: 16 right of 16 are no proof of
perfection. All of them count images as independent; similar images within a split make them a little too narrow.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, Any]:
        """Return `value, low, high`."""
        return asdict(self)


UNKNOWN = Estimate(None, None, None)


def wilson(hits: int, trials: int) -> Estimate:
    """Return a share with its score interval (Wilson 1927), which holds for few trials and at 0 and 1."""
    if not trials:
        return UNKNOWN
    found = binomtest(hits, trials).proportion_ci(method="wilson")
    return Estimate(hits / trials, float(found.low), float(found.high))


def f1(right: int, wrongly_called: int, missed: int) -> Estimate:
    """Return the F1 of a class. It rises with the Jaccard index J = right / (right + wrongly called + missed) as 2 J /
    (1 + J), so that Wilson's interval of J, a plain share, gives its own."""
    jaccard = wilson(right, right + wrongly_called + missed)
    return Estimate(*(None if j is None else 2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high)))


def macro_f1(counts: NDArray[np.int64], seed: int = 0) -> Estimate:
    """Return the mean F1 of the classes that have images, with an interval from 2,000 resampled confusion matrices:
    int64 [classes, classes], rows are the truth, columns what was predicted."""
    if not counts.sum():
        return UNKNOWN
    there = counts.sum(axis=1) > 0
    drawn = resampled(counts.ravel(), seed).reshape(DRAWS, *counts.shape)
    return _around(float(_f1s(counts.astype(float))[there].mean()), _f1s(drawn)[:, there].mean(axis=1))


def difference(first_only: int, second_only: int, images: int, seed: int = 0) -> Estimate:
    """Return how much more often the first of two classifiers is right than the second on the same images, -1 to 1,
    with an interval from 2,000 paired resamples. `first_only` and `second_only` images are those that only one of them
    gets right."""
    if not images:
        return UNKNOWN
    drawn = resampled(np.array([first_only, second_only, images - first_only - second_only]), seed)
    return _around((first_only - second_only) / images, drawn[:, 0] - drawn[:, 1])


def resampled(counts: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """Return the shares of cells, from int64 [cells], that other samples of the same size might have: float64 [2000,
    cells].

    The Bayesian bootstrap (Rubin 1981) of cells, with one image more in all, spread evenly over the cells (Perks 1947):
    without it, cells that happen to be empty would stay so in every sample.
    """
    drawn: NDArray[np.float64] = np.random.default_rng(seed).dirichlet(counts + 1 / len(counts), DRAWS)
    return drawn


def _f1s(cells: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return F1 of each class [..., classes] of confusion matrices [..., classes, classes]; 0 for one never met."""
    right = np.diagonal(cells, axis1=-2, axis2=-1)
    both = cells.sum(axis=-1) + cells.sum(axis=-2)
    found: NDArray[np.float64] = np.divide(2 * right, both, out=np.zeros_like(both), where=both > 0)
    return found


def _around(value: float, drawn: NDArray[np.float64]) -> Estimate:
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(value, min(value, float(low)), max(value, float(high)))
