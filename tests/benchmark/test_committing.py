"""The benchmark of the commit commits the same rows again and again, and says where the time went."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.benchmark import committing
from jobs.benchmark.committing import as_markdown, measure_commit


@pytest.mark.full
def test_commits_of_each_kind_of_night_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each repetition resumes the same planned night, and leaves the store ready for the next."""
    said: list[str] = []
    found = measure_commit(tmp_path, 3000, 2, said.append)
    assert [one.night for one in found.nights] == list(committing.NIGHTS)
    for one in found.nights:
        assert len(one.commits) == 2 and all(one.cpu_s > 0 and one.peak > 10**8 for one in one.commits)
        assert {"find duplicates", "decide", "write"} < one.steps.keys()
        assert sum(one.steps.values()) > 0
    assert "read earlier reports" in found.nights[0].steps
    text = as_markdown(found)
    assert "| 3,000 rows |" in text and "Medians of 2" in text and text.count("new, all compared") == 2
    for night in ("carried", "new", "new-all-compared"):
        run = tmp_path / f"{night}-3000" / "runs" / "measured"
        assert sorted(path.name for path in run.iterdir()) == ["listing", "plan.json"]
    assert said[0] == "carried: making 3,000 rows"
    monkeypatch.setattr(committing, "_prepare", None)  # the stores are kept
    assert measure_commit(tmp_path, 3000, 1, said.append).rows == 3000
