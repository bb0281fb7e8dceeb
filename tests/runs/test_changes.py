"""What became of objects since the run before: deleted, newly flagged, cleared, and nothing else."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.config import SourceConfig
from nsfwscan.runs.changes import CHANGES_SCHEMA, deleted_among, flags_changed
from nsfwscan.schema import FLAGGED, REPORT_SCHEMA, Change, Decision

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
    assert found.to_pylist() == [
        {**BEFORE, "change": "deleted", "decision": "block", "previous_decision": "block", "previous_run": "1"}
    ]


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


# --- flagged and cleared --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, *DECISIONS])
@pytest.mark.parametrize("now", DECISIONS)
def test_a_flag_raised_or_cleared_is_a_change(before: str | None, now: str) -> None:
    """From unknown or unflagged to flagged, and from flagged to unflagged; from one flag to another is none."""
    previous = rows(*([{"uri": "/m/a", "decision": before}] if before else []))
    found = flags_changed(rows({**BEFORE, "decision": now}, run_id="2"), previous).to_pylist()
    change = None
    if (now in FLAGGED) != (before in FLAGGED):
        change = "newly_flagged" if now in FLAGGED else "cleared"
    expected = {**BEFORE, "change": change, "decision": now, "previous_decision": before}
    assert found == ([{**expected, "previous_run": "1" if before else None}] if change else [])


@settings(max_examples=50, deadline=None)
@given(
    now=st.dictionaries(st.text(max_size=3), st.sampled_from(DECISIONS)),
    before=st.dictionaries(st.text(max_size=3), st.sampled_from(DECISIONS)),
)
def test_changes_are_those_of_a_plain_comparison(now: dict[str, str], before: dict[str, str]) -> None:
    """Over any two nights, every object that changed is told once, as what it is, and no other."""
    tonight = rows(*({"uri": "/m/" + name, "decision": decision} for name, decision in now.items()), run_id="2")
    earlier = rows(*({"uri": "/m/" + name, "decision": decision} for name, decision in before.items()))
    known = earlier.filter(pc.is_in(earlier["uri"], tonight["uri"].combine_chunks()))
    told = flags_changed(tonight, known).to_pylist()
    told += deleted_among(earlier, tonight["uri"].combine_chunks(), source("/m")).to_pylist()
    expected = {("deleted", "/m/" + name) for name in before.keys() - now.keys()}
    for name, decision in now.items():
        was, is_now = before.get(name) in FLAGGED, decision in FLAGGED
        if was != is_now:
            expected.add(("newly_flagged" if is_now else "cleared", "/m/" + name))
    assert {(row["change"], row["uri"]) for row in told} == expected
    assert len(told) == len(expected)


def test_the_words_are_documented() -> None:
    """Every column of the changes says what it means, the words that stand in it included."""
    docs = {field.name: (field.metadata or {}).get(b"doc", b"").decode() for field in CHANGES_SCHEMA}
    assert all(docs.values())
    assert all(f"`{change}`" in docs["change"] for change in Change)
