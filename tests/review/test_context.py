"""Context from anybody's table: its columns as they are, by URI."""

from __future__ import annotations

import datetime
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from nsfwscan.review.context import read_context
from nsfwscan.review.ranking import CONTEXT_SCHEMA


def read(path: Path) -> list[tuple[str, Any]]:
    batches = list(read_context(str(path), StorageConfig()))
    assert all(batch.schema == CONTEXT_SCHEMA for batch in batches)
    return [(row["uri"], json.loads(row["context"])) for batch in batches for row in batch.to_pylist()]


def test_a_csv_gives_texts(tmp_path: Path) -> None:
    """Every other column by its name, nothing for an empty cell; relative URIs are relative to the file."""
    path = tmp_path / "context.csv"
    path.write_text("uri,account_age_days,prior_reports\ns3://b/a,12,\nb.jpg,=1+1,3\n")
    assert read(path) == [
        ("s3://b/a", {"account_age_days": "12", "prior_reports": None}),
        (str(tmp_path / "b.jpg"), {"account_age_days": "=1+1", "prior_reports": "3"}),
    ]


def test_json_lines_keep_their_types(tmp_path: Path) -> None:
    """Numbers, lists and objects, as deep as they are; what is no number is nothing."""
    path = tmp_path / "context.jsonl"
    path.write_text('{"uri": "s3://b/a", "n": 1, "tags": ["x", {"y": 2.5}], "bad": NaN}\n\n')
    assert read(path) == [("s3://b/a", {"n": 1, "tags": ["x", {"y": 2.5}], "bad": None})]


def test_parquet_has_all_its_columns(tmp_path: Path) -> None:
    """Times and decimals as text, so that JSON holds them."""
    path = tmp_path / "context.parquet"
    when = datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC)
    rows = [{"uri": "s3://b/a", "created": when, "spent": Decimal("1.50"), "risk": math.inf, "vip": True}]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert read(path) == [
        ("s3://b/a", {"created": "2026-11-01 00:00:00+00:00", "spent": "1.50", "risk": None, "vip": True})
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.csv", "who,age\nann,1\n", "no column that names objects: its columns are who, age"),
        ("c.jsonl", '{"uri": "s3://b/a"}\nnot json\n', "row 2: no `uri`"),
        ("c.jsonl", '{"uri": 7}\n', "row 1: no `uri`"),
        ("c.parquet", "not parquet", "no column that names objects"),
        ("c.csv", "uri\n\xff\n".encode("latin-1"), "cannot be read as context"),
    ],
)
def test_what_is_no_context_is_said_with_its_row(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    """A file without URIs, a line that is none, a table that is none."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=says):
        read(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """By its path."""
    with pytest.raises(SourceError, match=r"no-such\.csv"):
        read(tmp_path / "no-such.csv")


def test_long_files_come_in_batches(tmp_path: Path) -> None:
    """Rows are numbered from first to last, so that the last of several for a URI is known."""
    path = tmp_path / "context.csv"
    path.write_text("uri,n\n" + "".join(f"s3://b/{i},{i}\n" for i in range(5000)))
    batches = list(read_context(str(path), StorageConfig()))
    assert len(batches) == 2 and [n for batch in batches for n in batch["number"].to_pylist()] == list(range(1, 5001))
