"""Any transformers image-classification checkpoint, from safetensors.

In: uint8 pixels [batch, H, W, 3]. Out: float32 probabilities [batch, labels]. A checkpoint without a trained head, or
whose own processor does something else than our geometry, is a `ModelError`: its scores would look right and be wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification
from transformers.utils import logging as transformers_logging

from nsfwscan.errors import ModelError
from nsfwscan.models.spec import Classifier, Hardware, ModelSpec

_PROBES = ((97, 131), (480, 640), (700, 300))
"""(height, width) of the generated pictures on which preprocessing is compared: both aspects, up- and downscaling."""


def load_torch(spec: ModelSpec, folder: Path, hardware: Hardware) -> Classifier:
    """Loads the weights in the hardware's dtype and checks that preprocessing is the checkpoint's own.

    Raises:
        ModelError: the weights do not load whole, or preprocessing differs.
    """
    torch.set_num_threads(hardware.threads)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    dtype = getattr(torch, hardware.dtype)
    model = _load_weights(spec, folder, dtype).to(hardware.device).eval()
    normalise = _Normaliser(spec, hardware.device)
    check_preprocessing(spec, folder, normalise)

    def classify(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            with torch.inference_mode():
                logits = model(pixel_values=normalise(pixels).to(dtype)).logits
                probabilities: NDArray[np.float32] = logits.float().softmax(-1).cpu().numpy()
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"the GPU's memory does not hold a batch of {len(pixels)}: use a smaller --batch-size"
            ) from error
        return probabilities

    return classify


def _load_weights(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> Any:
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"{spec.uri}: transformers cannot load it: {str(error).splitlines()[0]}") from error
    if info["missing_keys"] or info.get("mismatched_keys"):
        lacking = sorted(map(str, [*info["missing_keys"], *(info.get("mismatched_keys") or [])]))
        raise ModelError(
            f"{spec.uri}: weights are missing ({', '.join(lacking[:3])} …): is it a backbone without a trained head?"
        )
    return model


class _Normaliser:
    """uint8 NHWC on the host to float32 NCHW on the device, normalised there: a quarter of the bytes travel."""

    def __init__(self, spec: ModelSpec, device: str) -> None:
        n = spec.normalisation
        self._device = device
        self._scale, self._bgr = n.scale, n.bgr
        self._mean = torch.tensor(n.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(n.std, device=device).view(1, 3, 1, 1)

    def __call__(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        values = torch.from_numpy(pixels).to(self._device).permute(0, 3, 1, 2).float()
        values = (values * self._scale - self._mean) / self._std
        return values.flip(1) if self._bgr else values


def check_preprocessing(spec: ModelSpec, folder: Path, normalise: _Normaliser) -> None:
    """Runs the checkpoint's own processor beside ours on generated pictures. Raises ModelError where they differ."""
    try:
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{spec.uri}: transformers cannot load its image processor: {reason}") from error
    random = np.random.default_rng(0)
    for height, width in _PROBES:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        pixels = np.frombuffer(spec.geometry.apply(image), np.uint8).reshape(1, *spec.geometry.shape).copy()
        ours = normalise(pixels)[0].cpu().numpy()
        if ours.shape != expected.shape or not np.allclose(ours, expected, atol=1e-3):
            raise ModelError(
                f"{spec.uri}: its {type(processor).__name__} prepares images in a way that nsfwscan does not reproduce "
                f"(read as {spec.geometry}); save the checkpoint with a ViT, CLIP, SigLIP, BiT, DeiT "
                "or ConvNeXt image processor"
            )
