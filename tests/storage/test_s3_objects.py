"""One object on S3 is fetched, whole and in bounded time, or its row says why not."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ErrorCode, NsfwscanError, Status
from nsfwscan.location import Location
from nsfwscan.storage.objects import Fetched, RemoteFile
from tests.s3.servers import FaultyProxy, S3Endpoint
from tests.storage.fetching import BODY, failure, get

BUCKET = "storage-tests"


@pytest.fixture(scope="module", autouse=True)
def s3(moto: S3Endpoint) -> Any:
    """A client of the S3 server, with the bucket of these tests."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    client.put_object(Bucket=BUCKET, Key="object", Body=BODY)
    return client


@pytest.fixture
def lasting(proxy: FaultyProxy) -> StorageConfig:
    """As `through`, with as many attempts as a scan has."""
    return StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)


def is_object(method: str, path: str) -> bool:
    return method == "GET" and path.startswith(f"/{BUCKET}/object")


# Any other fsspec filesystem


def test_http_errors_are_told_apart(moto: S3Endpoint, s3: Any, proxy: FaultyProxy) -> None:
    """fsspec calls every HTTP failure FileNotFoundError; a refused connection or a 503 is no missing object."""
    url = f"{proxy.endpoint.endpoint_url}/{BUCKET}"
    s3.put_object(Bucket=BUCKET, Key="public", Body=BODY, ACL="public-read")
    assert get(f"{url}/public").data == BODY
    away = failure("http://127.0.0.1:9/a.jpg", attempts=2)
    assert away.code == ErrorCode.CONNECTION and away.message.startswith("Connect call failed ('127.0.0.1', 9)")
    proxy.fail(lambda method, path: True, status=404, code="NoSuchKey")
    assert failure(f"{url}/public").status == Status.NOT_FOUND
    proxy.clear()
    proxy.fail(lambda method, path: True, status=403, code="AccessDenied")
    assert failure(f"{url}/public").message == "permission denied (403)"
    assert failure(f"{url}/public").code == ErrorCode.HTTP_403
    proxy.clear()
    for status, code in ((401, ErrorCode.HTTP_401), (402, ErrorCode.HTTP_4XX), (500, ErrorCode.HTTP_5XX)):
        proxy.fail(lambda method, path: True, status=status, code="x")
        assert failure(f"{url}/public", attempts=1).code == code
        proxy.clear()
    proxy.fail(lambda method, path: True, status=503)
    assert failure(f"{url}/public", attempts=2).message == "throttled by the store (503), retries used up"
    proxy.clear()
    proxy.fail(lambda method, path: True, status=503, times=2)
    assert get(f"{url}/public").data == BODY


# S3 objects


def test_an_s3_object_comes_with_the_version_that_was_read(s3: Any) -> None:
    """The bytes and the ETag of the same answer."""
    etag = s3.head_object(Bucket=BUCKET, Key="object")["ETag"].strip('"')
    assert get(f"s3://{BUCKET}/object") == Fetched(BODY, etag)


@pytest.mark.parametrize(
    "key", ["a folder/100% real#1?.jpg", "a//b", "写真/é\u202e.jpg", "./a", "+plus+", "trailing/", "a*[b]"]
)
def test_s3_keys_are_read_as_they_are(s3: Any, key: str) -> None:
    """No character of a key is decoded, normalised or globbed on the way."""
    s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    assert get(f"s3://{BUCKET}/{key}").data == key.encode()


def test_an_empty_s3_object_is_empty(s3: Any) -> None:
    """No bytes are bytes, too; decoding will say what is wrong with them."""
    s3.put_object(Bucket=BUCKET, Key="empty", Body=b"")
    assert get(f"s3://{BUCKET}/empty").data == b""


def test_an_s3_object_that_is_gone_is_not_found(s3: Any) -> None:
    """A missing key, and a missing bucket, are `not_found`, with the store's code."""
    error = failure(f"s3://{BUCKET}/absent")
    assert (error.code, error.message) == (ErrorCode.NOT_FOUND, "no such object (NoSuchKey)")
    assert failure("s3://no-such-bucket-here/a").status == Status.NOT_FOUND


def test_a_refused_object_is_denied(proxy: FaultyProxy, through: StorageConfig) -> None:
    """403 AccessDenied concerns this object; it is not tried again."""
    proxy.fail(is_object, status=403, code="AccessDenied")
    error = failure(f"s3://{BUCKET}/object", through)
    assert (error.status, error.message) == (Status.DENIED, "permission denied (AccessDenied)")
    assert error.code == ErrorCode.HTTP_403
    assert proxy.requests["GET"] == 1


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"])
def test_refused_credentials_stop_the_run(proxy: FaultyProxy, through: StorageConfig, code: str) -> None:
    """Credentials that fail every object alike are a NsfwscanError that says what to check."""
    proxy.fail(is_object, status=403 if code != "ExpiredToken" else 400, code=code)
    with pytest.raises(NsfwscanError, match=rf"\({code}\).*AWS_ACCESS_KEY_ID"):
        get(f"s3://{BUCKET}/object", through)


def test_missing_credentials_stop_the_run(moto: S3Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any credentials nothing was sent: a NsfwscanError that names the variables, and --anonymous."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "absent"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(NsfwscanError, match=r"no AWS credentials.*--anonymous"):
        get(f"s3://{BUCKET}/object", StorageConfig(options={"skip_instance_cache": True}))


def test_a_profile_that_does_not_exist_stops_the_run(
    moto: S3Endpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A wrong --profile is a NsfwscanError with its name, not an error in every row."""
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "absent"))
    with pytest.raises(NsfwscanError, match="no-such-profile"):
        get(f"s3://{BUCKET}/object", StorageConfig(profile="no-such-profile"))


def test_throttling_is_retried_and_then_said(proxy: FaultyProxy, through: StorageConfig) -> None:
    """503 SlowDown is tried again by one layer only; when that is used up, the row says that it was throttled."""
    proxy.fail(is_object)
    error = failure(f"s3://{BUCKET}/object", through, attempts=4)
    assert error.code == ErrorCode.THROTTLED
    assert error.message == "throttled by the store (SlowDown), retries used up"
    assert proxy.requests["GET"] == 2


def test_throttling_that_passes_is_not_seen(proxy: FaultyProxy, through: StorageConfig) -> None:
    """One 503 and then the object: the row is fine."""
    proxy.fail(is_object, times=1)
    assert get(f"s3://{BUCKET}/object", through).data == BODY


def test_a_cut_body_is_read_again(proxy: FaultyProxy, through: StorageConfig) -> None:
    """A connection that drops halfway is tried again, and the whole object comes back."""
    proxy.cut_body(is_object, times=2)
    assert get(f"s3://{BUCKET}/object", through, attempts=3).data == BODY
    assert proxy.injected == {"cut_body": 2}


def test_a_body_that_is_always_cut_is_a_fetch_error(proxy: FaultyProxy, through: StorageConfig) -> None:
    """Half an image is never taken for a whole one: after the last attempt the row says so."""
    proxy.cut_body(is_object)
    error = failure(f"s3://{BUCKET}/object", through, attempts=2)
    assert error.status == Status.FETCH_ERROR and error.message.endswith("after 2 attempts")


@pytest.fixture(scope="module")
def unsummed(s3: Any) -> dict[str, tuple[int, str]]:
    """Objects that were put without a checksum, as by older clients: size and etag by key."""
    client = boto3.client("s3", config=Config(request_checksum_calculation="when_required"))
    objects = {"object-without-checksum": BODY, "object-of-one-byte": b"1"}
    return {
        key: (len(body), client.put_object(Bucket=BUCKET, Key=key, Body=body)["ETag"].strip('"'))
        for key, body in objects.items()
    }


def test_a_truncated_body_is_read_again(
    unsummed: dict[str, tuple[int, str]], proxy: FaultyProxy, through: StorageConfig
) -> None:
    """Half an object under the listed etag, whatever its own headers say, is a part of it, and the rest is asked for."""
    proxy.truncate(is_object, times=2)
    size, etag = unsummed["object-without-checksum"]
    assert get(f"s3://{BUCKET}/object-without-checksum", through, size=size, etag=etag) == Fetched(BODY, etag)
    assert proxy.injected == {"truncate": 2}


def test_a_body_that_is_always_truncated_says_so(
    unsummed: dict[str, tuple[int, str]], proxy: FaultyProxy, through: StorageConfig
) -> None:
    """The row says how much of how much there was; nothing shorter is ever taken for the image, an empty one neither."""
    proxy.truncate(is_object)
    said = {"object-without-checksum": "read 131,072 of 262,144 bytes", "object-of-one-byte": "read 0 of 1 bytes"}
    for key, (size, etag) in unsummed.items():
        error = failure(f"s3://{BUCKET}/{key}", through, size=size, etag=etag, attempts=2)
        assert (error.code, error.message) == (ErrorCode.INCOMPLETE, f"{said[key]} after 2 attempts")


def test_a_checksum_of_the_store_is_held_against_the_bytes(s3: Any, proxy: FaultyProxy, through: StorageConfig) -> None:
    """Where the store keeps checksums, a truncated body is noticed without any listing."""
    proxy.truncate(is_object, times=1)
    assert get(f"s3://{BUCKET}/object", through).data == BODY
    proxy.truncate(is_object)
    error = failure(f"s3://{BUCKET}/object", through, attempts=2)
    assert error.code == ErrorCode.CHECKSUM
    assert error.message == "the bytes do not match the store's checksum after 2 attempts"


@pytest.mark.parametrize("now", [b"", b"shorter", BODY + b"longer"])
def test_an_object_that_changed_since_it_was_listed_is_taken_as_it_is(s3: Any, now: bytes) -> None:
    """Another etag is another version: its size and its etag are what counts, also where nothing is left of it."""
    s3.put_object(Bucket=BUCKET, Key="changing", Body=BODY)
    listed = s3.head_object(Bucket=BUCKET, Key="changing")["ETag"].strip('"')
    etag = s3.put_object(Bucket=BUCKET, Key="changing", Body=now)["ETag"].strip('"')
    assert get(f"s3://{BUCKET}/changing", size=len(BODY), etag=listed) == Fetched(now, etag)


def test_a_listing_without_etags_is_not_held_against_an_object(s3: Any) -> None:
    """A manifest's size alone may be old: the object is taken with its own."""
    assert get(f"s3://{BUCKET}/object", size=5000).data == BODY


@pytest.mark.long
def test_one_request_in_ten_fails_and_nothing_is_lost(moto: S3Endpoint, s3: Any) -> None:
    """500, 503, cut and reset connections, at random: every object comes back whole."""
    with FaultyProxy(moto, seed=7) as proxy:
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        proxy.fail(is_object, status=500, code="InternalError", share=0.04)
        proxy.fail(is_object, status=503, code="ServiceUnavailable", share=0.04)
        proxy.fail(is_object, status=503, code="SlowDown", share=0.04)
        proxy.reset(is_object, share=0.05)
        proxy.cut_body(is_object, share=0.05)
        with ThreadPoolExecutor(16) as threads:
            found = list(threads.map(lambda _: get(f"s3://{BUCKET}/object", storage, attempts=4).data, range(200)))
        assert found == [BODY] * 200
        assert all(proxy.injected[kind] > 3 for kind in ("fail", "reset", "cut_body")), proxy.injected


def test_attempts_back_off(proxy: FaultyProxy, through: StorageConfig) -> None:
    """Between attempts passes a while, longer each time and never the same, and each asks for its turn."""
    waits: list[float] = []
    proxy.cut_body(is_object)
    failure(f"s3://{BUCKET}/object", through, attempts=8, wait=waits.append)
    assert waits[0] == 0.0 and len(waits) == 8
    for number, seconds in enumerate(waits[1:]):
        assert 0.5 <= seconds / min(8.0, 0.25 * 2**number) <= 1.5
    assert len(set(waits)) == 8


@pytest.mark.parametrize("fault", ["silence", "stall", "drip"])
def test_every_read_ends(proxy: FaultyProxy, through: StorageConfig, fault: str) -> None:
    """A server that never answers, that stops in the middle of a body, or that sends a byte now and then: each attempt
    ends after `timeout_s`, and the row is a `timeout`."""
    {
        "silence": lambda: proxy.delay(is_object, 60),
        "stall": lambda: proxy.stall(is_object),
        "drip": lambda: proxy.drip(is_object, 0.05),
    }[fault]()
    began = time.monotonic()
    error = failure(f"s3://{BUCKET}/object", through, timeout_s=0.5, attempts=2)
    assert (error.code, error.message) == (ErrorCode.READ_TIMEOUT, "the read timed out after 2 attempts")
    assert 1.0 <= time.monotonic() - began < 30  # each would take a minute at least


def test_a_slow_object_times_out(proxy: FaultyProxy, through: StorageConfig) -> None:
    """An answer that does not come is a `timeout` after as many attempts as allowed, each as long as allowed."""
    proxy.delay(is_object, 30)
    began = time.monotonic()
    error = failure(f"s3://{BUCKET}/object", through, timeout_s=0.3, attempts=2)
    assert (error.status, error.message) == (Status.TIMEOUT, "the read timed out after 2 attempts")
    assert 0.6 <= time.monotonic() - began < 25  # each would take half a minute


def test_a_server_that_is_away_is_a_fetch_error(moto: S3Endpoint) -> None:
    """A refused connection is a `fetch_error` that names the endpoint, never a `not_found`."""
    quick = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    error = failure(f"s3://{BUCKET}/object", StorageConfig(endpoint_url="http://127.0.0.1:9", options=quick))
    assert error.code == ErrorCode.CONNECTION and "127.0.0.1:9" in error.message


def test_a_large_s3_object_is_not_read(s3: Any, proxy: FaultyProxy, through: StorageConfig) -> None:
    """ContentLength over the limit is `too_large` before the body: a body that is always cut is not noticed."""
    proxy.cut_body(is_object)
    error = failure(f"s3://{BUCKET}/object", through, max_bytes=len(BODY) - 1)
    assert (error.status, error.values) == (Status.TOO_LARGE, {"size": len(BODY)})
    assert proxy.requests["GET"] == 1


def test_an_archived_object_says_so(proxy: FaultyProxy, through: StorageConfig) -> None:
    """An object in Glacier is a `fetch_error` that says to restore it first."""
    proxy.fail(is_object, status=403, code="InvalidObjectState")
    error = failure(f"s3://{BUCKET}/object", through)
    assert error.code == ErrorCode.ARCHIVED and "restore it" in error.message


def test_files_are_read_here_and_there(s3: Any, proxy: FaultyProxy, lasting: StorageConfig) -> None:
    """A remote file reads as a local one does, over connections that break, and costs a request for each read."""
    file = RemoteFile(Location.of(f"s3://{BUCKET}/object"), lasting)
    proxy.cut_body(is_object, every=2)
    assert file.seek(-10, os.SEEK_END) == len(BODY) - 10
    assert file.read(100) == BODY[-10:] and file.read(1) == b""
    assert file.seek(1000) == 1000 and file.read(3) == BODY[1000:1003] and file.tell() == 1003
    assert file.seek(5, os.SEEK_CUR) == 1008 and file.read() == BODY[1008:]
    assert proxy.injected["cut_body"] == 2 and proxy.requests["GET"] == 5
    with pytest.raises(FileNotFoundError):
        RemoteFile(Location.of(f"s3://{BUCKET}/absent"), lasting)


def test_many_threads_read_at_once(s3: Any) -> None:
    """The filesystem is shared by all reading threads of a worker."""
    found: list[bool] = []
    threads = [
        threading.Thread(target=lambda: found.append(get(f"s3://{BUCKET}/object").data == BODY)) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 16
