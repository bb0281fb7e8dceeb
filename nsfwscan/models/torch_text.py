"""Run a transformers checkpoint that classifies text, from safetensors.

A checkpoint without a trained head or a tokenizer raises `ModelError`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from nsfwscan.errors import ModelError
from nsfwscan.models.spec import Hardware, Judge, ModelSpec

_MOST_TOKENS = 512
"""Of a window, also where a tokenizer names no limit."""
_MOST_WINDOWS = 32


def load_text(spec: ModelSpec, folder: Path, hardware: Hardware) -> Judge:
    """Load the weights in the hardware's dtype, and return a function from a text to the probability of each label.

    A text longer than the checkpoint takes is cut into windows that overlap by a quarter, 32 at most; of each label,
    the highest probability counts. Raises ModelError where it does not load whole.
    """
    torch.set_num_threads(hardware.threads)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=getattr(torch, hardware.dtype), use_safetensors=True, output_loading_info=True, **common
        )
    except Exception as error:
        raise ModelError(f"{spec.uri}: transformers cannot load it: {str(error).splitlines()[0]}") from error
    if info["missing_keys"] or info.get("mismatched_keys"):
        lacking = ", ".join(sorted(map(str, info["missing_keys"]))[:3])
        raise ModelError(f"{spec.uri}: weights are missing ({lacking} …): is it a backbone without a trained head?")
    model = model.to(hardware.device).eval()
    most = min(tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", _MOST_TOKENS), _MOST_TOKENS)
    several = model.config.problem_type == "multi_label_classification"

    def judge(text: str) -> NDArray[np.float32]:
        windows = tokenizer(
            text, truncation=True, max_length=most, stride=most // 4, return_overflowing_tokens=True
        )["input_ids"][:_MOST_WINDOWS]  # fmt: skip
        found = []
        with torch.inference_mode():
            for ids in windows:  # one by one: a score must not depend on padding
                logits = model(input_ids=torch.tensor([ids], device=hardware.device)).logits.float()
                found.append((logits.sigmoid() if several else logits.softmax(-1))[0].cpu().numpy())
        scores: NDArray[np.float32] = np.max(found, axis=0)
        return scores

    return judge
