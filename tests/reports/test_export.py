"""`nsfwscan export`: every row of a report once, in each format, whole or not at all."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.reports.export import FORMATS
from nsfwscan.schema import REPORT_SCHEMA
from tests.runs.rows import files, scanned, staged_row

FORMULA = '=HYPERLINK("http://x")'


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A store with a run over eight objects; the first was denied, the second has a formula for a camera."""
    made: dict[int, dict[str, Any]] = {0: {"status": "denied"}, 1: {"camera": FORMULA}, 3: {"nsfw_score": 0.9}}
    scanned(
        files(tmp_path / "media", 8),
        tmp_path / "out",
        lambda uri: staged_row(uri, **made.get(int(Path(uri).stem), {})),
        run_id="first",
        report={"max_error_rate": 1},
    )
    return tmp_path / "out"


def export(run: str | Path, kind: str, file: Path, *more: str) -> Result:
    return CliRunner().invoke(main, ["export", str(run), "--format", kind, "--out", str(file), *more])


def report(out: Path) -> list[dict[str, Any]]:
    return [row for part in sorted(out.glob("runs/first/report/*.parquet")) for row in pq.read_table(part).to_pylist()]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_csv_is_the_report_and_no_formula(out: Path, tmp_path: Path) -> None:
    """All rows and columns, empty for null, and nothing that a spreadsheet would run."""
    done = export(out, "csv", tmp_path / "r.csv")
    assert (done.exit_code, done.stdout) == (0, f"8 rows of run first in {tmp_path / 'r.csv'}\n")
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == REPORT_SCHEMA.names
    assert [row["uri"] for row in rows] == [row["uri"] for row in report(out)]
    assert {row["camera"] for row in rows} == {"", f"'{FORMULA}"}
    assert {row["nsfw_score"] for row in rows} >= {""} and {row["false_positive"] for row in rows} <= {
        "",
        "true",
        "false",
    }


def test_parquet_is_the_report(out: Path, tmp_path: Path) -> None:
    """The same rows under the same schema, in one file."""
    assert export(out / "runs" / "first", "parquet", tmp_path / "r.parquet").exit_code == 0
    table = pq.read_table(tmp_path / "r.parquet")
    assert table.schema == REPORT_SCHEMA and table.to_pylist() == report(out)


def test_rekognition_has_results_and_a_summary(out: Path, tmp_path: Path) -> None:
    """A line for each image, an error for what could not be read, and counts that add up."""
    assert export(out, "rekognition", tmp_path / "r.jsonl").exit_code == 0
    summary = json.loads((tmp_path / "r.summary.json").read_text())
    assert summary["statistics"] == {"total-json-lines": 8, "valid-json-lines": 7, "invalid-json-lines": 1}
    [error] = summary["errors"]
    assert error["code"] == "AccessDeniedException"
    assert report(out)[error["line-number"] - 1]["uri"] == error["source-ref"]
    flagged = [line for line in lines(tmp_path / "r.jsonl") if line["detect-moderation-labels"]["ModerationLabels"]]
    assert [line["source-ref"][-8:] for line in flagged] == ["0003.jpg"]


@pytest.mark.parametrize("kind", ["safesearch", "azure"])
def test_a_line_for_each_row(out: Path, tmp_path: Path, kind: str) -> None:
    """What has no score has an error, and nothing else has."""
    assert export(out, kind, tmp_path / "r.jsonl").exit_code == 0
    found = lines(tmp_path / "r.jsonl")
    assert ["error" in line for line in found] == [row["nsfw_score"] is None for row in report(out)]


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_file_is_whole_or_not_there(out: Path, tmp_path: Path, kind: str) -> None:
    """A report that is damaged leaves no file, and the older one as it was; a folder that is not there is an error."""
    target = tmp_path / "x" / "r"
    assert "cannot write" in export(out, kind, target).stderr
    target.parent.mkdir()
    target.write_text("older")
    next(out.glob("runs/first/report/*.parquet")).write_bytes(b"PAR1 no more PAR1")
    done = export(out, kind, target)
    assert done.exit_code == 1 and "is damaged" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in target.parent.iterdir()] == ["r"] and target.read_text() == "older"


def test_csv_for_excel(tmp_path: Path) -> None:
    """UTF-8 with its mark, so that names are what they are; else the same bytes. Only a CSV is for it."""
    media = files(tmp_path / "media", 1)
    (media / "0000.jpg").rename(media / "Übung_日本.jpg")
    scanned(media, tmp_path / "out", staged_row, run_id="first")
    assert export(tmp_path / "out", "csv", tmp_path / "plain.csv").exit_code == 0
    assert export(tmp_path / "out", "csv", tmp_path / "excel.csv", "--for", "excel").exit_code == 0
    plain, marked = (tmp_path / "plain.csv").read_bytes(), (tmp_path / "excel.csv").read_bytes()
    assert marked == b"\xef\xbb\xbf" + plain and "Übung_日本.jpg" in marked.decode("utf-8-sig")
    done = export(tmp_path / "out", "parquet", tmp_path / "r.parquet", "--for", "excel")
    assert done.exit_code == 2 and "--for excel is for --format csv" in done.stderr
