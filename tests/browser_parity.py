"""How many pictures of a folder a browser shows, which of them have no pixels here, and how far the others differ.

    python -m tests.browser_parity FOLDER [--show 20] [--max-pixels N] [--json FILE]

In: a folder of files of any kind, and Debian's `chromium` on PATH. Out: a list for a person; exit code 1 where under
99 % of what the browser shows has pixels. Files are served to the browser over localhost, under numbers for names and
as `application/octet-stream`: like ours, its judgement goes by their content (but for what needs a name, as SVG does).
A picture is what an `<img>` draws on a canvas, with white behind it. The browser
shows a file if it has a size there and a single pixel of it is drawn; files that have a size and draw nothing, damaged
or all transparent, are counted beside them.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.errors import RowError
from nsfwscan.images.decoder import decode

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

BAR = 0.99
"""Share of what the browser shows that must have pixels."""

_EDGE, _COMPARED = 512, 64
_LARGEST = 64 * 2**20
"""Bytes; larger files are left out."""
_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
_LOOK = """async ([url, edge]) => {
  const img = new Image();
  const late = new Promise(done => setTimeout(done, 15000));
  img.src = url;
  await Promise.race([late, new Promise(done => { img.onload = img.onerror = done; })]);
  const width = img.naturalWidth, height = img.naturalHeight;
  if (!img.complete || !width || !height) return null;
  await Promise.race([late, img.decode().catch(() => null)]);
  const scale = Math.min(1, edge / Math.max(width, height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext('2d', {willReadFrequently: true});
  context.imageSmoothingQuality = 'high';
  try { context.drawImage(img, 0, 0, canvas.width, canvas.height); } catch (error) { return null; }
  const drawn = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const empty = !drawn.some(level => level);
  return {width, height, empty, png: canvas.toDataURL()};
}"""


@dataclass(frozen=True)
class Seen:
    """Looks of a file in a browser.

    Args:
        size: width and height, in its pixels.
        picture: RGBA, at most `_EDGE` pixels wide and high.
        empty: nothing is drawn.
    """

    size: tuple[int, int]
    picture: Image.Image
    empty: bool


@dataclass(frozen=True)
class Compared:
    """A file that the browser shows.

    Args:
        name: of the file.
        status: ours; `error` is what it says.
        shown, found: width and height there and here.
        difference: mean absolute difference of the reduced pictures on white, in levels of 255; of JPEGs and salvaged ones
            over what the browser draws of them, which may be less than what is there.
        empty: whether the browser draws nothing.
        salvaged: whether it took a second try, and `complete`: how much of the picture there is.
    """

    name: str
    status: str
    error: str | None
    shown: tuple[int, int]
    found: tuple[int, int] | None
    difference: float | None
    empty: bool = False
    salvaged: bool = False
    complete: float | None = None


@contextmanager
def served(files: Sequence[bytes | Path]) -> Iterator[str]:
    """Serve the files over localhost; yield the URL that their numbers follow. `page` is an empty page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.strip("/")
            if name == "page":
                body, kind = b"<!doctype html><title>parity</title>", "text/html"
            elif name.isdigit() and int(name) < len(files):
                file = files[int(name)]
                body, kind = file if isinstance(file, bytes) else file.read_bytes(), "application/octet-stream"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # a decoder may have seen enough
                self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def seen_by(browser: BrowserContext, files: Sequence[bytes | Path]) -> Iterator[Seen | None]:
    """Yield what the browser shows of each file, None where it shows nothing. A page that a file takes down is opened anew."""
    with served(files) as url:
        page = _page(browser, url)
        for number in range(len(files)):
            try:
                found = page.evaluate(_LOOK, [f"{url}/{number}", _EDGE])
            except Exception:  # noqa: BLE001  # whatever became of it, the next file gets a new one
                page = _page(browser, url)
                found = None
            if found is None:
                yield None
                continue
            with Image.open(io.BytesIO(base64.b64decode(found["png"].partition(",")[2]))) as picture:
                yield Seen((found["width"], found["height"]), picture.convert("RGBA"), found["empty"])
        page.close()


def _page(browser: BrowserContext, url: str) -> Page:
    page = browser.new_page()
    page.goto(f"{url}/page")
    return page


def compared(name: str, data: bytes, seen: Seen, max_pixels: int) -> Compared:
    """Hold our pixels of a file against the browser's."""
    try:
        decoded = decode(data, max_pixels=max_pixels)
    except RowError as error:
        return Compared(name, str(error.status), str(error), seen.size, None, None, seen.empty)
    signals = decoded.facts.get("signals") or {}
    complete = signals.get("decode.complete")
    white = Image.new("RGBA", seen.picture.size, "white")
    there = _reduced(Image.alpha_composite(white, seen.picture).convert("RGB"), seen.picture.size)
    apart = np.abs(_reduced(decoded.image, seen.picture.size) - there).mean(axis=2)
    may_lack = complete is not None or decoded.facts["format"] in ("JPEG", "MPO")  # which cannot be transparent
    if may_lack and not seen.empty:
        drawn = _reduced(seen.picture.getchannel("A"), seen.picture.size) >= 254
        apart = apart[drawn] if drawn.any() else apart
    return Compared(
        name,
        "ok",
        None,
        seen.size,
        decoded.image.size,
        float(apart.mean()),
        seen.empty,
        "decode.salvaged" in signals,
        complete,
    )


def _reduced(image: Image.Image, size: tuple[int, int]) -> NDArray[np.int16]:
    """[H, W] or [H, W, 3], at most `_COMPARED` wide and high, by way of `size`."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    image = image.copy()
    image.thumbnail((_COMPARED, _COMPARED), Image.Resampling.BOX, reducing_gap=None)
    return np.asarray(image).astype(np.int16)


def survey(
    browser: BrowserContext, files: Sequence[tuple[str, bytes | Path]], *, max_pixels: int = 100_000_000
) -> list[Compared]:
    """Return all files that have a size in the browser."""
    found = []
    for (name, file), seen in zip(files, seen_by(browser, [file for _, file in files]), strict=True):
        if seen is not None:
            data = file if isinstance(file, bytes) else file.read_bytes()
            found.append(compared(name, data, seen, max_pixels))
    return found


@contextmanager
def chromium() -> Iterator[BrowserContext]:
    """A headless browser with a profile of its own. Raises SystemExit where there is none."""
    path = shutil.which("chromium")
    if path is None:
        raise SystemExit("no chromium on PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=path, headless=True, args=list(_QUIET)
        )
        try:
            yield context
        finally:
            context.close()


def _told(every: Sequence[Compared], files: int, show: int) -> Iterator[str]:
    found, empty = [one for one in every if not one.empty], [one for one in every if one.empty]
    without = [one for one in found if one.found is None]
    both = sorted((one for one in every if one.difference is not None), key=lambda one: -(one.difference or 0))
    yield f"{files} files, of which the browser shows {len(found)}"
    yield f"{len(found) - len(without)} of them have pixels here: {share_of(every):.2%} (bar: {BAR:.0%})"
    for one in without:
        yield f"  {one.status:12} {one.name}: {one.error}"
    there = sum(one.found is not None for one in empty)
    yield f"{len(empty)} more have a size there and nothing to see; {there} of them have pixels here"
    yield f"{sum(one.salvaged for one in both)} are salvaged"
    otherwise = [one for one in both if one.shown != one.found]
    yield f"{len(otherwise)} have another size"
    for one in otherwise[:show]:
        yield f"  {one.shown} there, {one.found} here: {one.name}"
    if both:
        levels = np.array([one.difference for one in both])
        yield (
            f"difference in levels of 255: median {np.median(levels):.2f}, 95 % under {np.quantile(levels, 0.95):.2f}, "
            f"{int((levels > 8).sum())} over 8; the worst:"
        )
    for one in both[:show]:
        mark = f" salvaged, {one.complete or 0:.0%} there" if one.salvaged else ""
        yield f"  {one.difference:6.2f} {one.name}{mark}"


def share_of(every: Sequence[Compared]) -> float:
    """Share of the files that the browser shows that have pixels here."""
    found = [one.found is not None for one in every if not one.empty]
    return sum(found) / len(found) if found else 1.0


def main(argv: Sequence[str] | None = None) -> int:
    """Print the survey of a folder; 1 where it is under the bar."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser_parity", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--show", type=int, default=20, help="how many of the worst are listed")
    parser.add_argument("--max-pixels", type=int, default=100_000_000, help="over which a picture is not decoded")
    parser.add_argument("--json", type=Path, help="where all that was found is written")
    asked = parser.parse_args(argv)
    if not asked.folder.is_dir():
        parser.error(f"no folder: {asked.folder}")
    paths = sorted(p for p in asked.folder.rglob("*") if p.is_file() and 0 < p.stat().st_size <= _LARGEST)
    files: list[tuple[str, bytes | Path]] = [(ascii(str(p.relative_to(asked.folder)))[1:-1], p) for p in paths]
    with chromium() as browser:
        found = survey(browser, files, max_pixels=asked.max_pixels)
    for line in _told(found, len(files), asked.show):
        print(line)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return int(share_of(found) < BAR)


if __name__ == "__main__":
    sys.exit(main())
