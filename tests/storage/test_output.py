"""What a person asks to be written is written here, to a store or to standard output, whole or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from click.testing import CliRunner

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.storage.output import Output
from tests.review.stores import committed, row
from tests.s3.servers import S3Endpoint
from training.cli import main as train

NO_PLACES = ["", " ", "s3:/bucket/x.csv", "S3:bucket/x.csv", "s3://", "s3:///x.csv", "://x"]
NOT_FOR_WRITING = ["http://host/x.csv", "https://host/x", "zip://x.csv::/tmp/a.zip"]


@pytest.fixture
def store(tmp_path: Path) -> str:
    committed(tmp_path / "store", [row("/a"), row("/b", queue="legal", decision="escalate")])
    return str(tmp_path / "store")


@pytest.mark.parametrize("written", [*NO_PLACES, *NOT_FOR_WRITING])
def test_what_is_no_place_is_refused(written: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By every command that writes or reads a file, with exit code 2, before anything else happens."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    commands = [
        ["queues", store, "--out", written],
        ["export", store, "--format", "csv", "--out", written],
        ["policy", "replay", store, "--policy", "binary", "--json", written],
        ["demo", written],
        *([["queues", store, "--context", written]] if written in NO_PLACES else []),
    ]
    for command in commands:
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2 and "Traceback" not in done.output, (command, done.output)
    done = CliRunner().invoke(train, ["explore", str(tmp_path), "--out", written])
    assert done.exit_code == 2, done.output
    assert list((tmp_path / "here").iterdir()) == []


def test_standard_output_is_no_place_for_a_folder_or_a_page(store: str, tmp_path: Path) -> None:
    """Only queues, exports and changes can be printed."""
    for command in (["demo", "-"], ["queues", store, "--context", "-"]):
        assert CliRunner().invoke(main, command).exit_code == 2
    assert CliRunner().invoke(train, ["explore", str(tmp_path), "--out", "-"]).exit_code == 2
    done = CliRunner().invoke(main, ["export", store, "--format", "rekognition", "--out", "-"])
    assert done.exit_code == 2 and "two files" in done.stderr


def test_an_unlikely_name_can_be_written(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ./ before it."""
    monkeypatch.chdir(tmp_path)
    for name in ("./-", "./s3:x"):
        done = CliRunner().invoke(main, ["export", store, "--format", "csv", "--out", name])
        assert done.exit_code == 0 and (tmp_path / name).read_text().startswith("uri,"), done.output


def test_queues_and_exports_go_to_a_store(moto: S3Endpoint, store: str) -> None:
    """The objects have the bytes that files would have."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="outputs")
    for command in (
        ["queues", store, "--out", "s3://outputs/tonight/"],
        ["export", store, "--format", "rekognition", "--out", "S3A://outputs/r.jsonl"],
        ["export", store, "--format", "parquet", "--out", "s3://outputs/r.parquet"],
        ["policy", "replay", store, "--policy", "binary", "--json", "s3://outputs/changes.json"],
    ):
        done = CliRunner().invoke(main, [*command, "--endpoint-url", moto.endpoint_url])
        assert done.exit_code == 0, done.output
    found = {o["Key"] for o in client.list_objects_v2(Bucket="outputs")["Contents"]}
    results = {"r.jsonl", "r.summary.json", "r.parquet", "changes.json"}
    assert found == {f"tonight/{queue}.jsonl" for queue in ("adult", "empty", "legal")} | results
    [item] = client.get_object(Bucket="outputs", Key="tonight/legal.jsonl")["Body"].read().splitlines()
    assert json.loads(item)["uri"] == "/b"


@pytest.mark.parametrize(
    ("out", "said"), [("s3://absent-bucket/r.csv", "cannot write"), ("s3://outputs/", "names no file")]
)
def test_a_store_that_takes_nothing(moto: S3Endpoint, store: str, out: str, said: str) -> None:
    """A message in words."""
    command = ["export", store, "--format", "csv", "--out", out, "--endpoint-url", moto.endpoint_url]
    done = CliRunner().invoke(main, command)
    assert done.exit_code in (1, 2) and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_a_large_file_is_uploaded_in_parts(moto: S3Endpoint) -> None:
    """Byte by byte as it was written; the store holds it, memory does not."""
    client = boto3.client("s3")
    client.create_bucket(Bucket="large")
    data = bytes(range(256)) * (450 * 1024)  # over 100 MiB: s3fs takes parts of 50
    with Output.given("s3://large/x", StorageConfig(endpoint_url=moto.endpoint_url), "--out").appearing() as path:
        path.write_bytes(data)
    assert client.get_object(Bucket="large", Key="x")["Body"].read() == data


def test_standard_output_holds_the_rows_alone(store: str) -> None:
    """All that is said of them goes to standard error; queues follow one another."""
    done = CliRunner().invoke(main, ["queues", store, "--out", "-"])
    assert [json.loads(line)["queue"] for line in done.stdout.splitlines()] == ["adult", "legal"]
    assert "standard output" in done.stderr
    done = CliRunner().invoke(main, ["export", store, "--format", "azure", "--out", "-"])
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 2 and "2 rows" in done.stderr


def test_a_reader_that_is_gone(store: str) -> None:
    """`… | true`: one line, exit code 1, no traceback."""
    command = f"{sys.executable} -m nsfwscan export {store} --format csv --out - | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "nsfwscan: standard output was closed before all was written\n"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """Neither the file nor what was written of it."""

    def fail() -> None:
        with Output.given(str(tmp_path / "x"), StorageConfig(), "--out").appearing() as path:
            path.write_text("half")
            raise ConfigError("no")

    with pytest.raises(ConfigError, match="no"):
        fail()
    assert list(tmp_path.iterdir()) == []
