"""Thumbnails hide what they show, carry nothing of the file but pixels, and fit the page."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from nsfwscan.config import DecodeConfig
from tests.later import later
from tests.training.pictures import encoded, photograph
from training.data.decoding import DecodePool
from training.data.examine import GEOMETRY

if TYPE_CHECKING:
    from training.data.thumbnails import Thumbnail

thumbnails = later("training.data.thumbnails")


def drawn(data: bytes) -> Thumbnail | None:
    with DecodePool(DecodeConfig(), GEOMETRY) as pool:
        return thumbnails.thumbnail(data, pool)


def opened(uri: str) -> Image.Image:
    kind, _, text = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(text)))


def detail(image: Image.Image) -> float:
    """Return how much changes from one pixel to the next."""
    return float(np.abs(np.diff(np.asarray(image.convert("L"), np.float32), axis=1)).mean())


def test_blurred_and_clear() -> None:
    """The blurred picture has the size of the clear one and hardly any of its detail; aspect is the image's."""
    image = photograph("astronaut.png").crop((0, 0, 500, 400))
    found = drawn(encoded(image))
    assert found is not None and (found.width, found.height) == (200, 160)
    clear, blurred = opened(found.clear), opened(found.blurred)
    assert clear.size == blurred.size == (200, 160)
    assert detail(blurred) < detail(clear) / 5
    shrunk = np.asarray(image.resize((200, 160)), np.float32)
    assert (
        np.abs(np.asarray(clear, np.float32) - shrunk).mean()
        < 12
        < np.abs(np.asarray(blurred, np.float32) - shrunk).mean()
    )


def test_nothing_but_pixels() -> None:
    """What a camera wrote into the file is not in its thumbnails."""
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    found = drawn(encoded(photograph("coffee.png"), exif=exif))
    assert found is not None and not opened(found.clear).getexif() and not opened(found.blurred).getexif()


def test_slivers_and_broken_files() -> None:
    """A sliver keeps a height that can be seen; a file that does not decode has no thumbnail."""
    found = drawn(encoded(photograph("rocket.jpg").crop((0, 100, 640, 110))))
    assert found is not None and (found.width, found.height) == (200, 67)
    assert drawn(b"no image") is None
