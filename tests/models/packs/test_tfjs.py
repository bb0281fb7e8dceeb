"""TensorFlow.js layers models become ONNX graphs that compute the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nsfwscan.errors import ModelError
from nsfwscan.models.packs.tfjs import convert
from tests.later import later
from tests.packs import layer, tfjs_model

onnxruntime = later("onnxruntime")
torch = later("torch")
nn = later("torch.nn")


LINEAR = {"activation": "linear", "use_bias": False, "data_format": "channels_last", "dilation_rate": [1, 1]}
NORMALISED = {"epsilon": 0.001, "axis": -1, "center": True}


def layers() -> list[dict[str, Any]]:
    """One layer of each kind that is known."""
    one = {"strides": [1, 1], "padding": "same", **LINEAR}
    pool = {"data_format": "channels_last"}
    return [
        layer("InputLayer", "in", [], batch_input_shape=[None, 9, 9, 3]),
        layer("ZeroPadding2D", "pad", ["in"], padding=[[0, 1], [0, 1]], data_format="channels_last"),
        layer("Conv2D", "conv", ["pad"], kernel_size=[3, 3], **{**one, "strides": [2, 2], "padding": "valid"}),
        layer("BatchNormalization", "norm", ["conv"], scale=True, **NORMALISED),
        layer("ReLU", "relu6", ["norm"], max_value=6, negative_slope=0, threshold=0),
        layer("DepthwiseConv2D", "depth", ["relu6"], kernel_size=[3, 3], depth_multiplier=1, **one),
        layer("BatchNormalization", "bare", ["depth"], scale=False, **NORMALISED),
        layer("Activation", "relu", ["bare"], activation="relu"),
        layer("Add", "sum", ["relu6", "relu"]),
        layer("MaxPooling2D", "most", ["sum"], pool_size=[3, 3], strides=[1, 1], padding="same", **pool),
        layer("AveragePooling2D", "mean", ["sum"], pool_size=[3, 3], strides=[1, 1], padding="same", **pool),
        layer("Concatenate", "both", ["most", "mean"], axis=3),
        layer("Flatten", "flat", ["both"], data_format="channels_last"),
        layer("Dense", "dense", ["flat"], units=6, activation="relu", use_bias=True),
        layer("Dropout", "dropout", ["dense"], rate=0.5),
        layer("Dense", "last", ["dropout"], units=5, activation="softmax", use_bias=True),
    ]


def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = {
        "conv/kernel": (3, 3, 3, 4),
        **{f"norm/{name}": (4,) for name in ("gamma", "beta", "moving_mean")},
        "depth/depthwise_kernel": (3, 3, 4, 1),
        **{f"bare/{name}": (4,) for name in ("beta", "moving_mean")},
        **{"dense/kernel": (4 * 4 * 8, 6), "dense/bias": (6,), "last/kernel": (6, 5), "last/bias": (5,)},
    }
    made = {name: random.normal(size=shape, scale=0.4) for name, shape in shapes.items()}
    return made | {f"{name}/moving_variance": random.uniform(0.5, 2, 4) for name in ("norm", "bare")}


def reference(worth: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """Return the same network in torch, with TensorFlow's meaning of `same` and its order of channels."""
    w = {name: torch.tensor(value) for name, value in worth.items()}

    def normalised(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]
        return nn.functional.batch_norm(x, mean, variance, w.get(f"{name}/gamma"), w[f"{name}/beta"], eps=0.001)

    x = nn.functional.conv2d(
        nn.functional.pad(torch.tensor(pixels), (0, 1, 0, 1)), w["conv/kernel"].permute(3, 2, 0, 1), stride=2
    )
    x = normalised(x, "norm").clamp(0, 6)
    depth = nn.functional.conv2d(x, w["depth/depthwise_kernel"].permute(2, 3, 0, 1), padding=1, groups=4)
    x = x + normalised(depth, "bare").relu()
    most = nn.functional.max_pool2d(x, 3, 1, 1)
    mean = nn.functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    flat = torch.cat([most, mean], 1).permute(0, 2, 3, 1).flatten(1)
    dense = (flat @ w["dense/kernel"] + w["dense/bias"]).relu()
    return np.asarray((dense @ w["last/kernel"] + w["last/bias"]).softmax(-1))


def as_text(shards: dict[str, bytes]) -> dict[str, str]:
    return {name: data.decode() for name, data in shards.items()}


def test_a_graph_computes_what_the_layers_do() -> None:
    """Each known layer, its padding, its order in memory and its quantised weights; twice the same bytes."""
    topology, shards, worth = tfjs_model(layers(), weights())
    graph = convert(topology.decode(), as_text(shards))
    assert graph == convert(topology.decode(), as_text(shards))
    session = onnxruntime.InferenceSession(graph)
    pixels = np.random.default_rng(1).random((3, 3, 9, 9), np.float32)
    [found] = session.run(["probabilities"], {"pixel_values": pixels})
    np.testing.assert_allclose(found, reference(worth, pixels), atol=1e-5)
    assert np.ptp(found, axis=0).max() > 0.01


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made[2].update(class_name="LSTM"), "a layer LSTM"),
        (lambda made: made[11]["config"].update(axis=1), "along axis 1"),
        (lambda made: made[4]["config"].update(threshold=1), "a ReLU with"),
        (lambda made: made[-1]["config"].update(activation="relu"), "end in a softmax"),
        (lambda made: made[1].update(inbound_nodes=[[["nowhere", 0, 0, {}]]]), "nowhere"),
    ],
)
def test_what_is_not_known_is_refused(change: Any, said: str) -> None:
    """A layer, or a setting of one, that is not written out is said, and makes no graph."""
    made = layers()
    change(made)
    topology, shards, _ = tfjs_model(made, weights())
    with pytest.raises(ModelError, match=said):
        convert(topology.decode(), as_text(shards))


@pytest.mark.parametrize("topology", ["", "alert(1)", "t.exports={modelTopology:{}}", "t.exports={a:"])
def test_other_scripts_are_refused(topology: str) -> None:
    """A script that holds no model, or is cut off."""
    with pytest.raises(ModelError, match=r"no TensorFlow\.js model"):
        convert(topology, {})


def test_missing_weights_are_refused() -> None:
    """A shard that has fewer bytes than the manifest names."""
    topology, shards, _ = tfjs_model(layers(), weights())
    short = as_text(shards) | {"group1-shard2of2": 't.exports="AAAA"'}
    with pytest.raises(ModelError, match=r"no TensorFlow\.js model"):
        convert(topology.decode(), short)
