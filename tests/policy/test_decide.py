"""The first rule that is true decides, and a row without a score is never allowed, whatever the policy says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from nsfwscan.policy.rules import GUARD
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.schema import DECISION_COLUMNS, Decision
from tests.policy.deciding import BLOCK, GUARDED, REVIEW, decided, decider, scored, table

# Which rule


def test_the_first_match_wins() -> None:
    """A row that two rules match is the first one's; where none does, `otherwise` stands."""
    assert decided(decider(BLOCK, REVIEW), scored(0.95, 0.5, 0.1)) == [
        ("block", "high", "policy"),
        ("review", "low", "policy"),
        ("allow", "otherwise", "policy"),
    ]
    assert decided(decider(REVIEW, BLOCK), scored(0.95)) == [("review", "low", "policy")]


def test_the_outcome_is_the_rules_own() -> None:
    """All decision columns, in the report's types and order, with the policy's name and digest."""
    decide = decider(BLOCK)
    found = decide(scored(0.95, 0.1))
    assert found.schema == pa.schema(DECISION_COLUMNS)
    identity = decide.policy.identity
    assert found.to_pylist() == [
        {
            "decision": "block",
            "rule": "high",
            "queue": "adult",
            "skill": None,
            "shield": "blur",
            "severity": 3,
            "decided_by": "policy",
            "policy": identity,
        },
        {
            "decision": "allow",
            "rule": "otherwise",
            "queue": None,
            "skill": None,
            "shield": "none",
            "severity": 0,
            "decided_by": "policy",
            "policy": identity,
        },
    ]


def test_thresholds_are_inclusive_as_written() -> None:
    """A score of exactly the threshold, as a model's float32, is `>=` it; its neighbours are where they should be."""
    edge = np.float32(0.9)
    below, above = np.nextafter(edge, np.float32(0)), np.nextafter(edge, np.float32(1))
    found = decided(decider(BLOCK), scored(float(below), float(edge), float(above)))
    assert [decision for decision, *_ in found] == ["allow", "block", "block"]


def test_rules_may_ask_for_any_column() -> None:
    """Status, label, size in pixels, the place of the object."""
    decide = decider(
        {"name": "status", "when": "status = 'decode_error'", "decision": "undetermined"},
        {"name": "big", "when": "width * height > 100 and label = 'sexy'", "decision": "review"},
        {"name": "place", "when": "uri like '2%'", "decision": "escalate"},
    )
    rows = table(
        {"status": "decode_error"},
        {"width": 20, "height": 20, "label": "sexy", "nsfw_score": 0.0},
        {"width": 2, "height": 2, "label": "sexy", "nsfw_score": 0.0},
        {"nsfw_score": 0.0},
    )
    assert [rule for _, rule, _ in decided(decide, rows)] == ["status", "big", "place", "otherwise"]


def _signals(values: dict[str, float]) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def test_rules_may_ask_for_signals() -> None:
    """By name; what a row does not have is not true, and a row with signals and without a score is still guarded."""
    decide = decider(
        {"name": "made", "when": "signals['c2pa.trainedAlgorithmicMedia'] = 1", "decision": "review"},
        {"name": "twice", "when": "signals['jpeg.double_quantisation'] > 0.25", "decision": "allow"},
        otherwise="block",
    )
    rows = table(
        {
            "nsfw_score": 0.1,
            "signals": _signals({"c2pa.trainedAlgorithmicMedia": 1.0, "jpeg.double_quantisation": 0.9}),
        },
        {"nsfw_score": 0.1, "signals": _signals({"jpeg.double_quantisation": 0.9})},
        {"nsfw_score": 0.1, "signals": _signals({"jpeg.double_quantisation": 0.1})},
        {"nsfw_score": 0.1, "signals": None},
        {"signals": _signals({"jpeg.double_quantisation": 0.9})},
    )
    assert [rule for _, rule, _ in decided(decide, rows)] == ["made", "twice", "otherwise", "otherwise", GUARD]


def test_other_columns_and_their_order_do_not_matter() -> None:
    """A table may have more than a policy may ask for, in any order."""
    rows = scored(0.95, 0.1)
    turned = rows.select(rows.column_names[::-1]).append_column("extra", pa.array([1, 2]))
    assert decider(BLOCK)(turned) == decider(BLOCK)(rows)


# No score


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_score_matches_no_threshold(score: float | None) -> None:
    """Null and NaN are neither above nor below: `>=`, `<`, `=` and `<>` are all not true. Infinity is no score either."""
    for comparison in (">=", ">", "<", "<=", "=", "<>"):
        decide = decider({"name": "r", "when": f"nsfw_score {comparison} 0.5", "decision": "block"})
        assert decided(decide, scored(score)) == [GUARDED], comparison


@pytest.mark.parametrize("score", [None, math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("otherwise", list(Decision))
def test_a_row_without_a_score_does_not_fall_through(score: float | None, otherwise: str) -> None:
    """Whatever `otherwise` says, it says it of images that were scored."""
    assert decided(decider(BLOCK, otherwise=otherwise), scored(score)) == [GUARDED]


@pytest.mark.parametrize(
    "when", ["true", "nsfw_score is null", "coalesce(nsfw_score, 0) < 0.1", "not coalesce(nsfw_score >= 0.4, false)"]
)
def test_no_rule_allows_a_row_without_a_score(when: str) -> None:
    """A rule that would allow it is overruled; the same rule allows rows with scores."""
    decide = decider({"name": "fine", "when": when, "decision": "allow"})
    [without, with_score] = decided(decide, scored(None, 0.05))
    assert without == GUARDED
    assert with_score[0] == "allow"


def test_a_rule_may_still_say_what_else_happens_to_it() -> None:
    """Unreadable images may be reviewed, escalated or left undetermined by a rule, in its queue."""
    rules = [
        {"name": s, "when": f"status = '{s}'", "decision": d, "queue": "ingest"}
        for s, d in (
            ("denied", "review"),
            ("crashed", "escalate"),
            ("timeout", "block"),
            ("decode_error", "undetermined"),
        )
    ]
    rows = table(*({"status": rule["name"]} for rule in rules))
    found = decider(*rules)(rows)
    assert found["decision"].to_pylist() == ["review", "escalate", "block", "undetermined"]
    assert found["queue"].to_pylist() == ["ingest"] * 4
    assert found["decided_by"].to_pylist() == ["policy"] * 4


def test_the_guard_decides_after_the_rules() -> None:
    """It does not hide a match: a rule on the path still escalates an image that could not be read."""
    decide = decider({"name": "place", "when": "uri = '0'", "decision": "escalate"})
    assert decided(decide, scored(None, None)) == [("escalate", "place", "policy"), GUARDED]


# Columns


def test_only_the_columns_that_are_asked_for_are_needed() -> None:
    """A replay reads no others; the same decisions come of them."""
    rows = scored(0.95, 0.5, None)
    for rules, columns in (
        ([BLOCK], ["filtered_by", "nsfw_score", "match_kind", "verdict"]),
        (
            [{**BLOCK, "when": "SCORE_PORN > 0.5 or \"label\" = 'x'"}],
            ["filtered_by", "label", "nsfw_score", "score_porn", "match_kind", "verdict"],
        ),
        ([{**BLOCK, "sample": 0.5}], ["uri", "filtered_by", "nsfw_score", "match_kind", "verdict"]),
        ([{**BLOCK, "when": "COLUMNS('nsfw_score') > 0.5"}], VISIBLE.names),
    ):
        decide = decider(*rules)
        assert decide.columns == columns
        assert decide(rows.select(columns)).equals(decide(rows))


def test_what_rules_match_is_seen_whatever_stands_before_them() -> None:
    """`matches` is each rule by itself."""
    found = decider(BLOCK, REVIEW, {"name": "all", "when": "true", "decision": "allow"}).matches(
        scored(0.95, 0.5, None)
    )
    assert found.tolist() == [[True, True, True], [False, True, True], [False, False, True]]
