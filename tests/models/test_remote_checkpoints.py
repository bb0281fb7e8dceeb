"""A checkpoint elsewhere is fetched once a node, whole, and is the one that lies there now."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.registry import load
from nsfwscan.models.spec import ModelSpec
from tests.checkpoints import make_vit
from tests.models.specs import CPU, LOCAL, spec_of
from tests.s3.servers import FaultyProxy, S3Endpoint

BUCKET = "registry-tests"


# Elsewhere


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's cache, empty."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture
def memory(made: Path) -> Iterator[Any]:
    """ViT in memory://registry-tests/small-vit, among other files."""
    fs = fsspec.filesystem("memory")
    upload(fs, made, "/registry-tests/small-vit")
    yield fs
    fs.rm("/registry-tests", recursive=True)


def upload(fs: Any, folder: Path, target: str) -> None:
    for path in folder.iterdir():
        fs.pipe_file(f"{target}/{path.name}", path.read_bytes())
    fs.pipe_file(f"{target}/pytorch_model.bin", b"pickled")
    fs.pipe_file(f"{target}/checkpoint-100/model.safetensors", b"training state")


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_a_remote_model_is_fetched_into_the_cache(memory: Any, cache: Path, made: Path) -> None:
    """Only what is needed of it, and it is the model that was uploaded."""
    spec = spec_of("memory://registry-tests/small-vit/")
    assert (spec.name, spec.digest) == ("small-vit", spec_of(made).digest)
    [folder] = folders(cache)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    load(spec, LOCAL, CPU)
    assert folders(cache) == [folder]


def test_a_remote_model_that_changed_is_fetched_again(memory: Any, cache: Path, tmp_path: Path) -> None:
    """Weights of the same size under the same name, retrained: the old copy does not stand in for them."""
    before = spec_of("memory://registry-tests/small-vit")
    upload(memory, make_vit(tmp_path / "retrained", seed=1), "/registry-tests/small-vit")
    after = spec_of("memory://registry-tests/small-vit")
    assert after.digest != before.digest
    assert len(folders(cache)) == 2
    with pytest.raises(ModelError, match="not those that the run began with"):
        load(before, LOCAL, CPU)


def test_a_download_that_broke_off_is_begun_again(memory: Any, cache: Path) -> None:
    """A half-filled folder of a killed process is never taken for a model."""
    spec = spec_of("memory://registry-tests/small-vit")
    [folder] = folders(cache)
    unfinished = folder.rename(folder.with_name(f".tmp-{folder.name}"))
    (unfinished / "model.safetensors").write_bytes(b"half")
    assert spec_of("memory://registry-tests/small-vit") == spec
    assert folders(cache) == [folder]


def test_a_model_on_s3_is_fetched_once_a_node(moto: S3Endpoint, cache: Path, made: Path) -> None:
    """Four loaders at once, and later ones: each file is read once, under a lock, whatever else lies there."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for path in made.iterdir():
        client.upload_file(str(path), BUCKET, f"models/small-vit/{path.name}")
    client.put_object(Bucket=BUCKET, Key="models/small-vit/pytorch_model.bin", Body=b"pickled")
    with FaultyProxy(moto) as proxy:
        reads: list[str] = []
        proxy.delay(lambda method, path: method == "GET" and reads.append(path) is None, 0)
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        uri = f"s3://{BUCKET}/models/small-vit"
        found: list[ModelSpec] = []
        threads = [threading.Thread(target=lambda: found.append(spec_of(uri, storage))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        load(spec_of(uri, storage), storage, CPU)
    assert [spec.digest for spec in found] == [spec_of(made).digest] * 4
    fetched = sorted(path.partition("?")[0].rsplit("/", 1)[-1] for path in reads if "list-type" not in path)
    assert fetched == ["config.json", "model.safetensors", "preprocessor_config.json"]
    assert len(folders(cache)) == 1


def test_a_store_that_refuses_is_a_model_error(moto: S3Endpoint, cache: Path) -> None:
    """With the URI and the reason; nothing half-fetched is left as a model."""
    with FaultyProxy(moto) as proxy:
        proxy.fail(lambda method, path: True, status=403, code="AccessDenied")
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        with pytest.raises(ModelError, match=r"cannot fetch the model s3://.*: permission denied \(AccessDenied\)"):
            spec_of(f"s3://{BUCKET}/models/small-vit", storage)
    assert not cache.exists() or folders(cache) == []
