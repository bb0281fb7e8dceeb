"""What became of objects since the run before: gone, new, other bytes, another outcome, and nothing else; and why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.config import SourceConfig, ViewsConfig
from nsfwscan.policy.compare import COMPARED
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.runs.changes import CHANGES_SCHEMA, EARLIER, Behind, Facts, compared, deleted_among
from nsfwscan.runs.gathering import ROW_SCHEMA
from nsfwscan.runs.writing import decided
from nsfwscan.schema import FLAGGED, REPORT_SCHEMA, Cause, Change, Decision, as_schema

DECISIONS = [str(decision) for decision in Decision]
BEFORE = {"uri": "/m/a", "object_id": "0a", "sha256": "ff", "label": "nsfw", "nsfw_score": 0.75, "rule": "explicit"}


def rows(*values: dict[str, Any], run_id: str = "1") -> pa.Table:
    return pa.Table.from_pylist([{"run_id": run_id, **row} for row in values], schema=REPORT_SCHEMA)


def source(*uris: str, **filters: Any) -> SourceConfig:
    return SourceConfig.of({"uris": uris, **filters})


# --- deleted --------------------------------------------------------------------------------------------------------


def test_an_object_that_is_not_listed_any_more_is_deleted() -> None:
    """It is reported with what was last known of it, and the run that said so."""
    earlier = rows({**BEFORE, "decision": "block"}, {"uri": "/m/b", "decision": "allow"})
    found = deleted_among(earlier, pa.array(["/m/b", "/m/c"]), source("/m"))
    assert found.schema.equals(CHANGES_SCHEMA, check_metadata=True)
    [row] = found.to_pylist()
    assert {name: row[name] for name in BEFORE} == BEFORE
    said = [row[name] for name in ("change", "causes", "decision", "previous_decision", "previous_run")]
    assert said == ["deleted", ["listing"], "block", "block", "1"]


def test_the_deleted_are_told_in_order() -> None:
    """Whatever the order of an earlier part (by decision), its deleted objects come by URI."""
    earlier = rows(*({"uri": f"/m/{c}", "decision": "allow"} for c in "cab"))
    assert deleted_among(earlier, pa.array([], pa.string()), source("/m"))["uri"].to_pylist() == [
        "/m/a",
        "/m/b",
        "/m/c",
    ]


def test_only_what_the_sources_would_list_can_be_deleted() -> None:
    """Another folder's objects, known from a larger run, are no matter of this one; a source that was one is."""
    earlier = rows(*({"uri": uri, "decision": "allow"} for uri in ("/m/a", "/n/b", "/n/c", "s3://b/k")))
    none = pa.array([], pa.string())
    assert deleted_among(earlier, none, source("/m", "/n/c"))["uri"].to_pylist() == ["/m/a", "/n/c"]
    assert deleted_among(earlier, none, source("s3://b/"))["uri"].to_pylist() == ["s3://b/k"]


@pytest.mark.parametrize("filters", [{"limit": 1000}, {"include": ["*.jpg"]}, {"exclude": ["x"]}])
def test_a_part_of_a_listing_deletes_nothing(filters: dict[str, Any]) -> None:
    """Under a limit or a filter, an object that was not listed may well be there."""
    earlier = rows({"uri": "/m/a", "decision": "block"})
    found = deleted_among(earlier, pa.array([], pa.string()), source("/m", **filters))
    assert (found.num_rows, found.schema) == (0, CHANGES_SCHEMA)


# --- compared -------------------------------------------------------------------------------------------------------

THEN = Behind("made@1", ("known@1",), "scoring", "filtering")
ROW = {**BEFORE, "etag": "e", "size": 9, "status": "ok", "model": "made@0", "decision": "allow", "severity": 0}
"""An object as it was."""


def changed(
    now: list[dict[str, Any]], then: list[dict[str, Any] | None], behind: Behind = THEN, asked: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Return what `compared` says of rows then and now; None: not known then."""
    new = rows(*now, run_id="2")
    before = pa.Table.from_pylist(
        [{"uri": ""} if row is None else {"run_id": "1", **row} for row in then], schema=REPORT_SCHEMA
    )
    facts = Facts({"1": THEN}, behind)
    found = compared(new, before.select(EARLIER), facts.causes(new, before), facts, asked)
    assert found.schema.equals(CHANGES_SCHEMA, check_metadata=True)
    return found.to_pylist()


@pytest.mark.parametrize("before", [None, *DECISIONS])
@pytest.mark.parametrize("now", DECISIONS)
def test_each_new_decision_is_a_change(before: str | None, now: str) -> None:
    """A flag that is raised or cleared is called so, whatever else is true; the same decision is no change."""
    found = changed([{**ROW, "decision": now}], [None if before is None else {**ROW, "decision": before}])
    change = "decided"
    if (now in FLAGGED) != (before in FLAGGED):
        change = "newly_flagged" if now in FLAGGED else "cleared"
    elif before is None:
        change = "new"
    expected = [] if before == now else [(change, now, before, None if before is None else "1")]
    assert [(r["change"], r["decision"], r["previous_decision"], r["previous_run"]) for r in found] == expected


@pytest.mark.parametrize("name", [name for name in COMPARED if name != "decision"])
def test_each_part_of_the_outcome_is_compared(name: str) -> None:
    """Another queue, skill, shield or severity alone is a change; so is one where there was none."""
    value: Any = 3 if name == "severity" else "other"
    for then in ({**ROW}, {**ROW, name: None}):
        [row] = changed([{**ROW, name: value}], [then])
        assert (row["change"], row[name], row[f"previous_{name}"]) == ("routed", value, then.get(name))


def test_other_bytes_are_a_change() -> None:
    """Whatever the outcome; where a digest is not known, etag and size tell."""
    [row] = changed([{**ROW, "sha256": "00"}], [ROW])
    assert (row["change"], row["causes"], row["previous_sha256"]) == ("content", ["content"], "ff")
    denied = {**ROW, "sha256": None, "status": "denied"}
    assert changed([{**denied}], [denied]) == []
    assert [r["causes"] for r in changed([{**denied, "etag": "f"}], [denied])] == [["content"]]
    assert changed([{**ROW, "etag": "f"}], [ROW]) == []  # written again with the same bytes


FACTS: list[tuple[dict[str, Any], dict[str, Any], Behind, list[str]]] = [
    ({}, {"status": "denied", "sha256": None, "model": None}, THEN, ["read"]),
    ({"status": "crashed", "model": None}, {}, THEN, ["read"]),
    ({"match_bank": "known", "match_id": "1", "match_kind": "block", "model": None}, {}, THEN, ["bank"]),
    ({}, {"match_bank": "known", "match_id": "1", "match_kind": "block", "model": None}, THEN, ["bank"]),
    ({"sha256": "00", "match_bank": "known", "match_kind": "block"}, {}, THEN, ["content"]),
    ({"sha256": "00", "match_bank": "known"}, {}, Behind("made@1", ("known@2",), "scoring", "filtering"),
     ["content", "bank"]),
    ({"model": "made@9"}, {}, THEN, ["model"]),
    ({}, {}, Behind("made@1", ("known@1",), "bfloat16", "filtering"), ["model"]),
    ({"views": 3}, {"views": 1}, replace(THEN, views=ViewsConfig(most=1)), ["model"]),
    ({"views": 1}, {"views": 1}, replace(THEN, views=ViewsConfig(most=1)), ["other"]),
    ({"filtered_by": "icon", "model": None}, {}, Behind("made@1", ("known@1",), "scoring", "icons"), ["filter"]),
    ({}, {}, THEN, ["other"]),
    ({"cluster_size": 2}, {"cluster_size": 1}, THEN, ["copies"]),
]  # fmt: skip


@pytest.mark.parametrize(("now", "then", "behind", "causes"), FACTS)
def test_the_cause_is_what_is_another_now(
    now: dict[str, Any], then: dict[str, Any], behind: Behind, causes: list[str]
) -> None:
    """All that is another for this object is named, and nothing that is the same."""
    [row] = changed([{**ROW, **now, "decision": "block"}], [{**ROW, **then}], behind, ("cluster_size",))
    assert row["causes"] == causes


def test_a_policy_is_a_cause_where_it_decides_otherwise() -> None:
    """The policy of then decides the row of now again: only where it comes to something else is it named."""

    def decided_by(limit: float) -> dict[str, Any]:
        rule = {"name": "explicit", "when": f"nsfw_score >= {limit}", "decision": "block"}
        return {"name": "made", "version": "1", "rules": [rule], "otherwise": {"decision": "allow"}}

    then, now = Decider(parse_policy(decided_by(0.9))), Decider(parse_policy(decided_by(0.5)))
    score = {"nsfw_score": [0.7, 0.95], "model": ["made@0", "made@0"], "status": ["ok", "ok"], "uri": ["/m/a", "/m/b"]}
    table = pa.Table.from_pylist([dict(zip(score, row, strict=True)) for row in zip(*score.values(), strict=True)],
                                 schema=REPORT_SCHEMA)  # fmt: skip
    rows_now = decided(as_schema(table, ROW_SCHEMA), now, "2")
    before = decided(as_schema(table.set_column(table.schema.get_field_index("nsfw_score"), "nsfw_score",
                                                pa.array([0.7, 0.1], pa.float32())), ROW_SCHEMA), then, "1")  # fmt: skip
    behind = Behind(then.policy.identity, (), "s", "f")
    behind.__dict__["decider"] = then
    facts = Facts({"1": behind}, Behind(now.policy.identity, (), "other", "f"))
    found = compared(rows_now, before.select(EARLIER), facts.causes(rows_now, before), facts, ()).to_pylist()
    assert [(row["uri"], row["causes"]) for row in found] == [("/m/a", ["model", "policy"]), ("/m/b", ["model"])]


@settings(max_examples=50, deadline=None)
@given(
    now=st.dictionaries(st.text(max_size=3), st.sampled_from(DECISIONS)),
    before=st.dictionaries(st.text(max_size=3), st.sampled_from(DECISIONS)),
)
def test_changes_are_those_of_a_plain_comparison(now: dict[str, str], before: dict[str, str]) -> None:
    """Over any two nights, every object that changed is told once, as what it is, and no other."""
    tonight = [{"uri": "/m/" + name, "decision": decision} for name, decision in now.items()]
    then = [None if name not in before else {"uri": "/m/" + name, "decision": before[name]} for name in now]
    told = changed(tonight, then)
    earlier = rows(*({"uri": "/m/" + name, "decision": decision} for name, decision in before.items()))
    listed = pa.array([row["uri"] for row in tonight], pa.string())
    told += deleted_among(earlier, listed, source("/m")).to_pylist()
    expected = {("/m/" + name, None) for name in before.keys() - now.keys()}
    expected |= {("/m/" + name, decision) for name, decision in now.items() if before.get(name) != decision}
    assert {(row["uri"], None if row["change"] == "deleted" else row["decision"]) for row in told} == expected
    assert len(told) == len(expected)


def test_the_words_are_documented() -> None:
    """Every column of the changes says what it means, the words that stand in it included."""
    docs = {field.name: (field.metadata or {}).get(b"doc", b"").decode() for field in CHANGES_SCHEMA}
    assert all(docs.values())
    assert all(f"`{change}`" in docs["change"] for change in Change)
    assert all(f"`{cause}`" in docs["causes"] for cause in Cause)
