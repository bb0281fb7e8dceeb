"""Assign each image to a side: training, validation or test.

Groups stay whole, so that nothing in test was seen in training; within that, each class has its share on each side as
well as groups allow. A class with fewer than three groups cannot be on all sides: `SourceError`.

The side depends on the content of the group and on the seed, not on names or on the order of the listing. Groups are
taken in the order of a hash, the first for test, the next for validation: as data grow, nearly all images stay on their
side, so that a model that goes on from last month's was not trained on this month's test images.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsfwscan.errors import SourceError
from nsfwscan.schema import Category

SIDES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)


@dataclass(frozen=True)
class _Group:
    """Images that stay together: their rows, how many of each class [classes], and their place in the order."""

    rows: NDArray[np.int64]
    classes: NDArray[np.int64]
    order: str


def assign(
    groups: NDArray[np.int64],
    labels: NDArray[np.int64],
    sha256: Sequence[str],
    names: Sequence[Category],
    *,
    seed: int,
    validation_share: float,
    test_share: float,
) -> NDArray[np.int8]:
    """Return the side of each image, an index into `SIDES`. Raises SourceError where a class has too few groups.

    Args:
        groups: for each image, the number of its group.
        labels: for each image, an index into `names`.
        sha256: for each image, of its content.
    """
    ordered = sorted(_groups(groups, labels, sha256, len(names), seed), key=lambda group: group.order)
    _check_enough(ordered, names)
    totals = np.bincount(labels, minlength=len(names))
    sides = np.zeros(len(labels), np.int8)
    left = ordered
    for side, share in ((TEST, test_share), (VALIDATION, validation_share)):
        wanted = np.maximum(1, np.rint(totals * share))
        taken, left = _take(left, wanted, still_needed=2 if side == TEST else 1)
        for group in taken:
            sides[group.rows] = side
    _check_sides(sides, labels, names)
    return sides


def _groups(
    groups: NDArray[np.int64], labels: NDArray[np.int64], sha256: Sequence[str], classes: int, seed: int
) -> list[_Group]:
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    made: list[_Group] = []
    for rows in np.split(order, starts[1:]):
        content = min(sha256[row] for row in rows)
        place = hashlib.sha256(f"{seed}:{content}".encode()).hexdigest()
        made.append(_Group(rows, np.bincount(labels[rows], minlength=classes), place))
    return made


def _check_enough(groups: list[_Group], names: Sequence[Category]) -> None:
    for index, name in enumerate(names):
        having = [int(group.classes[index]) for group in groups if group.classes[index]]
        if len(having) < len(SIDES):
            raise SourceError(
                f"the class {str(name)!r} has {sum(having):,} readable images, {len(having)} of them different: at "
                "least 3 are needed, one each for training, validation and test"
            )


def _check_sides(sides: NDArray[np.int8], labels: NDArray[np.int64], names: Sequence[Category]) -> None:
    for index, name in enumerate(names):
        lacking = [SIDES[side] for side in (TRAIN, VALIDATION, TEST) if not np.any(sides[labels == index] == side)]
        if lacking:
            raise SourceError(
                f"no image of the class {str(name)!r} is left for {' and '.join(lacking)}: its images are "
                "similar images of each other, or of other classes' images, which must stay on one side; add "
                "different ones"
            )


def _take(groups: list[_Group], wanted: NDArray[np.float64], still_needed: int) -> tuple[list[_Group], list[_Group]]:
    """Return the groups, in their order, that bring each class nearer to its number, and the groups that are left: of
    each class at least as many as are `still_needed` for the other sides.

    A class that would get none, since all its groups are too large, gets the group that spoils the numbers least.
    """
    count = np.zeros(len(wanted))
    remaining = np.sum([group.classes > 0 for group in groups], axis=0)
    taken: set[int] = set()

    def take(index: int) -> None:
        nonlocal count, remaining
        taken.add(index)
        count = count + groups[index].classes
        remaining = remaining - (groups[index].classes > 0)

    def may(group: _Group) -> bool:
        return bool(np.all(remaining[group.classes > 0] > still_needed))

    for index, group in enumerate(groups):
        better = np.abs(count + group.classes - wanted).sum() < np.abs(count - wanted).sum()
        if better and may(group):
            take(index)
    for name in range(len(wanted)):
        if count[name]:  # perhaps by a group that another class needed
            continue
        candidates = [i for i, group in enumerate(groups) if group.classes[name] and i not in taken and may(group)]
        if candidates:
            take(min(candidates, key=lambda i: (np.abs(count + groups[i].classes - wanted).sum(), groups[i].order)))
    return [group for i, group in enumerate(groups) if i in taken], [
        group for i, group in enumerate(groups) if i not in taken
    ]
