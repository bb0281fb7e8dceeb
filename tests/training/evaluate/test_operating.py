"""Thresholds are those that the aims ask for, are short enough to be typed, and are measured where they were not chosen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.later import later

if TYPE_CHECKING:
    from training.evaluate.operating import Flags

metrics = later("sklearn.metrics")
operating = later("training.evaluate.operating")


def mixed(count: int, seed: int) -> Flags:
    """Scores of two kinds that overlap, with ties, as float32 has them."""
    random = np.random.default_rng(seed)
    nsfw = random.uniform(size=count) < 0.4
    scores = 1 / (1 + np.exp(-random.normal(np.where(nsfw, 2, -2), 1.5)))
    return operating.Flags(scores.round(2).astype(np.float32).astype(np.float64), nsfw)


def test_read_off_is_the_curves() -> None:
    """What is read off test is the best point of scikit-learn's ROC curve."""
    test = mixed(1000, 0)
    wrong, found, _ = metrics.roc_curve(test.nsfw, test.scores, drop_intermediate=False)
    points = operating.operating_points(mixed(500, 1), test)
    assert [(p["kind"], p["target"]) for p in points] == list(operating.AIMS)
    assert points[0]["read_off"]["recall"]["value"] == pytest.approx(found[wrong <= 0.01].max())
    for point in points[1:]:
        assert point["read_off"]["false_positive_rate"]["value"] == pytest.approx(wrong[found >= point["target"]].min())


def test_chosen_on_validation_measured_on_test() -> None:
    """A threshold keeps its promise on validation; on test its figures are counts of the test images."""
    validation, test = mixed(800, 2), mixed(900, 3)
    chosen = operating.operating_points(validation, test)[0]["chosen"]
    assert chosen["on_validation"]["false_positive_rate"]["value"] <= 0.01
    flagged = test.scores >= chosen["threshold"]
    assert chosen["on_test"]["recall"]["value"] == pytest.approx(flagged[test.nsfw].mean())
    assert chosen["on_test"]["precision"]["value"] == pytest.approx(test.nsfw[flagged].mean())
    assert chosen["on_test"]["recall"]["low"] < chosen["on_test"]["recall"]["value"]


def test_thresholds_are_short_and_apart() -> None:
    """Each is written with few decimals and lies between two scores, never on one that it should leave out."""
    flags = mixed(300, 4)
    for threshold in operating.thresholds(flags):
        flagged = flags.scores >= threshold.value
        assert (int((flagged & flags.nsfw).sum()), int((flagged & ~flags.nsfw).sum())) == (
            threshold.found,
            threshold.wrong,
        )
        assert len(f"{threshold.value:g}") <= 5
    assert operating.simplest_between(0.31, 0.52) == 0.4 and operating.simplest_between(0.123, 0.124) == 0.1235
    assert operating.simplest_between(0.0, 0.0) == 0.0


@pytest.mark.parametrize("nsfw", [[], [True, True], [False, False]])
def test_one_side_alone(nsfw: list[bool]) -> None:
    """Without NSFW or without safe images nothing can be chosen, or read off."""
    alone = operating.Flags(np.linspace(0.2, 0.8, len(nsfw)), np.array(nsfw, bool))
    assert all(p["chosen"] is None for p in operating.operating_points(alone, mixed(50, 5)))
    assert all(p["read_off"] is None for p in operating.operating_points(mixed(50, 5), alone))
    measured = operating.operating_points(mixed(50, 5), alone)[0]["chosen"]["on_test"]
    assert measured["recall"]["value"] is None or measured["false_positive_rate"]["value"] is None


def test_no_threshold_would_do() -> None:
    """Where safe images have the highest score there is, 1, no threshold keeps them out: none is given."""
    flags = operating.Flags(np.array([1.0, 1.0, 0.5]), np.array([False, True, True]))
    assert operating.operating_points(flags, flags)[0]["chosen"] is None
    assert operating.operating_points(flags, flags)[1]["chosen"]["threshold"] <= 0.5
