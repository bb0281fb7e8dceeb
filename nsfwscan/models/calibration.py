"""Turn a model's `nsfw_score` into the probability that people would remove the object: `calibrated_score`.

A map never falls: of two scores the higher one gets the higher probability, or the same. Numpy alone applies it, so
that a commit needs no statistics.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from nsfwscan.config import Frozen

Method = Literal["temperature", "platt", "isotonic"]
Floats = NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
_LEAST = 1e-7
"""Scores closer to 0 or 1 than this count as this: float32 rounds them to 0 or 1, whose log-odds are infinite."""


def log_odds(scores: Floats) -> Floats:
    """Return log(p / (1 - p)): float64, of the same shape; NaN stays NaN."""
    held = np.clip(scores, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(held) - np.log1p(-held))


class ScoreMap(Frozen):
    """A function from scores to probabilities that never falls.

    `temperature` and `platt` are straight lines through the log-odds; a temperature (Guo et al. 2017) has no intercept
    and the slope 1/T, and divides the log-odds of `nsfw_score`: one for the logits of all classes could let two objects
    change places. `isotonic` goes through knots, in straight lines between them, and is flat beyond them.
    """

    method: Method
    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    intercept: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    scores: tuple[Share, ...] = ()
    """Of the knots, in rising order."""
    values: tuple[Share, ...] = ()
    """Probabilities at the knots."""

    @model_validator(mode="after")
    def _never_falls(self) -> Self:
        knots = (self.scores, self.values)
        if len(self.scores) != len(self.values) or any(a > b for one in knots for a, b in pairwise(one)):
            raise ValueError("the knots of a map rise")
        if (self.method == "isotonic") != bool(self.scores):
            raise ValueError("an isotonic map has knots, and no other has")
        return self

    def __call__(self, scores: Floats) -> Floats:
        """Return the probabilities of scores, float64 of the same shape; NaN stays NaN."""
        if self.scores:
            return np.where(np.isnan(scores), np.nan, np.interp(scores, self.scores, self.values))
        line = self.slope * log_odds(scores) + self.intercept
        return np.asarray(1 / (1 + np.exp(-line)))

    @property
    def steps(self) -> int:
        """Flat pieces of an isotonic map: within one, all scores get the same probability."""
        return sum(a == b for a, b in pairwise(self.values))

    def __str__(self) -> str:
        if self.method == "isotonic":
            return f"isotonic, {len(self.scores)} knots"
        if self.method == "temperature":
            return f"temperature {1 / self.slope:.3f}"
        return f"Platt, {self.slope:.3f} × log-odds {'−' if self.intercept < 0 else '+'} {abs(self.intercept):.3f}"
