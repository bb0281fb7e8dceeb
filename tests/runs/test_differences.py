"""How the settings of two runs differ is said in plain words, in the record, on the terminal and on the page."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nsfwscan.cli.terminal import describe_scan
from nsfwscan.runs.differences import describe_difference, differences
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import scanned


def policy(folder: Path, name: str, version: str, limit: float, queue: str = "adult") -> str:
    rule = {"name": "explicit", "when": "nsfw_score >= $explicit", "decision": "block", "queue": queue}
    said = {"version": version, "thresholds": {"explicit": limit}, "rules": [rule], "otherwise": {"decision": "allow"}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(said))
    return str(path)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.jpg").write_bytes(b"a")
    return tmp_path / "media"


def told(result: ScanResult) -> list[str]:
    return [describe_difference(one) for one in result.record.differences or ()]


def test_a_night_with_another_policy_and_bank_says_so(media: Path, tmp_path: Path) -> None:
    """Policy with both versions, threshold, rule, and bank with both versions; the page and the terminal say it first."""
    out, bank = tmp_path / "out", tmp_path / "bank.txt"
    bank.write_text("00" * 16 + "\n")
    banks = {"known": {"uri": str(bank), "hash": "md5"}}
    first = scanned(media, out, run_id="1", policy=policy(tmp_path, "old", "1", 0.8), banks=banks)
    assert first.record.differences is None
    bank.write_text("11" * 16 + "\n")
    second = scanned(media, out, run_id="2", policy=policy(tmp_path, "new", "2", 0.7, "other"), banks=banks)
    lines = told(second)
    assert lines[0].startswith("policy: old@") and ", version 1 → new@" in lines[0] and lines[0].endswith(", version 2")
    assert lines[1] == "threshold explicit: 0.8 → 0.7"
    assert lines[2].startswith("rule explicit: nsfw_score >= $explicit → block, queue adult")
    assert lines[3].startswith("bank known: known@") and lines[3].count("(block)") == 2 and len(lines) == 4
    assert describe_scan(second).splitlines()[2] == "settings are others than in run 1:"
    page = Path(second.uri, "summary.html").read_text()
    assert page.index("Other settings than in run") < page.index("<main>") and "new@" in page
    third = scanned(media, out, run_id="3", policy=policy(tmp_path, "new", "2", 0.7, "other"))
    assert len(told(third)) == 1 and told(third)[0].endswith("(block) → none")


def test_the_same_settings_differ_in_nothing(media: Path, tmp_path: Path) -> None:
    """A night as the one before says nothing."""
    scanned(media, tmp_path / "out", run_id="1")
    second = scanned(media, tmp_path / "out", run_id="2")
    assert second.record.differences == () and "settings are others" not in describe_scan(second)
    assert "Other settings than" not in Path(second.uri, "summary.html").read_text()


def test_preprocessing_and_limits_are_settings(media: Path, tmp_path: Path) -> None:
    """Decoding, precision and limits are compared; a run differs in nothing from itself."""
    out = tmp_path / "out"
    first = scanned(media, out, run_id="1")
    second = scanned(media, out, run_id="2", decode={"pdq": "reduced", "max_pixels": 1000})
    assert told(second) == ["preprocessing decode.pdq: exact → reduced", "limit decode.max_pixels: 100000000 → 1000"]
    assert differences(first.record, first.record) == ()
