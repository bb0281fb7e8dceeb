"""Operating points: thresholds between NSFW and safe for each aim, such as "at most 1 % of the safe images".

A point that is read off the test split's own curve says what these scores allow, but a threshold that was picked on the
images it is measured on flatters itself. So one is chosen on validation, too, and measured on test. Where a split lacks
NSFW or safe images, it is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from training.evaluate.intervals import wilson

Kind = Literal["fpr", "recall"]

AIMS: tuple[tuple[Kind, float], ...] = (("fpr", 0.01), ("recall", 0.99), ("recall", 0.95))
"""At most 1 % of the safe images called NSFW; at least 99 %, or 95 %, of the NSFW ones found."""


@dataclass(frozen=True)
class Flags:
    """Images with their `nsfw_score` (float64 [images]) and whether they are NSFW (bool [images])."""

    scores: NDArray[np.float64]
    nsfw: NDArray[np.bool_]


@dataclass(frozen=True)
class Threshold:
    """A threshold: images from `value` on are called NSFW, so many rightly (`found`) and `wrong`ly."""

    value: float
    found: int
    wrong: int


def operating_points(validation: Flags, test: Flags) -> list[dict[str, Any]]:
    """Return for each aim its `kind` (`fpr`, `recall`) and `target`; the point `read_off` the test split's curve; and
    the threshold `chosen` on validation with what it does `on_validation` and `on_test`."""
    return [
        {
            "kind": kind,
            "target": target,
            "read_off": _measured(test, _choose(test, kind, target)),
            "chosen": _chosen(validation, test, kind, target),
        }
        for kind, target in AIMS
    ]


def _chosen(validation: Flags, test: Flags, kind: Kind, target: float) -> dict[str, Any] | None:
    threshold = _choose(validation, kind, target)
    if threshold is None:
        return None
    return {
        "threshold": threshold,
        "on_validation": _measured(validation, threshold),
        "on_test": _measured(test, threshold),
    }


def _measured(flags: Flags, threshold: float | None) -> dict[str, Any] | None:
    """Measure `recall`, `false_positive_rate` and `precision` at a threshold, with Wilson's intervals."""
    if threshold is None:
        return None
    called = flags.scores >= threshold
    found, wrong = int((called & flags.nsfw).sum()), int((called & ~flags.nsfw).sum())
    return {
        "threshold": threshold,
        "recall": wilson(found, int(flags.nsfw.sum())).as_json(),
        "false_positive_rate": wilson(wrong, int((~flags.nsfw).sum())).as_json(),
        "precision": wilson(found, found + wrong).as_json(),
    }


def _choose(flags: Flags, kind: Kind, target: float) -> float | None:
    """Return the threshold that reaches the aim at the least cost; None where none does, or all are on one side."""
    nsfw, safe = int(flags.nsfw.sum()), int((~flags.nsfw).sum())
    if not nsfw or not safe:
        return None
    if kind == "fpr":
        costs = [(-t.found, -t.value) for t in thresholds(flags) if t.wrong <= target * safe]
    else:
        costs = [(t.wrong, -t.value) for t in thresholds(flags) if t.found >= target * nsfw]
    return -min(costs)[1] if costs else None


def thresholds(flags: Flags) -> list[Threshold]:
    """Return a threshold between each two neighbouring scores, and one above all where there is room; highest first."""
    order = np.argsort(-flags.scores, kind="stable")
    scores, nsfw = flags.scores[order], flags.nsfw[order]
    last = np.flatnonzero(np.diff(scores, append=-inf))  # of each run of equal scores
    found, wrong = np.cumsum(nsfw)[last], np.cumsum(~nsfw)[last]
    values = scores[last].tolist()
    below = [*values[1:], 0.0]
    made = [
        Threshold(simplest_between(low, high), int(f), int(w))
        for low, high, f, w in zip(below, values, found, wrong, strict=True)
    ]
    top = [Threshold(simplest_between(values[0], 1.0), 0, 0)] if values and values[0] < 1 else []
    return [*top, *made]


def simplest_between(low: float, high: float) -> float:
    """Return the number with the fewest decimals above `low` and not above `high`, which a policy can say exactly."""
    for digits in range(1, 10):
        number = round((low + high) / 2, digits)
        if low < number <= high:
            return number
    return high
