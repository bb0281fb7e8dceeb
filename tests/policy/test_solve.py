"""The bound of what a policy misses holds as often as it says, and the search for a threshold costs no confidence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from nsfwscan.errors import PolicyError
from nsfwscan.policy.rules import load_policy, parse_policy
from nsfwscan.policy.solve import (
    Drawn,
    highest_within,
    lowest_within,
    miss_bound,
    moved,
    named,
    needed,
    times_needed,
)
from tests.later import later

stats = later("scipy.stats")

MISS, CONFIDENCE = 0.1, 0.9


def population(random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores of 20,000 contents, and whether people would remove them: a few of them have low scores."""
    removed = random.random(20_000) < 0.1
    scores = np.where(removed, random.beta(3, 2, removed.size), random.beta(1, 6, removed.size))
    return scores, removed


def allowing(scores: NDArray[np.float64], removed: NDArray[np.bool_]) -> Callable[[float], NDArray[np.bool_]]:
    return lambda threshold: removed & (scores < threshold)


def broken(draw: Callable[[np.random.Generator, NDArray[np.float64]], NDArray[np.float64]], trials: int) -> int:
    """How often the threshold that is found misses more than it may, over draws from one population."""
    random = np.random.default_rng(5)
    scores, removed = population(random)
    wrong = 0
    for _ in range(trials):
        probability = draw(random, scores)
        taken = random.random(scores.size) < probability
        drawn = Drawn(1 / probability[taken], removed[taken])
        found = highest_within(drawn, allowing(scores[taken], removed[taken]), MISS, CONFIDENCE)
        if found is not None:
            wrong += (scores[removed] < found.threshold).mean() > MISS
    return wrong


def test_the_chosen_threshold_misses_more_than_it_may_no_more_often_than_it_says() -> None:
    wrong = broken(lambda random, scores: np.full(scores.size, 0.05), 400)
    assert 0 < wrong <= 40, f"{wrong} of 400, and a tenth is what it says"


def test_the_bound_holds_where_strata_were_drawn_with_other_probabilities() -> None:
    wrong = broken(lambda random, scores: np.where(scores > 0.3, 0.2, 0.02), 100)
    assert wrong <= 10, "one miss more, of the heaviest weight, errs on the safe side"


def test_fifty_nine_without_a_miss_are_needed_for_five_percent_and_299_for_one() -> None:
    assert (needed(0.05, 0.95), needed(0.01, 0.95)) == (59, 299)
    for count, holds in ((59, True), (58, False)):
        drawn = Drawn(np.full(count, 100.0), np.ones(count, np.bool_))
        assert (miss_bound(drawn, np.zeros(count, np.bool_), 0.95) <= 0.05) is holds


def test_the_bound_is_clopper_and_pearson_s() -> None:
    missed = np.zeros(200, np.bool_)
    missed[:7] = True
    expected = stats.binomtest(7, 200, alternative="less").proportion_ci(0.95, "exact").high
    assert miss_bound(Drawn(np.full(200, 1 / 0.3), np.ones(200, np.bool_)), missed, 0.95) == pytest.approx(expected)


def test_a_stratum_that_was_hardly_looked_at_counts() -> None:
    """No positive among 50 of 100,000 safe contents does not say that there is none."""
    probability = np.concatenate([np.full(100, 0.5), np.full(50, 0.0005)])
    drawn = Drawn(1 / probability, np.concatenate([np.ones(100, np.bool_), np.zeros(50, np.bool_)]))
    assert miss_bound(drawn, np.zeros(150, np.bool_), 0.95) > 0.9


POPULATIONS: list[list[tuple[int, int, float, float]]] = [
    [(50_000, 200, 0.002, 0), (5_000, 150, 0.02, 0.03), (1_000, 150, 0.1, 0.5)],
    [(100_000, 1_000, 0.001, 0.01), (5_000, 400, 0.1, 0.5), (1_000, 300, 0.05, 0.9)],
    [(10_000, 500, 0.05, 0.45)],
    [(1_000, 200, 0.3, 0.6), (5_000, 50, 0.1, 0.3)],
]


@pytest.mark.long
@pytest.mark.parametrize("strata", POPULATIONS)
def test_the_bound_covers(strata: list[tuple[int, int, float, float]]) -> None:
    """Of a thousand draws from a known population (its strata: objects, draws, shares that are missed and found), at least
    95 % of the bounds hold the truth. It may be more, and must be where hits are few or weigh differently: an exact
    bound promises its confidence for every population, and takes few values (Clopper and Pearson 1934)."""
    random, held = np.random.default_rng(0), 0
    counts = [[round(size * missed), round(size * found)] for size, _, missed, found in strata]
    true = sum(missed for missed, _ in counts) / sum(map(sum, counts))
    for _ in range(1000):
        weights, removed, missed = [], [], []
        for (size, draws, *_), (of_missed, of_found) in zip(strata, counts, strict=True):
            hits = random.multivariate_hypergeometric([of_missed, of_found, size - of_missed - of_found], draws)
            weights.append(np.full(draws, size / draws))
            missed.append(np.arange(draws) < hits[0])
            removed.append(np.arange(draws) < hits[0] + hits[1])
        drawn = Drawn(np.concatenate(weights), np.concatenate(removed))
        held += miss_bound(drawn, np.concatenate(missed), 0.95) >= true
    assert held >= 950, held


def test_how_many_more_draws_would_do() -> None:
    """Drawn again as often as it says, in the same way, the bound holds; it does not where a tenth less is drawn."""
    weight = np.repeat([40.0, 5.0], [100, 200])
    removed = np.repeat([False, True], [100, 200])
    drawn, none = Drawn(weight, removed), np.zeros(300, np.bool_)
    times = times_needed(drawn, none, 0.05, 0.95)
    assert times is not None and times > 2
    for more, holds in ((times, True), (0.9 * times, False)):
        assert (miss_bound(drawn, none, 0.95, more) <= 0.05) is holds
    assert times_needed(drawn, removed, 0.05, 0.95) is None
    assert times_needed(Drawn(np.ones(59), np.ones(59, np.bool_)), none[:59], 0.05, 0.95) == 1


def test_nothing_removed_says_nothing() -> None:
    assert miss_bound(Drawn(np.full(10, 10.0), np.zeros(10, np.bool_)), np.zeros(10, np.bool_), 0.95) == 1.0


def test_the_threshold_of_the_rule_that_asks_for_the_least_gets_a_name() -> None:
    policy, name = named(load_policy("open-nsfw"), None)
    assert name == "borderline" and policy.thresholds == {"borderline": 0.2}
    rule = next(rule for rule in policy.rules if rule.name == "borderline")
    assert rule.when == "nsfw_score >= $borderline"
    assert moved(policy, name, 0.35).identity != policy.identity
    assert named(load_policy("open-nsfw"), "explicit")[0].thresholds == {"explicit": 0.8}


def test_a_threshold_that_has_a_name_is_moved_as_it_is() -> None:
    rules = [{"name": "all", "when": "nsfw_score >= $low AND width > 10", "decision": "review"}]
    content = {
        "name": "p",
        "version": "1",
        "thresholds": {"low": 0.3},
        "rules": rules,
        "otherwise": {"decision": "allow"},
    }
    assert named(parse_policy(content), None) == (parse_policy(content), "low")
    rules[0]["when"] = "nsfw_score >= $low OR nsfw_score < $low / 2"
    with pytest.raises(PolicyError, match=r"\$low is more than a lower bound in rule 'all'"):
        named(parse_policy(content), "low")
    with pytest.raises(PolicyError, match="no threshold 'high' that could be moved: it has low"):
        named(parse_policy(content), "high")


def test_a_policy_without_a_number_is_refused() -> None:
    rules = [{"name": "all", "when": "label = 'porn'", "decision": "block"}]
    content = {"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}}
    with pytest.raises(PolicyError, match="no rule of it is `nsfw_score >= NUMBER`"):
        named(parse_policy(content), None)


def test_the_lowest_threshold_within_a_budget() -> None:
    assert lowest_within(lambda threshold: round(1000 * (1 - threshold)), 400) == pytest.approx(0.5995, abs=2e-6)
    assert lowest_within(lambda threshold: 500, 400) is None
    assert lowest_within(lambda threshold: 0, 400) == 1e-6


def test_mapie_finds_the_same_threshold() -> None:
    """Learn then Test with a fixed sequence, as MAPIE does it, ends at the same threshold for the same drawn contents, or
    where one miss more would be too many: it makes counts from rates, and rounds them up."""
    control = pytest.importorskip("mapie.risk_control")
    random = np.random.default_rng(6)
    scores, removed = population(random)
    for share, miss, confidence in ((0.02, 0.1, 0.9), (0.05, 0.1, 0.95), (0.1, 0.05, 0.9)):
        taken = random.random(scores.size) < share
        some, answers = scores[taken], removed[taken]
        drawn, missed_at = Drawn(np.full(some.size, 1 / share), answers), allowing(some, answers)

        def one_more(
            threshold: float, missed_at: Callable[[float], NDArray[np.bool_]] = missed_at, of: Drawn = drawn
        ) -> NDArray[np.bool_]:
            missed = missed_at(threshold)
            missed[np.flatnonzero(of.removed & ~missed)[:1]] = True
            return missed

        found = highest_within(drawn, missed_at, miss, confidence)
        strict = highest_within(drawn, one_more, miss, confidence)
        oracle = control.BinaryClassificationController(
            lambda rows: np.column_stack([1 - rows[:, 0], rows[:, 0]]),
            risk="recall",
            target_level=1 - miss,
            confidence_level=confidence,
            list_predict_params=np.arange(0.01, 1, 0.01),
            fwer_method="fixed_sequence",
        )
        oracle.calibrate(some[:, None], answers.astype(int))
        assert found is not None and strict is not None
        assert strict.threshold - 0.01 <= max(oracle.valid_predict_params) <= found.threshold, "it tries hundredths"
