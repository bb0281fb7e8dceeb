"""The S3 servers and the faulty proxy do what the tests that use them rely on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import botocore.config
import botocore.exceptions
import botocore.session
import pytest

from tests.later import later
from tests.s3.servers import FaultyProxy, S3Endpoint, ceph_server, moto_server

if TYPE_CHECKING:
    from s3fs import S3FileSystem

s3fs = later("s3fs")

pytestmark = pytest.mark.long


def client(endpoint: S3Endpoint, **options: Any) -> Any:
    """A botocore client with retries off: it sees every fault."""
    config = botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}, **options)
    return botocore.session.get_session().create_client(
        "s3",
        region_name=endpoint.region,
        endpoint_url=endpoint.endpoint_url,
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        config=config,
    )


def filesystem(endpoint: S3Endpoint) -> S3FileSystem:
    return s3fs.S3FileSystem(
        endpoint_url=endpoint.endpoint_url,
        key=endpoint.access_key,
        secret=endpoint.secret_key,
        client_kwargs={"region_name": endpoint.region},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


def is_get(method: str, path: str) -> bool:
    return method == "GET"


@pytest.fixture(scope="module")
def moto() -> Iterator[S3Endpoint]:
    with moto_server() as endpoint:
        client(endpoint).create_bucket(Bucket="media")
        yield endpoint


def check_round_trip(endpoint: S3Endpoint, bucket: str) -> None:
    """Every request that a scan makes, through s3fs and botocore."""
    files, s3 = filesystem(endpoint), client(endpoint)
    key = f"{bucket}/a folder/ключ+%.bin"
    small, half = b"0123456789", bytes(range(256)) * 24 * 1024
    large = half + half  # 12 MiB: two parts
    files.pipe_file(key, small)
    assert files.cat_file(key) == small
    assert files.cat_file(key, start=2, end=5) == b"234"
    assert files.info(key)["size"] == len(small)
    with files.open(f"{bucket}/large", "wb", block_size=5 * 2**20) as out:
        out.write(half)
        out.write(half)
    assert files.cat_file(f"{bucket}/large") == large
    assert sorted(files.find(bucket)) == [key, f"{bucket}/large"]
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, StartAfter="b")["Contents"]] == ["large"]
    assert s3.head_object(Bucket=bucket, Key="large")["ContentLength"] == len(large)
    assert s3.get_object(Bucket=bucket, Key="large", Range="bytes=250-259")["Body"].read() == large[250:260]
    with pytest.raises(botocore.exceptions.ClientError, match="NoSuchKey"):
        s3.get_object(Bucket=bucket, Key="absent")
    s3.delete_object(Bucket=bucket, Key="large")
    files.rm(key)
    assert not files.exists(key)


def check_conditional_create(endpoint: S3Endpoint, bucket: str) -> None:
    s3 = client(endpoint)
    s3.put_object(Bucket=bucket, Key="run.json", Body=b"first", IfNoneMatch="*")
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        s3.put_object(Bucket=bucket, Key="run.json", Body=b"second", IfNoneMatch="*")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 412
    assert refused.value.response["Error"]["Code"] == "PreconditionFailed"
    assert s3.get_object(Bucket=bucket, Key="run.json")["Body"].read() == b"first"


def test_endpoint_describes_itself_to_other_processes() -> None:
    """The environment of an endpoint has the four variables that boto reads."""
    assert S3Endpoint("http://127.0.0.1:1", "key", "secret", "eu-west-1").environment() == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }


def test_requests_pass_unchanged_without_rules(moto: S3Endpoint, proxy: FaultyProxy) -> None:
    """Through a proxy without rules, every S3 request works and nothing is injected."""
    client(moto).create_bucket(Bucket="plain")
    check_round_trip(proxy.endpoint, "plain")
    assert not proxy.injected
    assert proxy.requests["PUT"] == 3  # one object whole, one in two parts
    assert proxy.requests["POST"] >= 2  # create and complete the upload in parts


def test_conditional_create_is_refused_for_an_existing_key(proxy: FaultyProxy) -> None:
    """The second conditional create gets a 412 and leaves the object as it was (moto)."""
    check_conditional_create(proxy.endpoint, "media")


def test_injected_failures_reach_the_client(proxy: FaultyProxy) -> None:
    """The first two matching requests fail with the given status and code, the third passes."""
    s3 = client(proxy.endpoint)
    s3.put_object(Bucket="media", Key="throttled", Body=b"x")
    proxy.fail(lambda method, path: method == "GET" and path == "/media/throttled", times=2)
    for _ in range(2):
        with pytest.raises(botocore.exceptions.ClientError) as refused:
            s3.get_object(Bucket="media", Key="throttled")
        assert refused.value.response["Error"]["Code"] == "SlowDown"
        assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    assert s3.get_object(Bucket="media", Key="throttled")["Body"].read() == b"x"
    assert proxy.injected == {"fail": 2}


def test_failed_upload_leaves_the_connection_usable(proxy: FaultyProxy) -> None:
    """A refused upload never reaches the backend, and the next request on the connection works."""
    s3 = client(proxy.endpoint, max_pool_connections=1)
    proxy.fail(lambda method, path: method == "PUT", status=403, code="AccessDenied", times=1)
    with pytest.raises(botocore.exceptions.ClientError, match="AccessDenied"):
        s3.put_object(Bucket="media", Key="refused", Body=b"x" * 300_000)
    assert "Contents" not in s3.list_objects_v2(Bucket="media", Prefix="refused")


def test_every_kth_request_fails(proxy: FaultyProxy) -> None:
    """``every=3`` fails requests 3, 6 and 9 of nine, HEAD requests too."""
    s3 = client(proxy.endpoint)
    s3.put_object(Bucket="media", Key="third", Body=b"x")
    proxy.fail(lambda method, path: method == "HEAD", status=500, code="InternalError", every=3)
    statuses = []
    for _ in range(9):
        try:
            answer = s3.head_object(Bucket="media", Key="third")
        except botocore.exceptions.ClientError as error:
            answer = error.response
        statuses.append(answer["ResponseMetadata"]["HTTPStatusCode"])
    assert statuses == [200, 200, 500] * 3


def test_cut_body_is_an_incomplete_read(proxy: FaultyProxy) -> None:
    """Half a body under the whole one's Content-Length is an error for the reader, not a short file."""
    s3 = client(proxy.endpoint)
    s3.put_object(Bucket="media", Key="cut", Body=b"x" * 200_000)
    proxy.cut_body(is_get, times=1)
    response = s3.get_object(Bucket="media", Key="cut")
    assert response["ContentLength"] == 200_000
    with pytest.raises((botocore.exceptions.IncompleteReadError, botocore.exceptions.ResponseStreamingError)):
        response["Body"].read()
    assert s3.get_object(Bucket="media", Key="cut")["Body"].read() == b"x" * 200_000
    assert proxy.injected == {"cut_body": 1}


def test_delay_holds_a_request_back(proxy: FaultyProxy) -> None:
    """A delayed request waits as long as it was told, and the next one does not."""
    s3 = client(proxy.endpoint)
    proxy.delay(is_get, 0.5, times=1)
    began = time.monotonic()
    s3.list_objects_v2(Bucket="media")
    assert time.monotonic() - began >= 0.5
    s3.list_objects_v2(Bucket="media")
    assert proxy.injected == {"delay": 1}


def test_truncated_body_looks_whole(proxy: FaultyProxy) -> None:
    """Half a body under its own Content-Length and the whole one's ETag: nothing in the answer tells."""
    s3 = client(proxy.endpoint, request_checksum_calculation="when_required")
    etag = s3.put_object(Bucket="media", Key="part", Body=b"x" * 200_000)["ETag"]
    proxy.truncate(is_get, times=1)
    response = s3.get_object(Bucket="media", Key="part")
    assert (response["ContentLength"], response["ETag"]) == (100_000, etag)
    assert response["Body"].read() == b"x" * 100_000
    assert s3.get_object(Bucket="media", Key="part")["Body"].read() == b"x" * 200_000


def test_reset_is_a_broken_connection(proxy: FaultyProxy) -> None:
    """A reset connection gives the client no answer at all, and the next request works."""
    s3 = client(proxy.endpoint)
    proxy.reset(is_get, times=1)
    with pytest.raises(botocore.exceptions.HTTPClientError):
        s3.list_objects_v2(Bucket="media")
    s3.list_objects_v2(Bucket="media")
    assert proxy.injected == {"reset": 1}


@pytest.mark.parametrize("fault", ["stall", "drip"])
def test_slow_bodies_do_not_end(proxy: FaultyProxy, fault: str) -> None:
    """The headers and the first bytes come; what is missing does not, within any patience."""
    s3 = client(proxy.endpoint, read_timeout=0.3)
    s3.put_object(Bucket="media", Key="slow", Body=b"x" * 1000)
    proxy.stall(is_get, times=1) if fault == "stall" else proxy.drip(is_get, 1.0, times=1)
    body = s3.get_object(Bucket="media", Key="slow")["Body"]
    assert body.read(1) == b"x"
    with pytest.raises(botocore.exceptions.ReadTimeoutError):
        body.read()


def test_shares_come_from_the_seed(moto: S3Endpoint) -> None:
    """The same seed strikes the same requests, another one others; about as many as asked for; none before `after`."""

    def struck(seed: int) -> list[bool]:
        with FaultyProxy(moto, seed=seed) as proxy:
            s3, found = client(proxy.endpoint), []
            proxy.fail(is_get, share=0.25, after=10)
            for _ in range(60):
                before = proxy.injected["fail"]
                with contextlib.suppress(botocore.exceptions.ClientError):
                    s3.list_objects_v2(Bucket="media")
                found.append(proxy.injected["fail"] > before)
            return found

    first = struck(1)
    assert first == struck(1) != struck(2)
    assert not any(first[:10]) and 4 <= sum(first) <= 24


def test_counts_hold_under_threads(proxy: FaultyProxy) -> None:
    """``times=5`` among forty requests from eight threads fails exactly five."""
    s3 = client(proxy.endpoint, max_pool_connections=8)
    proxy.fail(is_get, times=5)
    failures: list[str] = []

    def read() -> None:
        for _ in range(5):
            try:
                s3.list_objects_v2(Bucket="media")
            except botocore.exceptions.ClientError as error:
                failures.append(error.response["Error"]["Code"])

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == ["SlowDown"] * 5
    assert proxy.injected == {"fail": 5}
    assert proxy.requests == {"GET": 40}


def test_unreachable_backend_is_a_server_error() -> None:
    """A backend that is gone gives a 502 and no hanging client."""
    with (
        FaultyProxy(S3Endpoint("http://127.0.0.1:9", "k", "s")) as proxy,
        pytest.raises(botocore.exceptions.ClientError, match="BackendUnreachable"),
    ):
        client(proxy.endpoint).list_buckets()


def test_rule_numbers_below_one_are_refused(proxy: FaultyProxy) -> None:
    """``times=0`` is a mistake in the test and raises at once."""
    with pytest.raises(ValueError, match="times"):
        proxy.fail(is_get, times=0)


@pytest.mark.full
def test_ceph_serves_the_same_requests() -> None:
    """Ceph, a server written by someone else, takes every request through the proxy and refuses a second create."""
    with TemporaryDirectory(prefix="ceph-") as parent:  # not tmp_path: Unix sockets want a short path
        directory = Path(parent) / "c"
        with ceph_server(directory) as endpoint, FaultyProxy(endpoint) as proxy:
            for bucket in ("plain", "media"):
                client(endpoint).create_bucket(Bucket=bucket)
            check_round_trip(proxy.endpoint, "plain")
            check_conditional_create(proxy.endpoint, "media")
            proxy.fail(is_get, times=1)
            with pytest.raises(botocore.exceptions.ClientError, match="SlowDown"):
                client(proxy.endpoint).list_buckets()
        assert not directory.exists()
