"""Make the pictures of pages that READMEs show: `make screenshots`, or `python -m tests.screenshots REPORTS FOLDER`.

Debian's chromium renders, in light mode, the `summary.html` of a report store's first run, a page of its items for
reviewers, and the page over all nights. The pictures are PNG files of at most 256 colours. Paths in them are relative to the current folder, so that no picture shows a path of the machine.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

from click.testing import CliRunner
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from nsfwscan.cli.main import main as nsfwscan

WIDTH, SCALE = 960, 1.5
PARTS = {"summary": ("body", "#balance"), "balance": ("#balance", "#scores")}
PAGES = {
    "review": ("review", "--where", "nsfw_score > 0.005", "--reviewer", "ann"),
    "history": ("history",),
}
"""Name of a picture: the command that writes the page."""
"""Name of a picture: from the top of one element to the top of another."""


def picture(page: Page, first: str, until: str) -> Image.Image:
    """Return the page from the top of one element to the top of another."""
    top, bottom = (page.locator(name).bounding_box() for name in (first, until))
    assert top and bottom, f"the page has no {first} or {until}"
    area = {"x": 0, "y": top["y"], "width": WIDTH, "height": bottom["y"] - top["y"]}
    shot = page.screenshot(full_page=True, clip=area)  # type: ignore[arg-type]
    return quantized(shot)


def quantized(shot: bytes) -> Image.Image:
    """Return a picture with few colours, which takes little room."""
    return Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)


def show(page: Page, reports: Path, *command: str) -> None:
    """Show the page that a command writes of a report store, without the path of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "index.html")
        out = path if command[0] == "history" else path.parent
        done = CliRunner().invoke(nsfwscan, [command[0], str(reports), *command[1:], "--out", str(out)])
        if done.exit_code:
            sys.exit(done.output)
        path.write_text(path.read_text(encoding="utf-8").replace(f"{Path.cwd()}/", ""), encoding="utf-8")
        page.goto(path.as_uri())


def main() -> None:
    """Write the pictures."""
    options = argparse.ArgumentParser(description="Make the pictures of pages that README shows.")
    options.add_argument("reports", type=Path, help="a report store; `make demo` writes demo/reports")
    options.add_argument("folder", type=Path, help="where the pictures go")
    given = options.parse_args()
    chromium = shutil.which("chromium") or sys.exit("no chromium on PATH: apt-get install chromium")
    summary = min(given.reports.glob("runs/*/summary.html"), default=None)
    if summary is None:
        sys.exit(f"no summary.html in {given.reports}: run `make demo` first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        size = {"width": WIDTH, "height": 800}
        page = browser.new_page(viewport=size, color_scheme="light", device_scale_factor=SCALE)  # type: ignore[arg-type]
        page.set_content(summary.read_text(encoding="utf-8").replace(f"{Path.cwd()}/", ""))
        for name, (first, until) in PARTS.items():
            path = given.folder / f"{name}.png"
            picture(page, first, until).save(path, optimize=True)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
        for name, command in PAGES.items():
            path = given.folder / f"{name}.png"
            show(page, given.reports, *command)
            quantized(page.screenshot()).save(path, optimize=True)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
