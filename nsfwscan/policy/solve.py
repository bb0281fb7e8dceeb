"""Find a threshold of which can be said, with confidence, that it misses few of what people would remove.

A *miss* is an object that a person would remove and that the policy allows. Only objects that were drawn with a known
probability tell how many there are; what queues showed to people does not.

- All stand for as many objects: the removed ones are a plain sample, and the misses among them binomial. The bound is
  exact (Clopper and Pearson, 1934).
- Some stand for more than others: both sums, of what is missed and of what is found, are taken for gamma variables
  (Fay and Feuer 1997, Statistics in Medicine 16: 791; their ratio: Fay 1999, Communications in Statistics 28: 2141).
  One miss more is counted, as heavy as the heaviest object of the sample, so that the bound errs on the safe side.
  Where all weigh the same, this is Clopper and Pearson's bound again.

Thresholds are tried from the lowest up, and the first that fails ends the search (fixed sequence testing), so that
trying many of them costs no confidence (Angelopoulos et al., 2021, "Learn then Test"). That holds however fine the
steps are: who chooses a threshold that misses too much has passed the lowest of these, at which the bound is wrong.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nsfwscan.errors import PolicyError
from nsfwscan.policy.rules import Policy, Rule, parse_policy
from nsfwscan.schema import Decision

STEPS = 1_000_000
"""Thresholds are multiples of one over this. Scores crowd near 0 and 1, where hundredths part too few of them."""
LOWEST = 1 / STEPS
_MOST_TIMES, _EXACT = 1000.0, 0.01
_BOUND = re.compile(r"^\s*(nsfw_score|calibrated_score)\s*>=?\s*(\d*\.?\d+)\s*$")
_LOOKED_AT = (Decision.REVIEW, Decision.BLOCK, Decision.ESCALATE)


@dataclass(frozen=True)
class Drawn:
    """Objects that were drawn with a known probability, and that a person decided.

    Attributes:
        weight: float64 [objects]: how many objects each stands for.
        removed: bool [objects]: whether the person removed it.
    """

    weight: NDArray[np.float64]
    removed: NDArray[np.bool_]

    @property
    def positives(self) -> int:
        """Objects that were removed."""
        return int(self.removed.sum())


@dataclass(frozen=True)
class Solution:
    """A threshold, and what can be said of it.

    Attributes:
        missed: removed objects that it allows, of those drawn.
        bound: at most this share of what people would remove is missed, with the confidence that was asked for.
        holds: whether the bound is within what was asked for.
    """

    threshold: float
    missed: int
    bound: float
    holds: bool


def needed(miss: float, confidence: float) -> int:
    """Return how many removed objects, none of them missed, it takes: 59 for 5 % at 95 %, 299 for 1 %."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - miss))


def miss_bound(drawn: Drawn, missed: NDArray[np.bool_], confidence: float, times: float = 1.0) -> float:
    """Return an upper bound of the share that is missed of all objects that people would remove.

    Args:
        missed: bool [objects]: removed, and allowed by the policy.
        times: as if so many samples like this one had been drawn, with the same shares.
    """
    from scipy.special import betaincinv  # dear to import, and only this command needs it

    weight = drawn.weight / times
    misses, misses_squared = _sums(weight, missed, times)
    found, found_squared = _sums(weight, drawn.removed & ~missed, times)
    if not found:
        return 1.0
    most = float(weight.max())
    size, each = misses + most, misses_squared + most**2
    quantile = float(betaincinv(size**2 / each, found**2 / found_squared, confidence))
    misses, found = quantile * each / size, (1 - quantile) * found_squared / found
    return misses / (misses + found)


def _sums(weight: NDArray[np.float64], of: NDArray[np.bool_], times: float) -> tuple[float, float]:
    """Return the sum of the weights of some objects, and that of their squares."""
    return times * float(weight[of].sum()), times * float((weight[of] ** 2).sum())


def times_needed(drawn: Drawn, missed: NDArray[np.bool_], miss: float, confidence: float) -> float | None:
    """Return how many times as many objects must be drawn, in the same way and with the same shares, until the bound
    holds; None where so many are missed that no number is enough."""
    low, high = 1.0, 1.0
    while miss_bound(drawn, missed, confidence, high) > miss:
        if high > _MOST_TIMES:
            return None
        low, high = high, 2 * high
    while high - low > _EXACT * high:
        middle = (low + high) / 2
        low, high = (low, middle) if miss_bound(drawn, missed, confidence, middle) <= miss else (middle, high)
    return high


def highest_within(
    drawn: Drawn, missed_at: Callable[[float], NDArray[np.bool_]], miss: float, confidence: float
) -> Solution | None:
    """Return the highest threshold of which the bound holds; None where it does not even hold of the lowest.

    Args:
        missed_at: bool [objects] for a threshold: removed, and allowed by the policy with it.
        miss: the largest share that may be missed.
    """
    low, high = 1, STEPS
    while low < high:  # what is missed grows with the threshold, so this finds where a search from the lowest up ends
        middle = (low + high) // 2
        holds = at(middle / STEPS, drawn, missed_at, miss, confidence).holds
        low, high = (middle + 1, high) if holds else (low, middle)
    return at((low - 1) / STEPS, drawn, missed_at, miss, confidence) if low > 1 else None


def at(
    threshold: float, drawn: Drawn, missed_at: Callable[[float], NDArray[np.bool_]], miss: float, confidence: float
) -> Solution:
    """Return what can be said of one threshold. Args are those of `highest_within`."""
    missed = missed_at(threshold)
    bound = miss_bound(drawn, missed, confidence)
    return Solution(threshold, int(missed.sum()), bound, bound <= miss)


def named(policy: Policy, wanted: str | None) -> tuple[Policy, str]:
    """Return a policy with a named threshold that can be moved, and its name.

    Args:
        wanted: a named threshold, or a rule `nsfw_score >= NUMBER` (or `calibrated_score`), whose number then gets the
            rule's name; unset: the lowest threshold, or the rule with the lowest number where none is named.

    Raises:
        PolicyError: there is none, or no such one.
    """
    numbers = {rule.name: float(found[2]) for rule in policy.rules if (found := _number_of(rule))}
    choices = {**numbers, **policy.thresholds}
    if wanted is None and choices:
        wanted = min(policy.thresholds or choices, key=lambda name: choices[name])
    if wanted not in choices:
        there = f"it has {', '.join(choices)}" if choices else "no rule of it is `nsfw_score >= NUMBER`"
        raise PolicyError(f"policy {policy.name} has no threshold {wanted!r} that could be moved: {there}")
    if wanted in policy.thresholds:
        for rule in policy.rules:
            if len(re.findall(rf"\${wanted}\b", rule.when)) > len(re.findall(rf">=?\s*\${wanted}\b", rule.when)):
                raise PolicyError(f"${wanted} is more than a lower bound in rule {rule.name!r}, so it cannot be moved")
        return policy, wanted
    name = wanted
    key = re.sub(r"\W", "_", name)
    rules = [
        rule.model_dump(mode="json") | ({"when": f"{found[1]} >= ${key}"} if found and rule.name == name else {})
        for rule, found in ((rule, _number_of(rule)) for rule in policy.rules)
    ]
    content = policy.model_dump(mode="json") | {"rules": rules}
    return parse_policy({**content, "thresholds": {**policy.thresholds, key: numbers[name]}}), key


def _number_of(rule: Rule) -> re.Match[str] | None:
    return _BOUND.match(rule.when) if rule.decision in _LOOKED_AT else None


def moved(policy: Policy, name: str, value: float) -> Policy:
    """Return the policy with another value of a threshold."""
    return Policy.model_validate({**policy.model_dump(), "thresholds": {**policy.thresholds, name: value}})


def lowest_within(load_at: Callable[[float], int], most: float) -> float | None:
    """Return the lowest threshold that sends no more than so many objects to people; None where none does.

    Args:
        load_at: objects for people at a threshold; falls as the threshold rises.
    """
    low, high = 1, STEPS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if load_at(middle / STEPS) <= most else (middle + 1, high)
    return low / STEPS if low < STEPS else None
