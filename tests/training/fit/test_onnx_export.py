"""A checkpoint as ONNX: the same scores, or no file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import boto3
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

import nsfwscan
from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import ModelError
from nsfwscan.models.exported import FORMAT, sidecar_of
from nsfwscan.models.registry import choose_hardware, load, resolve
from nsfwscan.models.spec import Hardware
from tests.checkpoints import FIVE, make_dinov2, make_swin, make_vit, pictures
from tests.later import later
from tests.s3.servers import S3Endpoint
from training.cli import main

pytestmark = pytest.mark.long

onnxruntime = later("onnxruntime")
torch_backend = later("nsfwscan.models.torch_backend")
torch = later("torch")
onnx_export = later("training.fit.onnx_export")


@dataclass(frozen=True)
class Exported:
    """A checkpoint that `nsfwscan-train export` has written a graph for, and what it said."""

    folder: Path
    exit_code: int
    said: str


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = make_vit(tmp_path_factory.mktemp("exported") / "checkpoint")
    (folder / "temperature.json").write_text('{"temperature": 1.7}')
    result = CliRunner().invoke(main, ["export", str(folder)])
    return Exported(folder, result.exit_code, result.output)


@pytest.mark.parametrize(
    "make",
    [None, make_dinov2, pytest.param(make_swin, marks=pytest.mark.full)],
    ids=["vit", "dinov2", "swin"],
)
def test_the_graph_gives_the_scan_s_scores(
    exported: Exported, tmp_path: Path, make: Callable[[Path], Path] | None
) -> None:
    """model.onnx gives the probabilities that a scan with the directory gives, within 1e-4, for any number of images; the
    checkpoint's temperature is in them."""
    folder = exported.folder if make is None else make(tmp_path / "model")
    if make is not None:
        assert onnx_export.export_onnx(folder)["largest_difference"] <= onnx_export.TOLERANCE
    spec = resolve(ModelConfig(uri=str(folder)), StorageConfig())
    pixels = np.stack(
        [np.frombuffer(spec.geometry.apply(image), np.uint8).reshape(spec.geometry.shape) for image in pictures(7)]
    )
    scan = load(spec, StorageConfig(), Hardware("cpu", "float32", len(pixels), 1))(pixels)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    values = torch_backend.Normaliser(spec.normalisation, "cpu")(pixels).numpy()
    [scores] = session.run(["probabilities"], {"pixel_values": values})
    assert np.abs(scores - scan).max() <= onnx_export.TOLERANCE
    assert np.ptp(scan, axis=0).max() > 0.5  # the images do differ


def test_a_graph_that_differs_is_not_kept(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ONNX Runtime gives other scores, it is an error, and no file stays."""
    folder = tmp_path / "model"
    shutil.copytree(exported.folder, folder, ignore=shutil.ignore_patterns("*.onnx*"))

    def unfaithful(model: torch.nn.Module, example: torch.Tensor, path: Path) -> None:
        shutil.copy(exported.folder / "model.onnx", path)
        with torch.no_grad():
            model.model.classifier.bias += torch.tensor([1.0, 0, 0, 0, 0])

    monkeypatch.setattr("training.fit.onnx_export._export", unfaithful)
    with pytest.raises(ModelError, match=r"differ by up to .*; it was not kept"):
        onnx_export.export_onnx(folder)
    assert not list(folder.glob("*.onnx*")) and not list(folder.glob(".*.onnx*"))


def test_on_the_command_line(exported: Exported, tmp_path: Path) -> None:
    """`nsfwscan-train export DIR` says how well the graph agrees, or why there is none."""
    result = CliRunner().invoke(main, ["export", str(tmp_path / "nothing")])
    assert result.exit_code == 1 and "no such model directory" in result.output
    assert exported.exit_code == 0 and "agrees with the checkpoint within" in exported.said
    assert f"--model {exported.folder}/model.onnx" in exported.said
    assert (exported.folder / "model.onnx").stat().st_size > 50_000


def moved(exported: Exported, folder: Path) -> Path:
    """Copy the graph and its sidecar alone, as they are deployed, and return the graph."""
    folder.mkdir()
    for name in ("model.onnx", "model.onnx.json"):
        shutil.copy(exported.folder / name, folder)
    return folder / "model.onnx"


def test_a_scan_takes_the_graph(exported: Exported, demo: tuple[Path, list[DemoObject]], tmp_path: Path) -> None:
    """`--model DIR/model.onnx`, or a folder that holds it and its sidecar alone, scores photographs as the checkpoint
    does, within 1e-4; the report names the temperature."""
    graph = moved(exported, tmp_path / "deployed")
    found = {}
    for name, uri in {"torch": exported.folder, "graph": graph, "folder": graph.parent}.items():
        model = {"uri": str(uri), "dtype": "float32"}
        result = nsfwscan.scan([demo[0] / "neutral"], tmp_path / name, model=model)
        rows = [row for file in result.report_files for row in pq.read_table(file).to_pylist()]
        found[name] = {row["uri"]: [row[f"score_{label}"] for label in FIVE] for row in rows if row["label"]}
        assert result.record.model.temperature == 1.7
        assert result.record.model.name == {"torch": "checkpoint", "graph": "deployed.onnx", "folder": "deployed"}[name]
    assert len(found["torch"]) >= 8 and np.ptp(list(found["torch"].values()), axis=0).max() > 0.5
    for name in ("graph", "folder"):
        assert found[name].keys() == found["torch"].keys()
        assert np.allclose([found[name][uri] for uri in found["torch"]], list(found["torch"].values()), atol=1e-4)


def test_a_graph_from_a_bucket(
    exported: Exported, moto: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph on S3, or its prefix, is fetched with its sidecar alone, and is the same model."""
    monkeypatch.setenv("NSFWSCAN_CACHE", str(tmp_path / "cache"))
    client = boto3.client("s3")
    client.create_bucket(Bucket="graphs")
    here = resolve(ModelConfig(uri=str(moved(exported, tmp_path / "vit"))), StorageConfig())
    for name in ("model.onnx", "model.onnx.json"):
        client.upload_file(str(tmp_path / "vit" / name), "graphs", f"vit/{name}")
    client.put_object(Bucket="graphs", Key="vit/notes.bin", Body=b"x")
    for uri in ("s3://graphs/vit/model.onnx", "s3://graphs/vit"):
        spec = resolve(ModelConfig(uri=uri), StorageConfig())
        assert (spec.digest, spec.labels, spec.backend) == (here.digest, FIVE, "onnx")
        load(spec, StorageConfig(), Hardware("cpu", "float32", 2, 1))
    assert {path.name for path in (tmp_path / "cache").rglob("*") if path.suffix != ".lock" and path.is_file()} == {
        "model.onnx",
        "model.onnx.json",
    }


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        (None, r"model\.onnx\.json is missing beside it.*copy it from where the graph was exported"),
        ({"labels": ["a", "b"]}, "no sidecar of an exported checkpoint"),
        ({"format": FORMAT, "sha256": "0" * 64}, r"that of another graph.*nsfwscan-train export"),
        ({"labels": None}, "names no labels"),
        ({"preprocessor": None}, "does not say how images are prepared"),
        ({"temperature": -1}, "the temperature is -1, not a number above 0"),
        ({"labels": ["neutral", "porn"]}, "does not fit images of 64 x 64 pixels and 2 labels"),
    ],
)
def test_a_foreign_sidecar_is_refused(
    exported: Exported, tmp_path: Path, sidecar: dict[str, object] | None, said: str
) -> None:
    """A graph without its own, whole sidecar is refused by name, with what to do: nothing about it is guessed."""
    graph = moved(exported, tmp_path / "foreign")
    beside = sidecar_of(graph)
    own = json.loads(beside.read_text())
    beside.unlink()
    if sidecar is not None:
        beside.write_text(json.dumps(sidecar if sidecar == {"labels": ["a", "b"]} else own | sidecar))

    def loaded() -> None:
        load(resolve(ModelConfig(uri=str(graph)), StorageConfig()), StorageConfig(), Hardware("cpu", "float32", 1, 1))

    with pytest.raises(ModelError, match=said) as refused:
        loaded()
    assert str(graph) in str(refused.value)


def test_a_graph_is_no_checkpoint_to_export_or_run_in_halves(exported: Exported, tmp_path: Path) -> None:
    """What has no weights for torch is neither exported again nor run in half precision; a graph that is absent is named."""
    graph = moved(exported, tmp_path / "alone")
    with pytest.raises(ModelError, match="give the checkpoint that it was made of"):
        onnx_export.export_onnx(graph.parent)
    spec = resolve(ModelConfig(uri=str(graph)), StorageConfig())
    with pytest.raises(ModelError, match="runs in float32 only"):
        choose_hardware(spec, ModelConfig(dtype="float16"), threads=1)
    with pytest.raises(ModelError, match=r"there is no absent\.onnx"):
        resolve(ModelConfig(uri=str(tmp_path / "absent.onnx")), StorageConfig())
