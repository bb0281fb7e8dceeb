"""The commit's benchmark commits the same carried rows again and again, and says where the time went."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.benchmark import committing
from jobs.benchmark.committing import as_markdown, measure_commit


@pytest.mark.full
def test_a_commit_of_carried_rows_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each repetition resumes the same planned night, and leaves the store ready for the next."""
    said: list[str] = []
    found = measure_commit(tmp_path, 3000, 2, said.append)
    assert len(found.commits) == 2 and all(one.cpu_s > 0 and one.peak > 10**8 for one in found.commits)
    assert {"read earlier reports", "find duplicates", "decide", "write"} < found.steps.keys()
    assert sum(found.steps.values()) > 0
    text = as_markdown(found)
    assert "| 3,000 |" in text and "Medians of 2" in text
    second = tmp_path / "committed-3000" / "runs" / "second"
    assert sorted(path.name for path in second.iterdir()) == ["listing", "plan.json"]
    assert said[0].startswith("committing a first night")
    monkeypatch.setattr(committing, "_prepare", None)  # the store is kept
    assert measure_commit(tmp_path, 3000, 1, said.append).rows == 3000
