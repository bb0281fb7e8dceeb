"""A checkpoint as ONNX: the same scores, or no file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Exported:
    """A checkpoint that `nsfwscan-train export` has written a graph for, and what it said."""

    folder: Path
    exit_code: int
    said: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = make_vit(tmp_path_factory.mktemp("exported") / "model")
    result = CliRunner().invoke(main, ["export", str(folder)])
    return Exported(folder, result.exit_code, result.output)


@pytest.mark.parametrize(
    "make", [None, make_dinov2, pytest.param(make_swin, marks=pytest.mark.full)], ids=["vit", "dinov2", "swin"]
)
def test_the_graph_gives_the_scan_s_scores(
    exported: Exported, tmp_path: Path, make: Callable[[Path], Path] | None
) -> None:
    """model.onnx gives the probabilities that a scan with the directory gives, within 1e-3, for any number of images."""
    folder = exported.folder if make is None else make(tmp_path / "model")
    if make is not None:
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


def test_a_graph_that_differs_is_not_kept(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime gives other scores, it is an error, and no file stays."""
    folder = tmp_path / "model"
    shutil.copytree(exported.folder, folder, ignore=shutil.ignore_patterns("*.onnx"))

    def unfaithful(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
        shutil.copy(exported.folder / "model.onnx", path)
        with torch.no_grad():
            model.model.classifier.bias += torch.tensor([1.0, 0, 0, 0, 0])

    monkeypatch.setattr(onnx_export, "_export", unfaithful)
    with pytest.raises(ModelError, match=r"differ by up to .*; it was not kept"):
        export_onnx(folder)
    assert not list(folder.glob("*.onnx")) and not list(folder.glob(".*.onnx"))


def test_on_the_command_line(exported: Exported, tmp_path: Path) -> None:
    """`nsfwscan-train export DIR` says how well the graph agrees, or why there is none."""
    result = CliRunner().invoke(main, ["export", str(tmp_path / "nothing")])
    assert result.exit_code == 1 and "no such model directory" in result.output
    assert exported.exit_code == 0 and "agrees with the checkpoint within" in exported.said
    assert (exported.folder / "model.onnx").stat().st_size > 50_000
