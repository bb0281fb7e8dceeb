"""Stores that are almost S3 are read, written, listed and deleted from all the same, without an option."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest

from nsfwscan.config import ScanConfig, SourceConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import NsfwscanError, StoreError
from nsfwscan.execution.inline import run_inline
from nsfwscan.location import Location
from nsfwscan.reports.progress import Silent
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.sources.listing import list_sources
from nsfwscan.storage.filesystems import filesystem
from nsfwscan.storage.objects import fetch
from nsfwscan.storage.s3_dialect import speaks_aws
from nsfwscan.storage.store import Store
from nsfwscan.workflows.doctor import Finding, _sources, _store
from nsfwscan.workflows.scan import run_scan
from tests.s3.dialects import NO_CHECKSUMS, OtherStore
from tests.s3.servers import S3Endpoint

pytestmark = pytest.mark.long

BUCKET = "dialect-tests"
OLDEST = ("ovh", "wants-md5", "no-questions", "no-list-v2", "no-conditions", "no-bulk-delete", "bare")


@pytest.fixture(scope="module", autouse=True)
def s3(moto: S3Endpoint) -> Any:
    """A client past the proxy, and the bucket of these tests."""
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    return client


def reach(other: OtherStore, **options: Any) -> StorageConfig:
    return StorageConfig(endpoint_url=other.endpoint.endpoint_url, **options)


def listed(folder: str, storage: StorageConfig) -> list[dict[str, Any]]:
    source = SourceConfig(uris=(f"s3://{BUCKET}/{folder}",))
    return [row for table in list_sources(source, storage) for row in table.to_pylist()]


@pytest.mark.parametrize("kind", [*NO_CHECKSUMS, "wants-md5", "no-conditions", "no-bulk-delete"])
def test_a_store_of_another_kind_is_written_read_and_deleted_from(moto: S3Endpoint, kind: str) -> None:
    """Whatever it refuses, with its own words: write, overwrite, create once, read, list, and delete one and many."""
    with OtherStore(moto, kind) as other:
        store = Store.at(f"s3://{BUCKET}/{kind}", reach(other))
        store.write("a", b"first")
        store.write("a", b"second")
        store.create("b", b"once")
        with pytest.raises(FileExistsError):
            store.create("b", b"twice")
        for number in range(4):
            store.write(f"many/{number}", b"x")
        assert (store.read("a"), store.read("b")) == (b"second", b"once")
        assert store.names("many") == ["0", "1", "2", "3"]
        store.inside("many").delete_files(["0", "1"])
        assert store.names("many") == ["2", "3"]
        store.delete("many")
        store.delete("a")
        assert store.names("") == ["b"]
        expected = {"NotImplemented"} if kind.startswith("no-") else set()
        assert set(other.refused) == expected


def test_large_files_go_up_in_parts_with_their_md5(moto: S3Endpoint, s3: Any) -> None:
    """A large file is written in parts, each with its Content-MD5, also on the condition that it is new."""
    data, uri = bytes(11 * 2**20), f"s3://{BUCKET}/parts/large"
    with OtherStore(moto, "ovh", "wants-md5") as other:
        filesystem(Location.of(uri), reach(other)).pipe_file(uri, data, chunksize=5 * 2**20, mode="create")
        assert any("partNumber=2" in path for _, path in other.requests)
    head = s3.head_object(Bucket=BUCKET, Key="parts/large")
    assert head["ContentLength"] == len(data) and "-" in head["ETag"]
    s3.delete_object(Bucket=BUCKET, Key="parts/large")


def test_content_md5_protects_what_is_written(moto: S3Endpoint, s3: Any) -> None:
    """What goes to another store than AWS has its MD5 with it, and none of the newer checksums."""
    with OtherStore(moto, "ovh", "wants-md5") as other:
        Store.at(f"s3://{BUCKET}/md5", reach(other)).write("a", b"protected")
    assert s3.head_object(Bucket=BUCKET, Key="md5/a")["ETag"].strip('"') == hashlib.md5(b"protected").hexdigest()


@pytest.fixture(scope="module")
def several_pages(s3: Any) -> None:
    """180 objects in two folders and beside them."""

    def put(key: str) -> None:
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"x")

    with ThreadPoolExecutor(8) as threads:
        for name in ("a/{:04d} +%é", "b/{:04d}", "z{:04d}"):
            list(threads.map(put, ("v1/" + name.format(number) for number in range(60))))


@pytest.mark.parametrize("trait", ["no-list-v2", "lists-by-v1-alone"])
@pytest.mark.parametrize("limit", [None, 170])
def test_a_store_without_list_objects_v2_is_listed_in_full(
    moto: S3Endpoint, several_pages: None, trait: str, limit: int | None
) -> None:
    """Several pages, folders side by side or in order: each key once, whether the store refuses the newer request or
    answers it as if it were the older one; also where a report store is listed."""
    with OtherStore(moto, trait, "small-pages") as other:
        source = SourceConfig(uris=(f"s3://{BUCKET}/v1/",), limit=limit)
        uris = [u for table in list_sources(source, reach(other)) for u in table["uri"].to_pylist()]
        assert len(uris) == len(set(uris)) == (limit or 180)
        if limit is None:
            assert Store.at(f"s3://{BUCKET}/v1", reach(other)).names("a") == sorted(f"{n:04d} +%é" for n in range(60))
            assert len(Store.at(f"s3://{BUCKET}/v1", reach(other)).names("")) == 62
        assert sum(other.refused.values()) <= 16  # once, or as often as requests were under way


def test_a_listing_without_times_and_classes_is_enough(moto: S3Endpoint, s3: Any) -> None:
    """LastModified, StorageClass and the quotes of ETags may be missing: size and etag are what they are."""
    s3.put_object(Bucket=BUCKET, Key="bare/a", Body=b"content")
    with OtherStore(moto, "bare") as other:
        [row] = listed("bare/", reach(other))
        etag = hashlib.md5(b"content").hexdigest()
        assert (row["size"], row["etag"], row["modified_at"]) == (7, etag, None)
        found = fetch(
            Location.of(row["uri"]), reach(other), max_bytes=99, timeout_s=9, attempts=1, size=7, etag=row["etag"]
        )
        assert (found.data, found.etag) == (b"content", etag)


def test_a_whole_scan_of_and_into_the_oldest_store(
    moto: S3Endpoint, s3: Any, demo: tuple[Any, list[DemoObject]]
) -> None:
    """Media and reports in a store that lacks all of it at once: committed, verified, and carried over the next night."""
    for name in [o.path for o in demo[1] if "\n" not in o.path][:6]:
        s3.put_object(Bucket=BUCKET, Key=f"night/{name}", Body=(demo[0] / name).read_bytes())
    with OtherStore(moto, *OLDEST) as other:
        sections = {"source": {"uris": [f"s3://{BUCKET}/night/"]}, "out": f"s3://{BUCKET}/reports"}
        config = ScanConfig.load(None, {**sections, "storage": {"endpoint_url": other.endpoint.endpoint_url}})
        run_scan(config, "1", run_inline, Silent())
        again = run_scan(config, "2", run_inline, Silent())
        assert again.record.balance.listed == 6
        assert not list(verify(Run(Store.at(config.out, config.storage), "2")))
        findings = [*_sources(config), *_store(config)]
        assert [f.verdict for f in findings] == ["ok", "warn"] and "If-None-Match" in findings[1].detail


@pytest.mark.parametrize("kind", ["b2", "ovh", "ceph", "hash"])
def test_where_aws_is_spoken_to_another_store_the_message_says_what_to_try(moto: S3Endpoint, kind: str) -> None:
    """`--s3-compatibility aws` with a store that is none: the error and `doctor` name the option that helps."""
    with OtherStore(moto, kind) as other:
        with pytest.raises(StoreError, match="try --s3-compatibility basic"):
            Store.at(f"s3://{BUCKET}/x", reach(other, s3_compatibility="aws")).write("a", b"x")
        Store.at(f"s3://{BUCKET}/x", reach(other, s3_compatibility="basic")).write("a", b"x")


def test_a_wrong_signature_has_two_causes(moto: S3Endpoint) -> None:
    """The secret may be wrong, or the store signs otherwise: the message says both, with what to try for each."""
    with OtherStore(moto, "gcs") as other, pytest.raises(NsfwscanError) as error:
        Store.at(f"s3://{BUCKET}/x", reach(other, s3_compatibility="aws")).write("a", b"x")
    said = str(error.value)
    assert "AWS_SECRET_ACCESS_KEY" in said and "--s3-compatibility basic" in said and "--region" in said
    assert "refuses the credentials" not in said


@pytest.mark.parametrize("ignored", [True, False])
def test_doctor_says_where_nothing_keeps_a_file_from_being_overwritten(moto: S3Endpoint, ignored: bool) -> None:
    """A store that refuses or passes over If-None-Match is a warning, one that knows it is none."""
    for traits, verdict in ((("ignores-conditions" if ignored else "no-conditions",), "warn"), ((), "ok")):
        with OtherStore(moto, *traits) as other:
            sections = {"source": {"uris": []}, "out": f"s3://{BUCKET}/doctor"}
            config = ScanConfig.load(None, {**sections, "storage": {"endpoint_url": other.endpoint.endpoint_url}})
            found: list[Finding] = list(_store(config))
            assert [f.verdict for f in found] == [verdict]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("SecondLevelDomainForbidden", "--s3-addressing virtual"),
        ("AuthorizationHeaderMalformed", "--region"),
        ("MissingContentMD5", "--s3-compatibility"),
    ],
)
def test_other_refusals_name_their_option(proxy: Any, through: StorageConfig, code: str, said: str) -> None:
    """A bucket that must stand in the host's name, another region, a missing digest: the option that helps is named."""
    proxy.fail(lambda method, path: True, status=403 if code.startswith("S") else 400, code=code)
    with pytest.raises(NsfwscanError, match=said):
        Store.at(f"s3://{BUCKET}/x", through).write("a", b"x")


@pytest.mark.parametrize(
    ("url", "is_aws"),
    [
        ("https://s3.eu-west-1.amazonaws.com", True),
        ("https://bucket.s3.dualstack.eu-west-1.amazonaws.com/k", True),
        ("https://bucket.vpce-1a.s3.us-east-1.vpce.amazonaws.com", True),
        ("https://s3.cn-north-1.amazonaws.com.cn", True),
        ("https://s3.us-east-1.api.aws", True),
        ("http://minio:9000", False),
        ("https://amazonaws.com.example.org", False),
        ("https://notamazonaws.com", False),
        ("https://s3.fr-par.scw.cloud", False),
    ],
)
def test_aws_is_known_by_its_name(url: str, is_aws: bool) -> None:
    """AWS keeps the checksums that botocore sends; by its hosts' names, those of its partitions."""
    assert speaks_aws(url) is is_aws


def test_aws_keeps_its_checksums(moto: S3Endpoint, s3: Any) -> None:
    """Spoken to as AWS, a store gets and keeps a checksum with each object; spoken to otherwise, it gets none."""
    for mode, kept in (("aws", True), ("auto", False)):
        storage = StorageConfig(endpoint_url=moto.endpoint_url, s3_compatibility=mode)
        Store.at(f"s3://{BUCKET}/sums", storage).write(mode, b"x")
        head = s3.head_object(Bucket=BUCKET, Key=f"sums/{mode}", ChecksumMode="ENABLED")
        assert ("ChecksumCRC32" in head) is kept
