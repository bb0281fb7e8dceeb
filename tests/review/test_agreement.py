"""Agreement is Krippendorff's and Cohen's, as published and as statsmodels computes it, with intervals that hold."""

from __future__ import annotations

import numpy as np
import pytest

from nsfwscan.review.agreement import alpha, kappa

MEG, OWEN = "0100000010", "1110010000"
BEN, GERRY = "aabbdcccedda", "babbbccceddd"
FOUR = [
    "123321412...",
    "12332241 25.3".replace(" ", ""),
    ".33323422 51.".replace(" ", ""),
    "123324412 51.".replace(" ", ""),
]


def by_item(*people: str) -> list[list[str | None]]:
    """Answers by item; a dot is none."""
    return [[None if word == "." else word for word in item] for item in zip(*people, strict=True)]


def test_alpha_is_as_published() -> None:
    """The worked examples of Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), sections A, B and C."""
    examples = ((by_item(MEG, OWEN), 0.095), (by_item(BEN, GERRY), 0.692), (by_item(*FOUR), 0.743))
    for answers, published in examples:
        found = alpha(answers)
        assert found.value == pytest.approx(published, abs=5e-4)
        assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_kappa_is_statsmodels_() -> None:
    oracle = pytest.importorskip("statsmodels.stats.inter_rater")
    random = np.random.default_rng(0)
    for words in (2, 3, 4):
        one = random.integers(words, size=60)
        other = np.where(random.random(60) < 0.6, one, random.integers(words, size=60))
        table = np.zeros((words, words))
        np.add.at(table, (one, other), 1)
        expected = oracle.cohens_kappa(table)
        found = kappa([str(word) for word in one], [str(word) for word in other])
        assert found.value == pytest.approx(expected.kappa) and found.items == 60
        assert found.low == pytest.approx(expected.kappa_low, abs=0.06)
        assert found.high == pytest.approx(expected.kappa_upp, abs=0.06)


def test_what_nobody_can_know_is_not_known() -> None:
    """All the same word, one answer an item, nothing at all; answers that a person did not give do not count."""
    same = alpha(by_item("aaaa", "aaaa"))
    assert (same.value, same.items) == (None, 4)
    assert alpha(by_item("ab..", "..ba")).items == 0 and alpha([]).value is None
    assert kappa(["a", None, "b"], ["a", "b", "b"]).items == 2
    assert kappa([None], ["a"]).value is None


@pytest.mark.long
def test_intervals_cover() -> None:
    """Of a thousand normings of 30 items, 93 to 97 % of the intervals hold the alpha, and the kappa, of a very long one."""
    random, words = np.random.default_rng(2), np.array(["approve", "remove", "escalate"])

    def answers(items: int) -> np.ndarray:
        """Three people on items that are more or less clear."""
        chances = random.dirichlet([0.5, 0.5, 0.1], items).cumsum(axis=1)
        return (random.random((items, 3, 1)) > chances[:, None, :]).sum(axis=2).clip(0, 2)

    many = answers(200_000)
    counts = np.stack([(many == word).sum(axis=1) for word in range(3)], axis=1)
    unlike, total, of_word = (9 - (counts**2).sum(axis=1)).sum() / 2, many.size, counts.sum(axis=0)
    true_alpha = 1 - (total - 1) * unlike / (total**2 - (of_word**2).sum())
    shares = [np.bincount(many[:, person], minlength=3) / len(many) for person in (0, 1)]
    chance = float(shares[0] @ shares[1])
    true_kappa = ((many[:, 0] == many[:, 1]).mean() - chance) / (1 - chance)
    held = {"alpha": 0, "kappa": 0}
    for _ in range(1000):
        said = words[answers(30)].tolist()
        of_all, of_two = alpha(said), kappa([one[0] for one in said], [one[1] for one in said])
        assert of_all.low is not None and of_all.high is not None and of_two.low is not None and of_two.high is not None
        held["alpha"] += of_all.low <= true_alpha <= of_all.high
        held["kappa"] += of_two.low <= true_kappa <= of_two.high
    assert all(930 <= count <= 970 for count in held.values()), held
