"""The count of how often example patterns fire on harmless text."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.policy.rules import load_policy
from nsfwscan.texts.patterns import EXAMPLES, read_list
from tests.texts import harmless


def test_review_begins_where_the_factory_begins_it() -> None:
    """The scores of the table are the thresholds of the policy's rules."""
    policy = load_policy("factory")
    rules = {rule.name: rule.when for rule in policy.rules}
    for topic, score in harmless.REVIEW.items():
        rule = next(when for when in rules.values() if f"signals['text.{topic}']" in when)
        named = rule.rpartition("$")[2].strip()
        assert policy.thresholds[named] == score, topic


def test_the_table_counts_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of two pages in English, one asks for an age, a move and secrecy: it alone reaches review, and one pattern of it
    is named with the line that it was found in."""
    (tmp_path / "en").mkdir()
    asks = "how old are you\nadd me on snapchat\ndont tell your mom\nsend me a pic\n"
    (tmp_path / "en" / "a.txt").write_text(asks + "plain words\n" * (harmless.LINES - 4) + "other words\n")
    lists = [read_list("example:en", StorageConfig())]
    texts = harmless.sampled(harmless.texts_of([tmp_path / "en"]))
    [row] = [line for line in harmless.table(lists, texts) if "| solicitation | `en` |" in line]
    assert "| 2 (21) | 1 | 1 (" in row
    assert "         dont tell your mom" in list(harmless.found_in(lists, texts))
    harmless.main([str(tmp_path / "en")])
    assert "2 pages of given" in capsys.readouterr().out
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} >= {"en"}
