"""A checkpoint's list of what it learned from, and what is left out by it."""

from __future__ import annotations

from pathlib import Path

import boto3
import pyarrow as pa
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.models.learned import LEARNED, in_words, learned_by, learned_parquet
from tests.s3.servers import S3Endpoint

ONE, OTHER, THIRD = ("1" * 64, "2" * 64, "3" * 64)


def checkpoint(folder: Path, *contents: str) -> Path:
    folder.mkdir()
    (folder / LEARNED).write_bytes(learned_parquet({"train": contents}))
    return folder


def test_the_lists_of_several_models(tmp_path: Path) -> None:
    """An exported graph has its checkpoint's list; embedded models and packs learned from nothing of a store; of others
    without a list nothing is known, and it is said."""
    graph = checkpoint(tmp_path / "a", ONE, ONE) / "model.onnx"
    other = checkpoint(tmp_path / "b", OTHER)
    strange = str(tmp_path / "none")
    found = learned_by([str(graph), str(other), "embedded:open-nsfw", "pack:gore", strange], StorageConfig())
    assert found.contents.to_pylist() == [ONE, OTHER] and found.unknown == (strange,)
    rows = pa.table({"sha256": [ONE, THIRD, OTHER, ONE, None]})
    kept, contents = found.without(rows)
    assert kept["sha256"].to_pylist() == [THIRD, None] and contents == 2
    said = list(in_words(contents, found.unknown))
    assert said[0] == "left out: 2 drawn contents that a model of the run learned from"
    assert f"nothing says what {strange} learned from (it has no {LEARNED})" in said[1]
    assert not list(in_words(0, ()))


@pytest.mark.parametrize("content", [b"", b"no Parquet", learned_parquet({})[:-9]], ids=["empty", "other", "cut"])
def test_a_list_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEARNED).write_bytes(content)
    assert learned_by([str(tmp_path)], StorageConfig()).unknown == (str(tmp_path),)


def test_a_list_of_nothing_is_a_list(tmp_path: Path) -> None:
    found = learned_by([str(checkpoint(tmp_path / "a"))], StorageConfig())
    assert (len(found.contents), found.unknown) == (0, ())


def test_a_list_in_an_object_store(moto: S3Endpoint) -> None:
    """The list of a model in a bucket is read; where there is no such bucket, nothing is known of it."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="learned")
    client.put_object(Bucket="learned", Key=f"vit/{LEARNED}", Body=learned_parquet({"train": [ONE]}))
    assert learned_by(["s3://learned/vit"], StorageConfig()).contents.to_pylist() == [ONE]
    assert learned_by(["s3://nowhere/vit"], StorageConfig()).unknown == ("s3://nowhere/vit",)
