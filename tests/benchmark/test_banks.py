"""The bank's benchmark measures what it says, and stops where an entry is missed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jobs.benchmark import banks
from nsfwscan.banks.pdq_index import NearIndex
from nsfwscan.errors import NsfwscanError

BENCH = Path(__file__).parents[2] / "jobs" / "bench.py"


@pytest.mark.full
def test_a_bank_is_measured_without_pictures_or_models(tmp_path: Path) -> None:
    """By its command, in a process of its own, since it binds itself to cores: a table, the figures as JSON, and
    nothing else is made."""
    command = ["--only", "banks", "--bank-entries", "5000", "--seconds", "0.2", "--work", str(tmp_path / "work")]
    given = [sys.executable, str(BENCH), *command, "--threads", "1", "--json", str(tmp_path / "x.json")]
    environment = {**os.environ, "NSFWSCAN_CACHE": str(tmp_path)}
    shown = subprocess.run(given, capture_output=True, text=True, check=False, env=environment)
    assert shown.returncode == 0, shown.stderr
    assert "| 5,000 |" in shown.stdout and "On 1 cores, within 31 bits, none missed" in shown.stdout
    assert '"per_s"' in (tmp_path / "x.banks.json").read_text()
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [
        "bank-5000.parquet",
        "bank-cache",
        "bench.log",
    ]


def test_a_missed_entry_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate of an index that misses what is there is none."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path))
    banks.write_bank(tmp_path / "bank.parquet", 2000)
    spec, *_ = banks.build(tmp_path / "bank.parquet", 1)
    assert spec.entries["pdq"] == 2000
    assert banks.answer(spec, 1, 0.1)[1] > 0
    nothing = NearIndex.over(np.zeros((1, 32), np.uint8), 31)
    monkeypatch.setattr("nsfwscan.banks.bank.Bank.near", lambda bank: nothing)
    with pytest.raises(NsfwscanError, match="missed 7 entries"):
        banks.answer(spec, 1, 0.1)
