"""A comparison counts what another policy would change, as plain Python does, whatever the batches."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsfwscan.policy.compare import COMPARED, Comparison
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import load_policy, parse_policy
from tests.runs.rows import report, staged_row

NEW: dict[str, Any] = {
    "name": "new",
    "version": "2",
    "rules": [
        {"name": "kids", "when": "uri like '%kids%'", "decision": "escalate", "queue": "kids", "skill": "k"},
        {"name": "high", "when": "nsfw_score >= 0.9", "decision": "block", "queue": "adult", "severity": 4},
        {"name": "spot", "when": "true", "sample": 0.3, "decision": "review", "queue": "quality"},
    ],
    "otherwise": {"decision": "allow"},
}
_SCORES = st.none() | st.integers(0, 20).map(lambda i: i / 20)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), _SCORES), min_size=1, max_size=30), st.integers(1, 7))
def test_counts_are_those_of_plain_python(objects: list[tuple[bool, float | None]], at_once: int) -> None:
    """Moves, values before and after, rows that change elsewhere: by decided rows, dictionaries among them or not."""
    rows = report(
        staged_row(
            f"/{'kids' if kids else 'all'}/{i}", nsfw_score=score, status="ok" if score is not None else "denied"
        )
        for i, (kids, score) in enumerate(objects)
    )
    decide = Decider(parse_policy(NEW))
    comparison = Comparison(decide)
    for start in range(0, rows.num_rows, at_once):
        part = rows.slice(start, at_once).select(comparison.columns)
        if start % 2:
            part = part.set_column(1, "decision", part["decision"].dictionary_encode())
        comparison.add(part)
    old = rows.select(list(COMPARED)).to_pylist()
    new = decide(rows).select(list(COMPARED)).to_pylist()
    pairs = list(zip(old, new, strict=True))
    assert comparison.rows == len(objects)
    for name in COMPARED:
        assert comparison.before[name] == Counter(row[name] for row in old)
        assert comparison.after[name] == Counter(row[name] for row in new)
    assert comparison.moves == Counter(
        (a["decision"], b["decision"]) for a, b in pairs if a["decision"] != b["decision"]
    )
    assert comparison.elsewhere == sum(a != b and a["decision"] == b["decision"] for a, b in pairs)
    moved = {uri: (a["decision"], b["decision"]) for uri, (a, b) in zip(rows["uri"].to_pylist(), pairs, strict=True)}
    for move in comparison.as_dict()["moves"]:
        assert len(move["samples"]) == len(set(move["samples"])) == min(3, move["objects"])
        assert {moved[uri] for uri in move["samples"]} == {(move["from"], move["to"])}


def test_the_same_policy_changes_nothing() -> None:
    """No move, and the same loads before and after."""
    comparison = Comparison(Decider(load_policy("open-nsfw")))
    comparison.add(report(staged_row(f"/{i}", nsfw_score=i / 10) for i in range(10)))
    found = comparison.as_dict()
    assert (found["moved"], found["moves"], found["elsewhere"]) == (0, [], 0)
    assert all(entry["before"] == entry["after"] for name in COMPARED for entry in found[name])


def test_values_are_told_in_order() -> None:
    """The most frequent first, null for none; severities from the worst on."""
    comparison = Comparison(Decider(parse_policy(NEW)))
    comparison.add(report([staged_row("/a", nsfw_score=0.95), staged_row("/b", nsfw_score=0.3)]))
    found = comparison.as_dict()
    assert [entry["value"] for entry in found["severity"]] == [4, 3, 2, 0]
    assert {entry["value"]: (entry["before"], entry["after"]) for entry in found["skill"]} == {None: (2, 2)}


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows: int) -> None:
    """Nothing to count is no fault."""
    comparison = Comparison(Decider(parse_policy(NEW)))
    comparison.add(report([staged_row("/a")] * rows).select(comparison.columns))
    assert comparison.rows == rows


def test_samples_are_of_all_rows() -> None:
    """The few objects that are named of a move are drawn from all of them, not the first ones."""
    comparison = Comparison(Decider(parse_policy({**NEW, "rules": [{**NEW["rules"][1], "when": "true"}]})))
    rows = report(staged_row(f"/{i:04}") for i in range(1000))
    for start in range(0, 1000, 100):
        comparison.add(rows.slice(start, 100))
    [move] = comparison.as_dict()["moves"]
    assert np.ptp([int(uri[1:]) for uri in move["samples"]]) > 100
    assert isinstance(rows, pa.Table)
