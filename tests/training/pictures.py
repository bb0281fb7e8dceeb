"""Pictures to learn from, made on the spot or taken from the packages that ship them."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from skimage.data import data_dir

_PHOTOGRAPHS = (
    "astronaut.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "rocket.jpg",
)


@cache
def photograph(name: str) -> Image.Image:
    """A photograph of scikit-image, RGB. Cached, so never draw on it."""
    with Image.open(Path(data_dir) / name) as opened:
        return opened.convert("RGB")


def photographs() -> dict[str, Image.Image]:
    """Photographs that show different things."""
    return {name: photograph(name) for name in _PHOTOGRAPHS}


def blobs(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """A picture that is like no other of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, fmt: str = "JPEG", **options: Any) -> bytes:
    """Return the bytes of a file."""
    out = io.BytesIO()
    image.save(out, fmt, **({"quality": 85} | options if fmt in ("JPEG", "WEBP") else options))
    return out.getvalue()


def variants(image: Image.Image) -> Iterator[tuple[str, bytes]]:
    """Yield what becomes of a photograph that is passed on: (name, file)."""
    width, height = image.size

    def cut(left: float, top: float, right: float, bottom: float) -> Image.Image:
        return image.crop((round(width * left), round(height * top), round(width * right), round(height * bottom)))

    yield "re-encoded", encoded(image, quality=40)
    yield "webp", encoded(image, "WEBP", quality=60)
    yield "png", encoded(image, "PNG")
    yield "halved", encoded(image.resize((width // 2, height // 2)))
    yield "squeezed", encoded(image.resize((300, 300)))
    yield "mirrored", encoded(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    yield "softened", encoded(image.filter(ImageFilter.GaussianBlur(1)))
    yield "cut by 2 % a side", encoded(cut(0.02, 0.02, 0.98, 0.98))
    yield "cut by 5 % a side", encoded(cut(0.05, 0.05, 0.95, 0.95))
    yield (
        "cut, mirrored and small",
        encoded(cut(0.04, 0.04, 0.96, 0.96).transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((200, 150))),
    )


def write(path: Path, data: bytes) -> Path:
    """A file, with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_classes(root: Path, counts: Mapping[str, int], start: int = 0) -> Path:
    """Class folders with so many different pictures each."""
    for number, (name, count) in enumerate(counts.items()):
        for i in range(count):
            write(root / name / f"{i:04d}.jpg", encoded(blobs(start + 10_000 * number + i)))
    return root
