"""The page over all nights: each scan once, what changed between them, and nothing that a name could do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from nsfwscan.cli.main import main
from tests.scans.test_nightly import night, picture
from tests.verdicts.lines import file, line

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

STRICT = """
name: strict
version: "1"
thresholds: {explicit: 0.25}
rules: [{name: all, when: "nsfw_score >= 0 AND nsfw_score < 2", decision: review, queue: adult, shield: blur, severity: 2}]
otherwise: {decision: allow}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights over a folder with a hostile name: the second with another policy, the third pruned of its files."""
    root = tmp_path_factory.mktemp("history")
    media = root / "<b onclick='x'>media"
    for number in range(3):
        picture(media / f"{number}.png", number, size=(16, 16))
    (root / "policy.yaml").write_text(STRICT)
    night(media, root / "reports", "n1")
    night(media, root / "reports", "n2", policy=str(root / "policy.yaml"))
    night(media, root / "reports", "n3")
    return root / "reports"


def test_it_has_each_night_with_what_changed(store: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["history", str(store), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "page.html").read_text()
    assert re.findall(r'<th scope="row">(n\d)<div class="muted">\d', page) == ["n3", "n2", "n1"], "the newest first"
    assert "n2: 3</title>" in page and "n1: 0</title>" in page, "three objects for people in the second night"
    assert "strict@" in page and "explicit 0.25" in page
    assert "<b onclick" not in page and "<script" not in page


@pytest.mark.browser
def test_no_column_of_nights_is_crushed(store: Path, tmp_path: Path, browser: BrowserContext) -> None:
    """In a window of 960 pixels policy and model stand in a few lines; in a narrower one the table alone is scrolled, by
    the keyboard, too."""
    CliRunner().invoke(main, ["history", str(store), "--out", str(tmp_path / "page.html")])
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    for width in (960, 400):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.querySelector('td.by').clientWidth >= 180"), width
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        if width == 960:
            assert page.evaluate(
                "document.querySelector('.wide').scrollWidth <= document.querySelector('.wide').clientWidth"
            )
    page.get_by_role("region", name="Night by night").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_timeout(300)
    assert page.evaluate("document.activeElement.scrollLeft") > 0
    page.close()


def test_it_has_what_drawn_samples_say_and_what_people_open(tmp_path: Path) -> None:
    """A sample of which a stratum is undecided is not there yet; one that is not wholly decided says so; opens are expected
    by the verdicts that a night knew."""
    for number in range(6):
        picture(tmp_path / "media" / f"{number}.png", number, size=(16, 16))
    (tmp_path / "policy.yaml").write_text(STRICT)
    policy = str(tmp_path / "policy.yaml")
    night(tmp_path / "media", tmp_path / "reports", "n1", policy=policy)
    asked = ["audit", "draw", str(tmp_path / "reports"), "--n", "6", "--out", str(tmp_path / "items.jsonl")]
    page = ["history", str(tmp_path / "reports"), "--out", str(tmp_path / "page.html")]
    assert CliRunner().invoke(main, asked).exit_code == 0 and CliRunner().invoke(main, page).exit_code == 0
    assert "drawn samples" not in (tmp_path / "page.html").read_text()
    items = [json.loads(one) for one in (tmp_path / "items.jsonl").read_text().splitlines()]
    said = [
        line(one["uri"], one["uri"], "remove", sha256=one["sha256"], kind="audit", probability=one["probability"], opened=n < 2)
        for n, one in enumerate(items[:4])
    ]  # fmt: skip
    taken = CliRunner().invoke(
        main, ["verdicts", "import", str(tmp_path / "reports"), str(file(tmp_path / "v.jsonl", said))]
    )
    assert taken.exit_code == 0, taken.output
    night(tmp_path / "media", tmp_path / "reports", "n2", policy=policy)
    assert CliRunner().invoke(main, page).exit_code == 0
    shown = (tmp_path / "page.html").read_text()
    assert "What people found in drawn samples" in shown
    assert re.search(r'<td class="number">4<div class="muted">2 not yet</div></td><td>100\.00%', shown)
    assert "n2: 1</title>" in shown, "two items that are not decided yet, of which half are opened"


def test_to_standard_output_it_is_the_page_alone(store: Path) -> None:
    done = CliRunner().invoke(main, ["history", str(store), "--out", "-"])
    assert done.stdout.startswith("<!DOCTYPE html>") and done.stdout.rstrip().endswith("</html>")
    assert done.stderr == "3 scans: standard output\n"


def test_a_broken_record_is_left_out_aloud(store: Path, tmp_path: Path) -> None:
    broken = store / "runs" / "n9"
    broken.mkdir()
    (broken / "_SUCCESS").touch()
    (broken / "run.json").write_text("{")
    try:
        done = CliRunner().invoke(main, ["history", str(store), "--out", str(tmp_path / "page.html")])
    finally:
        for file in broken.iterdir():
            file.unlink()
        broken.rmdir()
    assert done.exit_code == 0 and "run n9 is left out" in done.stderr and "3 scans" in done.stdout


def test_a_store_without_a_scan_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = CliRunner().invoke(main, ["history", str(tmp_path / "empty"), "--out", "-"])
    assert "No scan is committed in this store." in done.stdout
