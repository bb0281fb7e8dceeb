"""Planted label errors are found with the right suggestion, a copy does not vouch for a copy, and too little gives None."""

from __future__ import annotations

import numpy as np

from tests.later import later

label_errors = later("training.explore.label_errors")


def clusters(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three clouds that overlap a little: vectors [count, 8] and their classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    return (random.normal(0, 1, (count, 8)) + 5 * np.eye(8)[labels]).astype(np.float32), labels


def test_planted_errors_are_found() -> None:
    """Of 20 wrong labels among 600 most are suspects, hardly another is, and the true class is suggested."""
    vectors, truth = clusters(600)
    labels = truth.copy()
    wrong = np.arange(0, 600, 30)
    labels[wrong] = (labels[wrong] + 1) % 3
    found = label_errors.find_label_errors(vectors, labels, np.arange(600), seed=0)
    assert found is not None and found.accuracy > 0.85 and found.chance < 0.4
    right = [s for s in found.suspects if s.row in wrong]
    assert len(right) >= 14 and len(found.suspects) - len(right) <= 2
    assert all(s.suggested == truth[s.row] for s in right)


def test_a_copy_does_not_vouch_for_a_copy() -> None:
    """Similar images with the same wrong label are suspects all the same: they are judged together."""
    vectors, truth = clusters(300)
    labels, groups = truth.copy(), np.arange(300)
    copies = np.arange(0, 60, 3)
    vectors[copies], labels[copies], groups[copies] = vectors[0], 1, 0
    found = label_errors.find_label_errors(vectors, labels, groups, seed=0)
    assert found is not None and {s.row for s in found.suspects} >= set(copies.tolist())


def test_too_little_to_judge() -> None:
    """One class, or a class of which all images are one group, gives None."""
    vectors, labels = clusters(30)
    assert label_errors.find_label_errors(vectors, np.zeros(30, np.int64), np.arange(30), seed=0) is None
    assert label_errors.find_label_errors(vectors, labels, np.where(labels == 2, 100, np.arange(30)), seed=0) is None


def test_thresholds_are_those_of_each_class() -> None:
    """An image is suspected only where another class is above what that class's own images get on average."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.35, 0.65], [0.1, 0.9], [0.3, 0.7]])
    assert label_errors.suspects(probabilities, np.array([0, 0, 0, 1, 1])) == []
    (found,) = label_errors.suspects(
        np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.1, 0.9], [0.3, 0.7]]), np.array([0, 0, 0, 1, 1])
    )
    assert (found.row, found.given, found.suggested) == (2, 0, 1)
