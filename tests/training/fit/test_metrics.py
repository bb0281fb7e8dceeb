"""Figures of a classifier, against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from tests.later import later

metrics = later("training.fit.metrics")
sklearn = later("sklearn.metrics")


NAMES = ("drawings", "hentai", "neutral", "porn", "sexy")


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn(seed: int) -> None:
    """Accuracy, macro-F1 and each class's figures are those of scikit-learn."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, 5, 80)
    predicted = np.where(random.random(80) < 0.6, truth, random.integers(0, 5, 80))
    found = metrics.summarise(truth, predicted, NAMES)
    assert found["accuracy"] == pytest.approx(sklearn.accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(sklearn.f1_score(truth, predicted, average="macro"))
    columns = sklearn.precision_recall_fscore_support(truth, predicted, labels=range(5), zero_division=0)
    for name, precision, recall, f1, images in zip(NAMES, *columns, strict=True):
        expected = {"precision": precision, "recall": recall, "f1": f1, "images": images}
        assert found["classes"][name] == pytest.approx(expected)


def test_empty_classes() -> None:
    """A class without images has no part in macro-F1; one that is never predicted has precision 0, not NaN."""
    found = metrics.summarise([0, 0, 1], [0, 0, 0], NAMES[:3])
    assert found["macro_f1"] == pytest.approx((0.8 + 0) / 2)
    assert found["classes"]["hentai"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "images": 1}
    assert found["confusion"] == [[2, 0, 0], [1, 0, 0], [0, 0, 0]]
