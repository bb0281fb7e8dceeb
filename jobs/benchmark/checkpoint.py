"""Checkpoints for the benchmark: made from their configuration with random weights, which cost the same time.

A checkpoint is a folder as transformers saves it, with nsfwscan's five categories. Nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nsfwscan.schema import Category

_VIT_B_16: dict[str, Any] = {}
"""`ViTConfig`'s defaults: 12 layers of 768, patches of 16 pixels on 224 (Dosovitskiy et al. 2021, table 1)."""
_FREE: dict[str, Any] = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "patch_size": 112,
}
"""Four patches, one layer of width eight: a scan with it costs almost what a scan without a model would."""
KINDS = {"vit-b-16": _VIT_B_16, "free": _FREE}
LABELS = [str(c) for c in (Category.DRAWINGS, Category.HENTAI, Category.NEUTRAL, Category.PORN, Category.SEXY)]


def make_checkpoint(work: Path, kind: str) -> Path:
    """Return the folder of a checkpoint of that kind; the first call makes it.

    Raises:
        KeyError: the kind is not in `KINDS`.
    """
    settings, folder = KINDS[kind], work / f"model-{kind}"
    if folder.exists():
        return folder
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    config = ViTConfig(id2label=names, label2id={label: i for i, label in names.items()}, **settings)
    unfinished = folder.with_suffix(".partial")
    ViTForImageClassification(config).save_pretrained(unfinished)
    ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(unfinished)
    return unfinished.rename(folder)
