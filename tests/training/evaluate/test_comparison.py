"""Two classifiers are compared image by image, and a difference that chance makes is none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.later import later

comparison = later("training.evaluate.comparison")


def test_counts_and_test_by_hand() -> None:
    """8 images only the first gets right, 1 only the second: p = 2 x (1 + 9) / 2^9, the binomial tail."""
    first = np.array([True] * 8 + [False] + [True] * 70 + [False] * 21)
    second = np.array([False] * 8 + [True] + [True] * 70 + [False] * 21)
    found = comparison.paired(first, second)
    assert (found["both"], found["only_first"], found["only_second"], found["neither"]) == (70, 8, 1, 21)
    assert found["p_value"] == pytest.approx(2 * 10 / 2**9)
    difference = found["difference"]
    assert difference["value"] == pytest.approx(0.07) and 0 < difference["low"] < 0.07 < difference["high"] < 0.15


def test_alike_or_nothing() -> None:
    """Classifiers that are right on the same images differ by nothing; without images nothing is known."""
    same = np.array([True, False, True])
    assert comparison.paired(same, same)["p_value"] == 1.0 and comparison.paired(same, same)["difference"]["value"] == 0
    nothing = np.array([], bool)
    assert (
        comparison.paired(nothing, nothing)["p_value"] is None
        and comparison.paired(nothing, nothing)["difference"]["value"] is None
    )
