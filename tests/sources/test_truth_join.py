"""Truth that meets no listed object is counted, shown and bounded; forms of one name meet."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import pytest

from nsfwscan.cli.terminal import describe_scan
from nsfwscan.config import ScanConfig
from nsfwscan.errors import SourceError
from nsfwscan.execution.inline import run_inline
from nsfwscan.reports.progress import Silent
from nsfwscan.workflows.scan import ScanResult, run_scan
from tests.scans.test_nightly import picture, report

NAMES = ["café.png", "plain.png", "Übung.png"]


def nfd(name: str) -> str:
    return unicodedata.normalize("NFD", name)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Three pictures, named as a Mac names files."""
    for number, name in enumerate(NAMES):
        picture(tmp_path / "media" / nfd(name), number)
    return tmp_path / "media"


def judge(media: Path, rows: list[str], **source: Any) -> ScanResult:
    path, uris = media.parent / "truth.csv", source.pop("uris", [str(media)])
    path.write_text("uri,truth\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    given = {"source": {"uris": uris, "truth": str(path), **source}, "out": str(media.parent / "out")}
    return run_scan(ScanConfig.of(given), None, run_inline, Silent())


def test_names_meet_in_their_normal_form(media: Path) -> None:
    """Truth as it is typed (NFC) judges files as a Mac names them (NFD); the report has the store's spelling."""
    result = judge(media, [f"media/{name},neutral" for name in NAMES])
    rows = report(result)
    assert {name: row["truth"] for name, row in rows.items()} == {nfd(name): "neutral" for name in NAMES}
    truth = result.record.plan.truth
    assert (truth.given, truth.listed, truth.not_listed) == (3, 3, 0)


def test_a_list_names_files_in_any_form(media: Path) -> None:
    """A list in NFC beside its folder in NFD: each file is one object."""
    listing = media.parent / "night.txt"
    listing.write_text("".join(f"media/{name}\n" for name in NAMES), encoding="utf-8")
    result = judge(media, ["media/plain.png,neutral"], uris=[str(media), str(listing)])
    assert set(report(result)) == set(map(nfd, NAMES))
    assert result.record.plan.repeated == 3


def test_both_forms_are_two_objects(media: Path) -> None:
    """Where the store holds both, each is judged as it is written, and neither stands for the other."""
    picture(media / "café.png", 7)
    result = judge(media, ["media/café.png,neutral"])
    assert {name: row["truth"] for name, row in report(result).items() if row["truth"]} == {"café.png": "neutral"}
    result = judge(
        media, [f"media/{name},{truth}" for name, truth in (("café.png", "porn"), (nfd("café.png"), "sexy"))]
    )
    rows = report(result)
    assert (rows["café.png"]["truth"], rows[nfd("café.png")]["truth"]) == ("porn", "sexy")


def test_truth_that_was_not_listed_is_said(media: Path) -> None:
    """How much, with examples and what is called alike; and each figure says on how much of the truth it rests."""
    rows = ["media/plain.png,neutral", "media/plian.png,porn", "other/x.png,porn"]
    result = judge(media, rows)
    record = result.record
    met = record.plan.truth
    assert met is not None
    assert (met.given, met.listed, met.not_listed, met.elsewhere) == (3, 1, 2, 1)
    assert met.examples[0] == f"{media}/plian.png (is it {media}/plain.png?)"
    [warning] = [entry for entry in record.warnings if entry.name == "unmet_truth"]
    assert warning.count == 2
    shown = describe_scan(ScanResult("one", "x", 0, record))
    assert "of 1 neutral images" in shown
    assert "truth was given for 3 objects, 2 of them were not listed" in shown
    assert (
        "The truth file names 3 objects, of which 2 were not listed (1 lie in none"
        in Path(result.uri, "summary.html").read_text()
    )


def test_too_little_of_the_truth_stops_the_run(media: Path) -> None:
    """Before anything is scanned; what lies in no source, or is left out on purpose, does not count."""
    rows = ["media/plain.png,neutral", "media/plian.png,porn", "other/x.png,porn"]
    with pytest.raises(SourceError, match=r"1 of 2 objects .* more than --max-unmatched-truth 0\.1 allows"):
        judge(media, rows, max_unmatched_truth=0.1)
    assert not list((media.parent / "out").rglob("*.parquet"))
    assert judge(media, rows, max_unmatched_truth=0.5).exit_code == 0
    assert judge(media, rows, max_unmatched_truth=0.0, include=["*.png"]).exit_code == 0
    with pytest.raises(SourceError, match=r"none of the 1 URIs .* Not listed: .*/other/x\.png"):
        judge(media, ["other/x.png,porn"], max_unmatched_truth=1.0)
