"""Image embeddings, for finding label errors: of a checkpoint's backbone, or of the embedded model and simple measures.

A label error is only as likely as the embeddings are good, so each extractor has a sentence for the page on what they
are made of. A checkpoint that does not load is a `ModelError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray

from nsfwscan.config import DecodeConfig, ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.execution.machine import usable_cpus
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models import registry
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.models.registry import choose_hardware, cpu_has_bfloat16, resolve
from nsfwscan.schema import NSFW_CATEGORIES
from training.data.decoding import DecodePool
from training.progress import ProgressCallback, quiet

Vectors = NDArray[np.float32]
Look = Callable[[NDArray[np.uint8]], Vectors]
"""uint8 [batch, H, W, 3] to float32 [batch, features]."""

_BATCH = 8
_GRID, _TURNS, _LEVELS = 4, 8, 4
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


@dataclass(frozen=True)
class FeatureExtractor:
    """A model, or simple measures, that embeds images."""

    geometry: Geometry
    look: Look
    basis: str
    """Sentence for the page on what the vectors are made of."""


def load_extractor(model: str, storage: StorageConfig) -> FeatureExtractor:
    """Load the extractor of `embedded:open-nsfw`, or of a checkpoint (directory, fsspec URI, hub id), with a head or
    without. Raises ModelError."""
    return _embedded(storage) if model == EMBEDDED else _backbone(model, storage)


def vectors_of(
    images: datasets.Dataset, extractor: FeatureExtractor, config: DecodeConfig, progress: ProgressCallback = quiet
) -> Vectors:
    """Return a vector for each image, in their order: float32 [images, features]."""
    found: list[Vectors] = []
    with DecodePool(config, extractor.geometry) as pool:
        for start in range(0, len(images), _BATCH):
            progress("looked at", start, len(images))
            found.append(extractor.look(pool.pixels(images[start : start + _BATCH]["bytes"])))
    progress("looked at", len(images), len(images))
    return np.concatenate(found)


def simple_measures(pixels: NDArray[np.uint8]) -> Vectors:
    """Measure colours, edges and their directions: float32 [batch, 197] of uint8 [batch, H, W, 3].

    A histogram of colours (4 x 4 x 4), and in each of 4 x 4 fields the directions of edges weighted by their strength
    (8, as in HOG: Dalal and Triggs 2005); mean colour; how much of the image is flat; how many colours there are.
    """
    return np.stack([_simple(image) for image in pixels])


def _simple(image: NDArray[np.uint8]) -> Vectors:
    values = image.astype(np.float32)
    bins = (image // (256 // _LEVELS)).astype(np.int64) @ np.array([_LEVELS**2, _LEVELS, 1])
    colours = np.bincount(bins.reshape(-1), minlength=_LEVELS**3) / bins.size
    luma = values @ _LUMA
    down, across = np.gradient(luma)
    strength = np.hypot(down, across)
    turn = ((np.arctan2(down, across) / np.pi % 1) * _TURNS).astype(np.int64) % _TURNS
    height, width = luma.shape
    field = (np.arange(height) * _GRID // height)[:, None] * _GRID + (np.arange(width) * _GRID // width)[None, :]
    directions = np.bincount((field * _TURNS + turn).reshape(-1), strength.reshape(-1), _GRID * _GRID * _TURNS)
    few = len(np.unique((image // 16).astype(np.int64).reshape(-1, 3) @ np.array([256, 16, 1])))
    extra = [*values.mean((0, 1)) / 255, float((strength < 2).mean()), np.log1p(few)]
    edges = np.log1p(directions / (strength.size / _GRID**2))
    vector: Vectors = np.concatenate([np.sqrt(colours), edges, extra]).astype(np.float32)
    return vector


def _embedded(storage: StorageConfig) -> FeatureExtractor:
    config = ModelConfig()
    spec = resolve(config, storage)
    classify = registry.load(spec, storage, choose_hardware(spec, config, threads=usable_cpus()))
    nsfw = [i for i, category in enumerate(spec.categories) if category in NSFW_CATEGORIES]

    def look(pixels: NDArray[np.uint8]) -> Vectors:
        score = classify(pixels)[:, nsfw].sum(axis=1).clip(1e-4, 1 - 1e-4)
        odds: Vectors = np.log(score / (1 - score))[:, None]
        return np.concatenate([odds, simple_measures(pixels)], axis=1)

    basis = (
        "the score of the embedded open_nsfw and simple measures of colour and edges: a weak judge, whose findings are "
        "hints. Give a pretrained checkpoint with `--model` for better ones"
    )
    return FeatureExtractor(spec.geometry, look, basis)


def _backbone(uri: str, storage: StorageConfig) -> FeatureExtractor:
    """Embed by the last layer of a transformers image model: its first token, and the mean over all places."""
    import torch
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    from training.fit.backbone import find_backbone

    backbone = find_backbone(uri, storage)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float16 if device == "cuda" else torch.bfloat16 if cpu_has_bfloat16() else torch.float32
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it reports the head that is not used
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModel.from_pretrained(
            backbone.folder, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        raise ModelError(f"{uri}: transformers cannot load it: {str(error).splitlines()[0]}") from error
    model = getattr(model, "vision_model", model).to(device).eval()
    n = backbone.normalisation
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (n.mean, n.std))

    def look(pixels: NDArray[np.uint8]) -> Vectors:
        with torch.inference_mode():
            values = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float()
            last = model(pixel_values=((values * n.scale - mean) / std).to(dtype)).last_hidden_state.float()
            joined = last.mean((2, 3)) if last.ndim == 4 else torch.cat([last[:, 0], last.mean(1)], dim=1)
            vectors: Vectors = joined.cpu().numpy()
        return vectors

    return FeatureExtractor(backbone.geometry, look, f"the last layer of {uri}, which was not trained further for this")
