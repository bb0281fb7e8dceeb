"""Checkpoints on the way: whole or not there, on local disk and on S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import boto3
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import StoreError
from nsfwscan.storage.store import Store
from tests.s3.servers import S3Endpoint
from training.fit.checkpoints import FOLDER, Checkpoints, Damaged, check_room


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, moto: S3Endpoint) -> Store:
    if request.param == "local":
        return Store.at(str(tmp_path / "out"), StorageConfig())
    bucket = f"checkpoints-{abs(hash(request.node.name)) % 10**8}"
    boto3.client("s3").create_bucket(Bucket=bucket)
    return Store.at(f"s3://{bucket}/out", StorageConfig())


@pytest.fixture
def put(store: Store, tmp_path: Path) -> Callable[..., Checkpoints]:
    def put(step: int, attempt: str = "a", *, complete: bool = True) -> Checkpoints:
        folder = tmp_path / f"{step}-{attempt}"
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(bytes([step]) * 5_000)
        (folder / "rng_state_1.pth").write_text(attempt)
        checkpoints = Checkpoints(store, attempt)
        files = checkpoints.put(checkpoints.name(step), folder)
        if complete:
            checkpoints.complete(checkpoints.name(step), step, files, {"precision": "float32"})
        return checkpoints

    return put


def test_what_was_put_comes_back(put: Callable[..., Checkpoints], tmp_path: Path) -> None:
    """All files of the newest complete checkpoint come back as they were."""
    put(3)
    checkpoints = put(7)
    newest = next(checkpoints.newest_first())
    folder = checkpoints.get(newest, tmp_path / "back")
    assert (newest.step, newest.facts) == (7, {"precision": "float32"})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "model.safetensors": bytes([7]) * 5_000,
        "rng_state_1.pth": b"a",
    }
    found = checkpoints.at(3)
    assert found is not None and found.step == 3 and checkpoints.at(4) is None


def test_a_half_written_one_does_not_count(put: Callable[..., Checkpoints]) -> None:
    """A checkpoint that was not completed is never seen, however new it is."""
    put(3)
    checkpoints = put(7, complete=False)
    assert [found.step for found in checkpoints.newest_first()] == [3]


@pytest.mark.parametrize("harm", ["cut off", "gone"])
def test_a_damaged_one_is_told(store: Store, put: Callable[..., Checkpoints], tmp_path: Path, harm: str) -> None:
    """A file that is not what was written is never handed on."""
    checkpoints = put(7)
    newest = next(checkpoints.newest_first())
    name = f"{FOLDER}/{newest.name}/model.safetensors"
    store.delete(name)
    if harm == "cut off":
        store.write(name, bytes([7]) * 4_000)
    with pytest.raises(Damaged, match=r"model\.safetensors"):
        checkpoints.get(newest, tmp_path / "back")


def test_attempts_do_not_mix(put: Callable[..., Checkpoints], tmp_path: Path) -> None:
    """Two attempts that write the same step, as when a worker was given up and lives on, have a folder each."""
    put(7, "a")
    checkpoints = put(7, "b", complete=False)
    [found] = checkpoints.newest_first()
    assert (checkpoints.get(found, tmp_path / "back") / "rng_state_1.pth").read_text() == "a"


def test_old_ones_go(store: Store, put: Callable[..., Checkpoints]) -> None:
    """What is older goes, half-written or not, but for those to keep; clearing leaves nothing."""
    for step in (2, 3, 5):
        put(step, complete=step != 3)
    checkpoints = put(9)
    checkpoints.prune({2}, before=9)
    assert [found.step for found in checkpoints.newest_first()] == [9, 2]
    assert len(store.names(FOLDER)) == 2
    checkpoints.clear()
    assert store.names(FOLDER) == []


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    """A disk that is full while a checkpoint is written is a StoreError, and the older checkpoint is whole."""
    checkpoints = Checkpoints(Store.at(str(small_disk), StorageConfig()), "a")
    for step, size in ((1, 1_000), (2, 8 * 2**20)):
        folder = tmp_path / str(step)
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(bytes(size))
    checkpoints.complete(checkpoints.name(1), 1, checkpoints.put(checkpoints.name(1), tmp_path / "1"), {})
    with pytest.raises(StoreError, match="the store is full"):
        checkpoints.put(checkpoints.name(2), tmp_path / "2")
    [found] = checkpoints.newest_first()
    assert checkpoints.get(found, tmp_path / "back").joinpath("optimizer.pt").stat().st_size == 1_000


def test_room(small_disk: Path) -> None:
    """Too little room is said with what there is and what it takes, also for a folder that is not there yet."""
    store = Store.at(str(small_disk / "not" / "yet"), StorageConfig())
    check_room(store, 2**20)
    with pytest.raises(StoreError, match=r"no room in .*: 4 MiB are free, and .* up to 64 MiB"):
        check_room(store, 64 * 2**20)
    check_room(Store.at("s3://bucket/out", StorageConfig()), 2**60)
