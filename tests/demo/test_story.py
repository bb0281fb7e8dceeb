"""`nsfwscan demo` shows what the product is for, and its last line is the page."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from nsfwscan.cli.main import main
from nsfwscan.demo.story import GONE, KNOWN, NEW


def demo(folder: Path) -> Result:
    return CliRunner().invoke(main, ["demo", str(folder), "--no-open"])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("there") / "demo"
    result = demo(folder)
    assert result.exit_code == 0, result.output
    return folder, result.stdout


def rows(folder: Path, night: str) -> dict[str, dict[str, object]]:
    """Rows of a night by their place in the media store."""
    table = pq.read_table(folder / "reports" / "runs" / night / "report")
    return {str(Path(row["uri"]).relative_to(folder / "media")): row for row in table.to_pylist()}


def test_the_first_night_finds_what_there_is(shown: tuple[Path, str]) -> None:
    """Copies, a known-bad picture in other sizes and formats, pictures for a review queue, broken files."""
    found = rows(shown[0], "night-1")
    bad = {place for place, row in found.items() if row["match_bank"] == "known-bad"}
    assert KNOWN in bad and {"neutral/coffee_large.jpg", "uploads/2026/11/modes/cmyk.jpg"} < bad
    assert {found[place]["decision"] for place in bad} == {"block"}
    review = [row for row in found.values() if row["decision"] == "review"]
    assert review and {row["queue"] for row in review} == {"adult"}
    assert len([row for row in found.values() if row["accounted_as"] == "duplicate"]) == 2
    assert {row["status"] for row in found.values()} == {"ok", "unsupported", "decode_error", "too_large"}


def test_the_second_night_reads_only_what_is_new(shown: tuple[Path, str]) -> None:
    """One object is gone, one is new; all others are carried over."""
    first, second = rows(shown[0], "night-1"), rows(shown[0], "night-2")
    assert (first.keys() - second.keys(), second.keys() - first.keys()) == ({GONE}, {NEW})
    assert {place for place, row in second.items() if row["accounted_as"] != "carried"} == {NEW}
    assert "deleted 1" in shown[1]


def test_what_it_prints(shown: tuple[Path, str]) -> None:
    """Both balances, the queues, and the page as the last line."""
    folder, text = shown
    assert len(re.findall(r"\d+ listed = \d+ scored", text)) == 2
    assert "adult.jsonl" in text and (folder / "queues" / "adult.jsonl").stat().st_size
    page = Path(text.splitlines()[-1].split(maxsplit=1)[1])
    assert page == folder.resolve() / "reports" / "runs" / "night-2" / "summary.html" and page.is_file()


@pytest.mark.long
def test_it_begins_anew_and_only_in_its_own_folder(shown: tuple[Path, str], tmp_path: Path) -> None:
    """A folder of somebody's own is refused by name and left as it is."""
    (tmp_path / "mine.txt").write_text("mine")
    refused = demo(tmp_path)
    assert refused.exit_code == 2 and f"{tmp_path} is not empty, and no demo" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    again = demo(shown[0])
    assert again.exit_code == 0 and "1 scored" in again.stdout
