"""Maps from scores to probabilities never fall, are those of scikit-learn, and are measured with intervals that hold."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nsfwscan.models.calibration import Floats, Method, ScoreMap, log_odds
from nsfwscan.models.calibration_fit import Sample, choose, fit, losses, methods_for
from nsfwscan.models.reliability import BINS, improvement, measure

METHODS: tuple[Method, ...] = ("temperature", "platt", "isotonic")


def population(size: int, seed: int = 0) -> tuple[Floats, NDArray[np.bool_]]:
    """Scores of contents, few of them high, and whether people would remove them: rarer than the scores say."""
    random = np.random.default_rng(seed)
    scores = random.beta(0.4, 2, size)
    return scores, random.random(size) < 1 / (1 + np.exp(-(1.4 * log_odds(scores) - 1)))


def drawn(scores: Floats, removed: NDArray[np.bool_], random: np.random.Generator) -> Sample:
    """600 of them, the high scores far more often than the low ones, in any order."""
    strata, taken, weights = np.digitize(scores, [0.2, 0.6]), [], []
    for stratum, count in enumerate((300, 150, 150)):
        there = np.flatnonzero(strata == stratum)
        taken.append(random.choice(there, count, replace=False))
        weights.append(np.full(count, len(there) / count))
    order = random.permutation(600)
    some, weight = np.concatenate(taken)[order], np.concatenate(weights)[order]
    return Sample(scores[some], removed[some], weight / weight.mean())


@cache
def maps() -> list[ScoreMap]:
    """One map of each method."""
    sample = drawn(*population(20_000), np.random.default_rng(0))
    return [found for method in METHODS if (found := fit(method, sample)) is not None]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_no_map_changes_the_order(scores: list[float]) -> None:
    """Of two scores the higher one never gets the lower probability, in float32 neither; 0 and 1 and NaN have their place."""
    assert len(maps()) == 3
    for found in maps():
        ordered = np.sort(np.array([0.0, *scores, 1.0]))
        values = found(ordered)
        assert ((values >= 0) & (values <= 1)).all() and (np.diff(values.astype(np.float32)) >= 0).all()
        assert np.isnan(found(np.array([np.nan]))).all()
        assert ScoreMap.model_validate_json(found.model_dump_json()) == found


@pytest.mark.parametrize(
    ("method", "theirs"), [("platt", "sigmoid"), ("isotonic", "isotonic"), ("temperature", "temperature")]
)
def test_they_are_scikit_learn_s(method: Method, theirs: str) -> None:
    """Fitted to the same weighted objects, the probabilities are those of `CalibratedClassifierCV`."""
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Scores(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """A classifier whose decision function is the log-odds that it is given."""

        def fit(self, scores: Floats, answers: Floats) -> Scores:
            self.classes_, self.n_features_in_, self.fitted_ = np.array([0, 1]), 1, True
            return self

        def predict(self, odds: Floats) -> NDArray[np.int64]:
            return (odds[:, 0] > 0).astype(int)

        def decision_function(self, odds: Floats) -> Floats:
            return odds[:, 0]

    sample = drawn(*population(20_000), np.random.default_rng(0))
    odds = log_odds(sample.scores)[:, None]
    base = FrozenEstimator(Scores().fit(odds, sample.removed))
    oracle = CalibratedClassifierCV(base, method=theirs, cv=2, ensemble=False)
    oracle.fit(odds, sample.removed.astype(int), sample_weight=sample.weights)
    ours = fit(method, sample)
    assert ours is not None
    grid = np.linspace(0.01, 0.99, 99)
    expected = oracle.predict_proba(log_odds(grid)[:, None])[:, 1]
    if method == "isotonic":  # straight lines between knots of scores, and not of log-odds
        grid, expected = sample.scores, oracle.predict_proba(odds)[:, 1]
    assert abs(ours(grid) - expected).max() < {"platt": 0.01, "isotonic": 0.02, "temperature": 0.002}[method]


def test_scores_that_say_the_contrary_have_no_map() -> None:
    scores, removed = population(5000)
    right = drawn(scores, removed, np.random.default_rng(1))
    flipped = Sample(1 - right.scores, right.removed, right.weights)
    assert fit("platt", flipped) is None and fit("isotonic", flipped) is None
    assert fit("isotonic", Sample(np.full(100, 0.3), np.arange(100) < 50, np.ones(100))) is None


def test_scores_that_part_the_answers_stay_finite() -> None:
    """Platt's targets keep the slope finite where no score is both removed and approved."""
    scores = np.linspace(0.01, 0.99, 100)
    found = fit("platt", Sample(scores, scores > 0.5, np.ones(100)))
    assert found is not None and found.slope < 10 and 0 < found(np.array([0.01]))[0] < 0.05


def test_the_method_is_chosen_by_folds_that_were_not_fitted() -> None:
    """A temperature where it is enough, Platt where what is removed is rarer; isotonic where no line fits."""
    scores, removed = population(20_000)
    assert methods_for(5) == ("temperature", "platt") and methods_for(2) == ("platt", "isotonic")
    assert choose(methods_for(5), drawn(scores, removed, np.random.default_rng(2))) == "platt"
    random = np.random.default_rng(3)
    flat = random.random(4000)
    bent = random.random(4000) < np.where(flat < 0.5, 0.05, 0.6)
    assert choose(methods_for(2), Sample(flat, bent, np.ones(4000))) == "isotonic"


def test_an_error_that_chance_explains_may_be_none() -> None:
    """Of true probabilities the error seen is above 0, and its interval reaches to 0; of wrong ones it does not."""
    random = np.random.default_rng(4)
    scores = random.random(400)
    sample = Sample(scores, random.random(400) < scores, np.ones(400))
    assert measure(scores, sample).ece.value > 0 and measure(scores, sample).ece.low < 0.01
    assert measure(scores**3, sample).ece.low > 0.1
    assert improvement(scores**3, scores, sample).low > 0


@pytest.mark.long
def test_intervals_cover() -> None:
    """Of a thousand draws from a known population, 93 to 97 % of the intervals hold the truth: the error of the scores and
    that of a map (which is near 0), the gain of the map, and the shares of the bins."""
    random = np.random.default_rng(5)
    scores, removed = population(200_000)
    found = fit("platt", drawn(scores, removed, random))
    assert found is not None
    mapped = found(scores)
    truth = {"before": error(scores, removed), "after": error(mapped, removed)}
    gain = float((losses(scores, removed) - losses(mapped, removed)).mean())
    held = dict.fromkeys(["before", "after", "gain"], 0)
    for _ in range(1000):
        sample = drawn(scores, removed, random)
        sides = {"before": measure(sample.scores, sample), "after": measure(found(sample.scores), sample)}
        for name, measured in sides.items():
            held[name] += measured.ece.low <= truth[name] <= measured.ece.high
        gained = improvement(sample.scores, found(sample.scores), sample)
        held["gain"] += gained.low <= gain <= gained.high
    assert all(930 <= count <= 970 for count in held.values()), held


def error(probabilities: Floats, removed: NDArray[np.bool_]) -> float:
    """The expected calibration error of a whole population."""
    numbers = np.clip(np.ceil(probabilities * BINS).astype(int) - 1, 0, BINS - 1)
    return float(abs(np.bincount(numbers, removed - probabilities)).sum() / len(removed))
