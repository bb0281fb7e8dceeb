"""Small checkpoints for the tests, made from configurations in a second: random backbones with a head that says things.

In: a folder, labels, a seed. Out: the folder with `config.json`, `model.safetensors` and `preprocessor_config.json`, as
`save_pretrained` writes them.

A random head on a random backbone scores every image nearly alike, and two implementations that agree on a constant
prove nothing. So the head is fitted to the backbone: the backbone's features of `PICTURES` generated images are centred
and turned onto their principal axes, the first axes are mixed by a random rotation, one output a label, and each output
is scaled so that its logits have mean 0 and standard deviation `spread` over those pictures. With the default spread,
each label's probability, and so `nsfw_score` too, spans more than 0.9 across them; `nsfw_score` spans more than 0.9
across the photographs and drawings of the demo store too. The first axes are those along which features differ most, so the
head amplifies rounding errors as little as it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tests.later import later

torch = later("torch")


FIVE = ("drawings", "hentai", "neutral", "porn", "sexy")
PICTURES = 48
SIDE = 64
"""Pixels on each side of what the models take."""

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_vit(folder: Path, labels: Sequence[str] = FIVE, seed: int = 0, spread: float = 4.0) -> Path:
    """A ViT of two layers with a ViT image processor (square, bilinear)."""
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=SIDE,
        patch_size=16,
        initializer_range=0.2,
        **_naming(labels),
    )
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE})
    return _save(ViTForImageClassification(config), processor, folder, seed, spread)


def make_dinov2(folder: Path, labels: Sequence[str] = FIVE, seed: int = 0, spread: float = 4.0) -> Path:
    """A DINOv2 of two layers with a BiT image processor (shortest edge, bicubic, centre crop), as DINOv2 ships."""
    from transformers import BitImageProcessorPil, Dinov2Config, Dinov2ForImageClassification

    torch.manual_seed(seed)
    config = Dinov2Config(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=16,
        initializer_range=0.2,
        **_naming(labels),
    )
    processor = BitImageProcessorPil(
        size={"shortest_edge": SIDE * 8 // 7},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=IMAGENET_MEAN,
        image_std=IMAGENET_STD,
    )
    return _save(Dinov2ForImageClassification(config), processor, folder, seed, spread)


def make_swin(folder: Path, labels: Sequence[str] = FIVE, seed: int = 0, spread: float = 4.0) -> Path:
    """A Swin of two stages with a ViT image processor (square, bicubic, ImageNet statistics), as Swin ships."""
    from transformers import SwinConfig, SwinForImageClassification, ViTImageProcessorPil

    torch.manual_seed(seed)
    config = SwinConfig(
        image_size=SIDE,
        patch_size=4,
        embed_dim=16,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        initializer_range=0.2,
        **_naming(labels),
    )
    processor = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE}, resample=3, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    )
    return _save(SwinForImageClassification(config), processor, folder, seed, spread)


def pictures(count: int = PICTURES, seed: int = 0) -> list[Image.Image]:
    """Generated RGB images of several sizes and aspects: plain colours, slopes, noise, and shapes drawn on them."""
    random = np.random.default_rng(seed)
    return [_picture(random, kind) for kind in range(count)]


def _picture(random: np.random.Generator, kind: int) -> Image.Image:
    width, height = (int(side) for side in random.integers(48, 200, 2))
    left, right = random.integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, width)[None, :, None] if kind % 2 else np.linspace(0, 1, height)[:, None, None]
    values = np.broadcast_to(left * (1 - slope) + right * slope, (height, width, 3))
    noisy = values + random.normal(0, 50 * (kind % 4 == 3), (height, width, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(kind % 5):
        x, y, size = random.integers(0, width), random.integers(0, height), random.integers(8, 64)
        colour = tuple(int(c) for c in random.integers(0, 256, 3))
        draw.ellipse((int(x), int(y), int(x + size), int(y + size)), fill=colour)
    return image


def _naming(labels: Sequence[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}


def _save(model: Any, processor: Any, folder: Path, seed: int, spread: float) -> Path:
    model.eval()
    with torch.inference_mode():
        weight, bias = _head(_features(model, processor), model.config.num_labels, seed, spread)
        model.classifier.weight.copy_(torch.from_numpy(weight))
        model.classifier.bias.copy_(torch.from_numpy(bias))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _features(model: Any, processor: Any) -> NDArray[np.float64]:
    """Return what the head gets for each of the pictures: [pictures, features]."""
    caught: list[torch.Tensor] = []
    hook = model.classifier.register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    model(pixel_values=processor(images=pictures(), return_tensors="pt")["pixel_values"])
    hook.remove()
    return caught[0].double().numpy()


def _head(
    features: NDArray[np.float64], labels: int, seed: int, spread: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight [labels, features] and bias [labels] that give logits of mean 0 and deviation `spread`."""
    mean = features.mean(axis=0)
    _, singular, axes = np.linalg.svd(features - mean, full_matrices=False)
    whitened = axes[:labels] * (np.sqrt(len(features)) / singular[:labels, None])
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(labels, labels)))
    weight = spread * rotation @ whitened
    return weight.astype(np.float32), (-weight @ mean).astype(np.float32)
