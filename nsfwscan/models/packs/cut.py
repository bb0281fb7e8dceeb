"""Cut an ONNX graph at a tensor within it: of a transformer with a head, its backbone.

Nodes that the tensor does not need go, and so do their weights. A graph without that tensor raises `ModelError`. Needs
the package `onnx` (the extra `packs`).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nsfwscan.errors import ModelError

_GIVEN = "embedding"


def cut(data: bytes, tensor: str, dimensions: int) -> bytes:
    """Return a graph that gives the first token of a tensor, float32 [batch, dimensions]: a transformer's own summary.

    Args:
        tensor: float32 [batch, tokens, dimensions].

    Raises:
        ModelError: these bytes are no graph with that tensor, or `onnx` is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise ModelError("converting this pack needs the package onnx: pip install 'nsfwscan[packs]'") from None
    try:
        model = onnx.load_from_string(data)
    except Exception:  # noqa: BLE001  # protobuf's own, by whichever of its backends
        raise ModelError("the package holds no ONNX graph that can be read") from None
    nodes, needed = list[Any](), {tensor}
    for node in reversed(model.graph.node):  # each stands after those that it takes
        if needed & set(node.output):
            nodes.insert(0, node)
            needed.update(node.input)
    if not nodes:
        raise ModelError(f"the package's graph has no tensor {tensor}")
    first = onnx.numpy_helper.from_array(np.array(0), f"{_GIVEN}/first")
    nodes.append(onnx.helper.make_node("Gather", [tensor, first.name], [_GIVEN], axis=1))
    given = onnx.helper.make_tensor_value_info(_GIVEN, onnx.TensorProto.FLOAT, ["batch", dimensions])
    kept = [one for one in model.graph.initializer if one.name in needed]
    graph = onnx.helper.make_graph(nodes, "cut", list(model.graph.input), [given], [*kept, first])
    made = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), producer_name="")
    made.ir_version = model.ir_version
    return bytes(made.SerializeToString(deterministic=True))
