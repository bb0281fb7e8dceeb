"""Run a transformers image-classification checkpoint from safetensors: a ViT on a CPU in plain torch, all others by
transformers, which takes long to import.

A checkpoint without a trained head, or whose own processor prepares images differently from our geometry, raises
`ModelError`: its scores would look right and be wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from nsfwscan.errors import ModelError
from nsfwscan.images.preprocessing import Geometry, Normalisation
from nsfwscan.models.cuda import Overlapped
from nsfwscan.models.spec import Classifier, Hardware, ModelSpec
from nsfwscan.models.vit import load_vit

_PROBES = ((97, 131), (480, 640), (700, 300))
"""(height, width) of the generated pictures on which preprocessing is compared: both aspects, up- and downscaling."""


def load_torch(spec: ModelSpec, folder: Path, hardware: Hardware) -> Classifier:
    """Load the weights in the hardware's dtype, and check that preprocessing is the checkpoint's own. Raises ModelError
    where the weights do not load whole, or preprocessing differs."""
    torch.set_num_threads(hardware.threads)
    dtype = getattr(torch, hardware.dtype)
    here = hardware.device == "cpu" and not hardware.compiled
    logits = (load_vit(spec, folder, dtype) if here else None) or _by_transformers(spec, folder, hardware, dtype)
    normalise, temperature = Normaliser(spec.normalisation, hardware.device), spec.temperature or 1.0

    def forward(pixels: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return (logits(normalise(pixels).to(dtype)).float() / temperature).softmax(-1)

    shape = (hardware.batch_size, *spec.geometry.shape)
    if hardware.compiled or hardware.device == "cuda":  # the first batch compiles and allocates
        with _in_words(hardware):
            forward(torch.zeros(shape, dtype=torch.uint8, device=hardware.device))
    if hardware.device == "cuda":
        return Overlapped(forward, shape, guard=partial(_in_words, hardware))
    return Classifier(lambda pixels: forward(torch.from_numpy(pixels)).numpy())


def _by_transformers(
    spec: ModelSpec, folder: Path, hardware: Hardware, dtype: torch.dtype
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function of normalised pixels that returns logits."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = _load_weights(spec, folder, dtype).to(hardware.device).eval()
    if hardware.compiled:
        model = torch.compile(model, dynamic=False)
    check_preprocessing(spec.uri, folder, spec.geometry, spec.normalisation)

    def logits(values: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(pixel_values=values).logits
        return found

    return logits


@contextmanager
def _in_words(hardware: Hardware) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the GPU's memory does not hold a batch of {hardware.batch_size}: use a smaller --batch-size"
        ) from error


def _load_weights(spec: ModelSpec, folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageClassification

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


class Normaliser:
    """Turns uint8 NHWC on the host into normalised float32 NCHW on the device: a quarter of the bytes travel. Training
    uses the same code."""

    def __init__(self, normalisation: Normalisation, device: str | torch.device) -> None:
        n = normalisation
        self._device, self._bgr = device, n.bgr
        mean, std = (torch.tensor(values, device=device) for values in (n.mean, n.std))
        self._factor, self._summand = n.scale / std, -mean / std

    def __call__(self, pixels: NDArray[np.uint8] | torch.Tensor) -> torch.Tensor:
        """Return pixels [batch, H, W, 3], from host or device, as values [batch, 3, H, W] on the device."""
        values = torch.as_tensor(pixels).to(self._device, torch.float32, copy=True).contiguous()
        width = values.shape[2]
        rows = values.view(-1, width * 3)  # long rows, and in place: four times as fast on a CPU
        torch.addcmul(self._summand.repeat(width), rows, self._factor.repeat(width), out=rows)
        values = values.permute(0, 3, 1, 2)
        return values.flip(1) if self._bgr else values


def check_preprocessing(uri: str, folder: Path, geometry: Geometry, normalisation: Normalisation) -> None:
    """Run the checkpoint's own processor beside ours on generated pictures. Raises ModelError where they differ."""
    from transformers import AutoImageProcessor

    normalise = Normaliser(normalisation, "cpu")
    try:
        processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{uri}: transformers cannot load its image processor: {reason}") from error
    random, level = np.random.default_rng(0), normalisation.scale / min(normalisation.std)
    for height, width in _PROBES:
        image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
        expected = np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0])
        pixels = np.frombuffer(geometry.apply(image), np.uint8).reshape(1, *geometry.shape).copy()
        ours = normalise(pixels)[0].numpy()
        if ours.shape != expected.shape or not np.allclose(ours, expected, atol=1.01 * level):
            raise ModelError(
                f"{uri}: its {type(processor).__name__} prepares images in a way that nsfwscan does not reproduce "
                f"(read as {geometry}); save the checkpoint with a ViT, CLIP, SigLIP, BiT, DeiT "
                "or ConvNeXt image processor"
            )
