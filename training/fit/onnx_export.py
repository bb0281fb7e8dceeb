"""Export a checkpoint directory as an ONNX graph with the same scores.

Beside the graph, `model.onnx`, lies its sidecar, by which a scan takes it: `nsfwscan/models/exported.py` says what
both hold. The graph is kept only if ONNX Runtime gives torch's scores; otherwise, or where the exporter fails, it is a
`ModelError` and no file stays.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForImageClassification

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.exported import GRAPH, describe, sidecar_of
from nsfwscan.models.registry import preprocessor_settings, resolve
from nsfwscan.models.torch_backend import Normaliser, check_preprocessing
from nsfwscan.storage.atomic import appearing
from nsfwscan.storage.store import to_json

TOLERANCE = 1e-4
"""Largest difference of a probability between torch and ONNX Runtime."""
_BATCHES = (1, 5)
"""Sizes that are compared: a single image, and a size that the export did not see."""


class _Probabilities(nn.Module):
    def __init__(self, model: Any, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = (self.model(pixel_values=pixel_values).logits / self.temperature).softmax(-1)
        return probabilities


def export_onnx(folder: Path) -> dict[str, Any]:
    """Write `model.onnx` and `model.onnx.json` into a checkpoint directory on this machine. Return their names (`file`,
    `sidecar`), and the `largest_difference` between probabilities of torch and ONNX Runtime, on generated images.
    Raises ModelError where the directory is no checkpoint, its graph cannot be exported, or does not agree."""
    spec = resolve(ModelConfig(uri=str(folder)), StorageConfig())
    if spec.backend == "onnx":
        raise ModelError(f"{folder} holds an exported graph alone: give the checkpoint that it was made of")
    check_preprocessing(spec.uri, folder, spec.geometry, spec.normalisation)
    checkpoint = AutoModelForImageClassification.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, attn_implementation="eager"
    )
    model = _Probabilities(checkpoint, spec.temperature or 1.0).eval()
    target = folder / GRAPH
    values = Normaliser(spec.normalisation, "cpu")
    with appearing(target) as unfinished:
        _export(model, values(_noise(2, spec.geometry.shape)), unfinished)
        largest = max(_difference(model, values(_noise(n, spec.geometry.shape)), unfinished) for n in _BATCHES)
        if not largest <= TOLERANCE:
            raise ModelError(
                f"{folder}: the exported graph gives scores that differ by up to {largest:.2g} from the checkpoint's "
                f"(at most {TOLERANCE:g} is allowed); it was not kept"
            )
    preprocessor = preprocessor_settings(folder, spec.uri)
    sidecar = sidecar_of(target)
    with appearing(sidecar) as unfinished:
        unfinished.write_bytes(to_json(describe(target, spec.labels, preprocessor, spec.temperature, spec.digest)))
    return {"file": GRAPH, "sidecar": sidecar.name, "largest_difference": largest}


def _export(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=["pixel_values"],
                output_names=["probabilities"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                external_data=False,
                verbose=False,
                dynamo=True,
            )
    except ImportError as error:
        raise ModelError(
            f"exporting needs the packages onnx and onnxscript ({error}): pip install 'nsfwscan[train]'"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"torch cannot export this architecture to ONNX: {reason}") from error


def _difference(model: nn.Module, values: torch.Tensor, path: Path) -> float:
    """Return the largest difference between probabilities of torch and ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = model(values).numpy()
    [found] = session.run(["probabilities"], {"pixel_values": values.numpy()})
    return float(np.abs(np.asarray(found) - expected).max())


def _noise(images: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Generate pixels [images, H, W, 3]: coarse patches, so that images differ in more than their noise."""
    random = np.random.default_rng(images)
    coarse = random.integers(0, 256, (images, 7, 7, 3), np.uint8)
    rows, columns = (np.arange(edge) * 7 // edge for edge in shape[:2])
    return np.ascontiguousarray(coarse[:, rows][:, :, columns])
