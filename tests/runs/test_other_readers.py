"""A report opens in what people read Parquet with, without further packages; reports of before open, too."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.policy.signals import signals_array
from nsfwscan.runs.parts import with_all
from nsfwscan.schema import REPORT_SCHEMA, as_schema
from tests.runs.rows import report, staged_row

AT = datetime(2026, 11, 22, 2, 30, tzinfo=UTC)
NAIVE = AT.replace(tzinfo=None)
SIGNAL = "exif.camera_absent"


@pytest.fixture(scope="module")
def table() -> pa.Table:
    signals = signals_array([{SIGNAL: 1.0, "jpeg.quality": 0.5}]).to_pylist()[0]
    rows = [staged_row("/a", modified_at=AT, scanned_at=AT, signals=signals), staged_row("/b", status="denied")]
    return report(rows)


@pytest.fixture(scope="module")
def part(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "part.parquet"
    pq.write_table(table, path, compression="zstd")
    return path


def test_duckdb(part: Path) -> None:
    """All columns as Python values in a process without pytz, times in UTC whatever the zone of the machine."""
    code = f"""
import sys; sys.modules["pytz"] = None
import duckdb
rows = duckdb.sql("SELECT * FROM '{part}' ORDER BY uri").fetchall()
assert len(rows) == 2 and len(rows[0]) == {len(REPORT_SCHEMA)}
asked = "SELECT modified_at, scanned_at = '2026-11-22 02:30:00', map_from_entries(signals)['{SIGNAL}'] FROM '{part}'"
print(duckdb.sql(asked + " ORDER BY uri").fetchall())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], env={"TZ": "Asia/Tokyo"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert eval(done.stdout, {"datetime": __import__("datetime")}) == [(NAIVE, True, 1.0), (None, None, None)]


def test_pandas_reads_and_writes_it_back(part: Path, table: pa.Table, tmp_path: Path) -> None:
    """Signals and times are in the copy as they were."""
    import pandas

    frame = pandas.read_parquet(part)
    assert frame["modified_at"][0].to_pydatetime() == NAIVE and frame["signals"][0][0] == {"name": SIGNAL, "value": 1.0}
    frame.to_parquet(tmp_path / "again.parquet")
    again = as_schema(pq.read_table(tmp_path / "again.parquet"), REPORT_SCHEMA)
    for name in ("uri", "modified_at", "signals", "nsfw_score", "severity"):
        assert again[name].to_pylist() == table[name].to_pylist(), name


def test_polars(part: Path) -> None:
    """The signals are a list of structs, which it can filter and write."""
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(part).sort("uri")
    assert frame["modified_at"].to_list() == [NAIVE, None]
    found = frame.explode("signals").unnest("signals").filter(polars.col("name") == SIGNAL)
    assert found["uri"].to_list() == ["/a"] and found["value"].to_list() == [1.0]


def test_hugging_face_datasets(part: Path, tmp_path: Path) -> None:
    """`load_dataset("parquet", …)` takes every column."""
    import datasets

    found = datasets.load_dataset("parquet", data_files=str(part), split="train", cache_dir=str(tmp_path))
    assert found.column_names == REPORT_SCHEMA.names and found[0]["modified_at"] == NAIVE
    assert found[0]["signals"] == [{"name": SIGNAL, "value": 1.0}, {"name": "jpeg.quality", "value": 0.5}]


def test_only_types_that_spark_has(part: Path) -> None:
    """Strings, numbers, booleans, times in microseconds, and lists and structs of them; nothing nested as a map."""
    known = {pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.timestamp("us")}

    def plain(kind: pa.DataType) -> bool:
        if pa.types.is_list(kind):
            return plain(kind.value_type)
        return all(plain(field.type) for field in kind) if pa.types.is_struct(kind) else kind in known

    assert [field.name for field in pq.read_schema(part) if not plain(field.type)] == []


def test_a_report_of_before_is_read_as_it_was_meant(table: pa.Table) -> None:
    """Version 1 had times with a zone, and signals in a map: whoever reads rows gets today's types, and rules decide."""
    old = {"signals": pa.map_(pa.string(), pa.float32())} | dict.fromkeys(
        ("modified_at", "scanned_at"), pa.timestamp("us", tz="UTC")
    )
    before = table
    signals = pa.array([[(SIGNAL, 1.0), ("jpeg.quality", 0.5)], None], old["signals"])
    for name, kind in old.items():
        column = signals if name == "signals" else table[name].cast(kind)
        before = before.set_column(before.schema.get_field_index(name), name, column)
    assert as_schema(before, REPORT_SCHEMA).equals(table)
    rows = with_all(before, ["uri", "modified_at", "signals"])
    assert rows.equals(table.select(["uri", "modified_at", "signals"]).cast(rows.schema))
    rule = {"name": "r", "when": f"signals['{SIGNAL}'] = 1", "decision": "review"}
    policy = parse_policy({"name": "p", "version": "1", "rules": [rule], "otherwise": {"decision": "allow"}})
    for found in (before, table):
        assert Decider(policy)(found)["rule"].to_pylist() == ["r", "no-score"]


def test_a_time_in_a_rule_is_utc(table: pa.Table) -> None:
    """Whatever the zone of the machine: a written time means the same on every node."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'Asia/Tokyo'")
    found = connection.from_arrow(table).filter("modified_at = TIMESTAMP '2026-11-22 02:30:00'")
    assert len(found.fetchall()) == 1
