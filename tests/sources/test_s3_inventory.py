"""An S3 Inventory is the listing of a bucket: each current object once, or an error that says what is wrong with it."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import shutil
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import orc

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.s3_inventory import read_inventory
from tests.s3.servers import FaultyProxy, S3Endpoint

LOCAL = StorageConfig()
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
SCHEMA = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag, StorageClass"
FOLDER = "lists/media/nightly"

Row = dict[str, Any]


def row(key: str, **values: Any) -> Row:
    known = {"VersionId": "v1", "IsLatest": True, "IsDeleteMarker": False, "Size": 5, "LastModifiedDate": NOON}
    return {"Bucket": "media", "Key": key, **known, "ETag": "abc", "StorageClass": "STANDARD", **values}


def lines(*rows: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode())


def as_csv(rows: list[Row]) -> bytes:
    """As S3 writes it: no header, all cells quoted, keys as in HTML forms, lower-case flags."""

    def cell(name: str, value: Any) -> str:
        if name == "Key":
            return quote_plus(value, safe="/")
        if isinstance(value, datetime):
            return value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    return lines(*([cell(name, r[name]) for name in SCHEMA.split(", ")] for r in rows))


def as_table(rows: list[Row]) -> pa.Table:
    """Columns named as in Parquet and ORC inventories."""
    names = [
        "bucket",
        "key",
        "version_id",
        "is_latest",
        "is_delete_marker",
        "size",
        "last_modified_date",
        "e_tag",
        "storage_class",
    ]
    table = pa.Table.from_pylist([dict(zip(names, r.values(), strict=True)) for r in rows])
    at = table.schema.get_field_index("last_modified_date")
    return table.set_column(at, "last_modified_date", table["last_modified_date"].cast(pa.timestamp("ms", "UTC")))


def as_parquet(rows: list[Row]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(as_table(rows), buffer)
    return buffer.getvalue()


def as_orc(rows: list[Row]) -> bytes:
    buffer = io.BytesIO()
    orc.write_table(as_table(rows), buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[list[Row]], bytes]] = {"CSV": as_csv, "Parquet": as_parquet, "ORC": as_orc}


def files(parts: dict[str, bytes], **over: Any) -> dict[str, bytes]:
    """A whole inventory by key, as S3 lays it out; `over` goes over the manifest."""
    manifest = {
        "sourceBucket": "media",
        "destinationBucket": "arn:aws:s3:::lists-bucket",
        "version": "2016-11-30",
        "creationTimestamp": "1793534400000",
        "fileFormat": "CSV",
        "fileSchema": SCHEMA,
        "files": [
            {"key": f"{FOLDER}/data/{name}", "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}
            for name, data in parts.items()
        ],
    } | over
    return {f"{FOLDER}/data/{name}": data for name, data in parts.items()} | {
        f"{FOLDER}/2026-11-01T00-00Z/manifest.json": json.dumps(manifest).encode()
    }


def laid_out(root: Path, parts: dict[str, bytes], **over: Any) -> Path:
    for key, data in files(parts, **over).items():
        path = root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return path


def keys(manifest: str | Path, storage: StorageConfig = LOCAL) -> list[str]:
    return [r["uri"].removeprefix("s3://media/") for r in read_inventory(Location.of(str(manifest)), storage)]


# What it lists


@pytest.mark.parametrize("written", FORMATS)
def test_every_format_gives_the_same_objects(tmp_path: Path, written: str) -> None:
    """URI, size, time in UTC and ETag without its quotes, from parts one after the other."""
    first = [row("a.jpg"), row("b.jpg", Size=None, ETag='"quoted-2"', LastModifiedDate=None, VersionId=None)]
    parts = {"1": FORMATS[written](first), "2": FORMATS[written]([row("c.jpg", Size=0)])}
    found = list(read_inventory(Location.of(str(laid_out(tmp_path, parts, fileFormat=written))), LOCAL))
    known = {"etag": "abc", "modified_at": NOON, "truth": None}
    assert found == [
        {"uri": "s3://media/a.jpg", "size": 5, **known},
        {"uri": "s3://media/b.jpg", "size": None, "etag": "quoted-2", "modified_at": None, "truth": None},
        {"uri": "s3://media/c.jpg", "size": 0, **known},
    ]


@pytest.mark.parametrize("written", FORMATS)
def test_only_what_a_read_would_return_is_listed(tmp_path: Path, written: str) -> None:
    """Old versions and delete markers are passed over, and an object whose current version is a delete marker."""
    rows = [
        row("a", VersionId="2"),
        row("a", VersionId="1", IsLatest=False),
        row("gone", IsDeleteMarker=True, Size=None, ETag=None),
        row("gone", VersionId="1", IsLatest=False),
        row("unversioned", VersionId=None, IsLatest=None, IsDeleteMarker=None),
    ]
    assert keys(laid_out(tmp_path, {"1": FORMATS[written](rows)}, fileFormat=written)) == ["a", "unversioned"]


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize(
    "key",
    ["a b+c%20.jpg", "two\nlines,\"and\" 'quotes'", "../../etc/passwd", "写真/é/e\u0301", "a//b/", "?#%", "k" * 1024],
)
def test_keys_are_kept_byte_for_byte(tmp_path: Path, written: str, key: str) -> None:
    """Of CSV they are decoded once, blanks and plus signs too; of the others they are not decoded at all."""
    assert keys(laid_out(tmp_path, {"1": FORMATS[written]([row(key)])}, fileFormat=written)) == [key]


def test_an_inventory_of_bucket_and_key_alone_is_enough(tmp_path: Path) -> None:
    """All other columns are optional, in any order; unknown ones are passed over."""
    part = lines(["GLACIER", "a+b.jpg", "media"])
    [found] = read_inventory(
        Location.of(str(laid_out(tmp_path, {"1": part}, fileSchema="StorageClass,Key,Bucket"))), LOCAL
    )
    assert found == {"uri": "s3://media/a b.jpg", "size": None, "etag": None, "modified_at": None, "truth": None}


def test_an_inventory_of_nothing_lists_nothing(tmp_path: Path) -> None:
    """No part, or a part without rows: the plan will say that there is nothing to scan."""
    assert keys(laid_out(tmp_path / "a", {})) == keys(laid_out(tmp_path / "b", {"1": gzip.compress(b"")})) == []


@pytest.mark.long
@pytest.mark.parametrize("written", FORMATS)
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, written: str) -> None:
    """20,000 rows, which would be 15 MB as a list, are read with a few MB."""
    part = FORMATS[written]([row(f"{i:06d}") for i in range(20_000)])
    manifest = laid_out(tmp_path, {"1": part}, fileFormat=written)
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_inventory(Location.of(str(manifest)), LOCAL)) == 20_000
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
    finally:
        tracemalloc.stop()


# As a source


def test_an_inventory_is_a_source(tmp_path: Path) -> None:
    """Globs are over its keys, class folders in them are the truth, and a limit is a limit."""
    rows = [row("2026/neutral/a.jpg"), row("2026/b.png"), row("2027/c.jpg")]
    manifest = str(laid_out(tmp_path, {"1": as_csv(rows)}))

    def listed(**options: Any) -> list[Row]:
        found = list_sources(SourceConfig(uris=(manifest,), **options), LOCAL)
        return [r for table in found for r in table.to_pylist()]

    assert [r["truth"] for r in listed()] == ["neutral", None, None]
    assert [r["uri"] for r in listed(include=["2026/*"], exclude=["*.png"])] == ["s3://media/2026/neutral/a.jpg"]
    assert [r["uri"] for r in listed(limit=2)] == ["s3://media/2026/neutral/a.jpg", "s3://media/2026/b.png"]


def test_a_folder_with_a_manifest_is_a_folder(tmp_path: Path) -> None:
    """Only a source that names the manifest is an inventory."""
    (tmp_path / "manifest.json").write_text("{}")
    [table] = list_sources(SourceConfig(uris=(str(tmp_path),)), LOCAL)
    assert table["uri"].to_pylist() == [f"{tmp_path}/manifest.json"]


# Where the parts lie


@pytest.mark.parametrize("place", ["../data", "data", "."])
def test_a_copied_inventory_is_complete_in_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Parts lie beside a manifest that was copied to a disk, as S3 laid them out or more simply; however it is named."""
    manifest = laid_out(tmp_path, {"1.csv.gz": as_csv([row("a")])})
    target = manifest.parent / place
    target.mkdir(exist_ok=True)
    if place != "../data":
        shutil.move(tmp_path / FOLDER / "data/1.csv.gz", target / "1.csv.gz")
    assert keys(manifest) == keys(f"file://{manifest}") == ["a"]
    monkeypatch.chdir(manifest.parent)
    assert keys("manifest.json") == ["a"]


def test_an_inventory_lies_anywhere() -> None:
    """On any filesystem, with its parts beside it."""
    fs = fsspec.filesystem("memory")
    for key, data in files({"1": as_csv([row("a")])}).items():
        fs.pipe_file(f"/inventory-tests/{key}", data)
    try:
        assert keys(f"memory://inventory-tests/{FOLDER}/2026-11-01T00-00Z/manifest.json") == ["a"]
    finally:
        fs.rm("/inventory-tests", recursive=True)


@pytest.fixture(scope="module")
def s3(moto: S3Endpoint) -> Any:
    client = boto3.client("s3")
    for bucket in ("lists-bucket", "other-lists"):
        client.create_bucket(Bucket=bucket)
    for key, data in files({"1": as_csv([row("a")]), "2": as_csv([row("b")])}).items():
        client.put_object(Bucket="lists-bucket", Key=key, Body=data)
    return client


ON_S3 = f"s3://lists-bucket/{FOLDER}/2026-11-01T00-00Z/manifest.json"


def test_an_inventory_on_s3_is_read(s3: Any) -> None:
    """The parts are where the manifest says."""
    assert keys(ON_S3) == ["a", "b"]


def test_a_manifest_alone_leads_to_its_parts(s3: Any, tmp_path: Path) -> None:
    """Copied to a disk or another bucket, a manifest without its parts beside it is read from the destination bucket."""
    s3.download_file("lists-bucket", ON_S3.split("/", 3)[3], str(tmp_path / "manifest.json"))
    assert keys(tmp_path / "manifest.json") == ["a", "b"]
    s3.upload_file(str(tmp_path / "manifest.json"), "other-lists", "manifest.json")
    assert keys("s3://other-lists/manifest.json") == ["a", "b"]


def test_a_copy_on_s3_is_complete_in_itself(s3: Any) -> None:
    """Parts beside a copied manifest are taken before those of the destination bucket."""
    for key, data in files({"1": as_csv([row("copied")])}).items():
        s3.put_object(Bucket="other-lists", Key=f"copy/{key}", Body=data)
    assert keys(f"s3://other-lists/copy/{FOLDER}/2026-11-01T00-00Z/manifest.json") == ["copied"]


def test_a_part_that_breaks_off_on_its_way_is_read_again(s3: Any, moto: S3Endpoint) -> None:
    """A connection cut in the middle of a part costs nothing but time; a part that is never whole is an error."""
    with FaultyProxy(moto) as proxy:
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        proxy.cut_body(lambda method, path: "/data/" in path, times=1)
        assert keys(ON_S3, storage) == ["a", "b"]
        assert proxy.injected["cut_body"] == 1
        proxy.cut_body(lambda method, path: "/data/2" in path)
        with pytest.raises(SourceError, match=r"manifest\.json: its part 2 cannot be read. Looked for at s3://lists"):
            keys(ON_S3, storage)


def test_a_part_that_may_not_be_read_is_an_error(s3: Any, moto: S3Endpoint) -> None:
    """The places that were tried are named, each with its reason."""
    with FaultyProxy(moto) as proxy:
        proxy.fail(lambda method, path: "/data/" in path, status=403, code="AccessDenied")
        storage = StorageConfig(endpoint_url=proxy.endpoint.endpoint_url)
        with pytest.raises(SourceError, match=r"its part 1 .* s3://lists-bucket/.*/data/1: permission denied"):
            keys(ON_S3, storage)


# What cannot be understood


def test_a_missing_part_is_an_error(s3: Any, tmp_path: Path) -> None:
    """The report must not pass over a part: it is named, with the places where it should be."""
    manifest = laid_out(tmp_path, {"1": as_csv([row("a")]), "no-such-part": as_csv([row("b")])})
    (tmp_path / FOLDER / "data/no-such-part").unlink()
    said = rf"part no-such-part cannot be read. Looked for at {tmp_path}.*/data/no-such-part: .*s3://lists-bucket/"
    with pytest.raises(SourceError, match=said):
        keys(manifest)


@pytest.mark.parametrize(
    ("damaged", "said"),
    [
        (lambda data: data[:-1], "bytes where the manifest says"),
        (lambda data: data + b"\0", "bytes where the manifest says"),
        (lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], "MD5 is [0-9a-f]{32} where the manifest says"),
    ],
)
def test_a_damaged_part_is_an_error(tmp_path: Path, damaged: Callable[[bytes], bytes], said: str) -> None:
    """Cut, longer, or with a bit flipped: nothing of it is listed."""
    manifest = laid_out(tmp_path, {"1": as_csv([row("a")])})
    part = tmp_path / FOLDER / "data/1"
    part.write_bytes(damaged(part.read_bytes()))
    with pytest.raises(SourceError, match=rf"manifest\.json: its part {part} is damaged: .*{said}"):
        next(read_inventory(Location.of(str(manifest)), LOCAL))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is no S3 Inventory manifest: it is not JSON"),
        ("[]", "no destinationBucket, fileFormat, fileSchema, files"),
        ('{"name": "an extension", "manifest_version": 3}', "is no S3 Inventory manifest: it has no destinationBucket"),
        ('{"entries": [{"url": "s3://b/a", "mandatory": true}]}', r"no destinationBucket.*\(\.parquet, \.csv"),
        (b'{"\xff"}', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_another_manifest_is_an_error(tmp_path: Path, content: str | bytes, said: str) -> None:
    """Many things are called manifest.json; what it lacks is said."""
    path = tmp_path / "manifest.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=said) as error:
        list(list_sources(SourceConfig(uris=(str(path),)), LOCAL))
    assert str(path) in str(error.value)


def test_a_missing_manifest_is_an_error(s3: Any, tmp_path: Path) -> None:
    """As any source that is not there."""
    for uri in (f"{tmp_path}/manifest.json", "s3://lists-bucket/absent/manifest.json"):
        with pytest.raises(SourceError, match=r"manifest\.json: no such"):
            list(list_sources(SourceConfig(uris=(uri,)), LOCAL))


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ({"fileFormat": "Avro"}, "inventories of format Avro are not read; CSV, Parquet and ORC are"),
        ({"fileSchema": "Bucket, Size"}, "no column Key"),
        ({"fileSchema": "Name"}, "no column Bucket and no column Key"),
        ({"files": ["a"]}, "file 1 is not {key, size, MD5checksum} but a"),
        ({"files": [{"size": 3}]}, "file 1 is not"),
        ({"files": [{"key": "a/.."}]}, "file 1 is not"),
        ({"files": [{"key": "a/../../b"}]}, "file 1 is not"),
        ({"files": [{"key": "a", "size": "3"}]}, "file 1 is not"),
    ],
)
def test_a_malformed_manifest_is_an_error(tmp_path: Path, over: Row, said: str) -> None:
    """What is wrong with it, and in which entry."""
    with pytest.raises(SourceError, match=said):
        keys(laid_out(tmp_path, {"1": as_csv([row("a")])}, **over))


@pytest.mark.parametrize("written", ["Parquet", "ORC"])
def test_a_part_without_keys_is_an_error(tmp_path: Path, written: str) -> None:
    """The columns of a Parquet or ORC part are its own, whatever the manifest says of them."""
    buffer = io.BytesIO()
    table = pa.table({"bucket": ["media"], "name": ["a"]})
    pq.write_table(table, buffer) if written == "Parquet" else orc.write_table(table, buffer)
    with pytest.raises(SourceError, match="part 1: the inventory has no column Key"):
        keys(laid_out(tmp_path, {"1": buffer.getvalue()}, fileFormat=written))


@pytest.mark.parametrize("written", FORMATS)
def test_a_part_of_another_format_is_an_error(tmp_path: Path, written: str) -> None:
    """A part that is whole, but not what the manifest says it is."""
    with pytest.raises(SourceError, match="part 1 cannot be read: "):
        keys(laid_out(tmp_path, {"1": b"PNG" * 1000}, fileFormat=written))


def values(**over: str) -> list[str]:
    known = ["media", "b", "v1", "true", "false", "5", "2026-11-01T12:00:00.000Z", "abc", "STANDARD"]
    return list((dict(zip(SCHEMA.split(", "), known, strict=True)) | over).values())


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (["media", "b"], "row 2: 2 cells, not the 9 of fileSchema"),
        ([*values(), "more"], "row 2: 10 cells"),
        (values(Key=""), "row 2: no bucket or no key"),
        (values(Bucket=""), "row 2: no bucket or no key"),
        (values(Key="caf%E9"), "cannot be read after row 1: 'utf-8' codec"),
        (values(IsLatest="maybe"), "row 2: 'maybe' is neither true nor false"),
        (values(Size="big"), "row 2: size 'big' is not a number of bytes"),
        (values(LastModifiedDate="yesterday"), "row 2: modified_at 'yesterday' is not"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, bad: list[str], said: str) -> None:
    """The manifest, the part and the row; nothing is guessed, and no row is dropped."""
    manifest = laid_out(tmp_path, {"1": lines(values(), bad, values())})
    with pytest.raises(SourceError, match=rf"{manifest}, part 1,? {said}"):
        keys(manifest)


def test_a_broken_archive_is_an_error(tmp_path: Path) -> None:
    """A part whose gzip ends too soon was written so: what came before is no listing."""
    with pytest.raises(SourceError, match=r"part 1 cannot be read after row \d+: "):
        keys(laid_out(tmp_path, {"1": as_csv([row(str(i)) for i in range(5000)])[:-20]}))
