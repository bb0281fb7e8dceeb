"""A listing of S3 has every key under a prefix once, page by page, or says why it cannot."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC
from typing import Any

import boto3
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.warning import Warnings
from tests.s3.servers import FaultyProxy, S3Endpoint
from tests.s3.synthetic import ListingServer
from tests.sources.listings import noticed, rows, tables, uris_in

BUCKET = "listing-tests"


@pytest.fixture(scope="module")
def s3(moto: S3Endpoint) -> Any:
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def put(client: Any, *keys: str) -> None:
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode())


def test_an_s3_prefix_lists_with_versions(s3: Any) -> None:
    """Each key under the prefix with size, ETag and time; keys are kept byte for byte."""
    keys = ["odd/100% real#1?.jpg", "odd/_hidden/.b", "odd/a//b", "odd/a b+c", "odd/写真.jpg"]
    put(s3, *keys)
    found = rows(f"s3://{BUCKET}/odd/")
    assert [row["uri"] for row in found] == [f"s3://{BUCKET}/{key}" for key in sorted(keys)]
    head = s3.head_object(Bucket=BUCKET, Key=keys[0])
    assert (found[0]["size"], found[0]["etag"]) == (len(keys[0]), head["ETag"].strip('"'))
    assert found[0]["modified_at"].replace(tzinfo=UTC) == head["LastModified"]


def test_an_odd_time_on_s3_ends_no_page() -> None:
    """A store that is almost S3 may write any time: that object has none, and its neighbours have theirs."""
    odd = {"odd/a": "10000-01-01T00:00:00.000Z", "odd/b": "", "odd/c": None}
    with ListingServer([*odd, "odd/d"], modified=odd) as server:
        warnings = Warnings()
        storage = StorageConfig(endpoint_url=server.endpoint.endpoint_url, options={"key": "a", "secret": "b"})
        found = rows("s3://b/odd/", storage=storage, warnings=warnings)
    assert [row["modified_at"] is None for row in found] == [True, True, True, False]
    [entry] = warnings.as_json()
    assert (entry["count"], entry["example"]) == (2, "s3://b/odd/a")


def test_a_prefix_is_no_folder(s3: Any) -> None:
    """As S3 understands it: `…/2026/1` covers `…/2026/11/` too; globs are over what follows the last `/`."""
    put(s3, "prefix/1/a", "prefix/11/b", "prefix/2/c")
    assert uris_in(f"s3://{BUCKET}/prefix/1") == [f"s3://{BUCKET}/prefix/1/a", f"s3://{BUCKET}/prefix/11/b"]
    assert uris_in(f"s3://{BUCKET}/prefix/1", include=["11/*"]) == [f"s3://{BUCKET}/prefix/11/b"]


def test_an_exact_key_lists_only_that_object(s3: Any) -> None:
    """A URI that is a key is that object, and not what else begins like it; `key/` is a prefix all the same."""
    put(s3, "exact/a.jpg", "exact/a.jpg.bak", "exact/a.jpg/b")
    assert uris_in(f"s3://{BUCKET}/exact/a.jpg") == [f"s3://{BUCKET}/exact/a.jpg"]
    assert uris_in(f"s3://{BUCKET}/exact/a.jpg/") == [f"s3://{BUCKET}/exact/a.jpg/b"]


def test_an_empty_object_beside_its_prefix_is_the_prefix(s3: Any) -> None:
    """Consoles and mounts leave an empty `photos` or `photos/`; neither is an object, and the source is what lies below."""
    put(s3, "marked/photos/a", "marked/photos/deep/b")
    for mark in ("marked/photos", "marked/photos/", "marked/photos/deep/", "marked/photos/deep_$folder$"):
        s3.put_object(Bucket=BUCKET, Key=mark, Body=b"")
    warnings, uri = Warnings(), f"s3://{BUCKET}/marked/photos"
    assert sorted(uris_in(uri, warnings=warnings)) == [f"{uri}/a", f"{uri}/deep/b"]
    assert noticed(warnings) == {"object_and_prefix": (1, uri), "folder_marker": (3, f"{uri}/")}
    s3.put_object(Bucket=BUCKET, Key="marked/empty", Body=b"")
    assert uris_in(f"s3://{BUCKET}/marked/empty") == [f"s3://{BUCKET}/marked/empty"]


def test_an_object_beside_its_prefix_says_what_it_leaves(s3: Any) -> None:
    """An object with content is what its URI names; that a prefix of that name lies beside it is said."""
    put(s3, "both/photos", "both/photos/a")
    warnings, uri = Warnings(), f"s3://{BUCKET}/both/photos"
    assert uris_in(uri, warnings=warnings) == [uri]
    assert noticed(warnings) == {"prefix_beside": (1, uri)}


def test_the_report_store_on_s3_is_no_media(s3: Any) -> None:
    """A store within the scanned prefix is left out."""
    put(s3, "own/a", "own/reports/runs/1/run.json", "own/reports2/b")
    listed = uris_in(f"s3://{BUCKET}/own/", store=f"s3://{BUCKET}/own/reports")
    assert listed == [f"s3://{BUCKET}/own/a", f"s3://{BUCKET}/own/reports2/b"]


@pytest.fixture(scope="module")
def two_pages(s3: Any) -> None:
    """Put 1,003 keys below `many/`: they are two pages of a listing."""
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda i: s3.put_object(Bucket=BUCKET, Key=f"many/{i:05d}", Body=b""), range(1003)))


@pytest.mark.usefixtures("two_pages")
def test_long_prefixes_are_paged_as_they_are_read(moto: S3Endpoint) -> None:
    """The second page is asked for when the first has been used up, and not before."""
    with FaultyProxy(moto) as proxy:
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        keys = [f"s3://{BUCKET}/many/{i:05d}" for i in range(1003)]
        assert uris_in(f"s3://{BUCKET}/many/", storage=storage, limit=1000) == keys[:1000]
        assert proxy.requests["GET"] == 1
        assert uris_in(f"s3://{BUCKET}/many/", storage=storage) == keys
        assert proxy.requests["GET"] == 3


def test_a_missing_bucket_is_an_error(s3: Any) -> None:
    """It says that the bucket does not exist."""
    with pytest.raises(SourceError, match="s3://no-such-bucket-here/x: the bucket does not exist"):
        tables("s3://no-such-bucket-here/x")


def test_a_missing_manifest_on_s3_is_an_error(s3: Any) -> None:
    """A manifest's key that is not there is not blamed on the bucket, which is."""
    with pytest.raises(SourceError, match=r"absent\.csv: no such object"):
        tables(f"s3://{BUCKET}/absent.csv")


def test_a_manifest_on_s3_is_read(s3: Any) -> None:
    """Relative URIs in it are relative to its own place."""
    s3.put_object(Bucket=BUCKET, Key="lists/today.jsonl", Body=b'{"uri": "a b.jpg"}\n{"source-ref": "s3://x/y"}\n')
    assert uris_in(f"s3://{BUCKET}/lists/today.jsonl") == [f"s3://{BUCKET}/lists/a b.jpg", "s3://x/y"]


@pytest.mark.usefixtures("two_pages")
def test_a_listing_that_breaks_off_is_an_error(moto: S3Endpoint) -> None:
    """Where the second page is refused, what came before is no listing: SourceError, with the reason."""
    with FaultyProxy(moto) as proxy:
        proxy.fail(lambda method, path: "continuation-token" in path, status=403, code="AccessDenied")
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        with pytest.raises(SourceError, match=rf"cannot list s3://{BUCKET}/many/: permission denied \(AccessDenied\)"):
            tables(f"s3://{BUCKET}/many/", storage=storage)


def test_a_filesystem_that_refuses_is_not_taken_for_a_missing_one(s3: Any, moto: S3Endpoint) -> None:
    """Refused credentials are said as such, not as a source that is not there."""
    with FaultyProxy(moto) as proxy:
        proxy.fail(lambda method, path: True, status=403, code="InvalidAccessKeyId")
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        with pytest.raises(SourceError, match="InvalidAccessKeyId"):
            tables(f"s3://{BUCKET}/many/", storage=storage)
