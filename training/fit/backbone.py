"""A pretrained image model, in fp32, with a new head for our categories.

The head is new even where the old one has the same size: its rows mean other classes, or the same in another order. A
checkpoint whose backbone does not load whole, or whose preprocessing a scan would not reproduce, is a `ModelError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, set_seed
from transformers.utils import logging as transformers_logging

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.images.preprocessing import Geometry, Normalisation, read_preprocessor
from nsfwscan.models.checkpoint import digest_of_folder
from nsfwscan.models.registry import local_folder, model_settings, preprocessor_settings
from nsfwscan.models.torch_backend import check_preprocessing


@dataclass(frozen=True)
class Backbone:
    """A checkpoint on this node, read but for its weights."""

    uri: str
    folder: Path
    digest: str
    """Hex SHA-256 over its weights, configuration and preprocessor."""
    preprocessor: dict[str, Any]
    """Content of its `preprocessor_config.json`."""
    geometry: Geometry
    normalisation: Normalisation


def find_backbone(uri: str, storage: StorageConfig) -> Backbone:
    """Fetch a checkpoint, and check all but its weights' values. Raises ModelError where it is not there, holds no
    safetensors, needs code of its own, or has a preprocessing that a scan does not reproduce."""
    folder = local_folder(uri, storage)
    model_settings(folder, uri)
    settings = preprocessor_settings(folder, uri)
    geometry, normalisation = read_preprocessor(settings, uri)
    digest = digest_of_folder(folder)
    check_preprocessing(uri, folder, geometry, normalisation)
    return Backbone(uri, folder, digest, settings, geometry, normalisation)


def load_with_new_head(backbone: Backbone, labels: Sequence[str], seed: int) -> tuple[Any, list[str]]:
    """Return the model in fp32, and lines about its head. Raises ModelError where transformers cannot load it, or
    weights of the backbone itself are missing or of other sizes."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it reports each missing weight at length
    naming = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    try:
        config = AutoConfig.from_pretrained(backbone.folder, local_files_only=True, trust_remote_code=False, **naming)
        config.problem_type = "single_label_classification"
        loaded, info = AutoModelForImageClassification.from_pretrained(
            backbone.folder,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        set_seed(seed)
        model = AutoModelForImageClassification.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32
        )
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"{backbone.uri}: transformers cannot load it as an image classifier: {reason}") from error
    body = body_of(loaded)
    _check_whole(backbone.uri, body, info)
    getattr(model, body).load_state_dict(getattr(loaded, body).state_dict())
    return model, _about_the_head(backbone, labels, info)


def body_of(model: nn.Module) -> str:
    """Return the name of the child that is the backbone; all other children are the head."""
    return max(model.named_children(), key=lambda named: sum(p.numel() for p in named[1].parameters()))[0]


def depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter, by its name: 0 below the first layer of the backbone, 1 for that layer, and
    so on; the head, and what follows the last layer, is the deepest. The layers of a hierarchical model (Swin,
    ConvNeXt) are its stages."""
    body = body_of(model)
    lists = [(name, part) for name, part in getattr(model, body).named_modules() if isinstance(part, nn.ModuleList)]
    outermost = next((f"{body}.{name}." for name, part in lists if len(part) > 1), None)
    found: dict[str, int] = {}
    deepest = 0
    for name, _ in model.named_parameters():
        if outermost and name.startswith(outermost):
            found[name] = int(name.removeprefix(outermost).split(".")[0]) + 1
            deepest = max(deepest, found[name])
    below = True
    for name, _ in model.named_parameters():
        below = below and name not in found and name.startswith(f"{body}.")
        found.setdefault(name, 0 if below and outermost else deepest + 1)
    return found


def _check_whole(uri: str, body: str, info: dict[str, Any]) -> None:
    wrong = sorted(
        key for key in [*_keys(info, "missing_keys"), *_keys(info, "mismatched_keys")] if key.startswith(f"{body}.")
    )
    if wrong:
        raise ModelError(
            f"{uri}: {len(wrong)} weights of its backbone are missing or of other sizes than its config.json says "
            f"({', '.join(wrong[:3])}{', …' if len(wrong) > 3 else ''}): is it whole, and an image model?"
        )


def _keys(info: dict[str, Any], kind: str) -> Iterator[str]:
    for found in info.get(kind) or ():
        yield found if isinstance(found, str) else str(found[0])


def _about_the_head(backbone: Backbone, labels: Sequence[str], info: dict[str, Any]) -> list[str]:
    missing, mismatched = set(_keys(info, "missing_keys")), list(info.get("mismatched_keys") or ())
    new = f"a new head for {len(labels)} categories: {', '.join(labels)}"
    sizes = [f"{key} {tuple(old)} → {tuple(now)}" for key, old, now in (m for m in mismatched if len(m) == 3)]
    if missing - {key for key, *_ in mismatched}:
        return [f"{backbone.uri} has no head of its own; {new}"]
    old = _old_labels(backbone.folder)
    shown = ", ".join(old[:5]) + (", …" if len(old) > 5 else "")
    lines = [f"the head of {backbone.uri} for {len(old)} labels ({shown}) is not used; {new}"]
    return lines + [f"sizes differ, as they may: {'; '.join(sizes)}"] * bool(sizes)


def _old_labels(folder: Path) -> list[str]:
    names = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("id2label") or {}
    return [str(name) for name in names.values()] or [
        "LABEL_0",
        "LABEL_1",
    ]  # what transformers takes where none are named
