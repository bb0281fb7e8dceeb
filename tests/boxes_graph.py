"""A tiny detector of boxes for tests, by the head of YOLOv8."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

BOX_LABELS = ("red", "green")
SIDE = 16


def boxes_graph() -> bytes:
    """A graph over [batch, 3, 16, 16], 0 to 1, that has two places. At the first, the middle of the pixels at (4, 6) and
    4 by 8 large, the score of `red` is how red the picture is, of `green` how green. The second is empty."""
    places = np.zeros((6, 2), np.float32)
    places[:4, 0] = (4, 6, 4, 8)
    by_colour = np.zeros((3, 6, 2), np.float32)
    by_colour[0, 4, 0] = by_colour[1, 5, 0] = 1
    shape = np.array([-1, 6, 2], np.int64)
    nodes = [
        helper.make_node("ReduceMean", ["images", "edges"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "by_colour", "places"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["output0"]),
    ]
    given = {"by_colour": by_colour.reshape(3, 12), "places": places.reshape(12), "shape": shape}
    graph = helper.make_graph(
        nodes,
        "boxes",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, "height", "width"])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 6, 2])],
        [numpy_helper.from_array(value, name) for name, value in {**given, "edges": np.array([2, 3])}.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
