"""A checkpoint as ONNX: the same scores, or no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.registry import load, resolve
from nsfwscan.models.spec import Hardware
from nsfwscan.models.torch_backend import Normaliser
from tests.checkpoints import make_dinov2, make_swin, make_vit, pictures
from training.cli import main
from training.fit import onnx_export
from training.fit.onnx_export import TOLERANCE, export_onnx


@pytest.mark.parametrize("make", [make_vit, make_dinov2, pytest.param(make_swin, marks=pytest.mark.full)])
def test_the_graph_gives_the_scan_s_scores(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """model.onnx gives the probabilities that a scan with the directory gives, within 1e-3, for any number of images."""
    folder = make(tmp_path / "model")
    assert export_onnx(folder)["largest_difference"] <= TOLERANCE
    spec = resolve(ModelConfig(uri=str(folder)), StorageConfig())
    pixels = np.stack(
        [np.frombuffer(spec.geometry.apply(image), np.uint8).reshape(spec.geometry.shape) for image in pictures(7)]
    )
    scan = load(spec, StorageConfig(), Hardware("cpu", "float32", len(pixels), 1))(pixels)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    values = Normaliser(spec.normalisation, "cpu")(pixels).numpy()
    [scores] = session.run(["probabilities"], {"pixel_values": values})
    assert np.abs(scores - scan).max() <= TOLERANCE
    assert np.ptp(scan, axis=0).max() > 0.5  # the images do differ


def test_a_graph_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime gives other scores, it is an error, and no file stays."""
    folder = make_vit(tmp_path / "model")
    faithful = onnx_export._export

    def unfaithful(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
        faithful(model, example, path)
        with torch.no_grad():
            model.model.classifier.bias += torch.tensor([1.0, 0, 0, 0, 0])

    monkeypatch.setattr(onnx_export, "_export", unfaithful)
    with pytest.raises(ModelError, match=r"differ by up to .*; it was not kept"):
        export_onnx(folder)
    assert not list(folder.glob("*.onnx")) and not list(folder.glob(".*.onnx"))


def test_on_the_command_line(tmp_path: Path) -> None:
    """`nsfwscan-train export DIR` says how well the graph agrees, or why there is none."""
    result = CliRunner().invoke(main, ["export", str(tmp_path / "nothing")])
    assert result.exit_code == 1 and "no such model directory" in result.output
    folder = make_vit(tmp_path / "model")
    result = CliRunner().invoke(main, ["export", str(folder)])
    assert result.exit_code == 0 and "agrees with the checkpoint within" in result.output
    assert (folder / "model.onnx").stat().st_size > 50_000
