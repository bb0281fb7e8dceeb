"""Pictures of the pages for README: `python -m tests.screenshots REPORTS FOLDER`, or `make screenshots`.

Renders the `summary.html` of the newest run of a report store in Debian's chromium, in light mode, and writes the parts
that README shows as PNG files of at most 256 colours. No part shows a path of the machine.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

WIDTH = 960
PARTS = {"summary": ("body", "#counts")}
"""Name of the picture: from the top of one element to the top of another."""


def picture(page: Page, first: str, until: str) -> Image.Image:
    """The page from the top of one element to the top of another."""
    top, bottom = (page.locator(name).bounding_box() for name in (first, until))
    assert top and bottom
    area = {"x": 0, "y": top["y"], "width": WIDTH, "height": bottom["y"] - top["y"]}
    shot = page.screenshot(full_page=True, clip=area)  # type: ignore[arg-type]
    return Image.open(io.BytesIO(shot)).convert("RGB").quantize(256, dither=Image.Dither.NONE)


def main() -> None:
    """Write the pictures."""
    options = argparse.ArgumentParser(description="Pictures of a report store's newest summary.html.")
    options.add_argument("reports", type=Path, help="a report store")
    options.add_argument("folder", type=Path, help="where the pictures go")
    given = options.parse_args()
    chromium = shutil.which("chromium") or sys.exit("no chromium on PATH: apt-get install chromium")
    summary = max(given.reports.glob("runs/*/summary.html"), default=None)
    if summary is None:
        sys.exit(f"no summary.html in {given.reports}: run `make demo` first")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 800}, color_scheme="light", device_scale_factor=1.5)
        page.goto(summary.absolute().as_uri())
        for name, (first, until) in PARTS.items():
            path = given.folder / f"{name}.png"
            picture(page, first, until).save(path, optimize=True)
            print(f"{path}  {path.stat().st_size / 1000:.0f} kB")
        browser.close()


if __name__ == "__main__":
    main()
