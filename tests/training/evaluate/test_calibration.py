"""Calibration measures how far confidence is from accuracy, and finds the temperature that was put in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.later import later

if TYPE_CHECKING:
    from training.evaluate.calibration import Scored

calibration = later("training.evaluate.calibration")


def drawn(count: int, temperature: float, seed: int = 0, classes: int = 5) -> Scored:
    """Images whose class is drawn from a softmax at temperature 1, scored by one at 1 / `temperature`: dividing the
    logits by `temperature` makes the scores right."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (count, classes))
    real = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (real.cumsum(axis=1) > random.uniform(size=(count, 1))).argmax(axis=1)
    scores = np.exp(logits * temperature)
    return calibration.Scored(scores / scores.sum(axis=1, keepdims=True), truth)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found(temperature: float) -> None:
    """The temperature that makes over- or under-confident scores right is found to a few percent, and mends ECE."""
    found = calibration.calibration(drawn(5000, temperature), drawn(5000, temperature, seed=1))
    assert found["temperature"] == pytest.approx(temperature, rel=0.06) and found["why"] is None
    assert found["after"]["ece"] < 0.03 and found["after"]["nll"] <= found["before"]["nll"] + 1e-3
    assert found["after"]["accuracy"] == found["before"]["accuracy"]


def test_a_calibrated_source_has_no_error() -> None:
    """Scores that are the real probabilities have an ECE near 0; sharpened ones have not."""
    right, sharp = calibration.measures(drawn(20_000, 1.0)), calibration.measures(drawn(20_000, 3.0))
    assert right is not None and sharp is not None
    assert right["ece"] < 0.015 and sharp["ece"] > 0.15


def test_by_hand() -> None:
    """Two bins: 0.9, 0.9 of which one is right, and 0.6 that is right."""
    found = calibration.measures(
        calibration.Scored(np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]]), np.array([0, 1, 1]))
    )
    assert found is not None
    assert found["ece"] == pytest.approx(2 / 3 * 0.4 + 1 / 3 * 0.4)
    assert found["nll"] == pytest.approx(-np.log([0.9, 0.1, 0.6]).mean())
    assert found["brier"] == pytest.approx((0.02 + 1.62 + 0.32) / 3)
    assert [(b["images"], b["accuracy"]["value"]) for b in found["bins"]] == [(1, 1.0), (2, 0.5)]
    assert all(
        b["low"] < b["confidence"] <= b["high"] and b["high"] - b["low"] == pytest.approx(1 / calibration.BINS)
        for b in found["bins"]
    )


def test_what_validation_cannot_tell() -> None:
    """No images, or none that is wrong, tell no temperature: it is not known, and says why."""
    perfect = calibration.Scored(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 1]))
    nothing = calibration.Scored(np.empty((0, 2)), np.empty(0, np.int64))
    assert calibration.fit_temperature(perfect) is None and calibration.fit_temperature(nothing) is None
    found = calibration.calibration(perfect, perfect)
    assert found["after"] is None and "all validation images are right" in found["why"]
    wrong = calibration.Scored(np.array([[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]]), np.array([1, 0, 1]))
    assert "end of the range" in calibration.calibration(wrong, perfect)["why"]
    assert calibration.calibration(nothing, nothing)["before"] is None


def test_a_probability_of_nothing_is_no_infinity() -> None:
    """Half precision rounds small probabilities to 0: the figures stay finite."""
    found = calibration.measures(calibration.Scored(np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([1, 0])))
    assert found is not None and np.isfinite(found["nll"])
    assert np.isfinite(calibration.heated(np.array([[1.0, 0.0]]), 0.05)).all()
