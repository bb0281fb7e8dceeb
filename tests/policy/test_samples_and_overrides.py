"""Policies decide as plain Python does: rules, samples, thresholds and overrides."""

from __future__ import annotations

import hashlib
import math
import operator
from fnmatch import fnmatchcase

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.errors import PolicyError
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import GUARD, ILLEGAL, parse_policy
from nsfwscan.policy.sql import VISIBLE
from nsfwscan.schema import DECISION_COLUMNS, Decision
from tests.policy.deciding import BLOCK, BY_BANK, GUARDED, REVIEW, Row, decided, decider, scored, table

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
