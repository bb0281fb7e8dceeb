"""Convert a TensorFlow.js layers model, as npm packages carry it, to ONNX.

In: scripts (`.min.js`) that hold a topology as an object literal, and weights in base64, quantised to uint8. Nothing in
them is run. Out: a graph over NCHW float32 that computes the same. What the model has that is not known here raises
`ModelError`. Needs the package `onnx` (the extra `packs`).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nsfwscan.errors import ModelError

Weights = Mapping[str, NDArray[np.float32]]
_OPSET, _IR = 17, 8
"""Versions written down in the graph, the same whatever `onnx` is installed, since the graph's digest is a pack's."""
_TOKEN = re.compile(
    r'(?P<text>"(?:[^"\\]|\\.)*")|(?P<key>[A-Za-z_$][\w$]*)(?=:)|(?P<bool>![01])'
    r"|(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)"
)
_EXPORTED = re.compile(r"\w\.exports=(?=[{\"])")


def convert(topology: str, shards: Mapping[str, str]) -> bytes:
    """Return the ONNX graph of a model: `pixel_values`, float32 [batch, 3, H, W], to `probabilities`.

    Args:
        topology: the script with the model's topology.
        shards: the scripts with its weights, by their names in the topology.

    Raises:
        ModelError: the scripts hold no such model, or `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ModelError("converting this pack needs the package onnx: pip install 'nsfwscan[packs]'") from None
    try:
        model = _literal(topology)
        graph = _Graph(_weights(model["weightsManifest"], shards))
        layers = model["modelTopology"]["model_config"]["config"]["layers"]
        height, width, channels = layers[0]["config"]["batch_input_shape"][1:]
        for layer in layers:
            graph.add(layer)
        return graph.serialised(onnx, (channels, height, width))
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelError(f"the package holds no TensorFlow.js model that is understood: {error!r}") from error


def _literal(script: str) -> Any:
    """Return the value that a script exports, an object literal or a text, without running it."""
    found = _EXPORTED.search(script)
    if found is None:
        raise ValueError("a script exports nothing")
    value, _ = json.JSONDecoder().raw_decode(_TOKEN.sub(_as_json, script[found.end() :]))
    return value


def _as_json(token: re.Match[str]) -> str:
    """Return a token of JavaScript as JSON has it: names in quotes, `!0` as true, `.5` as 0.5."""
    if token["key"]:
        return f'"{token["key"]}"'
    if token["bool"]:
        return "true" if token["bool"] == "!0" else "false"
    if token["number"] and not re.fullmatch(r"-?(0|[1-9]\d*)", token["number"]):
        return repr(float(token["number"]))
    return token[0]


def _weights(manifest: list[dict[str, Any]], shards: Mapping[str, str]) -> Weights:
    """Return all weights by name; `value * scale + min` of each byte, as TensorFlow.js computes it."""
    found: dict[str, NDArray[np.float32]] = {}
    for group in manifest:
        data = b"".join(base64.b64decode(_literal(shards[path]), validate=True) for path in group["paths"])
        start = 0
        for one in group["weights"]:
            how, count = one["quantization"], int(np.prod(one["shape"], dtype=np.int64))
            if (one["dtype"], how["dtype"]) != ("float32", "uint8"):
                raise ValueError(f"weights of {one['dtype']}, kept as {how['dtype']}")
            stored = np.frombuffer(data, np.uint8, count, start).astype(np.float64)
            found[one["name"]] = (stored * how["scale"] + how["min"]).astype(np.float32).reshape(one["shape"])
            start += count
        if start != len(data):
            raise ValueError(f"{len(data)} bytes of weights, {start} of them named")
    return found


def _pair(values: Any) -> list[int]:
    return [int(value) for value in values]


class _Graph:
    """A graph in the making: layer by layer, each after those that it takes."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._tensors: dict[str, str] = {}
        """The tensor that a layer gives."""
        self._last = ""

    def add(self, layer: dict[str, Any]) -> None:
        """Add a Keras layer. Raises ValueError for one that is not known."""
        name, config = layer["name"], layer["config"]
        inputs = [self._tensors[one[0]] for one in (layer["inbound_nodes"] or [[]])[0]]
        made = _LAYERS.get(layer["class_name"])
        if made is None or config.get("data_format", "channels_last") != "channels_last":
            raise ValueError(f"a layer {layer['class_name']}, {config.get('data_format')}")
        self._tensors[name] = self._last = made(self, name, config, inputs)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add an operation, and return the tensor that it gives."""
        self._nodes.append((kind, inputs, output, attributes))
        return output

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant, and return its tensor."""
        self._constants[name] = np.ascontiguousarray(value)
        return name

    def weight(self, name: str) -> NDArray[np.float32]:
        """Return a weight of the model."""
        return self._weights[name]

    def biased(self, name: str, config: dict[str, Any]) -> list[str]:
        """Return the tensor of a layer's bias, in a list that is empty where it has none."""
        return [self.constant(f"{name}/bias", self.weight(f"{name}/bias"))] if config["use_bias"] else []

    def activated(self, name: str, kind: str, tensor: str) -> str:
        """Return the tensor after a Keras activation."""
        if kind == "linear":
            return tensor
        operation = {"relu": "Relu", "softmax": "Softmax"}[kind]
        return self.node(operation, [tensor], f"{name}/{kind}", **({"axis": -1} if kind == "softmax" else {}))

    def serialised(self, onnx: Any, shape: tuple[int, int, int]) -> bytes:
        """Return the graph as ONNX, the same bytes for the same model."""
        helper, real = onnx.helper, onnx.TensorProto.FLOAT
        kind, inputs, _, attributes = self._nodes[-1]
        if kind != "Softmax":
            raise ValueError("a model that does not end in a softmax")
        labels = self._constants[f"{inputs[0]}/kernel"].shape[1]
        nodes = [*self._nodes[:-1], (kind, inputs, "probabilities", attributes)]
        graph = helper.make_graph(
            [helper.make_node(kind, inputs, [output], name=output, **more) for kind, inputs, output, more in nodes],
            "model",
            [helper.make_tensor_value_info(_INPUT, real, ["batch", *shape])],
            [helper.make_tensor_value_info("probabilities", real, ["batch", labels])],
            [onnx.numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], producer_name="nsfwscan")
        model.ir_version = _IR
        onnx.checker.check_model(model)
        data: bytes = model.SerializeToString(deterministic=True)
        return data


_INPUT = "pixel_values"
_Layer = Callable[[_Graph, str, dict[str, Any], list[str]], str]


def _input(_graph: _Graph, _name: str, _config: dict[str, Any], _inputs: list[str]) -> str:
    return _INPUT


def _same(_graph: _Graph, _name: str, _config: dict[str, Any], inputs: list[str]) -> str:
    return inputs[0]


def _padding(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    (top, bottom), (left, right) = config["padding"]
    pads = graph.constant(f"{name}/pads", np.array([0, 0, top, left, 0, 0, bottom, right], np.int64))
    return graph.node("Pad", [*inputs, pads], name)


def _window(config: dict[str, Any], size: str) -> dict[str, Any]:
    """Return the attributes of a convolution or a pooling."""
    padding = {"same": "SAME_UPPER", "valid": "VALID"}[config["padding"]]
    return {"auto_pad": padding, "kernel_shape": _pair(config[size]), "strides": _pair(config["strides"])}


def _convolution(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    kernel = graph.constant(f"{name}/kernel", graph.weight(f"{name}/kernel").transpose(3, 2, 0, 1))
    window = {**_window(config, "kernel_size"), "dilations": _pair(config["dilation_rate"])}
    found = graph.node("Conv", [*inputs, kernel, *graph.biased(name, config)], name, **window)
    return graph.activated(name, config["activation"], found)


def _depthwise(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    stored = graph.weight(f"{name}/depthwise_kernel")
    height, width, channels, several = stored.shape
    kernel = graph.constant(
        f"{name}/kernel", stored.transpose(2, 3, 0, 1).reshape(channels * several, 1, height, width)
    )
    window = {**_window(config, "kernel_size"), "dilations": _pair(config["dilation_rate"]), "group": channels}
    found = graph.node("Conv", [*inputs, kernel, *graph.biased(name, config)], name, **window)
    return graph.activated(name, config["activation"], found)


def _normalisation(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    mean = graph.weight(f"{name}/moving_mean")
    gamma = graph.weight(f"{name}/gamma") if config["scale"] else np.ones_like(mean)
    beta = graph.weight(f"{name}/beta") if config["center"] else np.zeros_like(mean)
    given = {"gamma": gamma, "beta": beta, "mean": mean, "variance": graph.weight(f"{name}/moving_variance")}
    tensors = [graph.constant(f"{name}/{what}", value) for what, value in given.items()]
    return graph.node("BatchNormalization", [*inputs, *tensors], name, epsilon=float(config["epsilon"]))


def _relu(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    if config.get("negative_slope") or config.get("threshold"):
        raise ValueError(f"a ReLU with {config}")
    most = config.get("max_value")
    if most is None:
        return graph.node("Relu", inputs, name)
    limits = [
        graph.constant(f"{name}/{what}", np.array(value, np.float32)) for what, value in (("0", 0), ("most", most))
    ]
    return graph.node("Clip", [*inputs, *limits], name)


def _activation(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    return graph.activated(name, config["activation"], inputs[0])


def _sum(graph: _Graph, name: str, _config: dict[str, Any], inputs: list[str]) -> str:
    first, second = inputs
    return graph.node("Add", [first, second], name)


def _concatenation(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    if config["axis"] not in (3, -1):
        raise ValueError(f"a concatenation along axis {config['axis']}")
    return graph.node("Concat", inputs, name, axis=1)


def _maximum(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    return graph.node("MaxPool", inputs, name, **_window(config, "pool_size"))


def _mean(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    return graph.node("AveragePool", inputs, name, **_window(config, "pool_size"))


def _flattened(graph: _Graph, name: str, _config: dict[str, Any], inputs: list[str]) -> str:
    stored = graph.node("Transpose", inputs, f"{name}/rows", perm=[0, 2, 3, 1])  # as NHWC lies in memory
    return graph.node("Flatten", [stored], name)


def _dense(graph: _Graph, name: str, config: dict[str, Any], inputs: list[str]) -> str:
    kernel = graph.constant(f"{name}/kernel", graph.weight(f"{name}/kernel"))
    found = graph.node("Gemm", [*inputs, kernel, *graph.biased(name, config)], name)
    return graph.activated(name, config["activation"], found)


_LAYERS: dict[str, _Layer] = {
    "InputLayer": _input,
    "Dropout": _same,
    "ZeroPadding2D": _padding,
    "Conv2D": _convolution,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _normalisation,
    "ReLU": _relu,
    "Activation": _activation,
    "Add": _sum,
    "Concatenate": _concatenation,
    "MaxPooling2D": _maximum,
    "AveragePooling2D": _mean,
    "Flatten": _flattened,
    "Dense": _dense,
}
"""How each kind of Keras layer is written; what a dropout does, it does in training alone."""
