"""What crashes or stalls a decoder costs its time once a run, however many workers the run has."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from nsfwscan.config import DecodeConfig, StorageConfig
from nsfwscan.errors import ErrorCode, RowError
from nsfwscan.runs import poison
from nsfwscan.runs.poison import SharedPoison
from nsfwscan.runs.run import Run
from nsfwscan.stages.decode import Decode
from nsfwscan.storage.store import Store
from tests.hostile_format import PLUGINS, hostile
from tests.stages.test_decode import GEOMETRY, table

SHA256 = "0" * 64
LIMITS = DecodeConfig(timeout_s=2.0)
ERROR = RowError(ErrorCode.DECODE_TIMEOUT, "decoding took more than 2 s", {"format": "JPEG", "width": 9})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(poison, "_EVERY_S", 0.0)
    return Run.named(Store.at(str(tmp_path), StorageConfig()), "night")


def test_another_worker_does_not_try_it_again(run: Run) -> None:
    """The second worker's row says what the first one met, and its decoder is not started for it."""
    config = DecodeConfig(timeout_s=1.0, plugins=PLUGINS)
    first, second = (Decode(config, {GEOMETRY: "pixels"}, SharedPoison(run.staging, LIMITS)) for _ in range(2))
    files = [hostile("hang"), hostile("segv")]
    given = table(files).append_column("sha256", pa.array([hashlib.sha256(file).hexdigest() for file in files]))
    met = first(given)
    found = second(given)
    assert met["status"].to_pylist() == found["status"].to_pylist() == ["timeout", "crashed"]
    assert found["error"].to_pylist() == [f"{said} (the same bytes, tried before)" for said in met["error"].to_pylist()]
    assert found["width"].to_pylist() == met["width"].to_pylist()
    assert second._child.workers == 0


def test_what_fails_otherwise_is_not_poison(run: Run) -> None:
    """A damaged file costs nothing; each worker says itself what is wrong with it."""
    SharedPoison(run.staging, LIMITS).add(SHA256, RowError(ErrorCode.DECODE_ERROR, "cut off"))
    there = SharedPoison(run.staging, LIMITS)
    there.look()
    assert there.find(SHA256) is None and run.staging.names("poison") == []


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", b'{"status": "ok", "message": "", "values": {}}', b'{"status": "timeout"}']
)
def test_a_note_that_is_none_is_passed_over(run: Run, note: bytes) -> None:
    """Then the content is tried as if nobody had met it."""
    run.staging.write(f"poison/{SHA256}.json", note)
    run.staging.write("poison/readme.txt", b"")
    there = SharedPoison(run.staging, LIMITS)
    there.look()
    assert there.find(SHA256) is None


def test_other_limits_are_another_try(run: Run) -> None:
    """A run that is resumed with more time for a file tries again what took too long before."""
    SharedPoison(run.staging, LIMITS).add(SHA256, ERROR)
    for seconds, found in ((2.0, True), (60.0, False)):
        there = SharedPoison(run.staging, DecodeConfig(timeout_s=seconds))
        there.look()
        assert (there.find(SHA256) is not None) == found


def test_a_store_that_fails_loses_only_time(run: Run, tmp_path: Path) -> None:
    """Where notes can be neither written nor listed, a worker goes by what it met itself."""
    (tmp_path / "staging").mkdir()
    (tmp_path / "staging" / "night").write_bytes(b"a file in the folder's place")
    here = SharedPoison(run.staging, LIMITS)
    here.add(SHA256, ERROR)
    here.look()
    assert here.find(SHA256) is ERROR


def test_notes_go_with_the_staged_parts(run: Run) -> None:
    """A committed run leaves none."""
    SharedPoison(run.staging, LIMITS).add(SHA256, ERROR)
    there = SharedPoison(run.staging, LIMITS)
    there.look()
    found = there.find(SHA256)
    assert found is not None and (found.status, found.message, found.values) == (
        ERROR.status, ERROR.message, ERROR.values,
    )  # fmt: skip
    run.clear_staging()
    assert run.staging.names("") == []
