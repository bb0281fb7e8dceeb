"""Safe images that were called NSFW, and those under suspicion: which rows, in what order, and why."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.policy.rules import parse_policy
from nsfwscan.runs.false_positives import FALSE_POSITIVE_SCHEMA, is_false_positive, select_false_positives
from tests.runs.rows import report, staged, staged_row


def selected(*rows: dict[str, Any]) -> list[dict[str, Any]]:
    table = select_false_positives(report(rows))
    assert table.schema.equals(FALSE_POSITIVE_SCHEMA, check_metadata=True)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@pytest.mark.parametrize(
    ("truth", "label", "expected"),
    [
        ("neutral", "neutral", False),
        ("neutral", "drawings", False),
        ("neutral", "sexy", True),
        ("neutral", "nsfw", True),
        ("drawings", "hentai", False),
        ("porn", "porn", False),
        ("porn", "neutral", False),
        (None, "porn", None),
        ("neutral", None, None),
        (None, None, None),
    ],
)
def test_a_false_positive_is_neutral_by_truth_and_nsfw_by_label(
    truth: str | None, label: str | None, expected: bool | None
) -> None:
    """True or false where both are known, and null where either is not: unknown is never counted as right."""
    table = staged([staged_row("/a", truth=truth, label=label)])
    assert is_false_positive(table).to_pylist() == [expected]
    assert is_false_positive(table.slice(0, 0)).to_pylist() == []


def test_confirmed_by_truth() -> None:
    """A neutral image with an NSFW label is there with its scores, whatever was decided; the right calls are not."""
    [row] = selected(
        staged_row("/wrong", nsfw_score=0.7, truth="neutral", width=3, height=2, sha256="ab"),
        staged_row("/right", nsfw_score=0.1, truth="neutral"),
        staged_row("/porn", nsfw_score=0.9, truth="porn"),
        staged_row("/broken", status="timeout", truth="neutral"),
        staged_row("/unknown", nsfw_score=0.9),
    )
    assert (row["uri"], row["kind"], row["reason"]) == ("/wrong", "confirmed", "truth is neutral, the label nsfw")
    assert (row["decision"], row["rule"], row["width"], row["height"]) == ("review", "borderline", 3, 2)
    assert (row["sha256"], row["image"]) == ("ab", None)


def test_suspected_without_truth() -> None:
    """Without truth, a row that was flagged although its label is safe contradicts itself, and is marked as suspected;
    with a truth it is not under suspicion."""
    [row] = selected(
        staged_row("/odd", nsfw_score=0.3),
        staged_row("/judged", nsfw_score=0.3, truth="porn"),
        staged_row("/neutral", nsfw_score=0.3, truth="neutral"),
        staged_row("/sure", nsfw_score=0.9),
        staged_row("/allowed", nsfw_score=0.1),
    )
    assert (row["uri"], row["kind"]) == ("/odd", "suspected")
    assert row["reason"] == "decided review although the label is neutral; no truth is known"


def test_what_a_detector_decided_is_no_contradiction() -> None:
    """A rule over text or gore says nothing against the model's label; one over the worst view is the model's own."""
    asks = {"text": "signals['text.extortion'] > 0.5", "worst": "signals['view.max'] > 0.9", "link": "link_host = 'x'"}
    rules = [{"name": name, "when": when, "decision": "review"} for name, when in asks.items()]
    given = {"name": "p", "version": "1", "rules": rules, "otherwise": {"decision": "allow"}}
    beside = parse_policy(given).rules_beside_the_model
    assert beside == {"text", "link"}
    flagged = report([staged_row("/odd", nsfw_score=0.3), staged_row("/odder", nsfw_score=0.35)])
    assert select_false_positives(flagged, {"borderline"}).num_rows == 0
    assert select_false_positives(flagged, beside).num_rows == 2


def test_what_a_bank_decided_is_no_contradiction() -> None:
    """A known picture is blocked whatever its label; and an illegal one is in no list that is looked at, nor copied,
    even where truth says that the model was wrong."""
    bank = {"match_bank": "b", "match_id": "1", "match_hash": "sha256", "match_distance": 0}
    found = selected(
        staged_row("/blocked", nsfw_score=0.3, match_kind="block", **bank),
        staged_row("/confirmed", nsfw_score=0.9, truth="neutral", match_kind="block", **bank),
        staged_row("/illegal", nsfw_score=0.9, truth="neutral", match_kind="illegal", **bank),
        staged_row("/illegal-too", nsfw_score=0.3, match_kind="illegal", **bank),
    )
    assert [(row["uri"], row["kind"]) for row in found] == [("/confirmed", "confirmed")]


def test_the_ranking_has_all_categories() -> None:
    """Every category that the model has, most probable first; those that it does not have are left out."""
    scores = {"score_porn": 0.5, "score_neutral": 0.3, "score_sexy": 0.15, "score_drawings": 0.05, "score_nsfw": None}
    [row] = selected(staged_row("/a", nsfw_score=0.65, truth="neutral") | {**scores, "label": "porn"})
    assert [entry["category"] for entry in row["ranked"]] == ["porn", "neutral", "sexy", "drawings"]
    assert [entry["score"] for entry in row["ranked"]] == pytest.approx([0.5, 0.3, 0.15, 0.05])


def test_nothing_gives_an_empty_table() -> None:
    """A report without false positives, or without rows, has none, in the same columns."""
    assert selected(staged_row("/a")) == []
    assert selected() == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.01, 0.3, 0.45, 0.6, 0.9]), st.sampled_from([None, "neutral", "porn"])), max_size=12
    )
)
def test_the_most_confident_come_first(made: list[tuple[float, str | None]]) -> None:
    """Confirmed ones first, each kind by falling confidence and then by name; kinds never overlap, none is lost."""
    rows = [staged_row(f"/{i:02}", nsfw_score=score, truth=truth) for i, (score, truth) in enumerate(made)]
    found = selected(*rows)
    keys = [(row["kind"], -row["confidence"], row["uri"]) for row in found]
    assert keys == sorted(keys)
    confirmed = sum(truth == "neutral" and score > 0.5 for score, truth in made)
    suspected = sum(truth is None and 0.2 <= score < 0.5 for score, truth in made)
    assert [row["kind"] for row in found] == ["confirmed"] * confirmed + ["suspected"] * suspected
    table = report(rows)
    assert pa.compute.sum(table["false_positive"]).as_py() in (confirmed, None)
