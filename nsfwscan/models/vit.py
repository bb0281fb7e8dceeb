"""Run a ViT checkpoint (`ViTForImageClassification`) in plain torch, on a CPU.

Importing its class from transformers takes as long as everything else that a worker does before its first row. The
operations are those of transformers, in their order, and so are the numbers. Whatever is unusual about a checkpoint is
left to transformers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, scaled_dot_product_attention

from nsfwscan.images.preprocessing import read_preprocessor
from nsfwscan.models.checkpoint import read_json
from nsfwscan.models.spec import ModelSpec

_USUAL = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
_DEFAULTS = {"hidden_act": "gelu", "qkv_bias": True, "num_channels": 3, "head_dim": None, "quantization_config": None}
"""Settings, here with the defaults of transformers, that are left to transformers where they are others."""
_PREPROCESSORS = {"ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor"}
_PREPARED_BY = frozenset(
    ("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
)
"""Settings of a preprocessor that tests hold against transformers; whoever has others is compared when it loads."""
_PATCHES, _CLASS = "vit.embeddings.patch_embeddings.projection", "vit.embeddings.cls_token"
_PLACES = "vit.embeddings.position_embeddings"
_ASKS = tuple(f"attention.attention.{name}" for name in ("query", "key", "value"))

Weights = dict[str, Tensor]


def load_vit(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """Return a function of normalised pixels [batch, 3, H, W] that returns logits [batch, labels]; None where the
    checkpoint, or how it prepares pictures, is left to transformers."""
    settings = read_json(folder / "config.json", spec.uri)
    usual = all(settings.get(name) == value for name, value in _USUAL.items())
    plain = all(settings.get(name, value) == value for name, value in _DEFAULTS.items())
    shapes = [settings.get("image_size", 224), settings.get("patch_size", 16)]
    file, preprocessor = folder / "model.safetensors", folder / "preprocessor_config.json"
    there = file.is_file() and preprocessor.is_file()
    if not (usual and plain and there and all(isinstance(one, int) for one in shapes)):
        return None
    if not _is_prepared_as_usual(spec, read_json(preprocessor, spec.uri)):
        return None
    layers = [f"vit.encoder.layer.{number}." for number in range(settings.get("num_hidden_layers", 12))]
    expected = _shapes(settings, layers, len(spec.labels), *shapes)
    try:
        with safe_open(file, "pt") as weights:
            if {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()} != expected:  # noqa: SIM118
                return None
            found = {name: weights.get_tensor(name).to(dtype) for name in expected}
    except (OSError, SafetensorError):  # transformers says what is wrong with them
        return None
    heads, eps = settings.get("num_attention_heads", 12), settings.get("layer_norm_eps", 1e-12)
    return partial(_logits, found, layers, heads, eps, *shapes)


def _shapes(
    settings: dict[str, Any], layers: list[str], labels: int, edge: int, patch: int
) -> dict[str, tuple[int, ...]]:
    """Return the names of the weights, and their shapes."""
    hidden, inner = settings.get("hidden_size", 768), settings.get("intermediate_size", 3072)
    matrices: dict[str, tuple[int, ...]] = {_PATCHES: (hidden, 3, patch, patch), "classifier": (labels, hidden)}
    matrices["vit.layernorm"] = (hidden,)
    for layer in layers:
        matrices |= {f"{layer}{name}": (hidden, hidden) for name in (*_ASKS, "attention.output.dense")}
        matrices |= {f"{layer}intermediate.dense": (inner, hidden), f"{layer}output.dense": (hidden, inner)}
        matrices |= {f"{layer}layernorm_{where}": (hidden,) for where in ("before", "after")}
    found: dict[str, tuple[int, ...]] = {_CLASS: (1, 1, hidden), _PLACES: (1, (edge // patch) ** 2 + 1, hidden)}
    for name, shape in matrices.items():
        found |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return found


def _is_prepared_as_usual(spec: ModelSpec, settings: dict[str, Any]) -> bool:
    kinds = ("image_processor_type", "feature_extractor_type")
    given = {name: value for name, value in settings.items() if value is not None}
    named = {given[kind] for kind in kinds if kind in given}
    if not named or not named <= _PREPROCESSORS or not set(given) <= {*kinds, *_PREPARED_BY}:
        return False
    return read_preprocessor(settings, spec.uri) == (spec.geometry, spec.normalisation)


def _logits(
    weights: Weights, layers: list[str], heads: int, eps: float, edge: int, patch: int, pixels: Tensor
) -> Tensor:
    if pixels.shape[2:] != (edge, edge):
        raise ValueError(f"pixels of {tuple(pixels.shape[2:])}, but the model takes {edge} x {edge}")
    of, across, norm = partial(_of, weights), partial(_linear, weights), partial(_norm, weights, eps)
    tokens = conv2d(pixels, *of(_PATCHES), stride=patch).flatten(2).transpose(1, 2)
    tokens = torch.cat((weights[_CLASS].expand(len(tokens), -1, -1), tokens), dim=1) + weights[_PLACES]
    for layer in layers:
        normal = norm(f"{layer}layernorm_before", tokens)
        asked, keys, values = (
            across(f"{layer}{name}", normal).view(*tokens.shape[:2], heads, -1).transpose(1, 2) for name in _ASKS
        )
        attended = scaled_dot_product_attention(asked, keys, values).transpose(1, 2).contiguous().flatten(2)
        tokens = across(f"{layer}attention.output.dense", attended) + tokens
        between = gelu(across(f"{layer}intermediate.dense", norm(f"{layer}layernorm_after", tokens)))
        tokens = across(f"{layer}output.dense", between) + tokens
    return across("classifier", norm("vit.layernorm", tokens)[:, 0])


def _of(weights: Weights, name: str) -> tuple[Tensor, Tensor]:
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def _linear(weights: Weights, name: str, values: Tensor) -> Tensor:
    return linear(values, *_of(weights, name))


def _norm(weights: Weights, eps: float, name: str, values: Tensor) -> Tensor:
    return layer_norm(values, values.shape[-1:], *_of(weights, name), eps)
