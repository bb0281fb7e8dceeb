"""Large objects are copied range by range: one version of them, whole."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import boto3
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ErrorCode, NsfwscanError, RowError, Status
from nsfwscan.location import Location
from nsfwscan.storage import spool as spooling
from nsfwscan.storage.spool import Spooled, spool
from tests.s3.servers import FaultyProxy, S3Endpoint

LOCAL = StorageConfig()
BUCKET = "spool-tests"
BODY = bytes(range(256)) * 10


@pytest.fixture(autouse=True)
def _small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "RANGE_BYTES", 1000)


@pytest.fixture(scope="module")
def s3(moto: S3Endpoint) -> Any:
    """A client of the S3 server, with the bucket of these tests."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="large", Body=BODY)
    return client


def copy(uri: str, storage: StorageConfig = LOCAL, **limits: Any) -> Spooled:
    return spool(Location.of(uri), storage, **{"max_bytes": 2**20, "timeout_s": 20.0, "attempts": 3, **limits})


def failure(uri: str, **how: Any) -> RowError:
    with pytest.raises(RowError) as error:
        copy(uri, **how)
    return error.value


def test_an_object_is_copied_range_by_range(s3: Any, tmp_path: Path) -> None:
    """From S3 with its etag, from a file and from another store, all bytes of it, with nothing left on disk; also what
    is empty by now."""
    (tmp_path / "large").write_bytes(BODY)
    (tmp_path / "empty").write_bytes(b"")
    found = copy(f"s3://{BUCKET}/large")
    assert bytes(found.data) == BODY
    assert found.etag == s3.head_object(Bucket=BUCKET, Key="large")["ETag"].strip('"')
    assert bytes(copy(str(tmp_path / "large")).data) == BODY
    assert bytes(copy(f"local://{tmp_path}/large").data) == BODY
    assert copy(str(tmp_path / "empty")).data == b""


def test_a_cut_connection_costs_one_range(s3: Any, proxy: FaultyProxy, through: StorageConfig) -> None:
    """The range that failed is asked for again, and those before it are not."""
    proxy.cut_body(lambda method, path: method == "GET" and path.startswith(f"/{BUCKET}/large"), after=1, times=2)
    assert bytes(copy(f"s3://{BUCKET}/large", through).data) == BODY
    assert proxy.requests["GET"] == 5


def test_all_ranges_are_of_one_version(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object or file that is written anew between two ranges is copied from its beginning; one that never rests is
    said to have changed."""
    path = tmp_path / "large"
    others = [BODY[::-1], BODY[1:]]
    left = list(others)
    write = spooling._write

    def then_change(file: Any, data: bytes) -> None:
        write(file, data)
        if left and file.tell() == 1000:
            body = left.pop(0)
            s3.put_object(Bucket=BUCKET, Key="changing", Body=body)
            path.write_bytes(body)
            os.utime(path, (len(left) + 1,) * 2)

    monkeypatch.setattr(spooling, "_write", then_change)
    for uri in (str(path), f"s3://{BUCKET}/changing"):
        left[:] = others
        path.write_bytes(BODY)
        s3.put_object(Bucket=BUCKET, Key="changing", Body=BODY)
        assert bytes(copy(uri).data) == others[-1]
        left[:] = [bytes([number]) * 3000 for number in range(5)]
        error = failure(uri)
        assert (error.code, error.message) == (
            ErrorCode.INCOMPLETE,
            "it changed while it was read, in each of 3 attempts",
        )


def test_what_cannot_be_copied_says_why(s3: Any, tmp_path: Path) -> None:
    """Larger than allowed, absent, or no file: as `fetch` says it."""
    (tmp_path / "large").write_bytes(BODY)
    for uri in (f"s3://{BUCKET}/large", str(tmp_path / "large")):
        assert failure(uri, max_bytes=2000).status == Status.TOO_LARGE
    for uri in (f"s3://{BUCKET}/absent", str(tmp_path / "absent")):
        assert failure(uri).status == Status.NOT_FOUND
    assert failure(str(tmp_path)).code == ErrorCode.NOT_A_FILE


def test_a_full_disk_stops_the_run(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No row is to blame for it, and the message says what to do."""
    (tmp_path / "large").write_bytes(bytes(8 * 2**20))
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    monkeypatch.setattr(spooling, "RANGE_BYTES", 2**20)
    with pytest.raises(NsfwscanError, match="No space left on device; make room there, or set TMPDIR"):
        copy(str(tmp_path / "large"), max_bytes=2**24)
