"""Reading objects: what was read, and what each kind of failure becomes."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pyarrow as pa
import pytest
from botocore.config import Config

from nsfwscan.config import ReadConfig, StorageConfig
from nsfwscan.errors import NsfwscanError
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.stages.base import Row, fresh
from nsfwscan.stages.read import Read
from nsfwscan.storage.rate_limit import Pace
from tests.later import later
from tests.permissions import unprivileged
from tests.s3.servers import FaultyProxy, S3Endpoint

s3fs = later("s3fs")

BUCKET = "media-to-read"
OBJECTS = {f"{BUCKET}/{i:02}.jpg": f"object {i}".encode() for i in range(12)}


def read(rows: list[Row], storage: StorageConfig | None = None, **limits: object) -> list[Row]:
    """Return the rows (`uri`, and what else was listed) after reading."""
    stage = Read(ReadConfig.model_validate(limits), storage or StorageConfig())
    stage.open()
    found: list[Row] = stage(fresh(pa.Table.from_pylist(rows, schema=LISTING_SCHEMA))).to_pylist()
    return found


@pytest.fixture(scope="module")
def media(moto: S3Endpoint) -> S3Endpoint:
    """A bucket of small objects."""
    files = s3fs.S3FileSystem(endpoint_url=moto.endpoint_url, key="testing", secret="testing")
    files.makedirs(BUCKET, exist_ok=True)
    for name, data in OBJECTS.items():
        files.pipe_file(name, data)
    return moto


@pytest.fixture
def proxy(media: S3Endpoint) -> Iterator[FaultyProxy]:
    with FaultyProxy(media) as faulty:
        yield faulty


def through(proxy: FaultyProxy) -> StorageConfig:
    return StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)


def test_bytes_and_size_are_those_of_the_file(tmp_path: Path) -> None:
    """What was read is in the row, with its true size where the listing's was old or absent; the etag stays."""
    data = bytes(range(256)) * 10
    file = tmp_path / "a b#%25?.jpg"
    file.write_bytes(data)
    empty = tmp_path / "empty"
    empty.touch()
    rows = read([{"uri": str(file), "size": 3, "etag": "listed"}, {"uri": f"file://{tmp_path}/empty"}])
    assert [(r["bytes"], r["size"], r["etag"], r["status"]) for r in rows] == [
        (data, 2560, "listed", "ok"),
        (b"", 0, None, "ok"),
    ]


def test_each_failure_has_its_own_status(tmp_path: Path) -> None:
    """A file that is gone, a folder and a pipe fail alone, with status and reason; their neighbours are read."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "good").write_bytes(b"good")
    expected = {
        "good": "ok",
        "gone": "not_found",
        "dangling": "not_found",
        "": "fetch_error",
        "pipe": "fetch_error",
        "loop": "fetch_error",
        "good/below": "fetch_error",
        "n" * 300: "fetch_error",
        "nul\0": "fetch_error",
    }
    rows = read([{"uri": str(tmp_path / name)} for name in expected], timeout_s=5)
    assert {name: row["status"] for name, row in zip(expected, rows, strict=True)} == expected
    assert [row["bytes"] for row in rows] == [b"good", *[None] * 8]
    assert all((row["error"] is None) == (row["status"] == "ok") for row in rows)


def test_a_forbidden_file_is_denied() -> None:
    """A file that may not be read is `denied`, not gone, and its neighbour is read."""
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").touch(mode=0o000)
        (folder / "open").touch(mode=0o644)
        with unprivileged():
            rows = read([{"uri": f"{name}/secret"}, {"uri": f"{name}/open"}])
    assert [(row["status"], row["error"]) for row in rows] == [("denied", "permission denied"), ("ok", None)]


def test_an_object_over_the_limit_is_not_read(tmp_path: Path) -> None:
    """The limit holds against the listed size and against the real one, and the row says by how much; at the limit an
    object is read."""
    (tmp_path / "grown").write_bytes(bytes(101))
    (tmp_path / "fits").write_bytes(bytes(100))
    listed_larger = {"uri": str(tmp_path / "absent"), "size": 5000}
    rows = read(
        [listed_larger, {"uri": str(tmp_path / "grown"), "size": 3}, {"uri": str(tmp_path / "fits")}], max_bytes=100
    )
    assert [(r["status"], r["size"], r["bytes"]) for r in rows] == [
        ("too_large", 5000, None),
        ("too_large", 101, None),
        ("ok", 100, bytes(100)),
    ]
    assert rows[0]["error"] == "5,000 bytes, over the limit of 100 (--max-bytes)"


def test_the_etag_is_the_one_that_the_read_returned(media: S3Endpoint) -> None:
    """An object that changed after it was listed carries the version that was scored."""
    [row] = read([{"uri": f"s3://{BUCKET}/00.jpg", "size": 1, "etag": "of-the-listing"}])
    assert (row["bytes"], row["size"], row["status"]) == (b"object 0", 8, "ok")
    assert row["etag"] not in (None, "of-the-listing")
    assert '"' not in row["etag"]


def test_one_object_s3_refuses_is_one_row(proxy: FaultyProxy) -> None:
    """A missing key, a denied and a throttled object fail in their own rows, among good ones."""
    proxy.fail(lambda method, path: "03.jpg" in path, status=403, code="AccessDenied")
    rows = read([{"uri": f"s3://{name}"} for name in [*OBJECTS, f"{BUCKET}/absent"]], through(proxy))
    assert [row["status"] for row in rows] == ["ok"] * 3 + ["denied"] + ["ok"] * 8 + ["not_found"]
    assert [row["bytes"] for row in rows[:3]] == list(OBJECTS.values())[:3]
    assert "AccessDenied" in rows[3]["error"] and "NoSuchKey" in rows[-1]["error"]


def test_a_cut_connection_is_tried_again(proxy: FaultyProxy) -> None:
    """A body that breaks off is fetched again up to the configured attempts, and is never taken for the whole."""
    proxy.cut_body(lambda method, path: "05.jpg" in path, times=2)
    uri = f"s3://{BUCKET}/05.jpg"
    [row] = read([{"uri": uri}], through(proxy), attempts=3)
    assert (row["status"], row["bytes"]) == ("ok", b"object 5")
    proxy.clear()
    proxy.cut_body(lambda method, path: "05.jpg" in path)
    [row] = read([{"uri": uri}], through(proxy), attempts=2)
    assert (row["status"], row["bytes"]) == ("fetch_error", None)
    assert "after 2 attempts" in row["error"]


def test_a_slow_object_times_out_alone(proxy: FaultyProxy) -> None:
    """An answer that does not come is that row's `timeout`."""
    read([{"uri": f"s3://{BUCKET}/06.jpg"}], through(proxy))  # connects
    proxy.delay(lambda method, path: "07.jpg" in path, 20.0)
    rows = read([{"uri": f"s3://{BUCKET}/0{i}.jpg"} for i in (6, 7)], through(proxy), attempts=1, timeout_s=1)
    assert [(row["status"], row["bytes"]) for row in rows] == [("ok", b"object 6"), ("timeout", None)]


class Hanging(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A filesystem that blocks, as a network mount does whose server is gone: names with `hangs` never come back."""

    protocol = "hanging"
    cachable = False
    back = threading.Event()

    def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        """Any object of four bytes."""
        return {"name": path, "type": "file", "size": 4}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any) -> bytes:
        """Return its bytes, some day."""
        if "hangs" in path:
            self.back.wait()
        return b"four"


@pytest.fixture
def hanging() -> Iterator[None]:
    """Filesystem `hanging://`, whose threads go when the test is over."""
    fsspec.register_implementation("hanging", Hanging, clobber=True)
    Hanging.back.clear()
    yield
    Hanging.back.set()


@pytest.mark.usefixtures("hanging")
def test_a_read_that_hangs_is_left_behind() -> None:
    """Rows that do not come back are `timeout`; all others are read, though as many hang as there are threads."""
    names = ["a", "hangs-1", "b", "hangs-2", "hangs-3", "hangs-4", "c", *(f"d{i}" for i in range(20)), "hangs-5", "e"]
    began = time.monotonic()
    rows = read([{"uri": f"hanging://{name}"} for name in names], concurrency=2, timeout_s=0.2)
    assert time.monotonic() - began < 60  # they hang for ever
    assert [(row["status"], row["bytes"]) for row in rows] == [
        ("timeout", None) if "hangs" in name else ("ok", b"four") for name in names
    ]
    assert rows[1]["error"] == "the read hangs: it did not end within 0.2 s"


@pytest.mark.usefixtures("hanging")
def test_too_many_reads_that_hang_stop_the_run() -> None:
    """A mount that is gone would otherwise make one thread after another hang, and every row a `timeout`."""
    rows: list[Row] = [{"uri": f"hanging://hangs/{i}"} for i in range(100)]
    with pytest.raises(
        NsfwscanError, match=r"65 reads hang, the last of them hanging://hangs/64: bring its file system"
    ):
        read(rows, concurrency=100, timeout_s=0.2)


def test_waiting_for_a_turn_is_not_hanging(tmp_path: Path) -> None:
    """A pace that makes rows wait for longer than their time-out makes none of them fail, and is kept."""
    files = [tmp_path / str(i) for i in range(5)]
    for file in files:
        file.write_bytes(b"x")
    stage = Read(ReadConfig(timeout_s=0.1), StorageConfig(), Pace(2))
    table = fresh(pa.Table.from_pylist([{"uri": str(file)} for file in files], schema=LISTING_SCHEMA))
    began = time.monotonic()
    assert stage(table)["status"].to_pylist() == ["ok"] * 5
    assert time.monotonic() - began >= 1.99


def test_retries_keep_the_pace(proxy: FaultyProxy) -> None:
    """Each attempt takes a turn of its own."""
    proxy.cut_body(lambda method, path: "08.jpg" in path)
    stage = Read(ReadConfig(attempts=3), through(proxy), Pace(1))
    table = fresh(pa.Table.from_pylist([{"uri": f"s3://{BUCKET}/08.jpg"}], schema=LISTING_SCHEMA))
    began = time.monotonic()
    assert stage(table)["status"].to_pylist() == ["fetch_error"]
    assert time.monotonic() - began >= 1.99


def test_a_part_of_the_listed_object_is_not_taken(media: S3Endpoint, proxy: FaultyProxy) -> None:
    """A body shorter than listed, under the listed etag, is a `fetch_error` that keeps the listed size and etag."""
    uri = f"s3://{BUCKET}/without-checksum.jpg"
    client = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    etag = client.put_object(Bucket=BUCKET, Key="without-checksum.jpg", Body=bytes(5000))["ETag"].strip('"')
    listed = {"uri": uri, "size": 5000, "etag": etag}
    proxy.truncate(lambda method, path: "without-checksum" in path, times=2)
    assert [r["status"] for r in read([listed], through(proxy), attempts=3)] == ["ok"]
    proxy.truncate(lambda method, path: "without-checksum" in path)
    [row] = read([listed], through(proxy), attempts=2)
    assert (row["status"], row["size"], row["etag"], row["bytes"]) == ("fetch_error", 5000, etag, None)
    assert row["error"] == "read 2,500 of 5,000 bytes after 2 attempts"


def test_after_a_failed_set_up_nothing_more_is_read(proxy: FaultyProxy) -> None:
    """When the credentials are refused, the rows that wait are not asked for."""
    proxy.fail(lambda method, path: True, status=400, code="ExpiredToken")
    proxy.delay(lambda method, path: True, 0.1)
    with pytest.raises(NsfwscanError, match="ExpiredToken"):
        read([{"uri": f"s3://{BUCKET}/{i}"} for i in range(200)], through(proxy), concurrency=4)
    time.sleep(0.5)
    assert proxy.requests["GET"] < 50


def test_objects_are_read_at_the_same_time(proxy: FaultyProxy) -> None:
    """Objects that take half a second each are asked for together, not one after the other."""
    read([{"uri": f"s3://{BUCKET}/00.jpg"}], through(proxy))  # connects
    moves: list[str] = []

    def note(move: str, method: str) -> bool:
        moves.extend([move] if method == "GET" else [])
        return method == "GET" and move == "in"

    proxy.delay(lambda method, path: note("in", method), 0.5)
    proxy.fail(lambda method, path: note("out", method))  # asked after the delay; fails none
    rows = read([{"uri": f"s3://{name}"} for name in OBJECTS], through(proxy), concurrency=12)
    assert moves.index("out") >= 4, moves  # so many were asked for before the first was answered
    assert [row["bytes"] for row in rows] == list(OBJECTS.values())


def test_refused_credentials_stop_the_run(proxy: FaultyProxy) -> None:
    """Credentials that fail every object alike are a broken set-up, with what to do, and not a thousand bad rows."""
    proxy.fail(lambda method, path: True, status=403, code="InvalidAccessKeyId")
    with pytest.raises(NsfwscanError, match="AWS_ACCESS_KEY_ID"):
        read([{"uri": f"s3://{name}"} for name in OBJECTS], through(proxy))


def test_of_a_large_object_the_beginning_is_read(media: S3Endpoint) -> None:
    """On S3, by a range: where it begins as a video all of it follows, else it is `too_large`."""
    pytest.importorskip("av")
    files = s3fs.S3FileSystem(endpoint_url=media.endpoint_url, key="testing", secret="testing")
    brand = b"\0\0\0\x18ftypisom\0\0\2\0isommp42"
    objects = {"clip": brand + bytes(200_000), "photo": b"\xff\xd8\xff\xe0" + bytes(200_000)}
    files.makedirs(f"{BUCKET}-large")
    for name, data in objects.items():
        files.pipe_file(f"{BUCKET}-large/{name}", data)
    listed = [{"uri": f"s3://{BUCKET}-large/{name}", "size": len(data)} for name, data in objects.items()]
    found = read(listed, StorageConfig(endpoint_url=media.endpoint_url), max_bytes=1000)
    assert [(row["status"], row["bytes"]) for row in found] == [("ok", objects["clip"]), ("too_large", None)]


def test_a_large_video_needs_no_listed_size(tmp_path: Path) -> None:
    """A list of URIs tells no sizes: a video over the limit of pictures is read all the same, and a picture is not."""
    pytest.importorskip("av")
    files = {
        "clip": b"\0\0\0\x20ftypisom" + bytes(500),
        "huge": b"\0\0\0\x20ftypisom" + bytes(5000),
        "other": b"x" * 600,
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    found = read([{"uri": str(tmp_path / name)} for name in files], max_bytes=200, max_video_bytes=1000)
    assert [(row["status"], row["size"], row["bytes"]) for row in found] == [
        ("ok", 512, files["clip"]),
        ("too_large", 5012, None),
        ("too_large", 600, None),
    ]
