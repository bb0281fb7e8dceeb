"""A stand-in for the gated data: five classes of drawn patterns in random colours, and small models to learn them.

In: a folder, how many images, a seed. Out: class folders of small PNGs, named like the real ones. A class is a pattern
(stripes standing, lying or oblique, a chessboard, rings); its colours, period, place and the light over it are
random, so that no colour tells a class: `mean_colour_accuracy` measures that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE = 64
"""Pixels on each side of what the models take."""
LABELS = ("drawings", "hentai", "neutral", "porn", "sexy")

Grid = NDArray[np.float64]
Pattern = Callable[[Grid, Grid], Grid]


def _rings(x: Grid, y: Grid) -> Grid:
    return np.sin(np.pi * np.hypot(x - x.mean(), y - y.mean()))


PATTERNS: dict[str, Pattern] = {
    "drawings": lambda x, y: np.sin(np.pi * x),
    "hentai": lambda x, y: np.sin(np.pi * y),
    "neutral": lambda x, y: np.sin(np.pi * x) * np.sin(np.pi * y),
    "porn": lambda x, y: np.sin(np.pi * (x + y) / np.sqrt(2)),
    "sexy": _rings,
}


def draw(label: str, random: np.random.Generator) -> Image.Image:
    """One RGB image of a class, 64 to 84 pixels on each side."""
    height, width = (int(edge) for edge in random.integers(SIDE, 85, 2))
    period = random.uniform(4, 6)
    x, y = np.meshgrid(
        np.arange(width) / period + random.uniform(0, 2), np.arange(height) / period + random.uniform(0, 2)
    )
    inside = PATTERNS[label](x, y) > 0
    first, second = _contrasting(random)
    image = np.where(inside[..., None], first, second) * _light(random, height, width)
    noisy = image + random.normal(0, 8, image.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def _contrasting(random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    while True:
        first, second = random.uniform(0, 255, (2, 3))
        if abs(first - second).sum() > 200:
            return first, second


def _light(random: np.random.Generator, height: int, width: int) -> NDArray[np.float64]:
    """A smooth field, different in every image, so that no two are near-duplicates."""
    coarse = Image.fromarray(random.uniform(90, 255, (4, 4)).astype(np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)[..., None] / 200


def write_folders(folder: Path, each: int, seed: int = 0, labels: Sequence[str] = LABELS) -> Path:
    """`<folder>/<label>/<number>.png`, so many of each class."""
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng((seed, number))
        for i in range(each):
            draw(label, random).save(folder / label / f"{i:04d}.png", compress_level=0)  # noise: nothing is gained
    return folder


def mean_colour_accuracy(train: Sequence[tuple[bytes | Path, int]], test: Sequence[tuple[bytes | Path, int]]) -> float:
    """Share of the test images that a classifier gets right which knows their mean colour alone (15 nearest)."""
    known, labels = _mean_colours(train)
    asked, truth = _mean_colours(test)
    nearest = np.argsort(((asked[:, None] - known[None]) ** 2).sum(-1), axis=1)[:, :15]
    votes = np.apply_along_axis(lambda row: np.bincount(row, minlength=labels.max() + 1), 1, labels[nearest])
    return float((votes.argmax(1) == truth).mean())


def _mean_colours(images: Sequence[tuple[bytes | Path, int]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    import io

    def colour(image: bytes | Path) -> NDArray[np.float64]:
        opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        return np.asarray(opened.convert("RGB"), np.float64).mean((0, 1))

    return np.array([colour(image) for image, _ in images]), np.array([label for _, label in images])


def small_vit(folder: Path, seed: int = 0) -> Path:
    """An untrained ViT of three layers for 64-pixel images, with a ViT image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=SIDE,
        patch_size=8,
        id2label={0: "cat", 1: "dog", 2: "cow"},
        label2id={"cat": 0, "dog": 1, "cow": 2},
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def small_resnet(folder: Path, seed: int = 0) -> Path:
    """An untrained ResNet of two stages for 64-pixel images, which learns them in a third of a ViT's time; with a ViT
    image processor."""
    import torch
    from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    config = ResNetConfig(
        embedding_size=24,
        hidden_sizes=[24, 48],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "cat", 1: "dog", 2: "cow"},
        label2id={"cat": 0, "dog": 1, "cow": 2},
    )
    ResNetForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder
