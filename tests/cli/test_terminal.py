"""What a person reads at the end: true, safe for the terminal, and with a query that runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsfwscan.cli.terminal import describe_classification, describe_run, describe_scan
from nsfwscan.config import StorageConfig
from nsfwscan.runs import plan as planning
from nsfwscan.runs.overview import overview
from nsfwscan.runs.run import Run
from nsfwscan.storage.store import Store
from nsfwscan.text import printable
from nsfwscan.workflows.classify import Classification
from nsfwscan.workflows.scan import ScanResult
from tests.runs.rows import altered, begun, files, scanned, staged_row

HOSTILE = "/media/\x1b[2J\x1b]0;owned\x07a\r\nb\x00\x9b31m\u202egpj.exe\u2066\ud7ff\U000e0041"


def mixed(uri: str) -> dict[str, Any]:
    """Of thirty objects: three blocked, six for review, one broken."""
    number = int(uri[-8:-4])
    if number == 29:
        return staged_row(uri, status="decode_error", error="broken data\x1b[31m")
    return staged_row(uri, nsfw_score=0.9 if number < 3 else 0.3 if number < 9 else 0.01, truth="neutral")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> ScanResult:
    folder = tmp_path_factory.mktemp("scan")
    return scanned(files(folder / "media", 30), folder / "out", mixed)


def suspect(uri: str) -> dict[str, Any]:
    """A row that is flagged against its label, and good for the nights to come while the file does not change."""
    info = os.stat(uri)
    modified_at = datetime.fromtimestamp(info.st_mtime_ns / 1e9, UTC)
    return staged_row(
        uri, nsfw_score=0.3, size=info.st_size, modified_at=modified_at, scanned_at=modified_at + timedelta(hours=1)
    )


def classified(**values: Any) -> Classification:
    scores = {"neutral": 0.75, "nsfw": 0.25}
    made = {
        **{"uri": "cat.jpg", "status": "ok", "error": None, "scores": scores, "nsfw_score": 0.25},
        **{"decision": "review", "rule": "borderline", "borderline": True, "model": "m@1", "policy": "p@1"},
    }
    return Classification(**{**made, **values})


# --- what is said ---------------------------------------------------------------------------------------------------


def test_a_scan_is_described(result: ScanResult) -> None:
    """The run, the balance, the counts, the errors, the rate of false positives, and where everything lies."""
    text = describe_scan(result)
    for line in (
        "committed: run made",
        "  30 listed = 29 scored + 0 matched + 0 duplicate + 0 filtered + 0 carried + 1 errored",
        "  decisions  allow 20  review 6  block 3  undetermined 1",
        "  labels     neutral 26  nsfw 3",
        "  status     ok 29  decode_error 1",
        "  false positives  3 of 29 neutral images (10.3%) carry an NSFW label",
        f"  report   {result.uri}",
        f"  summary  {result.uri}/summary.html",
    ):
        assert line in text.splitlines(), line
    assert "decode_error: broken data\\x1b[31m  e.g. " in text
    assert Path(result.uri, "summary.html").is_file()


def test_a_bad_run_says_why(tmp_path: Path) -> None:
    """Over the error rate, the first line has the reason and the limit."""
    found = scanned(files(tmp_path / "media", 30), tmp_path / "out", mixed, report={"max_error_rate": 0.01})
    first = describe_scan(found).splitlines()[0]
    assert found.exit_code == 4
    assert first == "committed: run made — 1 images could not be read: 3.3%, over --max-error-rate 1.0%"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "  cost     12 core-hours: USD 0.5400, USD 180 a million objects read; list prices (2026-08-26)"),
        (
            {"gpu_hours": 3.0},
            "  cost     12 core-hours and 3 GPU-hours: USD 0.5400, USD 180 a million objects read; list",
        ),
        ({"steady": False}, "USD 180 a million objects read (so few that the start counts); list prices"),
        ({"objects": 0, "per_million": None}, "  cost     12 core-hours: USD 0.5400; list prices (2026-08-26)"),
        (
            {"amount": None, "per_million": None, "missing": "no price for a GPU of the kind B300 (gpu_hour)"},
            "  cost     12 core-hours: no price for a GPU of the kind B300 (gpu_hour); list prices (2026-08-26)",
        ),
    ],
)
def test_the_cost_is_said(result: ScanResult, changes: dict[str, Any], line: str) -> None:
    """Core-hours, GPU-hours, the amount, that for a million, and whose prices; of a resumed run, of which part."""
    cost = {
        **{"hours": 3.0, "requests": {"get": 0, "list": 0, "bytes": 0}},
        **{"objects": 3000, "core_hours": 12.0, "gpu_hours": 0.0, "currency": "USD", "amount": 0.54, "missing": None},
        **{"prices": "list prices (2026-08-26)", "per_million": 180.0, "steady": True, **changes},
    }
    assert result.record.cost is None and "cost" not in describe_scan(result)
    record = altered(result.record, cost=cost)
    assert line in describe_scan(replace(result, record=record))
    timings = {**record.as_json()["timings"], "resumed_shards": 2}
    record = altered(record, timings={**timings, "attempts": 3})
    assert " s in 3 attempts together" in describe_scan(replace(result, record=record))
    assert "attempt only" not in describe_scan(replace(result, record=record))
    del timings["attempts"]  # as runs of old have it
    record = altered(record, timings=timings)
    assert "(2026-08-26); the last attempt only\n" in describe_scan(replace(result, record=record))


def test_a_run_that_was_committed_before_says_so(result: ScanResult) -> None:
    """A second call on the same run id is told that nothing was done."""
    again = ScanResult(result.run_id, result.uri, 0, result.record, already_committed=True)
    assert describe_scan(again).splitlines()[0] == "already committed: run made"


def test_a_later_night_says_what_changed(tmp_path: Path) -> None:
    """A run that goes on from another says from which, what it found and what changed; a first one says nothing of it."""
    media, out = files(tmp_path / "media", 5), tmp_path / "out"
    first = describe_scan(scanned(media, out, suspect, run_id="1"))
    assert "since" not in first and "changes" not in first
    (media / "0000.jpg").unlink()
    (media / "new.jpg").write_bytes(b"new")
    lines = describe_scan(scanned(media, out, suspect, run_id="2")).splitlines()
    assert "  since      1: 4 unchanged and carried over, 1 new" in lines
    rest = "new, not flagged 0  decided otherwise 0  queued or rated otherwise 0  other bytes, same outcome 0"
    assert f"  changes    deleted 1  newly flagged 1  no longer flagged 0  {rest}, in changes/" in lines
    assert "  by cause   listing 2" in lines
    part = describe_scan(scanned(media, out, suspect, run_id="3", source={"uris": [str(media)], "include": ["*"]}))
    assert f"  changes    newly flagged 0  no longer flagged 0  {rest}" in part.splitlines()


def test_a_delta_says_what_it_holds(tmp_path: Path) -> None:
    """A delta counts the whole listing and says that its report does not hold it; where it holds nothing, nothing is
    to be opened."""
    media, out = files(tmp_path / "media", 5), tmp_path / "out"
    scanned(media, out, suspect, run_id="1")
    (media / "new.jpg").write_bytes(b"new")
    delta = {"mode": "delta"}
    text = describe_scan(scanned(media, out, suspect, run_id="2", report=delta))
    assert "  delta      the report holds what was looked at or decided differently" in text
    assert "decisions  review 6" in text and "6 suspected" in text
    with duckdb.connect() as connection:
        found = connection.execute(text.split("Open it in DuckDB:")[1]).fetchall()
    assert found == [("review", "borderline", 1)]
    assert "Open it" not in describe_scan(scanned(media, out, suspect, run_id="3", report=delta))


def test_without_truth_it_is_said_how_to_give_it(tmp_path: Path) -> None:
    """No false positive rate is made up where no truth is known."""
    text = describe_scan(scanned(files(tmp_path / "media", 2), tmp_path / "out"))
    assert "truth      none given: to measure false positives, use class folders" in text


def test_many_kinds_of_errors_are_cut(result: ScanResult) -> None:
    """Six kinds are shown, and how many more there are."""
    errors = [{"status": "timeout", "count": 9 - i, "message": f"kind {i}", "example": "/a"} for i in range(9)]
    record = altered(result.record, summary={**result.record.as_json()["summary"], "errors": errors})
    text = describe_scan(ScanResult("made", result.uri, 0, record))
    assert "kind 5" in text and "kind 6" not in text
    assert "… and 3 more kinds, in summary.html" in text


# --- nothing that a terminal would obey -----------------------------------------------------------------------------


def assert_tame(text: str) -> None:
    """Nothing but printable characters and line ends."""
    assert {c for c in text if not c.isprintable()} <= {"\n"}, repr(text)


@given(st.text())
def test_printable_text_is_tame(text: str) -> None:
    """Whatever a name holds, what is printed moves no cursor and turns no writing round; plain names stay as they are."""
    assert_tame(printable(text))
    assert "\n" not in printable(text)
    if text.isprintable():
        assert printable(text) == text


def test_hostile_names_are_shown_and_not_obeyed(result: ScanResult) -> None:
    """Control characters of names and messages reach neither the lines of a scan nor those of a classified image."""
    errors = [{"status": "timeout", "count": 1, "message": HOSTILE, "example": HOSTILE}]
    record = altered(result.record, summary={**result.record.as_json()["summary"], "errors": errors})
    text = describe_scan(ScanResult("made", result.uri, 0, record, sha256=result.sha256))
    assert_tame(text)
    assert len(text.splitlines()) == len(describe_scan(result).splitlines())
    for made in (classified(uri=HOSTILE), classified(uri=HOSTILE, scores={}, status="timeout", error=HOSTILE)):
        assert_tame(describe_classification(made))
        assert "\\x1b[2J" in describe_classification(made)
        assert len(describe_classification(made).splitlines()) in (2, 4)


# --- the query ------------------------------------------------------------------------------------------------------


def query_of(text: str) -> str:
    """Return the SQL as printed, ready to paste."""
    return text.split("Open it in DuckDB:\n", 1)[1]


@pytest.mark.long
@pytest.mark.parametrize("range_rows", [1000, 8, 1], ids=["one file", "a few files", "many files"])
@pytest.mark.parametrize("folder", ["out", "it's \"quoted\" 'twice' %20 ö"])
def test_the_query_runs_on_exactly_the_committed_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, range_rows: int, folder: str
) -> None:
    """Pasted into DuckDB, it counts every decision of this run: strangers beside its files do not matter."""
    monkeypatch.setattr(planning, "RANGE_ROWS", range_rows)
    media = files(tmp_path / "media", 30)
    result = scanned(media, tmp_path / folder, mixed, engine={"shard_rows": 1 if range_rows == 1 else 8})
    assert len(result.report_files) == {1000: 1, 8: 4, 1: 30}[range_rows]
    shutil.copy(result.report_files[0], Path(result.uri, "report", "part-00099-left-behind.parquet"))
    Path(result.uri, "report", ".tmp-half.parquet").write_bytes(b"half")

    rows = duckdb.connect().execute(query_of(describe_scan(result))).fetchall()
    assert sorted(rows) == [
        ("allow", "otherwise", 20),
        ("block", "explicit", 3),
        ("review", "borderline", 6),
        ("undetermined", "unreadable", 1),
    ]
    assert [count for _, _, count in rows] == [20, 6, 3, 1]


def test_a_path_that_looks_like_a_secret_is_in_no_statement(tmp_path: Path) -> None:
    """A statement with a blanked path would find nothing: there is none, and terminal and page say why."""
    result = scanned(files(tmp_path / "media", 3), tmp_path / "secret=hunter2", mixed)
    text = describe_scan(result)
    page = Path(result.uri, "summary.html").read_text(encoding="utf-8")
    assert "Open it in DuckDB" not in text and "no statement to paste is shown" in text
    assert "read_parquet" not in page and "no statement is shown here" in page and "hunter2" not in page


def test_report_files_are_the_reports_alone(result: ScanResult) -> None:
    """The Python API names the files to open: the report's parts, not the false positives'."""
    assert any(file.path.startswith("false_positives/") for file in result.record.files)
    assert [pq.read_table(path).num_rows for path in result.report_files] == [30]


# --- images and runs ----------------------------------------------------------------------------------------------


def test_an_image_has_a_ranked_distribution() -> None:
    """One bar a category, the decision and its rule, and that a person should look where it is close."""
    assert describe_classification(classified()).splitlines() == [
        "cat.jpg",
        "  neutral    75.0%  ██████████████████████",
        "  nsfw       25.0%  ████████",
        "  nsfw_score 0.250 → review (borderline), borderline: a person should look",
    ]
    assert "a person should look" not in describe_classification(classified(borderline=False))


def test_an_unreadable_image_has_its_reason() -> None:
    """Without scores there is no bar, but the status and the error."""
    made = classified(status="decode_error", error="the JPEG data is damaged", scores={}, nsfw_score=None)
    assert describe_classification(made).splitlines() == ["cat.jpg", "  decode_error: the JPEG data is damaged"]


def test_an_image_without_the_model() -> None:
    """What a filter settled says which one and what was decided; detectors say their part; of the file only what
    `--c2pa` and `--screenshots` ask for is said."""
    signals = {
        "exif.camera_absent": 1.0,
        "prefilter.nsfw": 0.01,
        "violence.weapon": 0.25,
        "c2pa.invalid.claim.missing": 1.0,
    }
    made = classified(
        scores={}, nsfw_score=None, filtered_by="icon", decision="allow", rule="otherwise", signals=signals
    )
    assert describe_classification(made).splitlines() == [
        "cat.jpg",
        "  violence.weapon 0.250",
        "  c2pa.invalid.claim.missing 1.000",
        "  settled by icon → allow (otherwise)",
    ]
    assert "  violence.weapon 0.250" in describe_classification(classified(signals=signals)).splitlines()


def test_runs_are_one_line_each(tmp_path: Path) -> None:
    """A committed run has its counts and model; the others say what to do about them."""
    media, out = files(tmp_path / "media", 30), tmp_path / "out"
    committed = scanned(media, out, mixed, run_id="a-done")
    begun(out, ["/x"], run_id="b-unfinished")
    failed, _ = begun(out, ["/x"], run_id="c-failed")
    failed.folder.write("failure.json", b"{}")
    store = Store.at(str(out), StorageConfig())
    with Run(store, "b-unfinished").lease():
        alive = {seen.run.run_id: describe_run(seen) for seen in overview(store)}
    seen = {one.run.run_id: one for one in overview(store)}
    lines = [describe_run(seen[name]) for name in sorted(seen)]
    assert all("\n" not in line for line in lines)
    when, model = committed.record.committed_at, committed.record.model.identity
    assert lines[0].split() == (
        ["a-done", "committed", when, "30", "objects", "9", "flagged", "1", "unreadable", model]
    )
    at = {name: one.at.isoformat(timespec="milliseconds") for name, one in seen.items() if one.at is not None}
    far = "0 of 1 objects done"
    resume = "resume it: the same command with --run-id b-unfinished"
    assert lines[1] == f"b-unfinished  unfinished {at['b-unfinished']}  {far}  {resume}"
    assert lines[2].startswith(f"c-failed  failed     {at['c-failed']}  {far}  did not balance; see failure.json")
    assert alive["b-unfinished"].endswith(f"{far}  alive")
