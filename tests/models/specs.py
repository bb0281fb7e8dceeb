"""Specifications of models, and their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.models.registry import resolve
from nsfwscan.models.spec import Hardware, ModelSpec
from tests.later import later

torch = later("torch")
backbone = later("training.fit.backbone")
transformers = later("transformers")
safetensors = later("safetensors.torch")

LOCAL = StorageConfig()


CPU = Hardware("cpu", "float32", 4, 1)


def spec_of(uri: str | Path, storage: StorageConfig = LOCAL, **options: Any) -> ModelSpec:
    return resolve(ModelConfig(uri=str(uri), **options), storage)


def edit(folder: Path, name: str = "config.json", **changes: Any) -> None:
    """Set keys of a JSON file; None takes one out."""
    settings = {**json.loads((folder / name).read_text()), **changes}
    (folder / name).write_text(json.dumps({k: v for k, v in settings.items() if v is not None}))
