"""Small packs for tests: a wheel with a tiny graph, and an npm package with a tiny TensorFlow.js model."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

SIDE = 8
LABELS = ("calm", "loud")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tiny_graph(weights: list[list[float]] | None = None) -> bytes:
    """A graph over [batch, 3, 8, 8], 0 to 1: the probability of `loud` grows with the brightness. Other weights, of red,
    green and blue for each label, make other labels."""
    factors = np.array([[-2, 2]] * 3 if weights is None else weights, np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", factors.shape[1]])],
        [numpy_helper.from_array(factors, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    """A wheel that holds these files."""
    path, about = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for place, data in files.items():
            archive.writestr(place, data)
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def tarball(files: dict[str, bytes]) -> bytes:
    """An npm package that holds these files."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for place, data in files.items():
            entry = tarfile.TarInfo(place)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def pack_of(graph: bytes, /, **changes: Any) -> dict[str, Any]:
    """Return the catalogue's entry of a pack whose package has the graph as `tiny/model.onnx`."""
    entry = {
        "title": "a tiny graph",
        "registry": "pypi",
        "package": "tinypack",
        "version": "1.0",
        "files": {"tiny/model.onnx": sha256(graph)},
        "graph": sha256(graph),
        "bytes": len(graph),
        "labels": list(LABELS),
        "preprocessor": {"size": {"height": SIDE, "width": SIDE}, "resample": 2, "image_mean": 0, "image_std": 1},
        "licence": "MIT",
    }
    return {**entry, **changes}


def write_catalogue(path: Path, packs: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(packs))
    return path


def script(value: Any, name: str = "model") -> bytes:
    """JavaScript as a bundler writes it that exports a value: names without quotes, `!0` and `.5`."""
    text = json.dumps(value, separators=(",", ":"))
    text = re.sub(r'"([A-Za-z_]\w*)":', r"\1:", text).replace(":true", ":!0").replace(":false", ":!1")
    text = re.sub(r"(?<=[:,\[-])0\.(?=\d)", ".", text)
    return f"!function(e){{(this).{name}=e()}}(function(){{return({{1:[function(e,t,n){{t.exports={text}}},{{}}]}})}});".encode()


def quantised(weights: dict[str, np.ndarray]) -> tuple[list[dict[str, Any]], bytes, dict[str, np.ndarray]]:
    """Weights as a TensorFlow.js manifest has them, their bytes, and what they are worth."""
    named, data, worth = [], b"", {}
    for name, value in weights.items():
        least, scale = float(value.min()), float(np.ptp(value) / 255) or 1.0
        stored = np.rint((value - least) / scale).astype(np.uint8)
        how = {"min": least, "scale": scale, "dtype": "uint8"}
        named.append({"name": name, "shape": list(value.shape), "dtype": "float32", "quantization": how})
        worth[name] = (stored.astype(np.float64) * scale + least).astype(np.float32)
        data += stored.tobytes()
    return named, data, worth


def tfjs_model(layers: list[dict[str, Any]], weights: dict[str, np.ndarray]) -> tuple[bytes, dict[str, bytes], Any]:
    """A layers model as an npm package carries it: the script of its topology, those of its weights in two shards, and
    what the weights are worth."""
    named, data, worth = quantised(weights)
    halves = {"group1-shard1of2": data[: len(data) // 2], "group1-shard2of2": data[len(data) // 2 :]}
    topology = {
        "modelTopology": {"model_config": {"class_name": "Model", "config": {"name": "tiny", "layers": layers}}},
        "weightsManifest": [{"paths": list(halves), "weights": named}],
    }
    shards = {name: script(base64.b64encode(half).decode(), "shard") for name, half in halves.items()}
    return script(topology), shards, worth


def layer(kind: str, name: str, inputs: list[str], **config: Any) -> dict[str, Any]:
    """A Keras layer of a topology."""
    inbound = [[[one, 0, 0, {}] for one in inputs]] if inputs else []
    return {"name": name, "class_name": kind, "config": {"name": name, **config}, "inbound_nodes": inbound}
