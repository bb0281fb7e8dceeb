"""What a report adds up to, against counting by hand."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.errors import Status
from nsfwscan.runs.false_positives import select_false_positives
from nsfwscan.runs.summary import HISTOGRAM_BINS, Summary
from nsfwscan.storage.store import to_json
from tests.runs.rows import Row, report, staged_row


def counted(*parts: pa.Table) -> dict[str, Any]:
    total = Summary()
    for part in parts:
        total.add(part, select_false_positives(part))
    return total.as_dict()


def test_the_worst_are_named() -> None:
    """Of all flagged objects, over all ranges, the twenty of the highest severity and score are named, the worst first;
    matches of an illegal bank never are."""
    scores = [0.2 + i / 50 for i in range(40)]
    rows = [staged_row(f"/{i:02}.jpg", nsfw_score=score) for i, score in enumerate(scores)]
    illegal = staged_row("/known.jpg", nsfw_score=None, match_bank="b", match_id="1", match_kind="illegal")
    found = counted(report(rows[:25]), report([*rows[25:], illegal]), report([staged_row("/calm.jpg", nsfw_score=0.1)]))
    worst = sorted(zip(scores, rows, strict=True), key=lambda pair: (pair[0] < 0.8, -pair[0]))[:20]
    assert [one["uri"] for one in found["most_severe"]] == [row["uri"] for _, row in worst]
    assert found["most_severe"][0] | {"nsfw_score": None} == {
        "uri": "/39.jpg",
        "decision": "block",
        "rule": "explicit",
        "queue": "adult",
        "severity": 3,
        "nsfw_score": None,
    }


def rows_strategy() -> st.SearchStrategy[list[dict[str, Any]]]:
    scored = st.fixed_dictionaries(
        {
            "nsfw_score": st.sampled_from([0.0, 0.05, 0.1999, 0.2, 0.5, 0.75, 0.95, 1.0]),
            "truth": st.sampled_from([None, "neutral", "porn"]),
            "size": st.none() | st.integers(0, 10**12),
            "format": st.sampled_from(["JPEG", "PNG"]),
        }
    )
    failed = st.fixed_dictionaries(
        {
            "status": st.sampled_from([str(s) for s in Status if s != "ok"]),
            "truth": st.sampled_from([None, "neutral"]),
            "error": st.sampled_from(["truncated (12 bytes)", "truncated (1,234 bytes)", "no such object"]),
        }
    )
    return st.lists(scored | failed, max_size=25).map(
        lambda found: [staged_row(f"/{i:02}.jpg", **values) for i, values in enumerate(found)]
    )


def by_hand(rows: list[Row]) -> dict[str, Any]:
    """Return the counts, row by row, without Arrow."""
    decided = [
        "undetermined"
        if row["status"] != "ok"
        else "block"
        if row["nsfw_score"] >= 0.8
        else "review"
        if row["nsfw_score"] >= 0.2
        else "allow"
        for row in rows
    ]
    bins = Counter(min(int(row["nsfw_score"] * 20 + 1e-6), 19) for row in rows if row["status"] == "ok")
    neutral = [row for row in rows if row.get("truth") == "neutral" and row["status"] == "ok"]
    images = [row for row in rows if row["status"] != "unsupported"]
    failed = [row for row in images if row["status"] != "ok"]
    return {
        "rows": len(rows),
        "bytes": sum(row["size"] or 0 for row in rows),
        "flagged": decided.count("block") + decided.count("review"),
        "unreadable": len(failed),
        "error_rate": len(failed) / len(images) if images else 0.0,
        "status": Counter(row["status"] for row in rows),
        "decision": Counter(decided),
        "format": Counter(row["format"] for row in rows if row["format"]),
        "nsfw_score_histogram": [bins[i] for i in range(HISTOGRAM_BINS)],
        "neutral": len(neutral),
        "false_positives": sum(row["label"] == "nsfw" for row in neutral),
        "truths": Counter(row["truth"] for row in rows if row["truth"]),
        "suspected": sum(
            row["truth"] is None and row.get("label") == "neutral" and decision == "review"
            for row, decision in zip(rows, decided, strict=True)
        ),
        "errors": sum(row["status"] != "ok" for row in rows),
    }


@settings(max_examples=60, deadline=None)
@given(rows=rows_strategy())
def test_counts_are_those_of_the_rows(rows: list[Row]) -> None:
    """Every number is what a plain count over the rows gives, and the whole is JSON."""
    found, expected = counted(report(rows)), by_hand(rows)
    for name in ("rows", "bytes", "flagged", "unreadable", "error_rate", "status", "decision", "format"):
        assert found[name] == expected[name], name
    assert found["nsfw_score_histogram"] == expected["nsfw_score_histogram"]
    truth = found["truth"]
    assert (truth["neutral"], truth["false_positives"]) == (expected["neutral"], expected["false_positives"])
    assert (truth["by_category"], truth["suspected"]) == (expected["truths"], expected["suspected"])
    assert sum(entry["count"] for entry in found["errors"]) == expected["errors"]
    assert json.loads(to_json(found)) == found


@settings(max_examples=30, deadline=None)
@given(rows=rows_strategy(), cut=st.integers(0, 25))
def test_ranges_add_up_to_the_whole(rows: list[Row], cut: int) -> None:
    """Counted in two ranges or in one go, the summary is the same, but for the order of equal counts."""
    rows = sorted(rows, key=lambda row: row["uri"])

    def plain(found: dict[str, Any]) -> dict[str, Any]:
        return {**found, "errors": sorted((e["status"], e["message"][:9], e["count"]) for e in found["errors"])}

    assert plain(counted(report(rows[:cut]), report(rows[cut:]))) == plain(counted(report(rows)))


def test_nothing_is_no_division() -> None:
    """A summary of no rows has no rates, and an error rate of zero."""
    found = counted(report([]))
    assert (found["rows"], found["bytes"], found["error_rate"], found["errors"]) == (0, 0, 0.0, [])
    assert found["truth"]["false_positive_rate"] is None
    assert found["truth"]["by_decision"] == {}


def test_what_is_no_image_does_not_count_as_an_error() -> None:
    """The error rate is over what should have been images: text files neither raise nor lower it."""
    rows = [staged_row("/ok"), staged_row("/bad", status="timeout")]
    texts = [staged_row(f"/{i}.txt", status="unsupported") for i in range(20)]
    assert counted(report(rows + texts))["error_rate"] == 0.5
    assert counted(report(texts))["error_rate"] == 0.0
    assert counted(report(texts))["unreadable"] == 0


def test_false_positive_rates() -> None:
    """Rates are over the neutral images that have a label: by label, and by what the policy made of them."""
    rows = [staged_row(f"/{i}", nsfw_score=score, truth="neutral") for i, score in enumerate((0.1, 0.3, 0.6, 0.9))]
    rows += [staged_row("/p", nsfw_score=0.99, truth="porn"), staged_row("/n", status="timeout", truth="neutral")]
    truth = counted(report(rows))["truth"]
    assert (truth["neutral"], truth["false_positives"], truth["false_positive_rate"]) == (4, 2, 0.5)
    assert truth["by_label"] == {"nsfw": {"count": 2, "rate": 0.5}}
    assert truth["by_decision"] == {
        "review": {"count": 2, "rate": 0.5},
        "block": {"count": 1, "rate": 0.25},
        "escalate": {"count": 0, "rate": 0.0},
    }


def test_errors_are_counted_by_code() -> None:
    """A thousand truncated files are one line with a count, an example and its message, whatever their messages are."""
    rows = [
        *(
            staged_row(f"/a{i}", status="decode_error", error_code="truncated", error=f"broken {i}: {c}")
            for i, c in enumerate("abcdefghi")
        ),
        staged_row("/b", status="decode_error", error="no header"),
        *(staged_row(f"/c{i}", status="timeout", error_code="read_timeout", error=f"slow {i}") for i in range(3)),
    ]
    assert counted(report(rows))["errors"] == [
        {"status": "decode_error", "code": "truncated", "count": 9, "example": "/a0", "message": "broken 0: a"},
        {"status": "timeout", "code": "read_timeout", "count": 3, "example": "/c0", "message": "slow 0"},
        {"status": "decode_error", "code": "decode_error", "count": 1, "example": "/b", "message": "no header"},
    ]


def test_scores_at_the_edges_are_in_the_histogram() -> None:
    """0 and 1 fall into the first and the last of twenty bins; rows without a score into none."""
    rows = [staged_row("/0", nsfw_score=0.0), staged_row("/1", nsfw_score=1.0), staged_row("/x", status="denied")]
    histogram = counted(report(rows))["nsfw_score_histogram"]
    assert (histogram[0], histogram[-1], sum(histogram), len(histogram)) == (1, 1, 2, 20)
