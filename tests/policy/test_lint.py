"""A policy that binds may still be wrong: rules that never decide, names that nothing uses."""

from __future__ import annotations

from typing import Any

import pytest

from nsfwscan.policy.lint import Overlaps, lint
from nsfwscan.policy.rules import Policy, load_policy, parse_policy, preset_names
from tests.runs.rows import report, staged_row

HIGH = {"name": "high", "when": "nsfw_score >= 0.8", "decision": "block", "queue": "adult"}
LOW = {"name": "low", "when": "nsfw_score >= 0.2", "decision": "review", "queue": "adult"}
SPOT = {"name": "spot", "when": "true", "sample": 0.5, "decision": "review", "queue": "quality"}


def policy(*rules: dict[str, Any], **changes: Any) -> Policy:
    return parse_policy(
        {"name": "p", "version": "1", "rules": list(rules), "otherwise": {"decision": "allow"}, **changes}
    )


@pytest.mark.parametrize("name", preset_names())
def test_the_presets_are_sound(name: str) -> None:
    """Nothing is wrong with what comes with the package."""
    assert list(lint(load_policy(name))) == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("true", "nsfw_score > 0.5"),
        ("1 = 1 -- all", "label = 'porn'"),
        ("nsfw_score >= 0.2", "nsfw_score >= 0.8"),
        ("nsfw_score >= 0.2", "NSFW_SCORE > 0.2"),
        ("nsfw_score > 0.2", "nsfw_score >= 0.3"),
        ("width < 100", "width <= 64"),
        ("label = 'porn' and frames > 1", "label='porn' AND (frames>1) -- moving"),
    ],
)
def test_a_rule_behind_one_that_takes_all_of_its_rows_is_found(first: str, second: str) -> None:
    """What is always true, the same condition written otherwise, a lower threshold on the same column."""
    found = list(lint(policy({**LOW, "when": first}, {**HIGH, "when": second})))
    assert found == ["rule 'high' is never reached: 'low' before it takes every row that it matches"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("nsfw_score >= 0.8", "nsfw_score >= 0.2"),
        ("nsfw_score > 0.2", "nsfw_score >= 0.2"),
        ("nsfw_score >= 0.2", "nsfw_score <= 0.8"),
        ("score_porn >= 0.2", "nsfw_score >= 0.8"),
        ("label = 'porn'", "label = 'sexy'"),
        ("nsfw_score >= 0.2 and frames > 1", "nsfw_score >= 0.8"),
    ],
)
def test_rules_that_can_decide_are_left_alone(first: str, second: str) -> None:
    """Only what is certain is said."""
    assert list(lint(policy({**LOW, "when": first}, {**HIGH, "when": second}))) == []


def test_a_sample_hides_nothing_behind_it() -> None:
    """A rule with a sample leaves rows to those after it; one behind a rule that takes all gets none."""
    assert list(lint(policy(SPOT, LOW))) == []
    assert list(lint(policy({**LOW, "when": "true"}, SPOT))) == [
        "rule 'spot' is never reached: 'low' before it takes every row that it matches"
    ]


def test_a_rule_that_is_never_true_is_found() -> None:
    """A condition over no column that is false, or null."""
    assert list(lint(policy({**LOW, "when": "1 > 2"}, {**HIGH, "when": "null::boolean"}))) == [
        "rule 'low' is never true",
        "rule 'high' is never true",
    ]


def test_what_an_override_makes_unreachable_is_said_with_it() -> None:
    """Thresholds may be in order, and out of it for one source."""
    rules = [{**HIGH, "when": "nsfw_score >= $high"}, {**LOW, "when": "nsfw_score >= $low"}]
    overrides = [{"source": "s3://kids/", "thresholds": {"high": 0.1}}, {"source": "*", "thresholds": {"high": 0.7}}]
    assert list(lint(policy(*rules, thresholds={"high": 0.8, "low": 0.2}, overrides=overrides))) == [
        "rule 'low' is never reached: 'high' before it takes every row that it matches, for source s3://kids/"
    ]


def test_names_that_nothing_uses_are_found() -> None:
    """Thresholds, regions and queues."""
    unused = policy(LOW, thresholds={"high": 0.8}, regions={"eu": ["s3://eu/"]}, queues=["adult", "legal"])
    assert list(lint(unused)) == [
        "threshold 'high' is named by no rule",
        "region 'eu' is named by no override",
        "queue 'legal': no rule sends anything to it",
    ]


# On real rows


def test_overlaps_are_counted() -> None:
    """What each rule matches and decides, which two match the same row, what is left, where overrides apply."""
    found = Overlaps(
        policy(
            {**HIGH, "when": "nsfw_score >= $high"},
            LOW,
            {"name": "moving", "when": "frames > 1", "decision": "review"},
            thresholds={"high": 0.8},
            overrides=[{"source": "/kids/", "thresholds": {"high": 0.5}}],
        )
    )
    rows = [
        staged_row("/a", nsfw_score=0.9, frames=2),
        staged_row("/b", nsfw_score=0.6),
        staged_row("/kids/c", nsfw_score=0.6),
        staged_row("/d", nsfw_score=0.1),
        staged_row("/e", status="denied"),
    ]
    for row in rows:
        found.add(report([row]))
    assert found.rows == 5
    assert found.both.tolist() == [[2, 2, 1], [2, 3, 1], [1, 1, 1]]
    assert +found.decided == {"high": 2, "low": 1, "otherwise": 1, "no-score": 1}
    assert found.applied.tolist() == [1]
    assert list(found.findings()) == ["rule 'moving' matches rows (1) and decides none: they go to 'high' and 'low'"]


def test_a_rule_whose_rows_all_go_to_the_guard_is_found() -> None:
    """It would allow what has no score."""
    found = Overlaps(policy({"name": "broken", "when": "status <> 'ok'", "decision": "allow"}))
    found.add(report([staged_row("/a", status="denied"), staged_row("/b")]))
    [said] = found.findings()
    assert (
        said == "rule 'broken' matches rows (1) and decides none: they go to the guard, since none of them has a score"
    )


def test_a_rule_that_matches_nothing_on_a_run_is_found() -> None:
    """Unless it takes a sample, which may well miss all of a few rows."""
    found = Overlaps(policy(HIGH, {"name": "sexy", "when": "label = 'sexy'", "decision": "review", "queue": "q"}, SPOT))
    found.add(report([staged_row("/a", nsfw_score=0.9), staged_row("/b")]))
    assert list(found.findings())[:1] == ["rule 'sexy' matches no row of 2"]
    assert not any("'spot' matches no row" in said for said in found.findings())
