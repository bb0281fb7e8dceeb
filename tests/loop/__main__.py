"""Run the loop in a folder, and print it: `make loop`, or `python -m tests.loop FOLDER`."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.loop.loop import Loop, LoopError, describe_outcome


def main() -> int:
    """Return the exit code: 1 where a command failed, or the loop did not close."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("folder", type=Path, help="is made anew")
    folder: Path = options.parse_args().folder.absolute()
    chromium = shutil.which("chromium")
    if chromium is None:
        print("no chromium on PATH: apt-get install chromium", file=sys.stderr)
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            found = Loop(folder, browser.new_page(), lambda line: print(line, flush=True)).run()
        except LoopError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            browser.close()
    print(describe_outcome(found))
    return 0 if found.closes else 1


if __name__ == "__main__":
    sys.exit(main())
