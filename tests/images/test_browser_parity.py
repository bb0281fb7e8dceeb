"""What a browser shows is decoded here, and looks alike."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.browser_parity import BAR, share_of, survey
from tests.images.damage import PHOTO, corpus, encoded

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
_BOUND = 2.0
"""Levels of 255, in the mean of a picture."""


@pytest.mark.browser
def test_what_a_browser_shows_of_damaged_files_is_decoded(browser: BrowserContext) -> None:
    """Of a hundred damaged and odd pictures that Chromium shows at least 99 % have pixels, and what it draws of each is
    what we have there, within two levels."""
    files = corpus()
    assert len(files) >= 100 and len(dict(files)) == len(files)
    found = survey(browser, files)
    shown = [one for one in found if not one.empty]
    assert len(shown) >= 100
    assert share_of(found) >= BAR, [one for one in shown if one.found is None]
    apart = {one.name: one.difference for one in shown if one.difference is not None and one.difference > _BOUND}
    assert apart == {}
    assert [one.name for one in shown if one.found is not None and one.found != one.shown] == []


@pytest.mark.browser
def test_the_command_counts_what_has_no_pixels(tmp_path: Path) -> None:
    """A folder is surveyed whatever its files are called; under the bar the exit code is 1, and the files are named."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on PATH: apt-get install chromium")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "ä #1?.txt").write_bytes(encoded(PHOTO, "JPEG")[:-2])
    (tmp_path / "large").write_bytes(encoded(PHOTO.resize((400, 300))))
    (tmp_path / "notes.png").write_text("no picture")
    command = [sys.executable, "-m", "tests.browser_parity", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 files, of which the browser shows 2\n2 of them have pixels here: 100.00%" in done.stdout
    assert "1 are salvaged" in done.stdout
    done = subprocess.run([*command, "--max-pixels", "19200"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1, done.stderr
    assert "1 of them have pixels here: 50.00%" in done.stdout
    assert "too_large    large: 400 × 300 pixels" in done.stdout
