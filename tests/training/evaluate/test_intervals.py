"""Intervals hold what they say: Wilson's are scipy's, the others cover what they should, and none has no width."""

from __future__ import annotations

import numpy as np
import pytest

from tests.later import later

stats = later("scipy.stats")
intervals = later("training.evaluate.intervals")
metrics = later("training.fit.metrics")


@pytest.mark.parametrize(("hits", "trials"), [(0, 16), (1, 16), (9, 16), (16, 16), (1, 1), (997, 1000)])
def test_wilson_is_scipys(hits: int, trials: int) -> None:
    """A share's interval is that of scipy."""
    found, expected = intervals.wilson(hits, trials), stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert found.value == hits / trials
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_without_trials_nothing_is_known() -> None:
    """No image, no figure: None, and never 0."""
    assert (
        intervals.wilson(0, 0)
        == intervals.f1(0, 0, 0)
        == intervals.macro_f1(np.zeros((3, 3), np.int64))
        == intervals.difference(0, 0, 0)
        == intervals.UNKNOWN
    )


def test_f1_by_hand() -> None:
    """8 right, 2 wrongly called, 4 missed: precision 0.8, recall 2/3, F1 0.727; its interval is J's, 8 of 14."""
    found, jaccard = intervals.f1(8, 2, 4), intervals.wilson(8, 14)
    assert found.value == pytest.approx(2 * 0.8 * (2 / 3) / (0.8 + 2 / 3))
    assert jaccard.low is not None and found.low == pytest.approx(2 * jaccard.low / (1 + jaccard.low))


def test_nothing_is_certain() -> None:
    """A perfect result on few images leaves room for errors, in every figure."""
    perfect = intervals.macro_f1(np.diag([16] * 5))
    assert perfect.value == perfect.high == 1.0 and perfect.low is not None and 0.9 < perfect.low < 0.999
    assert (intervals.f1(16, 0, 0).low or 1) < 0.9
    same = intervals.difference(0, 0, 80)
    assert same.value == 0 and same.low is not None and same.high is not None and same.low < 0 < same.high


def test_macro_f1_is_that_of_training() -> None:
    """The same number as in training.json, whatever the matrix; a class without images counts in neither."""
    random = np.random.default_rng(0)
    found = metrics.summarise(random.integers(0, 4, 60), random.integers(0, 5, 60), list("abcde"))
    assert intervals.macro_f1(np.array(found["confusion"])).value == pytest.approx(found["macro_f1"])


def test_the_bootstrap_covers() -> None:
    """About 95 % of the intervals hold the true macro-F1, and the true difference of two classifiers."""
    random = np.random.default_rng(1)
    cells = np.full((3, 3), 0.03) + np.diag([0.35, 0.25, 0.13]) - 0.0
    cells /= cells.sum()
    right = np.diag(cells)
    true = float((2 * right / (cells.sum(0) + cells.sum(1))).mean())
    hits, paired = 0, 0
    for i in range(300):
        found = intervals.macro_f1(random.multinomial(200, cells.ravel()).reshape(3, 3), seed=i)
        hits += found.low <= true <= found.high  # type: ignore[operator]
        first, second, _ = random.multinomial(200, [0.09, 0.05, 0.86])
        change = intervals.difference(int(first), int(second), 200, seed=i)
        paired += change.low <= 0.04 <= change.high  # type: ignore[operator]
    assert 0.91 <= hits / 300 <= 0.985
    assert 0.91 <= paired / 300 <= 0.985


def test_resampling_is_repeatable() -> None:
    """The same counts and seed give the same draws, which sum to 1 and lie around the shares."""
    drawn = intervals.resampled(np.array([30, 60, 10]))
    assert np.array_equal(drawn, intervals.resampled(np.array([30, 60, 10])))
    assert drawn.sum(axis=1) == pytest.approx(1) and drawn.mean(axis=0) == pytest.approx([0.3, 0.6, 0.1], abs=0.01)
