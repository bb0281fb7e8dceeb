"""Groups go whole, classes have their shares, and a place depends on content and seed alone."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nsfwscan.errors import SourceError
from nsfwscan.schema import Category
from training.data.splits import TEST, TRAIN, VALIDATION, assign

NAMES = (Category.DRAWINGS, Category.NEUTRAL, Category.PORN)


def digests(count: int, first: int = 0) -> list[str]:
    return [hashlib.sha256(str(i).encode()).hexdigest() for i in range(first, first + count)]


def sides_of(
    groups: NDArray[np.int64], labels: NDArray[np.int64], sha256: list[str], seed: int = 0
) -> NDArray[np.int8]:
    return assign(groups, labels, sha256, NAMES, seed=seed, validation_share=0.1, test_share=0.1)


def test_single_images_meet_their_shares() -> None:
    """Where no image is like another, each class has exactly its tenth in validation and in test."""
    labels = np.repeat([0, 1, 2], [500, 130, 40])
    sides = sides_of(np.arange(670), labels, digests(670))
    for label, count in enumerate((500, 130, 40)):
        of_class = sides[labels == label]
        assert [int((of_class == side).sum()) for side in (VALIDATION, TEST)] == [count // 10, count // 10]


@settings(max_examples=150, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 2), st.booleans()), min_size=1, max_size=80),
    seed=st.integers(0, 99),
)
@example([(7, 2, False), (7, 2, False), (10, 2, True), (10, 0, False), (12, 0, False)], 0)
def test_groups_go_whole_and_shares_are_met_as_groups_allow(sizes: list[tuple[int, int, bool]], seed: int) -> None:
    """No group is on two sides, every class is on all three, and no side misses its share by more than a group."""
    sizes = [(1, label, False) for label in (0, 0, 0, 1, 1, 1, 2, 2, 2)] + sizes
    groups = np.repeat(np.arange(len(sizes)), [n for n, _, _ in sizes])
    labels = np.concatenate([np.full(n, label) for n, label, _ in sizes])
    for number, (n, label, mixed) in enumerate(sizes):
        if mixed and n > 1:  # a near-duplicate of another class
            labels[np.flatnonzero(groups == number)[0]] = (label + 1) % 3
    sides = sides_of(groups, labels, digests(len(labels)), seed)
    for number in range(len(sizes)):
        assert len(set(sides[groups == number].tolist())) == 1
    largest = max(n for n, _, _ in sizes)
    for label in range(3):
        of_class = sides[labels == label]
        for side in (VALIDATION, TEST):
            found = int((of_class == side).sum())
            assert 1 <= found <= max(1, round(len(of_class) * 0.1)) + largest
        assert (of_class == TRAIN).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_listing_does_not_matter(seed: int) -> None:
    """Shuffled, with its groups numbered otherwise, each image has the same side."""
    random = np.random.default_rng(seed)
    groups, labels, sha256 = np.arange(300) // 2, np.arange(300) // 2 % 3, digests(300)
    sides = sides_of(groups, labels, sha256)
    order, numbers = random.permutation(300), random.permutation(150)
    again = sides_of(numbers[groups][order], labels[order], [sha256[i] for i in order])
    assert np.array_equal(sides[order], again)


def test_another_seed_gives_other_sides() -> None:
    """The seed decides."""
    groups, labels = np.arange(300), np.arange(300) % 3
    assert not np.array_equal(sides_of(groups, labels, digests(300), 0), sides_of(groups, labels, digests(300), 1))


def test_images_stay_on_their_side_as_data_grow() -> None:
    """A fifth more images a month later: at least nine in ten of the test images are still in test, and of the images
    that were trained on hardly one is in test now."""
    old, new = 3000, 3600
    before = sides_of(np.arange(old), np.arange(old) % 3, digests(old))
    after = sides_of(np.arange(new), np.arange(new) % 3, digests(new))[:old]
    assert (after[before == TEST] == TEST).mean() >= 0.9
    assert (after[before == TRAIN] == TEST).mean() <= 0.005


def test_one_huge_group_is_for_training() -> None:
    """Similar images that are more than their share of a class do not fill its test."""
    groups = np.concatenate([np.zeros(60, np.int64), np.arange(1, 141)])
    labels = np.concatenate([np.zeros(60, np.int64), np.arange(140) % 3])
    sides = sides_of(groups, labels, digests(200))
    assert set(sides[:60].tolist()) == {TRAIN}


def test_a_class_with_two_different_images_is_refused() -> None:
    """What cannot be on all sides is an error that names the class and counts."""
    labels = np.array([0] * 10 + [1] * 10 + [2] * 6)
    groups = np.concatenate([np.arange(20), [20, 20, 20, 21, 21, 21]])
    with pytest.raises(SourceError, match=r"'porn' has 6 readable images, 2 of them different: at least 3"):
        sides_of(groups, labels, digests(26))
