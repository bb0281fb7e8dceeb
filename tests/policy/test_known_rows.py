"""What is known beside the score goes before the rules: hash banks, filters, and what people decided."""

from __future__ import annotations

import math

import pytest

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import BLOCKED, ILLEGAL, load_policy, parse_policy, preset_names
from nsfwscan.schema import Decision
from tests.policy.deciding import BLOCK, BY_BANK, GUARDED, REVIEW, decided, decider, scored, table

# What is known before the model


def test_a_preset_knows_what_a_match_means() -> None:
    """Every preset blocks what is in a block bank and allows what is in an allow bank, scored or not."""
    rows = table(
        {"match_kind": "block"},
        {"match_kind": "allow"},
        {"match_kind": "allow", "nsfw_score": 0.99},
        {"match_kind": "block", "nsfw_score": 0.0, "status": "decode_error"},
    )
    for name in preset_names():
        found = Decider(load_policy(name))(rows).select(["decision", "rule", "queue", "shield", "severity"]).to_pylist()
        bad = {"decision": "block", "rule": "known-bad", "queue": "known", "shield": "blur", "severity": 3}
        good = {"decision": "allow", "rule": "known-good", "queue": None, "shield": "none", "severity": 0}
        assert found == [bad, good, good, bad], name


def test_what_was_settled_before_the_model_may_be_allowed() -> None:
    """A match in an allow bank, or a filter, is as good as a score; a match in a block bank is blocked."""
    rows = table({"match_kind": "allow"}, {"filtered_by": "icon"}, {"match_kind": "block"}, {"match_kind": "negative"})
    assert decided(decider(BLOCK), rows) == [
        ("allow", "otherwise", "policy"),
        ("allow", "otherwise", "filter"),
        BY_BANK,
        GUARDED,
    ]
    assert decided(decider(otherwise="review"), rows)[:2] == [("review", "otherwise", "policy")] * 2


@pytest.mark.parametrize("otherwise", list(Decision))
@pytest.mark.parametrize("score", [None, 0.0, 0.99, math.nan])
def test_an_illegal_match_is_escalated_whatever_the_policy_says(otherwise: str, score: float | None) -> None:
    """Hidden, of the highest severity, in the queue `legal`; also under a rule or an override that would allow it."""
    allowed = [{"name": "fine", "when": "true", "decision": "allow", "queue": "none"}]
    given = {"name": "p", "version": "1", "rules": allowed, "otherwise": {"decision": otherwise}}
    over = {"source": "*", "rules": {"fine": {"decision": "allow", "shield": "none"}}}
    for overrides in ([], [over]):
        [row] = Decider(parse_policy({**given, "overrides": overrides}))(
            table({"match_kind": "illegal", "nsfw_score": score, "filtered_by": "icon"})
        ).to_pylist()
        del row["policy"]
        assert row == {
            "decision": "escalate",
            "rule": ILLEGAL,
            "queue": "legal",
            "skill": None,
            "shield": "hidden",
            "severity": 4,
            "decided_by": "bank",
        }


def test_the_first_rule_that_escalates_names_the_queue_of_an_illegal_match() -> None:
    """Rules before it that say anything else are passed over; shield and severity are not its to say."""
    named = {"name": "csam", "when": "match_bank = 'csam'", "decision": "escalate", "queue": "ncmec", "skill": "csam"}
    other = {"name": "place", "when": "uri = '2'", "decision": "escalate"}
    rows = table(*({"match_kind": "illegal", "match_bank": bank, "nsfw_score": 0.95} for bank in ("csam", "x", "y")))
    found = decider(BLOCK, named, other)(rows).to_pylist()
    assert [(row["rule"], row["queue"], row["skill"]) for row in found] == [
        ("csam", "ncmec", "csam"),
        (ILLEGAL, "legal", None),
        ("place", "legal", None),
    ]
    assert {(row["decision"], row["shield"], row["severity"], row["decided_by"]) for row in found} == {
        ("escalate", "hidden", 4, "bank")
    }


# What the kind of a bank means


MATCHED = {"match_bank": "b", "match_id": "x", "match_hash": "sha256", "match_distance": 0}


@pytest.mark.parametrize("score", [None, 0.0, 0.99, math.nan])
@pytest.mark.parametrize("otherwise", list(Decision))
@pytest.mark.parametrize("when", ["true", "uri <> ''", "status = 'ok'", "coalesce(nsfw_score, 0) >= 0"])
def test_a_match_of_a_block_bank_is_blocked_whatever_the_policy_leaves_out(
    when: str, otherwise: Decision, score: float | None
) -> None:
    """No rule that does not name the match makes anything milder of it; it has a queue, a shield and a severity."""
    milder = [
        {"name": d, "when": when, "decision": d, "queue": "other", "sample": 0.999}
        for d in ("allow", "review", "undetermined")
    ]
    [row] = decider(*milder, otherwise=otherwise)(
        table({**MATCHED, "match_kind": "block", "nsfw_score": score})
    ).to_pylist()
    del row["policy"]
    assert row == {
        "decision": "block",
        "rule": BLOCKED,
        "queue": "known",
        "skill": None,
        "shield": "blur",
        "severity": 3,
        "decided_by": "bank",
    }


@pytest.mark.parametrize(
    "when",
    [
        "match_kind = 'block'",
        "match_bank = 'b'",
        "match_id like 'x%' and nsfw_score is null",
        "match_hash = 'sha256'",
        "match_distance < 5",
        "coalesce(MATCH_BANK, '') <> ''",
    ],
)
def test_a_policy_says_otherwise_of_a_block_bank_by_name(when: str) -> None:
    """A rule that names the match decides it, wherever it stands; rows that it is not true of stay blocked."""
    decide = decider(
        {"name": "all", "when": "true", "decision": "allow"}, {"name": "n", "when": when, "decision": "review"}
    )
    rows = table({**MATCHED, "match_kind": "block"}, {"match_bank": None, "match_kind": "block", "match_distance": 9})
    assert decided(decide, rows)[0] == ("review", "n", "policy")
    assert decided(decide, rows)[1] == (BY_BANK if when != "match_kind = 'block'" else ("review", "n", "policy"))


def test_a_rule_that_is_as_strict_decides_a_match_of_a_block_bank() -> None:
    """The first that blocks or escalates names the queue, as it does for other rows; a bank softens nothing."""
    place = {"name": "place", "when": "uri = '1'", "decision": "escalate", "queue": "trust"}
    rows = table(*({"match_kind": "block", "nsfw_score": score} for score in (0.95, 0.95, 0.5)))
    found = decider(REVIEW, place, BLOCK)(rows).to_pylist()
    assert [(row["rule"], row["queue"]) for row in found] == [("high", "adult"), ("place", "trust"), (BLOCKED, "known")]


def test_no_rule_allows_a_match_of_a_block_bank_that_nothing_scored() -> None:
    """Also where it names the match: that takes a score, or an `allow` bank."""
    decide = decider({"name": "n", "when": "match_kind = 'block'", "decision": "allow"})
    rows = table({**MATCHED, "match_kind": "block", "nsfw_score": 0.9}, {**MATCHED, "match_kind": "block"})
    assert decided(decide, rows) == [("allow", "n", "policy"), GUARDED]


@pytest.mark.parametrize("score", [None, 0.99])
def test_a_match_of_an_allow_bank_is_decided_alike_with_and_without_a_score(score: float | None) -> None:
    """A scan does not score it; a carried row that has a score is decided as if it had none. Places and files still
    count, and so does the score where a rule names the match."""
    score_or_place = {"name": "kids", "when": "nsfw_score > 0.2 or uri = '1'", "decision": "review", "queue": "kids"}
    rows = table(*({**MATCHED, "match_kind": "allow", "nsfw_score": score, "label": "porn"} for _ in range(2)))
    porn = {"name": "porn", "when": "label = 'porn'", "decision": "block"}
    assert decided(decider(BLOCK, porn, score_or_place), rows) == [
        ("allow", "otherwise", "policy"),
        ("review", "kids", "policy"),
    ]
    named = {"name": "doubt", "when": "match_kind = 'allow' and nsfw_score > 0.9", "decision": "review"}
    expected = ("allow", "otherwise", "policy") if score is None else ("review", "doubt", "policy")
    assert decided(decider(BLOCK, named), rows)[0] == expected


def test_what_no_bank_holds_is_decided_as_before() -> None:
    """Beside matches, in the same table."""
    rows = table({"nsfw_score": 0.95}, {"match_kind": "block"}, {"nsfw_score": 0.5}, {"match_kind": "allow"}, {})
    assert decided(decider(BLOCK, REVIEW), rows) == [
        ("block", "high", "policy"),
        BY_BANK,
        ("review", "low", "policy"),
        ("allow", "otherwise", "policy"),
        GUARDED,
    ]


# Queues


@pytest.mark.parametrize("decision", list(Decision))
def test_a_rule_without_a_queue_sends_its_rows_to_one_of_the_decisions_name(decision: Decision) -> None:
    """By a rule, by `otherwise` and by an override; only what is allowed goes to nobody."""
    queue = None if decision is Decision.ALLOW else str(decision)
    rule = {"name": "r", "when": "true", "decision": decision}
    assert decider(rule)(scored(0.5))["queue"].to_pylist() == [queue]
    assert decider(otherwise=decision)(scored(0.5))["queue"].to_pylist() == [queue]
    given = {"name": "p", "version": "1", "rules": [], "otherwise": {"decision": "allow"}}
    over = {"source": "*", "rules": {"otherwise": {"decision": decision}}}
    assert Decider(parse_policy({**given, "overrides": [over]}))(scored(0.5))["queue"].to_pylist() == [queue]


def test_the_guard_has_a_queue() -> None:
    """What nothing has looked at, a person is told of."""
    assert decider()(scored(None))["queue"].to_pylist() == ["undetermined"]


def test_a_policy_says_by_name_that_nobody_is_to_look() -> None:
    """`queue: none`, for what is blocked or no image; an override may say so, too."""
    quiet = {"name": "b", "when": "true", "decision": "block", "queue": "none"}
    assert decider(quiet)(scored(0.5))["queue"].to_pylist() == [None]
    given = {"name": "p", "version": "1", "rules": [BLOCK], "otherwise": {"decision": "allow"}}
    over = {"source": "*", "rules": {"high": {"queue": "none"}}}
    assert Decider(parse_policy({**given, "overrides": [over]}))(scored(0.95))["queue"].to_pylist() == [None]


# What people decided


ANY = {"name": "any", "when": "nsfw_score >= 0", "decision": "review", "queue": "adult"}


NAMING = {"name": "named", "when": "verdict = 'remove' and appeals > 0", "decision": "review", "queue": "appeals"}


def test_what_people_decided_holds() -> None:
    """Whatever the rules, the score and the banks say; but for an illegal match, and where a true rule names the verdict."""
    decide = decider(ANY, NAMING)
    found = decide(
        table(
            {"nsfw_score": 0.9, "verdict": "approve"},
            {"verdict": "approve"},  # a person looked at it, though no model did
            {"status": "decode_error", "verdict": "approve"},
            {"nsfw_score": 0.9, "verdict": "approve", "match_kind": "block"},
            {"nsfw_score": 0.9, "verdict": "approve", "filtered_by": "icon"},
            {"nsfw_score": 0.1, "verdict": "remove"},
            {"match_kind": "allow", "verdict": "remove"},
            {"nsfw_score": 0.1, "verdict": "escalate"},
            {"nsfw_score": 0.1, "verdict": "disputed"},
        )
    ).to_pylist()
    said = [(row["decision"], row["rule"], row["queue"], row["skill"], row["decided_by"]) for row in found]
    approved, removed = (
        ("allow", "verdict-approve", None, None, "person"),
        ("block", "verdict-remove", None, None, "person"),
    )
    lead = [("escalate", f"verdict-{word}", "escalate", "lead", "person") for word in ("escalate", "disputed")]
    assert said == [approved] * 5 + [removed] * 2 + lead
    others = table(
        {"nsfw_score": 0.1, "verdict": "remove", "appeals": 1},
        {"nsfw_score": 0.1, "verdict": "approve", "match_kind": "illegal"},
        {"nsfw_score": 0.1},
        {"nsfw_score": 0.1, "verdict": "no such word"},
    )
    assert [rule for _, rule, _ in decided(decide, others)] == ["named", ILLEGAL, "any", "any"]


@pytest.mark.parametrize("name", preset_names())
def test_presets_let_people_decide(name: str) -> None:
    """No preset names the verdict, so that what people decided holds under each."""
    rows = table({"nsfw_score": 0.99, "verdict": "approve"}, {"nsfw_score": 0.0, "verdict": "remove"})
    assert [d for d, *_ in decided(Decider(load_policy(name)), rows)] == ["allow", "block"]
