"""What Chromium shows of encoded pictures, pixel for pixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
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
    """Each file as an `<img>` shows it on white, int [height, width, 3]; None where it shows nothing."""
    page = browser.new_page()
    urls = page.evaluate(_SHOW, [base64.b64encode(data).decode() for data in files])
    page.close()
    return [None if url is None else _pixels(base64.b64decode(url.partition(",")[2])) for url in urls]


def _pixels(png: bytes) -> NDArray[Any]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
