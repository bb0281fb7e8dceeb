"""A manifest's rows are taken as they mean, and a row that cannot be understood is named."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import SourceConfig, StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.location import Location
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.manifests import is_manifest, read_manifest

LOCAL = StorageConfig()
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def rows(path: str | Path) -> list[dict[str, Any]]:
    return list(read_manifest(Location.of(str(path)), LOCAL))


def uris(path: str | Path) -> list[str]:
    return [row["uri"] for row in rows(path)]


def text(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(folder: Path, **columns: pa.Array | list[Any]) -> Path:
    path = folder / "list.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "A.CSV", "s3://b/a.jsonl", "a.manifest"])
def test_manifests_are_known_by_their_names(name: str) -> None:
    """Parquet, CSV, JSON lines and the AWS `.manifest`, in any case."""
    assert is_manifest(name)
    assert not is_manifest(name + ".jpg")


# Formats


def test_parquet_is_read_with_its_types(tmp_path: Path) -> None:
    """All known columns with their own types; other columns are passed over, and not even read."""
    path = parquet(
        tmp_path,
        uri=["s3://b/a", "s3://b/b"],
        size=pa.array([3, None], pa.int32()),
        etag=['"abc"', None],
        modified_at=pa.array([NOON, None], pa.timestamp("ms", tz="Europe/Vienna")),
        truth=pa.array(["neutral", None]).dictionary_encode(),
        embedding=[[0.5], [0.25]],
    )
    assert rows(path) == [
        {"uri": "s3://b/a", "size": 3, "etag": "abc", "modified_at": NOON, "truth": "neutral"},
        {"uri": "s3://b/b", "size": None, "etag": None, "modified_at": None, "truth": None},
    ]


def test_parquet_from_pandas_is_read(tmp_path: Path) -> None:
    """An index, missing values as NaN and whole numbers as floats are what pandas makes of a column with gaps."""
    import pandas as pd

    frame = pd.DataFrame({"uri": ["s3://b/a", "s3://b/b"], "size": [3, None], "truth": [None, "porn"]}, index=[7, 8])
    frame.to_parquet(tmp_path / "list.parquet")
    assert [(row["size"], row["truth"]) for row in rows(tmp_path / "list.parquet")] == [(3, None), (None, "porn")]


def test_csv_is_read_with_a_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    """A spreadsheet's CSV: BOM, CRLF, quoted commas and newlines; an empty cell is no value."""
    content = '\ufeffuri,size,note\r\n"s3://b/a,b.jpg",3,x\r\n"s3://b/two\nlines",,\r\n'
    assert [(row["uri"], row["size"]) for row in rows(text(tmp_path, "a.csv", content))] == [
        ("s3://b/a,b.jpg", 3),
        ("s3://b/two\nlines", None),
    ]


def test_csv_with_cells_too_many_is_read(tmp_path: Path) -> None:
    """A trailing comma is no fault; a cell without a name means nothing."""
    assert uris(text(tmp_path, "a.csv", "uri,size\ns3://b/a,3,what,else\n")) == ["s3://b/a"]


def test_json_lines_are_read(tmp_path: Path) -> None:
    """One object a line, blank lines between them are none, with or without a BOM."""
    content = '\ufeff{"uri": "s3://b/é", "size": 3, "other": {"deep": 1}}\n\n{"uri": "s3://b/b"}'
    assert [(row["uri"], row["size"]) for row in rows(text(tmp_path, "a.jsonl", content))] == [
        ("s3://b/é", 3),
        ("s3://b/b", None),
    ]


def test_source_ref_lines_are_read(tmp_path: Path) -> None:
    """AWS batch moderation's and Ground Truth's input: `source-ref` where we say `uri`; labels beside it are not ours."""
    lines = [{"source-ref": "s3://b/a.jpg"}, {"source-ref": "s3://b/b.jpg", "label": 0, "label-metadata": {}}]
    path = text(tmp_path, "input.manifest", "\n".join(map(json.dumps, lines)))
    assert uris(path) == ["s3://b/a.jpg", "s3://b/b.jpg"]
    assert uris(parquet(tmp_path, **{"source-ref": ["s3://b/c.jpg"]})) == ["s3://b/c.jpg"]


def test_an_empty_manifest_has_no_rows(tmp_path: Path) -> None:
    """A header alone, or nothing, names no objects; the plan will say that there is nothing to scan."""
    assert rows(text(tmp_path, "a.csv", "uri\n")) == rows(text(tmp_path, "b.csv", "")) == []
    assert rows(text(tmp_path, "a.jsonl", "")) == []


# URIs


def test_relative_uris_are_relative_to_the_manifest(tmp_path: Path) -> None:
    """Beside the manifest, below it or above it; absolute paths and URIs are left as they are."""
    path = text(tmp_path, "a.csv", "uri\na b.jpg\ndeep/100%25.jpg\n../x/y.jpg\n./z.jpg\n/abs.jpg\ns3://b/../c\n")
    assert uris(path) == [
        f"{tmp_path}/a b.jpg",
        f"{tmp_path}/deep/100%25.jpg",
        f"{tmp_path.parent}/x/y.jpg",
        f"{tmp_path}/z.jpg",
        "/abs.jpg",
        "s3://b/../c",
    ]


@pytest.mark.parametrize("prefix", ["", "./", "file://"])
def test_a_manifest_named_relatively_gives_absolute_uris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """However the manifest itself is written, its rows are written as a listing writes them, so that they meet."""
    (tmp_path / "lists").mkdir()
    text(tmp_path, "lists/a.csv", "uri\na.jpg\n")
    monkeypatch.chdir(tmp_path)
    named = f"file://{tmp_path}/lists/a.csv" if prefix == "file://" else f"{prefix}lists/a.csv"
    assert uris(named) == [f"{tmp_path}/lists/a.jpg"]


def test_file_uris_are_written_as_a_listing_writes_them(tmp_path: Path) -> None:
    """`file:///a%20b` becomes the path `/a b`; where the bytes are no text, a `file://` URI remains."""
    path = text(tmp_path, "a.csv", "uri\nfile:///media/a%20b.jpg\nfile:///media/caf%E9.jpg\n")
    assert uris(path) == ["/media/a b.jpg", "file:///media/caf%E9.jpg"]


def test_a_manifest_in_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    """Its relative URIs are text all the same."""
    folder = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.mkdir(folder)
    with open(os.path.join(folder, b"a.csv"), "wb") as file:
        file.write(b"uri\na.jpg\n")
    assert uris(os.fsdecode(os.path.join(folder, b"a.csv"))) == [f"file://{tmp_path}/caf%E9/a.jpg"]


def test_rows_are_spelled_as_listings_are(tmp_path: Path) -> None:
    """`s3a://`, `S3://` and `s3://` are one object, `file:/x` and `/x` one file; a key keeps every character."""
    path = text(tmp_path, "a.csv", "uri\ns3a://b/k\nS3://b/k\ns3n://b//k%20\nfile:/m/a.jpg\n//m//a.jpg\n")
    assert uris(path) == ["s3://b/k", "s3://b/k", "s3://b//k%20", "/m/a.jpg", "/m/a.jpg"]


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    fs.rm("/manifest-tests", recursive=True)


def test_manifests_lie_anywhere(memory: Any) -> None:
    """On any filesystem; relative URIs keep its scheme."""
    memory.pipe_file("/manifest-tests/a.csv", b"uri\na.jpg\ns3://b/c\n")
    assert uris("memory://manifest-tests/a.csv") == ["memory://manifest-tests/a.jpg", "s3://b/c"]


# Times and truth


@pytest.mark.parametrize("written", ["2026-11-01T12:00:00Z", "2026-11-01 12:00:00", "2026-11-01T14:00+02:00"])
def test_times_are_iso_8601_and_utc_where_they_do_not_say(tmp_path: Path, written: str) -> None:
    """With a zone, or without one: then it is UTC, never this machine's zone."""
    [row] = rows(text(tmp_path, "a.csv", f"uri,modified_at\ns3://b/a,{written}\n"))
    assert row["modified_at"] == NOON


def test_times_without_a_zone_in_parquet_are_utc(tmp_path: Path) -> None:
    """A naive timestamp column is UTC, a date its midnight."""
    path = parquet(tmp_path, uri=["s3://b/a"], modified_at=pa.array([NOON.replace(tzinfo=None)], pa.timestamp("us")))
    assert rows(path)[0]["modified_at"] == NOON
    path = parquet(tmp_path, uri=["s3://b/a"], modified_at=pa.array([NOON.date()]))
    assert rows(path)[0]["modified_at"] == NOON.replace(hour=0)


def test_truth_is_understood_as_labels_are(tmp_path: Path) -> None:
    """`Normal or Safe` is `neutral`: the same names as a checkpoint's labels."""
    path = text(tmp_path, "a.csv", "uri,truth\ns3://b/a,Normal or Safe\ns3://b/b,Pornography\ns3://b/c,\n")
    assert [row["truth"] for row in rows(path)] == ["neutral", "porn", None]


# What cannot be understood


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "owner,note\nann,x\n", r"no column that names objects: its columns are owner, note; .*'ann,x'"),
        (
            "a.csv",
            "uri,size\ns3://b/a,3 KB\ns3://b/b,\n",
            "row 1: size '3 KB' is not a number of bytes.*columns are uri",
        ),
        ("a.csv", "uri,size\ns3://b/a,1.5\n", "row 1: size '1.5' is not"),
        ("a.csv", "uri,size\ns3://b/a,-1\n", "row 1: size '-1' is not"),
        ("a.csv", "uri,size\ns3://b/a,99999999999999999999\n", "row 1: size '99999999999999999999' is not"),
        ("a.csv", "uri,modified_at\ns3://b/a,yesterday\n", "row 1: modified_at 'yesterday' is not an ISO 8601 time"),
        ("a.csv", "uri,truth\ns3://b/a,nude\n", "row 1: unknown truth 'nude'; one of drawings, hentai"),
        ("a.csv", b"uri\ns3://b/caf\xe9\n", "cannot be read as a manifest: .*utf-8"),
        ("a.csv", "uri\n" + "x" * 200_000, "cannot be read as a manifest: .*field larger"),
        ("a.jsonl", '{"uri": "s3://b/a"}\n{"uri": \n', "row 2: no `uri`"),
        ("a.jsonl", '{"uri": "s3://b/a"}\n["s3://b/b"]\n', "row 2: no `uri`"),
        ("a.jsonl", '{"uri": 7}\n', "row 1: no `uri`"),
        ("a.jsonl", '{"uri": "s3://b/\\ud800"}\n', "row 1: .*not text"),
        ("a.jsonl", '{"uri": "s3://b/a", "size": 1e400}\n', "row 1: size inf is not"),
        ("a.jsonl", '{"uri": "s3://b/a", "size": {}}\n', "row 1: size {} is not"),
        ("a.jsonl", '{"uri": "s3://b/a", "etag": "\\udcff"}\n', "row 1: .*not text"),
        ("a.parquet", b"PAR1 not really", "cannot be read as a manifest"),
    ],
)
def test_a_row_that_is_not_understood_is_named(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    """The file, the row and the value; nothing is guessed and no row is dropped. A listing of it says the same."""
    path = text(tmp_path, name, content)
    with pytest.raises(SourceError, match=said) as error:
        rows(path)
    assert str(path) in str(error.value)
    with pytest.raises(SourceError, match=said):
        list(list_sources(SourceConfig(uris=(str(path),)), LOCAL))


def test_parquet_without_uris_is_an_error(tmp_path: Path) -> None:
    """A table that names no objects is refused, with its columns; a column of bytes names none either."""
    with pytest.raises(SourceError, match=r"no column `uri` .* its columns are owner, size"):
        rows(parquet(tmp_path, owner=["s3://b/a"], size=[1]))
    with pytest.raises(SourceError, match="row 1: no `uri`"):
        rows(parquet(tmp_path, uri=pa.array([b"s3://b/a"])))


def test_rows_before_a_bad_one_are_not_enough(tmp_path: Path) -> None:
    """A bad row stops the listing, whatever the limit of memory let through before it."""
    path = text(tmp_path, "a.csv", "uri,size\n" + "s3://b/a,1\n" * 5000 + ",7\n")
    with pytest.raises(SourceError, match="row 5001"):
        list(list_sources(SourceConfig(uris=(str(path),)), LOCAL))
