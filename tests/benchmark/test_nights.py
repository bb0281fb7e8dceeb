"""The measurement of nights."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.benchmark.media import TINY, make_pictures, make_store
from jobs.benchmark.nights import nights
from nsfwscan.config import StorageConfig
from nsfwscan.runs.run import runs_of
from nsfwscan.storage.store import Store


@pytest.mark.long
def test_three_nights(tmp_path: Path) -> None:
    """The second night reads nothing, the third one what is new; each costs less than the first."""
    pictures = sorted(make_store(tmp_path, make_pictures(tmp_path, TINY, 40), 202).rglob("*.jpg"))
    (tmp_path / "nights").mkdir()
    took = nights(pictures, 200, tmp_path / "nights", 2)
    assert 0 < took["same"] < took["first"] and 0 < took["second"] < took["first"]
    store = Store.at(str(tmp_path / "nights" / "out"), StorageConfig())
    balances = [run.record().balance for run in runs_of(store)]
    assert [(one.listed, one.carried) for one in balances] == [(200, 0), (200, 200), (202, 200)]
