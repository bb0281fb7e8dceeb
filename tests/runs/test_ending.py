"""A night that scored nothing, or hardly anything, is not green; a store with other things in it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nsfwscan.cli.terminal import describe_scan
from nsfwscan.config import ReportConfig
from nsfwscan.runs.ending import Ending, ending_of
from nsfwscan.runs.false_positives import select_false_positives
from nsfwscan.runs.summary import Summary
from tests.runs.rows import files, report, scanned, staged_row

POINTER = "not a format that is scanned: looks like a Git LFS pointer"
PAGE = "not a format that is scanned: looks like an HTML page"


def summary_of(rows: Sequence[dict[str, Any]]) -> Summary:
    summary = Summary()
    table = report([staged_row(f"/{i:04}.jpg", **row) for i, row in enumerate(rows)])
    summary.add(table, select_false_positives(table))
    return summary


def ended(rows: Sequence[dict[str, Any]], **limits: float) -> Ending:
    return ending_of(summary_of(rows), ReportConfig(**limits))


def none(error: str = POINTER) -> dict[str, Any]:
    return {"status": "unsupported", "error": error, "error_code": "pointer" if error == POINTER else "web_response"}


def test_nothing_scored_is_5_and_names_what_there_is() -> None:
    """A store of pointers, with one page among them."""
    ending = ended([*[none()] * 119, none(PAGE)])
    assert ending.exit_code == 5
    assert ending.reason == f"nothing could be scored: 119 of 120 objects: {POINTER}; 1: {PAGE}"


@pytest.mark.parametrize("status", ["denied", "decode_error", "not_found", "timeout"])
def test_nothing_but_errors_is_5_whatever_errors_are_allowed(status: str) -> None:
    """Where no object has a score, no share of errors makes the night green."""
    assert ended([{"status": status}] * 3, max_error_rate=1, max_unsupported_rate=1).exit_code == 5


def test_known_and_filtered_content_needs_no_score() -> None:
    """What a bank or a filter settled was scanned."""
    matched = {"nsfw_score": None, "match_bank": "b", "match_kind": "block", "accounted_as": "matched"}
    filtered = {"nsfw_score": None, "filtered_by": "icon", "accounted_as": "filtered"}
    for row in (matched, filtered):
        assert ended([row, none()]) == Ending()


def test_a_share_of_other_things_is_fine_up_to_the_limit() -> None:
    """Two thirds are an ordinary store; over four fifths are not, unless the limit says so."""
    assert ended([{}, none(), none()]).exit_code == 0
    assert ended([{}, *[none()] * 4]).exit_code == 0
    over = ended([{}, *[none()] * 5])
    assert over.exit_code == 5
    assert (
        over.reason == f"5 objects are no images: 83.3%, over --max-unsupported-rate 80.0%; 5 of 6 objects: {POINTER}"
    )
    assert ended([{}, *[none()] * 5], max_unsupported_rate=0.9).exit_code == 0
    assert ended([{}, none()], max_unsupported_rate=0).exit_code == 5


def test_a_source_may_be_said_to_hold_no_image() -> None:
    """With a limit of 1 a prefix of videos alone is fine, until an object fails."""
    assert ended([none()] * 3, max_unsupported_rate=1) == Ending()
    assert ended([none(), {"status": "denied"}], max_unsupported_rate=1).exit_code == 5


def test_errors_come_first() -> None:
    """Over both limits it is 4, with both reasons."""
    ending = ended([{}, *[none()] * 9, {"status": "denied"}])
    assert ending.exit_code == 4
    assert ending.reason is not None
    assert "--max-error-rate" in ending.reason and "--max-unsupported-rate" in ending.reason


def test_nothing_listed_is_no_ending() -> None:
    """An empty report, as of a match that found nothing, is committed."""
    assert ended([]) == Ending()


def test_a_second_night_ends_as_the_first(tmp_path: Path) -> None:
    """Rows that are carried over count as on their night, also where a delta report does not write them again."""
    media = files(tmp_path / "media", 4)
    for out, row, code in (("bad", lambda uri: staged_row(uri, **none()), 5), ("good", staged_row, 0)):
        for mode in ("snapshot", "delta"):
            result = scanned(media, tmp_path / out, row, run_id=mode, report={"mode": mode})
            assert result.exit_code == result.record.exit_code == code
    page = (tmp_path / "bad/runs/delta/summary.html").read_text(encoding="utf-8")
    assert "Committed, but hardly anything was scored" in page and "--max-unsupported-rate" in page
    bad = scanned(media, tmp_path / "bad", run_id="snapshot")
    assert bad.already_committed and bad.exit_code == 5
    assert describe_scan(bad).startswith(
        f"already committed: run snapshot — nothing could be scored: 4 of 4 objects: {POINTER}"
    )
