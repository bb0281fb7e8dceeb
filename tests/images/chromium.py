"""What Chromium shows of encoded pictures, pixel for pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

_SHOW = """async files => {
  const shown = [];
  for (const file of files) {
    const img = new Image();
    img.src = 'data:application/octet-stream;base64,' + file;
    try { await img.decode(); } catch { shown.push(null); continue; }
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
    const context = canvas.getContext('2d');
    context.fillStyle = 'white';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(img, 0, 0);
    shown.push(canvas.toDataURL());
  }
  return shown;
}"""


def shown(browser: BrowserContext, files: Sequence[bytes]) -> list[NDArray[Any] | None]:
    """Return each file as an `<img>` shows it on white, int [height, width, 3]; None where it shows nothing."""
    page = browser.new_page()
    urls = page.evaluate(_SHOW, [base64.b64encode(data).decode() for data in files])
    page.close()
    return [None if url is None else _pixels(base64.b64decode(url.partition(",")[2])) for url in urls]


def _pixels(png: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


_FRAMES = """async ([file, type]) => {
  const data = Uint8Array.from(atob(file), character => character.charCodeAt(0));
  const decoder = new ImageDecoder({data, type});
  await decoder.tracks.ready;
  await decoder.completed;
  const shown = [];
  for (let frameIndex = 0; frameIndex < decoder.tracks.selectedTrack.frameCount; frameIndex++) {
    const {image} = await decoder.decode({frameIndex});
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [image.displayWidth, image.displayHeight];
    const context = canvas.getContext('2d');
    context.fillStyle = 'white';
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    shown.push([image.timestamp / 1e6, canvas.toDataURL()]);
    image.close();
  }
  return shown;
}"""


def frames_shown(browser: BrowserContext, folder: Path, data: bytes, kind: str) -> list[tuple[float, NDArray[Any]]]:
    """Return the frames of an animation as the browser composes them on white, with their times in seconds.

    Args:
        folder: for a page to be opened from, since only such a page may ask the decoder.
        kind: media type.
    """
    (folder / "page.html").write_text("<!doctype html>")
    page = browser.new_page()
    page.goto((folder / "page.html").as_uri())
    frames = page.evaluate(_FRAMES, [base64.b64encode(data).decode(), kind])
    page.close()
    return [(at_s, _pixels(base64.b64decode(url.partition(",")[2]))) for at_s, url in frames]
