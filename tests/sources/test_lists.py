"""A list is read whatever it is called, compressed and written in; what is none is refused by name, or is an object."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.manifests import list_shape, read_manifest
from nsfwscan.warning import WarningKind, Warnings
from tests.later import later

if TYPE_CHECKING:
    pass

pd = later("pandas")


LOCAL = StorageConfig()
URIS = ["s3://b/a.jpg", "s3://b/é, b.jpg", "s3://b/c;d.jpg"]
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def listed(path: Path | str, warnings: Warnings | None = None) -> list[str]:
    tables = list_sources(SourceConfig(uris=(str(path),)), LOCAL, warnings=warnings)
    return [uri for table in tables for uri in table["uri"].to_pylist()]


def of_parquet(write: Callable[[pa.Table, io.BytesIO], None]) -> bytes:
    sink = io.BytesIO()
    write(pa.table({"uri": URIS, "size": [1, 2, 3]}), sink)
    return sink.getvalue()


def arrow_compressed(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


QUOTED = "".join(f'"{uri}"\n' for uri in URIS)
FORMS: dict[str, bytes] = {
    "csv": f'"uri"\n{QUOTED}'.encode(),
    "csv with CRLF": f'"uri"\n{QUOTED}'.replace("\n", "\r\n").encode(),
    "csv with CR": f'"uri"\n{QUOTED}'.replace("\n", "\r").encode(),
    "csv with a mark": f'\ufeff"uri"\n{QUOTED}'.encode(),
    "csv, UTF-16": f'"uri"\n{QUOTED}'.encode("utf-16"),
    "csv, UTF-16 without a mark": f'"uri"\n{QUOTED}'.encode("utf-16-le"),
    "semicolons": ("uri;size\n" + "".join(f'"{uri}";3\n' for uri in URIS)).encode(),
    "tabs": ("size\turi\n" + "".join(f"3\t{uri}\n" for uri in URIS)).encode(),
    "bars": ("uri|size\n" + "".join(f"{uri}|\n" for uri in URIS)).encode(),
    "a line each": "\n".join(URIS).encode(),
    "a line each, blank ones between": ("\r\n\r\n".join(URIS) + "\r\n\r\n").encode(),
    "json lines": "".join(json.dumps({"uri": uri}) + "\n" for uri in URIS).encode(),
    "json lines of texts": "".join(json.dumps(uri, ensure_ascii=False) + "\n" for uri in URIS).encode(),
    "json array": json.dumps([{"uri": uri, "x": {"y": [1]}} for uri in URIS], indent=1).encode(),
    "json texts": json.dumps(URIS).encode(),
    "json object": json.dumps({"images": [{"file_name": uri} for uri in URIS]}, indent=2).encode(),
    "parquet": of_parquet(pq.write_table),
    "orc": of_parquet(pa.orc.write_table),
    "arrow": of_parquet(lambda table, sink: pa.feather.write_feather(table, sink, compression="uncompressed")),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": lambda data: data,
    "gzip": gzip.compress,
    "two gzips": lambda data: gzip.compress(data[:20]) + gzip.compress(data[20:]),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: arrow_compressed(data, "zstd"),
    "lz4": lambda data: arrow_compressed(data, "lz4"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_list_is_known_by_its_content(tmp_path: Path, form: str) -> None:
    """Whatever its ending says, or none at all."""
    for name in ("list", "list.csv", "LIST.TXT", "list.parquet", "list.json.gz", "list.jpg"):
        (tmp_path / name).write_bytes(FORMS[form])
        assert listed(tmp_path / name) == URIS, name


@pytest.mark.parametrize("packing", PACKED)
def test_a_list_may_be_compressed(tmp_path: Path, packing: str) -> None:
    """In any of the usual ways, under any name."""
    for form in ("csv", "json lines", "json array", "csv, UTF-16", "parquet", "a line each"):
        (tmp_path / "night").write_bytes(PACKED[packing](FORMS[form]))
        assert listed(tmp_path / "night") == URIS, form


def test_long_lists_are_read_to_their_end(tmp_path: Path) -> None:
    """No row is lost at the border of what is read at once, nor is what was looked at read twice."""
    uris = [f"s3://b/{'x' * (i % 300)}{i}" for i in range(20_000)]
    for content in (
        "\n".join(uris),
        json.dumps(uris),
        json.dumps([{"uri": uri} for uri in uris]),
        "uri\n" + "\n".join(uris),
    ):
        (tmp_path / "night").write_bytes(gzip.compress(content.encode()))
        assert [row["uri"] for row in read_manifest(Location.of(str(tmp_path / "night")), LOCAL)] == uris


def test_an_image_is_an_image(demo: Any, tmp_path: Path) -> None:
    """A file that is an image, or text that lists nothing, is one object; what lies in a folder always is."""
    folder, _ = demo
    for path in [path for path in sorted(folder.rglob("*")) if path.is_file()][:40]:
        if path.suffix not in (".txt", ".csv", ".json", ".zip"):  # what says that it is a list, or never is an image
            assert list_shape(Location.of(str(path)), LOCAL) is None, path
    (tmp_path / "prose").write_text("Dear all,\nthis is a text, with and/or slashes.\n")
    (tmp_path / "name").write_text("media/a.jpg")
    assert listed(tmp_path / "name") == [str(tmp_path / "name")]
    (tmp_path / "name").unlink()
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><title>404</title>")
    (tmp_path / "night.csv").write_bytes(FORMS["csv"])
    assert listed(tmp_path / "prose") == [str(tmp_path / "prose")]
    assert listed(tmp_path / "page.jpg") == [str(tmp_path / "page.jpg")]
    assert len(listed(tmp_path)) == 3


def zipped(*names: str) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "list.xlsx",
            zipped("[Content_Types].xml", "xl/workbook.xml"),
            r"list.xlsx looks like an Excel workbook: save it as",
        ),
        ("night", zipped("[Content_Types].xml", "xl/workbook.xml"), "looks like an Excel workbook"),
        ("list.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "looks like an Excel workbook"),
        ("media.zip", zipped("a.jpg"), r"is a zip archive, .* what is in it is zip://::/"),
        ("media.tar", bytes(257) + b"ustar" + bytes(300), "is a tar archive"),
        ("media.tar.gz", gzip.compress(b"a.jpg" + bytes(252) + b"ustar" + bytes(300), mtime=0), "is a tar archive"),
        ("a.avro", b"Obj\x01\x04", "looks like an Avro file"),
        ("list.txt", b"Hello,\nthis is no list.\n", "no column that names objects"),
        ("list.csv", b"<html><body>503</body></html>", "HTML or XML, an error page"),
        ("list.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS.*git lfs pull"),
        ("list.csv", b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(100), "neither text nor a table"),
        ("list.csv", b"s3://b/a.jpg,neutral\ns3://b/b.jpg,porn\n", "no line of column names"),
        ("list.csv", b"url,path\ns3://b/a,s3://b/b\n", "`url` and `path` may each name the objects: call the one"),
        ("list.csv", b"key,size\na.jpg,3\n", "columns are key, size"),
        ("list.json", b'{"name": "x", "version": 3}', "no `uri`.*'name'"),
        ("list.json", b"[1, 2]", "a JSON array of neither objects nor texts"),
        ("list.json", b'["s3://b/a", "s3://b/b"', "breaks off"),
        ("list.csv.gz", gzip.compress(b"uri\n" + b"s3://b/a\n" * 9000, mtime=0)[:-20], "cannot be read as a manifest"),
    ],
)
def test_what_is_no_list_is_refused_by_name(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    """With what it looks like, and what to do; a night that lists nothing is not begun."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=said):
        listed(tmp_path / name)


@pytest.mark.parametrize(
    "header", ["uri", "URI", " uri", "url", "Path", "file_name", "File Name", "s3_uri", "S3-URI", "source-ref", "image"]
)
def test_the_column_may_have_a_usual_name(tmp_path: Path, header: str) -> None:
    """In any case, with blanks around it; beside other columns, of which the header may say anything."""
    (tmp_path / "a.csv").write_text(f"n,{header}, Truth\n0,s3://b/a.jpg, Neutral\n")
    [row] = read_manifest(Location.of(str(tmp_path / "a.csv")), LOCAL)
    assert (row["uri"], row["truth"]) == ("s3://b/a.jpg", "neutral")
    (tmp_path / "a.jsonl").write_text(json.dumps({"n": 0, header: "s3://b/a.jpg", "TRUTH": "neutral"}))
    assert [row["truth"] for row in read_manifest(Location.of(str(tmp_path / "a.jsonl")), LOCAL)] == ["neutral"]


def test_bucket_and_key_name_an_object(tmp_path: Path) -> None:
    """As inventories and event logs write them."""
    (tmp_path / "a.csv").write_text("Bucket,Key,Size\nb,a/é b.jpg,3\n")
    assert [(row["uri"], row["size"]) for row in read_manifest(Location.of(str(tmp_path / "a.csv")), LOCAL)] == [
        ("s3://b/a/é b.jpg", 3)
    ]


def pandas_forms() -> dict[str, Callable[[pd.DataFrame, Path], None]]:
    return {
        "csv": lambda frame, path: frame.to_csv(path, index=False),
        "csv with an index": lambda frame, path: frame.to_csv(path),
        "csv with NaN": lambda frame, path: frame.to_csv(path, na_rep="NaN"),
        "semicolons": lambda frame, path: frame.to_csv(path, sep=";"),
        "utf-16": lambda frame, path: frame.to_csv(path, encoding="utf-16"),
        "json lines": lambda frame, path: frame.to_json(path, orient="records", lines=True),
        "json": lambda frame, path: frame.to_json(path, orient="records"),
        "parquet": lambda frame, path: frame.to_parquet(path),
        "gzip": lambda frame, path: frame.to_csv(path, compression="gzip"),
        "feather": lambda frame, path: frame.to_feather(path),
    }


@pytest.mark.parametrize("form", pandas_forms())
def test_what_pandas_writes_is_read(tmp_path: Path, form: str) -> None:
    """Whole numbers with a gap as floats, NaN, NaT and epoch times: values, or none, and no warning."""
    frame = pd.DataFrame(
        {
            "uri": URIS,
            "size": [41537, None, 3],
            "modified_at": pd.to_datetime(["2026-11-01T12:00:00Z", None, "2026-11-01T12:00:00Z"]),
            "truth": ["neutral", None, "porn"],
        }
    )
    pandas_forms()[form](frame, tmp_path / "night")
    warnings = Warnings()
    rows = list(read_manifest(Location.of(str(tmp_path / "night")), LOCAL, warnings))
    assert [row["uri"] for row in rows] == URIS
    assert [row["size"] for row in rows] == [41537, None, 3]
    assert [row["modified_at"] for row in rows] == [NOON, None, NOON]
    assert [row["truth"] for row in rows] == ["neutral", None, "porn"]
    assert warnings.as_json() == []


@pytest.mark.parametrize("nan", [float("nan"), None])
def test_nan_in_parquet_is_nothing(tmp_path: Path, nan: float | None) -> None:
    """As polars and Spark write it: NaN, not null."""
    pq.write_table(pa.table({"uri": URIS, "size": pa.array([1.0, nan, 3.0])}), tmp_path / "a")
    assert [row["size"] for row in read_manifest(Location.of(str(tmp_path / "a")), LOCAL)] == [1, None, 3]


@pytest.mark.parametrize(
    "written",
    [
        "1793534400",
        "1793534400.0",
        "1793534400000",
        "1793534400000000",
        "1793534400000000000",
        "1.7935344e9",
        "2026-11-01 12:00:00 UTC",
        "2026-11-01T12:00:00.000000000Z",
        "20261101T120000Z",
        "Sun, 01 Nov 2026 12:00:00 GMT",
        "2026-11-01T13:00:00+01:00",
    ],
)
def test_times_are_what_they_mean(tmp_path: Path, written: str) -> None:
    """Numbers since 1970 in the unit that their size shows, ISO 8601 and HTTP dates, with and without a zone."""
    (tmp_path / "a.csv").write_text(f'uri,modified_at\ns3://b/a,"{written}"\n')
    assert [row["modified_at"] for row in read_manifest(Location.of(str(tmp_path / "a.csv")), LOCAL)] == [NOON]


def test_single_odd_values_are_counted(tmp_path: Path) -> None:
    """Sizes, times and truths that cannot be understood are null, counted and named; the list is used."""
    text = (
        "uri,size,modified_at,truth\ns3://b/a,3,2026-11-01,neutral\ns3://b/b,3 KB,yesterday,rude\ns3://b/c,-1,1e30,\n"
    )
    (tmp_path / "a.csv").write_text(text)
    warnings = Warnings()
    assert listed(tmp_path / "a.csv", warnings) == ["s3://b/a", "s3://b/b", "s3://b/c"]
    found = {entry["name"]: (entry["count"], entry["example"]) for entry in warnings.as_json()}
    assert found.keys() == {"listed_size", "listed_time", "listed_truth"}
    assert (warnings.count(WarningKind.LISTED_SIZE), warnings.count(WarningKind.LISTED_TIME)) == (2, 2)
    assert "row 2: size '3 KB'" in found["listed_size"][1]


def test_times_beyond_the_calendar_are_counted(tmp_path: Path) -> None:
    """A Parquet time of the year 30000 is null, and a warning, not a traceback."""
    far = pa.array([0, 10**15], pa.int64()).cast(pa.timestamp("ms"))
    pq.write_table(pa.table({"uri": URIS[:2], "modified_at": far}), tmp_path / "a")
    warnings = Warnings()
    rows = list(read_manifest(Location.of(str(tmp_path / "a")), LOCAL, warnings))
    assert [row["modified_at"] for row in rows] == [datetime(1970, 1, 1, tzinfo=UTC), None]
    assert warnings.count(WarningKind.LISTED_TIME) == 1


@pytest.mark.parametrize("scheme", ["s3", "s3a"])
@pytest.mark.parametrize("form", ["csv", "a line each", "parquet", "json texts"])
def test_a_list_on_s3_is_known_by_its_content(moto: Any, form: str, scheme: str) -> None:
    """One object that is a list is read as one; a prefix is listed, also where a list lies in it."""
    import boto3

    s3 = boto3.client("s3", endpoint_url=moto.endpoint_url)
    s3.create_bucket(Bucket="of-lists")
    s3.put_object(Bucket="of-lists", Key="lists/night", Body=gzip.compress(FORMS[form]))
    assert listed(f"{scheme}://of-lists/lists/night") == URIS
    assert (
        listed(f"{scheme}://of-lists/lists/") == listed(f"{scheme}://of-lists/lists") == ["s3://of-lists/lists/night"]
    )


@pytest.mark.parametrize("piece", ["&a", "../", "a/b.", "a://", "/.", "x.y/"])
def test_long_lines_are_understood_at_once(tmp_path: Path, piece: str) -> None:
    """A line of a hundred thousand characters that might be a URI is refused or read in a moment."""
    path = tmp_path / "list.csv"
    path.write_text("é" + piece * (100_000 // len(piece)) + " \n")
    with contextlib.suppress(SourceError):
        list(list_sources(SourceConfig(uris=(str(path),)), StorageConfig()))


@pytest.mark.parametrize("head", [b"PAR1", b"ORC", b"ARROW1\0\0"])
def test_a_damaged_table_is_named(tmp_path: Path, head: bytes) -> None:
    """Arrow tells of some damage with the error that disks and stores fail with; it is the list's all the same."""
    path = tmp_path / "list"
    path.write_bytes(head + b"\x07" * 40)
    with pytest.raises(SourceError, match=r"list is damaged|list cannot be read|list: "):
        list(list_sources(SourceConfig(uris=(str(path),)), StorageConfig()))
