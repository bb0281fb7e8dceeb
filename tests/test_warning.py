"""What is odd and stops nothing is counted, with an example, and said wherever a person looks."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsfwscan.cli.terminal import describe_scan
from nsfwscan.config import StorageConfig
from nsfwscan.runs.run import runs_of
from nsfwscan.storage.store import Store
from nsfwscan.warning import WarningKind, Warnings
from tests.runs.rows import files, scanned

YEAR_10000 = 253402300800


@pytest.fixture
def any_time() -> Iterator[Path]:
    """A folder on a filesystem that keeps any 64-bit time of change, as ZFS, btrfs and NFS do."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        probe = Path(folder) / "probe"
        probe.touch()
        os.utime(probe, (YEAR_10000, YEAR_10000))
        if probe.stat().st_mtime != YEAR_10000:
            pytest.skip("/dev/shm does not keep the time of the year 10000")
        probe.unlink()
        yield Path(folder)


def test_a_kind_is_counted_with_its_first_example() -> None:
    """A million of a kind are one entry: a count, the first example without its secrets, the last detail."""
    warnings = Warnings()
    warnings.add(WarningKind.ODD_TIME, "https://me:secret@host/a", detail="one")
    warnings.add(WarningKind.ODD_TIME, "b", count=3, detail="two")
    [entry] = warnings.as_json()
    assert (entry["name"], entry["count"], entry["detail"]) == ("odd_time", 4, "two")
    assert entry["example"] == "https://***@host/a"
    assert entry["said"] and entry["remedy"]
    assert warnings.count(WarningKind.ODD_TIME) == 4


def test_warnings_are_read_again() -> None:
    """A run that is gone on with has those of its listing; a kind of another version is left out."""
    warnings = Warnings()
    warnings.add(WarningKind.ODD_TIME, "a")
    written = warnings.as_json()
    assert Warnings.from_json(written).as_json() == written
    assert Warnings.from_json([{**written[0], "name": "of_tomorrow"}]).as_json() == []


def test_a_time_that_no_calendar_has_is_a_null_and_a_warning(any_time: Path) -> None:
    """A file of the year 10000, or of before the year 1, is a row without a time; the run is committed, and says so."""
    media = files(any_time / "media", 4)
    names = sorted(os.listdir(media))
    for name, moment in zip(names, (YEAR_10000, -(2**40), -1, 2**33), strict=True):
        os.utime(media / name, (moment, moment))
    result = scanned(media, any_time / "out")
    [entry] = result.record.warnings
    assert (entry.name, entry.count, entry.example) == ("odd_time", 2, str(media / names[0]))
    assert result.record.balance.listed == 4
    assert "2  a time of change that no calendar has" in describe_scan(result)
    assert "2 × a time of change that no calendar has" in Path(result.uri, "summary.html").read_text(encoding="utf-8")
    [run] = runs_of(Store.at(str(any_time / "out"), StorageConfig()))
    assert run.plan().warnings.as_json() == result.record.as_json()["warnings"]
