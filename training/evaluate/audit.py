"""False-positive audit: every neutral test image that a checkpoint calls NSFW, the most confident first.

The scan has kept a copy of each. An image that does not decode has no picture on the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nsfwscan.errors import StoreError
from nsfwscan.schema import NSFW_CATEGORIES, Category
from training.evaluate.evaluation import EvaluatedModel, titles

MOST_PICTURES = 60
"""On the page, over all checkpoints."""


@dataclass(frozen=True)
class FalsePositive:
    """A neutral image that was called NSFW.

    Attributes:
        model: title of the checkpoint.
        rank: 1 for the most confident of this checkpoint.
        number: of the image in the test split.
        uri: of the original.
        row: of the scan's report.
        image: URI of the copy that the scan saved; None without one.
    """

    model: str
    rank: int
    number: int
    uri: str
    row: dict[str, Any]
    image: str | None


def audit(evaluated: Sequence[EvaluatedModel]) -> list[FalsePositive]:
    """Return all false positives, checkpoint by checkpoint. Raises StoreError where the scan's subset lacks one."""
    return [found for one, title in zip(evaluated, titles(evaluated), strict=True) for found in _of(one, title)]


def shown(found: Sequence[FalsePositive]) -> list[FalsePositive]:
    """Return those that the page shows: as many of each checkpoint that has some."""
    most = MOST_PICTURES // max(1, len({one.model for one in found}))
    return [one for one in found if one.rank <= most]


def _of(one: EvaluatedModel, title: str) -> list[FalsePositive]:
    predictions = one.predictions["test"]
    wrong = [
        number
        for number, (row, truth) in enumerate(zip(predictions.rows, predictions.truth, strict=True))
        if truth == Category.NEUTRAL and row["label"] in NSFW_CATEGORIES
    ]
    wrong.sort(key=lambda number: (-predictions.rows[number]["confidence"], predictions.sha256[number]))
    return [
        FalsePositive(
            title,
            rank,
            number,
            predictions.uris[number],
            predictions.rows[number],
            _copy(one, predictions.uris[number]),
        )
        for rank, number in enumerate(wrong, start=1)
    ]


def _copy(one: EvaluatedModel, uri: str) -> str | None:
    """Return where the scan's subset has the copy; it must have the image."""
    if uri not in one.copies:
        raise StoreError(
            f"the false positives in {one.result.uri} lack {uri}, which its report has; delete that folder, then run "
            "the same command again"
        )
    return one.copies[uri]
