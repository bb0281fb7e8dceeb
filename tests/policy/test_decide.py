"""The first rule that is true decides, and a row without a score is never allowed, whatever the policy says."""

from __future__ import annotations

import hashlib
import math
import operator
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.errors import PolicyError
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import BLOCKED, GUARD, ILLEGAL, load_policy, parse_policy, preset_names
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.schema import DECISION_COLUMNS, REPORT_SCHEMA, Decision

Row = dict[str, Any]

BLOCK = {
    "name": "high",
    "when": "nsfw_score >= 0.9",
    "decision": "block",
    "queue": "adult",
    "shield": "blur",
    "severity": 3,
}
REVIEW = {"name": "low", "when": "nsfw_score >= 0.4", "decision": "review"}


def decider(*rules: Row, otherwise: str = "allow") -> Decider:
    return Decider(parse_policy({"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": otherwise}}))


_REPORTED = pa.schema([REPORT_SCHEMA.field(name) for name in VISIBLE.names])


def table(*rows: Row) -> pa.Table:
    return pa.Table.from_pylist(
        [{"uri": str(i), "status": "ok", **row} for i, row in enumerate(rows)], schema=_REPORTED
    )


def scored(*scores: float | None) -> pa.Table:
    return table(*({"nsfw_score": score} for score in scores))


def decided(decide: Decider, rows: pa.Table) -> list[tuple[str, str, str]]:
    found = decide(rows)
    return [(row["decision"], row["rule"], row["decided_by"]) for row in found.to_pylist()]


GUARDED = ("undetermined", GUARD, "guard")
BY_BANK = ("block", BLOCKED, "bank")


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


# Edges


def test_no_rows_give_no_decisions() -> None:
    """An empty table has the decision columns all the same."""
    found = decider(BLOCK)(VISIBLE.empty_table())
    assert found.num_rows == 0 and found.schema == pa.schema(DECISION_COLUMNS)
    assert decider()(VISIBLE.empty_table()).num_rows == 0


def test_no_rules_leave_it_to_otherwise_and_the_guard() -> None:
    """A policy without rules allows what was scored, and only that."""
    assert decided(decider(), scored(0.99, None)) == [("allow", "otherwise", "policy"), GUARDED]


def test_rows_keep_their_order_in_long_tables() -> None:
    """300,000 rows in uneven chunks: each decision stands in its own row."""
    scores = np.random.default_rng(0).random(300_000, np.float32)
    scores[::7] = np.nan
    column = pa.chunked_array([scores[:1], scores[1:150_000], scores[150_000:]])
    nulls = {field.name: pa.nulls(len(scores), field.type) for field in VISIBLE}
    rows = pa.table({**nulls, "uri": pa.array(map(str, range(len(scores)))), "nsfw_score": column}, schema=VISIBLE)
    found = decider(BLOCK, REVIEW)(rows)["decision"].to_numpy()
    expected = np.where(scores >= 0.9, "block", np.where(scores >= 0.4, "review", "allow"))
    assert (found == np.where(np.isnan(scores), "undetermined", expected)).all()


def test_one_decider_decides_many_tables() -> None:
    """Calls leave nothing behind; slices decide as the whole does."""
    decide = decider(BLOCK, REVIEW)
    rows = scored(0.95, 0.5, None, 0.1, 0.92)
    whole = decide(rows)
    assert pa.concat_tables([decide(rows.slice(i, 1)) for i in range(5)]).to_pylist() == whole.to_pylist()
    assert decide(rows.slice(2, 2)).to_pylist() == whole.slice(2, 2).to_pylist()


def test_many_rules_are_in_order() -> None:
    """A hundred rules that all match: the first; then one after the other as they cease to."""
    rules = [{"name": f"r{i}", "when": f"nsfw_score >= {(100 - i) / 100}", "decision": "review"} for i in range(100)]
    found = decided(decider(*rules), scored(*((100.5 - i) / 100 for i in range(1, 100))))
    assert [rule for _, rule, _ in found] == [f"r{i}" for i in range(1, 100)]


def test_a_rule_that_fails_on_a_row_is_named_with_its_policy() -> None:
    """A cast that one value does not take stops the run with a PolicyError, not with DuckDB's own."""
    decide = decider({"name": "r", "when": "cast(etag as integer) > 3", "decision": "block"})
    assert decided(decide, table({"etag": "7", "nsfw_score": 0.1})) == [("block", "r", "policy")]
    with pytest.raises(PolicyError, match=r"a rule of p@\w{16} fails on a row: .*abc"):
        decide(table({"etag": "abc", "nsfw_score": 0.1}))


# Against a reference

_COMPARISONS = {">=": operator.ge, ">": operator.gt, "<": operator.lt, "<=": operator.le}
_COLUMNS = ["nsfw_score", "score_porn", "confidence"]
_THRESHOLDS = st.integers(0, 20).map(lambda i: i / 20)
_RULES = st.lists(
    st.tuples(
        st.sampled_from(_COLUMNS), st.sampled_from(sorted(_COMPARISONS)), _THRESHOLDS, st.sampled_from(list(Decision))
    ),
    max_size=6,
)
_SCORES = st.none() | st.floats(width=32) | _THRESHOLDS.map(lambda value: float(np.float32(value)))
_KNOWN = {
    "match_kind": st.sampled_from([None, None, None, "block", "allow", "illegal"]),
    "filtered_by": st.sampled_from([None, None, "icon"]),
}
_ROWS = st.lists(st.fixed_dictionaries({**dict.fromkeys(_COLUMNS, _SCORES), **_KNOWN}), max_size=20)


def expected_of(row: Row, rules: list[tuple[str, str, float, Decision]], otherwise: Decision) -> tuple[str, str, str]:
    """Return what DESIGN says, in plain Python: a float32 score against the threshold as float32."""

    def known(column: str) -> bool:
        return row[column] is not None and math.isfinite(row[column])

    true = [
        (outcome, f"r{i}")
        for i, (column, comparison, threshold, outcome) in enumerate(rules)
        if known(column) and _COMPARISONS[comparison](np.float32(row[column]), np.float32(threshold))
    ]
    if row["match_kind"] == "allow":  # no rule here names the match, so none sees a score
        return otherwise, "otherwise", "policy" if known("nsfw_score") or not filtered(row, otherwise) else "filter"
    if row["match_kind"] == "block":
        blocking = [found for found in true if found[0] in (Decision.BLOCK, Decision.ESCALATE)]
        return (*blocking[0], "policy") if blocking else BY_BANK
    if row["match_kind"] == "illegal":
        escalating = [name for outcome, name in true if outcome is Decision.ESCALATE]
        return Decision.ESCALATE, escalating[0] if escalating else ILLEGAL, "bank"
    decision, name = true[0] if true else (otherwise, "otherwise")
    if known("nsfw_score"):
        return decision, name, "policy"
    if row["filtered_by"] is None and (decision is Decision.ALLOW or name == "otherwise"):
        return Decision.UNDETERMINED, GUARD, "guard"
    return decision, name, "filter" if filtered(row, decision) else "policy"


def filtered(row: Row, decision: Decision) -> bool:
    return row["filtered_by"] is not None and decision is Decision.ALLOW


@settings(max_examples=50, deadline=None)
@given(rules=_RULES, rows=_ROWS, otherwise=st.sampled_from(list(Decision)))
def test_threshold_rules_decide_as_plain_python_does(
    rules: list[tuple[str, str, float, Decision]], rows: list[Row], otherwise: Decision
) -> None:
    """Any ordered thresholds over any scores, null, NaN and infinite ones too; and no scoreless row is ever allowed."""
    written = [
        {"name": f"r{i}", "when": f"{column} {comparison} {threshold}", "decision": outcome}
        for i, (column, comparison, threshold, outcome) in enumerate(rules)
    ]
    found = decided(decider(*written, otherwise=otherwise), table(*rows))
    assert found == [expected_of(row, rules, otherwise) for row in rows]
    for row, (decision, *_) in zip(rows, found, strict=True):
        unsettled = row["match_kind"] != "allow" and row["filtered_by"] is None
        if unsettled and (row["nsfw_score"] is None or math.isnan(row["nsfw_score"])):
            assert decision != Decision.ALLOW


_CHANGED = st.fixed_dictionaries(
    {}, optional={"decision": st.sampled_from(list(Decision)), "queue": st.sampled_from(["none", "kids"])}
)
_OUTCOMES = st.fixed_dictionaries(
    {"decision": st.sampled_from(list(Decision))}, optional={"queue": st.sampled_from(["none", "adult"])}
)
_WHENS = st.sampled_from(
    ["true", "nsfw_score >= 0.5", "status <> 'ok'", "match_kind = 'block'", "match_bank = 'b'", "uri = '1'"]
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(_WHENS, _OUTCOMES), max_size=4),
    _OUTCOMES,
    st.lists(st.dictionaries(st.sampled_from(["r0", "r1", "otherwise"]), _CHANGED, min_size=1), max_size=2),
    _ROWS,
)
def test_no_row_that_wants_a_person_lacks_a_queue(
    rules: list[tuple[str, Row]], otherwise: Row, changes: list[dict[str, Row]], rows: list[Row]
) -> None:
    """Whatever rules, overrides, banks, filters and scores come together: reviewed and escalated rows always have a
    queue, others have one unless the policy says `queue: none`; a policy that cannot hold that does not load."""
    names = [f"r{i}" for i in range(len(rules))]
    written = {
        "name": "p",
        "version": "1",
        "rules": [{"name": name, "when": when, **outcome} for name, (when, outcome) in zip(names, rules, strict=True)],
        "otherwise": otherwise,
        "overrides": [
            {"source": "*", "rules": found}
            for change in changes
            if (found := {name: one for name, one in change.items() if name in (*names, "otherwise") and one})
        ],
    }
    try:
        decide = Decider(parse_policy(written))
    except PolicyError as error:
        if "asks for a person" not in str(error):
            raise
        return
    for row in decide(table(*rows)).to_pylist():
        if row["decision"] in ("review", "escalate"):
            assert row["queue"] not in (None, "none")
        elif row["decision"] != "allow" and "none" not in str(written):
            assert row["queue"] is not None


# Samples


def sampler(share: float, seed: int = 0, name: str = "spot") -> Decider:
    return decider({"name": name, "when": "true", "sample": share, "seed": seed, "decision": "review"})


def drawn(decide: Decider, rows: pa.Table) -> set[str]:
    return {uri for uri, decision in zip(rows["uri"].to_pylist(), decide(rows)["decision"].to_pylist(), strict=True)
            if decision == "review"}  # fmt: skip


def objects(count: int) -> pa.Table:
    return scored(*[0.1] * count)


@pytest.mark.parametrize("share", [0.5, 0.01, 0.001])
def test_a_sample_is_as_large_as_it_says(share: float) -> None:
    """Of 200,000 objects, within five standard deviations."""
    rows = objects(200_000)
    expected, deviation = 200_000 * share, math.sqrt(200_000 * share * (1 - share))
    assert abs(len(drawn(sampler(share), rows)) - expected) < 5 * deviation


def test_a_sample_follows_from_the_uri_alone() -> None:
    """Any part of the table, in any order, with any other columns, has the same objects in it; and so has plain MD5."""
    rows, decide = objects(5000), sampler(0.1, seed=3)
    sample = drawn(decide, rows)
    mixed = rows.take(np.random.default_rng(0).permutation(5000))
    assert set().union(*(drawn(decide, mixed.slice(i, 700)) for i in range(0, 5000, 700))) == sample
    by_hand = {
        uri
        for uri in rows["uri"].to_pylist()
        if int(hashlib.md5(f"3:spot:{uri}".encode()).hexdigest()[:12], 16) < int(0.1 * 16**12)
    }
    assert by_hand == sample


def test_a_larger_sample_holds_the_smaller_one() -> None:
    """Raising a share adds objects, and takes none away."""
    assert drawn(sampler(0.01), objects(5000)) < drawn(sampler(0.05), objects(5000))


@pytest.mark.parametrize(("seed", "name"), [(1, "spot"), (0, "check")])
def test_other_samples_are_independent(seed: int, name: str) -> None:
    """Another seed, or another rule, draws another tenth: a hundredth of all is in both."""
    rows = objects(50_000)
    assert 400 < len(drawn(sampler(0.1, seed, name), rows) & drawn(sampler(0.1), rows)) < 600


def test_what_is_not_in_the_sample_goes_on_to_the_next_rule() -> None:
    """A sample takes its share of the rows that its condition matches, and nothing of the others."""
    decide = decider(
        {"name": "spot", "when": "nsfw_score < 0.4", "sample": 0.5, "decision": "review", "queue": "quality"},
        {"name": "rest", "when": "nsfw_score < 0.6", "decision": "block"},
    )
    found = decided(decide, scored(*[0.1] * 100, *[0.5] * 100, *[0.7] * 100))
    assert {rule for _, rule, _ in found[:100]} == {"spot", "rest"}
    assert {rule for _, rule, _ in found[100:]} == {"rest", "otherwise"}


def test_a_sample_allows_no_row_without_a_score() -> None:
    """A rule with a sample is guarded as any other."""
    decide = decider({"name": "s", "when": "true", "sample": 0.5, "decision": "allow"})
    assert set(decided(decide, scored(*[None] * 50))) == {GUARDED}


# Thresholds and overrides


@pytest.mark.parametrize("number", [0.9, 0.1, 0.3333333, 1e-7, 0.85])
def test_a_threshold_decides_as_its_number_does(number: float) -> None:
    """To the last bit of a FLOAT: the score that is exactly the threshold, and both of its neighbours."""
    named = {"name": "p", "version": "1", "thresholds": {"t": number}, "otherwise": {"decision": "allow"}}
    decide = Decider(parse_policy({**named, "rules": [{**BLOCK, "when": "nsfw_score >= $t"}]}))
    edge = np.float32(number)
    scores = [float(s) for s in (np.nextafter(edge, np.float32(-1)), edge, np.nextafter(edge, np.float32(1)))]
    assert [d for d, *_ in decided(decide, scored(*scores))] == ["allow", "block", "block"]


_PLACES = ["s3://a/", "s3://b/kids/", "*/kids/*", "s3://[ab]/x?.jpg"]
_URIS = ["s3://a/kids/1.jpg", "s3://b/kids/1.jpg", "s3://b/x1.jpg", "s3://c/x1.jpg", "s3://a/x1.jpg"]
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "decision": st.sampled_from(list(Decision)),
        "queue": st.sampled_from(["q1", "q2"]),
        "severity": st.integers(0, 4),
        "skill": st.just("s"),
        "shield": st.sampled_from(["hidden", "blur"]),
    },
)
_OVERRIDES = st.lists(
    st.tuples(
        st.sampled_from(_PLACES),
        st.dictionaries(st.sampled_from(["high", "low"]), _THRESHOLDS, max_size=2),
        st.dictionaries(st.sampled_from(["block", "review", "otherwise"]), _CHANGES, max_size=3),
    ),
    max_size=4,
)


def outcome_by_hand(uri: str, score: float | None, overrides: list[tuple[str, Row, Row]]) -> Row:
    """Return what the documentation says of overrides, in plain Python."""
    numbers = {"high": 0.8, "low": 0.4}
    outcomes: dict[str, Row] = {
        "block": {"decision": "block", "queue": "adult"},
        "review": {"decision": "review"},
        "otherwise": {"decision": "allow"},
    }
    for place, thresholds, changes in overrides:
        if fnmatchcase(uri, place) if set(place) & set("*?[") else uri.startswith(place):
            numbers.update(thresholds)
            for name, change in changes.items():
                outcomes[name].update(change)
    rule = "otherwise"
    if score is not None:
        value = np.float32(score)
        rule = (
            "block"
            if value >= np.float32(numbers["high"])
            else "review"
            if value >= np.float32(numbers["low"])
            else rule
        )
    if score is None:  # no rule speaks of it, and `otherwise` may not
        rule, outcomes = GUARD, {GUARD: {"decision": "undetermined"}}
    outcome = {"queue": None, "skill": None, "shield": "none", "severity": 0, **outcomes[rule]}
    if outcome["queue"] is None and outcome["decision"] != "allow":
        outcome["queue"] = outcome["decision"]
    return {"rule": rule, **outcome}


@settings(max_examples=40, deadline=None)
@given(_OVERRIDES, st.lists(st.tuples(st.sampled_from(_URIS), st.none() | _THRESHOLDS), max_size=12))
def test_overrides_decide_as_plain_python_does(
    overrides: list[tuple[str, Row, Row]], rows: list[tuple[str, float | None]]
) -> None:
    """All that are for an object's place apply, in order, by the beginning of its URI or a glob over all of it."""
    given = [(place, t, {n: c for n, c in changes.items() if c}) for place, t, changes in overrides]
    given = [(place, t, changes) for place, t, changes in given if t or changes]
    decide = Decider(
        parse_policy(
            {
                "name": "p",
                "version": "1",
                "thresholds": {"high": 0.8, "low": 0.4},
                "regions": {f"r{i}": [place] for i, (place, *_) in enumerate(given)},
                "rules": [
                    {"name": "block", "when": "nsfw_score >= $high", "decision": "block", "queue": "adult"},
                    {"name": "review", "when": "nsfw_score >= $low", "decision": "review"},
                ],
                "otherwise": {"decision": "allow"},
                "overrides": [
                    {**({"source": place} if i % 2 else {"region": f"r{i}"}), "thresholds": t, "rules": changes}
                    for i, (place, t, changes) in enumerate(given)
                ],
            }
        )
    )
    found = decide(table(*({"uri": uri, "nsfw_score": score} for uri, score in rows)))
    columns = ["rule", "decision", "queue", "skill", "shield", "severity"]
    expected = [outcome_by_hand(uri, score, given) for uri, score in rows]
    assert found.select(columns).to_pylist() == [{name: row[name] for name in columns} for row in expected]


def test_the_guard_stands_under_every_override() -> None:
    """An override may not allow what has no score, by a rule or by `otherwise`."""
    rules = [{"name": "bad", "when": "status <> 'ok'", "decision": "review"}]
    allowed = {"source": "*", "rules": {"bad": {"decision": "allow"}, "otherwise": {"decision": "review"}}}
    decide = Decider(
        parse_policy(
            {"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}, "overrides": [allowed]}
        )
    )
    assert decided(decide, table({"status": "denied"}, {}, {"nsfw_score": 0.1})) == [
        GUARDED,
        GUARDED,
        ("review", "otherwise", "policy"),
    ]


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
