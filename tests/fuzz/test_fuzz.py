"""Whatever bytes a reader is given, it says in a sentence what is wrong with them; and the fuzzer would notice if not."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.__main__ import Hung, fuzz, tried
from tests.fuzz.mutation import ANY_BYTES
from tests.fuzz.targets import TARGETS, Target
from tests.s3.servers import S3Endpoint


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moto: S3Endpoint) -> None:
    """A cache of its own; and an S3 server, since damaged lists name buckets."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_read(name: str, tmp_path: Path) -> None:
    """What is damaged is well formed before: a fuzzer whose files are all refused at their first byte finds nothing."""
    for number, seed in enumerate(TARGETS[name].seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        if name in ("inventories", "checkpoints", "verdicts"):  # whose other files are not there
            assert tried(TARGETS[name], seed) is None
        else:
            TARGETS[name].read(seed, folder)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_files_are_refused_in_words(name: str, tmp_path: Path) -> None:
    """A second of damaged files for each reader; `make fuzz` goes on for as long as one likes."""
    count, found = fuzz(name, 1.0, seed=20261126, keep=tmp_path)
    assert not found
    assert count > 0


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=ANY_BYTES)
def test_any_bytes_are_refused_in_words(name: str, data: bytes) -> None:
    """Bytes that hypothesis makes up, JSON among them."""
    assert tried(TARGETS[name], data) is None


def _raises(data: bytes, folder: Path) -> None:
    if len(data) > 3:
        raise KeyError("what a reader forgot to check")


def _hangs(data: bytes, folder: Path) -> None:
    with contextlib.suppress(Exception):
        time.sleep(60)


def test_the_fuzzer_notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that is none of ours is counted and its file kept; what hangs is a failure, too."""
    monkeypatch.setitem(TARGETS, "careless", Target(lambda: [b"0123456789"], _raises))
    _, found = fuzz("careless", 0.5, seed=1, keep=tmp_path)
    assert found and all(kind.startswith("KeyError at test_fuzz.py") for kind in found)
    kept = list(tmp_path.glob("careless-1-*"))
    assert kept and isinstance(tried(TARGETS["careless"], kept[0].read_bytes()), KeyError)
    assert isinstance(tried(Target(lambda: [b""], _hangs, slow_s=0.2), b""), Hung)
