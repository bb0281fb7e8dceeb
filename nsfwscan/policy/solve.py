"""Find a threshold of which can be said, with confidence, that it misses few of what people would remove.

A *miss* is an object that a person would remove and that the policy allows. Only contents that were drawn with a known
probability (verdicts of an audit) tell how many there are; what queues showed to people does not.

- All drawn with the same probability: the removed ones are a plain sample, and the misses among them binomial. The
  bound is exact (Clopper and Pearson, 1934).
- Drawn with several probabilities: each makes a stratum. The misses of each have an exact upper bound, all found ones
  together exact lower bounds, and all of them hold at once (Bonferroni), so that the bound errs on the safe side.

Thresholds are tried from the lowest up, and the first that fails ends the search (fixed sequence testing), so that
trying many of them costs no confidence (Angelopoulos et al., 2021, "Learn then Test").
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

STEPS = tuple(round(step / 100, 2) for step in range(1, 100))
"""Thresholds that are tried."""
_BOUND = re.compile(r"^\s*(nsfw_score|calibrated_score)\s*>=?\s*(\d*\.?\d+)\s*$")
_LOOKED_AT = (Decision.REVIEW, Decision.BLOCK, Decision.ESCALATE)


@dataclass(frozen=True)
class Drawn:
    """Contents that were drawn with a known probability, and looked at by a person.

    Attributes:
        probability: float64 [contents]: that each was drawn.
        removed: bool [contents]: whether the person removed it.
    """

    probability: NDArray[np.float64]
    removed: NDArray[np.bool_]

    @property
    def positives(self) -> int:
        """Contents that were removed."""
        return int(self.removed.sum())


@dataclass(frozen=True)
class Solution:
    """A threshold, and what can be said of it.

    Attributes:
        missed: removed contents that it allows, of those drawn.
        bound: at most this share of what people would remove is missed, with the confidence that was asked for.
        holds: whether the bound is within what was asked for.
    """

    threshold: float
    missed: int
    bound: float
    holds: bool


def needed(miss: float, confidence: float) -> int:
    """Return how many removed contents, none of them missed, it takes: 59 for 5 % at 95 %, 299 for 1 %."""
    return math.ceil(math.log(1 - confidence) / math.log(1 - miss))


def miss_bound(drawn: Drawn, missed: NDArray[np.bool_], confidence: float) -> float:
    """Return an upper bound of the share that is missed of all contents that people would remove.

    Args:
        missed: bool [contents]: removed, and allowed by the policy.
    """
    strata = np.unique(np.round(drawn.probability, 12), return_inverse=True)[1]
    if not strata.any():
        return _upper(int(missed.sum()), drawn.positives, 1 - confidence)
    share = (1 - confidence) / (2 * (strata.max() + 1))
    misses = found = 0.0
    for stratum in range(strata.max() + 1):
        within = strata == stratum
        draws, size = int(within.sum()), float((1 / drawn.probability[within]).sum())
        misses += size * _upper(int((missed & within).sum()), draws, share)
        found += size * _lower(int((drawn.removed & ~missed & within).sum()), draws, share)
    return misses / (misses + found) if misses + found else 1.0


def _upper(hits: int, draws: int, error: float) -> float:
    from scipy.special import betaincinv  # dear to import, and only this command needs it

    return 1.0 if hits >= draws else float(betaincinv(hits + 1, draws - hits, 1 - error))


def _lower(hits: int, draws: int, error: float) -> float:
    from scipy.special import betaincinv

    return 0.0 if not hits else float(betaincinv(hits, draws - hits + 1, error))


def highest_within(
    drawn: Drawn, missed_at: Callable[[float], NDArray[np.bool_]], miss: float, confidence: float
) -> Solution | None:
    """Return the highest threshold of which the bound holds; None where it does not even hold of the lowest.

    Args:
        missed_at: bool [contents] for a threshold: removed, and allowed by the policy with it.
        miss: the largest share that may be missed.
    """
    low, high = 0, len(STEPS)
    while low < high:  # what is missed grows with the threshold, so this finds where a search from the lowest up ends
        middle = (low + high) // 2
        holds = at(STEPS[middle], drawn, missed_at, miss, confidence).holds
        low, high = (middle + 1, high) if holds else (low, middle)
    return at(STEPS[low - 1], drawn, missed_at, miss, confidence) if low else None


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
    low, high = 0, len(STEPS)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if load_at(STEPS[middle]) <= most else (middle + 1, high)
    return STEPS[low] if low < len(STEPS) else None
