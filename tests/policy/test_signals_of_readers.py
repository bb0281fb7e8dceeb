"""Counts of a reader are no probabilities; the policy of the factory decides by what it says, and by nothing unknown."""

from __future__ import annotations

import pyarrow as pa
import pytest

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import load_policy
from nsfwscan.policy.signals import probabilities_of, signals_array
from nsfwscan.schema import REPORT_SCHEMA, as_schema

SAID = {
    "text.chars": 540.0, "text.lines": 7.0, "text.profanity": 2.0, "text.solicitation": 0.8, "text.solicitation.age": 1.0,
    "link.codes": 1.0, "link.blocked": 1.0, "gore.NSFL": 0.1, "gate.text": 1.0, "lines.text": 7.0, "spam.other": 0.3,
}  # fmt: skip


def test_counts_are_no_probabilities() -> None:
    """Nor are hints; a label of another detector that is called as a count stays."""
    assert probabilities_of(SAID) == {"text.solicitation": 0.8, "gore.NSFL": 0.1, "spam.other": 0.3}


@pytest.mark.parametrize(
    ("signals", "rule"),
    [
        ({"text.solicitation": 0.8}, "solicitation"),
        ({"text.solicitation": 0.5}, "otherwise"),
        ({"text.extortion": 0.9}, "extortion"),
        ({"text.self-harm": 0.6}, "crisis"),
        ({"text.contact-spam": 0.8}, "contact-spam"),
        ({"link.blocked": 1.0}, "blocked-link"),
        ({"link.blocked": 0.0}, "otherwise"),
        ({}, "otherwise"),
    ],
)
def test_the_factory_decides_by_text(signals: dict[str, float], rule: str) -> None:
    """What nobody read is unknown, and no rule over it is true."""
    row = {"uri": "a", "status": "ok", "nsfw_score": 0.01, "label": "neutral", "format": "PNG"}
    table = as_schema(pa.Table.from_pylist([row]).append_column("signals", signals_array([signals])), REPORT_SCHEMA)
    [decided] = Decider(load_policy("factory"))(table).to_pylist()
    assert (decided["rule"], decided["decision"]) == (rule, "allow" if rule == "otherwise" else "review")
