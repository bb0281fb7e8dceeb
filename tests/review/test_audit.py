"""The audit of false positives: pairs, groups, the rows, and the images by their true class."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from nsfwscan.cli.main import main
from nsfwscan.config import StorageConfig
from nsfwscan.review.audit import write_audit
from nsfwscan.runs.run import Run
from nsfwscan.storage.output import Output
from tests.reports.test_html_in_browser import _CONTRAST
from tests.runs import rows as made_up

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A scan with three confirmed false positives, two of one content, and a suspected one."""
    folder = tmp_path_factory.mktemp("audit")
    media = made_up.files(folder / "media" / "neutral", 8).parent
    scores = {"0001": 0.95, "0002": 0.95, "0003": 0.6, "0004": 0.3}

    def row(uri: str) -> made_up.Row:
        name = Path(uri).stem
        twins = name in ("0001", "0002")
        digest = hashlib.sha256(b"1" if twins else Path(uri).read_bytes()).hexdigest()
        truth = None if name == "0004" else "neutral"
        return made_up.staged_row(uri, nsfw_score=scores.get(name, 0.05), sha256=digest, truth=truth)

    made_up.scanned(media, folder / "out", row)
    from nsfwscan.runs.run import find_run

    return find_run(str(folder / "out"), StorageConfig())


def test_pairs_groups_rows_and_images(run: Run, tmp_path: Path) -> None:
    """Confirmed and suspected ones are counted apart, the most confident first; images are copied once a content, and only
    where they are the bytes that were scanned."""
    storage = StorageConfig()
    audit = write_audit(run, Output.given(tmp_path, storage, "--out"), storage)
    assert (audit.rows, audit.confirmed, audit.confident, audit.copied, audit.left) == (4, 3, 2, 2, 0)
    found = pq.read_table(tmp_path / "false_positives.parquet").to_pylist()
    assert [Path(row["uri"]).stem for row in found] == ["0001", "0002", "0004", "0003"]
    copies = sorted(path.relative_to(tmp_path / "classes").as_posix() for path in (tmp_path / "classes").rglob("*.jpg"))
    assert copies == sorted(f"neutral/{hashlib.sha256(name).hexdigest()}.jpg" for name in (b"1", b"3"))
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.index(">confirmed</span>neutral") < page.index(">suspected</span>review")
    assert "4 false positives" in page and "3 confirmed by ground truth. 1 only suspected" in page
    assert "/media/neutral</bdi>" in page and "<script" not in page and "<img" not in page


def test_the_command_writes_both_pages(run: Run, tmp_path: Path) -> None:
    """The audit, the page to decide on, and the rows; class folders only where the class is known."""
    given = ["review", run.store.uri, "--out", str(tmp_path)]
    done = CliRunner().invoke(main, [*given, "--false-positives", "--no-covers"])
    assert done.exit_code == 0 and "3 confirmed by truth, 2 with confidence 0.8" in done.output, done.output
    assert {path.name for path in tmp_path.iterdir()} == {"audit.html", "index.html", "false_positives.parquet"}
    assert '"kind": "audit"' in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert CliRunner().invoke(main, [*given, "--class-folders"]).exit_code == 2


def test_a_run_without_any(tmp_path: Path) -> None:
    """Says so."""
    media = made_up.files(tmp_path / "media", 2)
    made_up.scanned(media, tmp_path / "out")
    done = CliRunner().invoke(
        main, ["review", str(tmp_path / "out"), "--false-positives", "--out", str(tmp_path / "p")]
    )
    assert done.exit_code == 0 and "rows    0" in done.output, done.output
    assert "0 false positives" in (tmp_path / "p" / "audit.html").read_text(encoding="utf-8")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_in_a_browser(browser: BrowserContext, run: Run, tmp_path: Path, width: int, scheme: str) -> None:
    """Nothing scrolls sideways, all text stands out, nothing is requested."""
    write_audit(run, Output.given(tmp_path, StorageConfig(), "--out"))
    page = browser.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((tmp_path / "audit.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_CONTRAST) == []
    assert [url for url in requests if not url.startswith("data:")] == [(tmp_path / "audit.html").as_uri()]
    page.close()
