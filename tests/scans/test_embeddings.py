"""Detectors that give vectors: `embeddings/`, what carries them over and forgets them, and how they are read."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import nsfwscan
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, ModelError
from nsfwscan.models.exported import describe, sidecar_of
from nsfwscan.models.packs.cut import cut
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.reports.effects_text import describe_effects
from nsfwscan.reports.store_query import query_store
from nsfwscan.runs.embeddings import Embeddings, embeddings_of
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.schema import EMBEDDING_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.workflows.forget import forget
from nsfwscan.workflows.scan import ScanResult
from nsfwscan.workflows.why import explain_object

SIDE = 8
RED, GREEN = (255, 0, 0), (0, 255, 0)


def transformer() -> bytes:
    """A graph over [batch, 3, 8, 8] with a tensor `tokens` [batch, 2, 3], whose first token is the mean colour and the
    second ones; and a head beyond it."""
    nodes = [
        helper.make_node("ReduceMean", ["images", "edges"], ["first"], keepdims=0),
        helper.make_node("Unsqueeze", ["first", "one"], ["token"]),
        helper.make_node("Add", ["token", "offsets"], ["tokens"]),
        helper.make_node("MatMul", ["tokens", "head"], ["scores"]),
    ]
    given = {
        "edges": np.array([2, 3]),
        "one": np.array([1]),
        "offsets": np.array([[[0, 0, 0], [1, 1, 1]]], np.float32),
        "head": np.ones((3, 5), np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "transformer",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2, 5])],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 8
    return bytes(model.SerializeToString(deterministic=True))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported graph that gives the mean colour as a vector."""
    graph = tmp_path_factory.mktemp("backbone") / "model.onnx"
    graph.write_bytes(cut(transformer(), "tokens", 3))
    preprocessor = {"size": {"height": SIDE, "width": SIDE}, "resample": 2, "image_mean": 0, "image_std": 1}
    sidecar = {**describe(graph, (), preprocessor, None, "-"), "gives": "embedding", "dimensions": 3}
    sidecar_of(graph).write_text(json.dumps(sidecar))
    return graph


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red picture, a copy, a green one, pages of both colours, and a file that is no image."""
    folder = tmp_path_factory.mktemp("media")
    Image.new("RGB", (40, 40), RED).save(folder / "red.png")
    shutil.copy(folder / "red.png", folder / "copy.png")
    Image.new("RGB", (40, 40), GREEN).save(folder / "green.png")
    red, green = (Image.new("RGB", (40, 40), colour) for colour in (RED, GREEN))
    red.save(folder / "pages.tiff", save_all=True, append_images=[green])
    (folder / "notes.txt").write_text("no image")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


def night(media: Path, out: Path, run_id: str, backbone: Path, **further: Any) -> ScanResult:
    given = {"uri": str(backbone), **further.pop("look", {})}
    return nsfwscan.scan(media, out, run_id=run_id, detectors={"look": given, **further.pop("beside", {})}, **further)


@pytest.fixture(scope="module")
def store(media: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reports")
    night(media, out, "1", backbone)
    return out


def at(out: Path, run_id: str = "1") -> Run:
    return Run(Store.at(str(out), StorageConfig()), run_id)


def vectors(found: list[Embeddings]) -> dict[tuple[str, int], list[float]]:
    return {
        (os.path.basename(uri), int(view)): vector.tolist()
        for one in found
        for uri, view, vector in zip(one.uris, one.views, one.vectors, strict=True)
    }


def findings(run: Run) -> list[str]:
    return [one.text for one in verify(run)]


ALL = {
    ("red.png", 0): [1, 0, 0], ("copy.png", 0): [1, 0, 0], ("green.png", 0): [0, 1, 0], ("pages.tiff", 0): [1, 0, 0],
    ("pages.tiff", 1): [0, 1, 0],
}  # fmt: skip


def test_each_view_has_its_vector(store: Path, media: Path) -> None:
    """Of length 1, with its object, its bytes and its view; the row says how many; what was not looked at has none."""
    [found] = embeddings_of(at(store))
    assert vectors([found]) == ALL and found.vectors.dtype == np.float32
    assert len(set(found.sha256s)) == 3 and all(len(one) == 64 for one in found.sha256s)
    [path] = (store / "runs" / "1" / "embeddings").iterdir()
    assert pq.read_table(path).schema.equals(EMBEDDING_SCHEMA)
    rows = [row for path in (store / "runs" / "1" / "report").iterdir() for row in pq.read_table(path).to_pylist()]
    numbers = {os.path.basename(row["uri"]): signals_of_row(row["signals"]).get("vectors.look") for row in rows}
    assert numbers == {"red.png": 1, "copy.png": 1, "green.png": 1, "pages.tiff": 2, "notes.txt": None}
    [look] = at(store).record().detectors or ()
    assert (look.looked_at, look.not_looked_at, look.boxes, look.vectors) == (4, {"unreadable": 1}, 0, 5)
    said = dict(describe_effects(at(store).record()))
    assert said["detector"] == "look looked at 4 of 5, not at 1 unreadable; 5 vectors, in embeddings/"
    why = explain_object(Store.at(str(store), StorageConfig()), str(media / "pages.tiff")).detectors
    assert why == {"look": "2 vectors, in embeddings/"} and findings(at(store)) == []


def test_they_are_carried_over_and_asked_in_sql(media: Path, backbone: Path, store: Path, tmp_path: Path) -> None:
    """A second night has the same without looking; a delta leaves them where they are; lost ones are told."""
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    assert night(media, tmp_path, "2", backbone).record.plan.actions["carried"] == 5
    assert vectors(list(embeddings_of(at(tmp_path, "2"), "look"))) == ALL and findings(at(tmp_path, "2")) == []
    night(media, tmp_path, "3", backbone, report={"mode": "delta"})
    assert not list(embeddings_of(at(tmp_path, "3"))) and findings(at(tmp_path, "3")) == []
    like = "SELECT count(*) AS n FROM embeddings WHERE array_cosine_similarity(vector::FLOAT[3], [1, 0, 0]::FLOAT[3]) > 0.9"
    assert query_store(Store.at(str(tmp_path), StorageConfig()), like).to_pylist() == [{"n": 6}]
    for path in (tmp_path / "runs" / "1" / "embeddings").iterdir():
        path.unlink()
    assert any("embeddings/part-" in text and "absent" in text for text in findings(at(tmp_path)))


def test_they_must_balance(store: Path, tmp_path: Path) -> None:
    """A record that leaves them out is found out."""
    shutil.copytree(store / "runs" / "1", tmp_path / "runs" / "1")
    place = tmp_path / "runs" / "1" / "run.json"
    record = json.loads(place.read_text())
    record["files"] = [file for file in record["files"] if not file["path"].startswith("embeddings/")]
    place.write_text(json.dumps(record))
    assert any("4 objects have other numbers of rows in embeddings/" in text for text in findings(at(tmp_path)))


def test_a_forgotten_object_has_none(store: Path, tmp_path: Path) -> None:
    """Its row is a tombstone without a vector or a digest, which no reader sees, and the store is sound."""
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    [uri] = [uri for one in embeddings_of(at(store)) for uri in one.uris if uri.endswith("/green.png")]
    forget(Store.at(str(tmp_path), StorageConfig()), "me", "asked", uri=uri)
    assert all("written anew since" in text for text in findings(at(tmp_path)))
    [path] = (tmp_path / "runs" / "1" / "embeddings").iterdir()
    [gone] = [row for row in pq.read_table(path).to_pylist() if row["uri"].startswith("forgotten:")]
    assert not any(gone[name] for name in ("sha256", "detector", "vector"))
    left = {name: vector for name, vector in ALL.items() if name[0] != "green.png"}
    assert vectors(list(embeddings_of(at(tmp_path)))) == left


def test_a_gate_and_several_detectors(media: Path, backbone: Path, tmp_path: Path) -> None:
    """What a gate holds back has no vector; of several detectors, a reader names one."""
    beside = {"all": {"uri": str(backbone)}}
    night(media, tmp_path, "1", backbone, look={"when": "frames > 1", "shadow": 0.0}, beside=beside)
    assert len(vectors(list(embeddings_of(at(tmp_path), "look")))) == 2
    assert vectors(list(embeddings_of(at(tmp_path), "all"))) == ALL and findings(at(tmp_path)) == []
    with pytest.raises(ConfigError, match="has embeddings of all and of look: name one of them"):
        list(embeddings_of(at(tmp_path)))


def test_what_gives_no_vectors_is_refused(media: Path, backbone: Path, tmp_path: Path) -> None:
    """A vector is no category; dimensions must be said, and be the graph's; a graph is cut at a tensor that it has."""
    with pytest.raises(ModelError, match="gives embedding, and no probabilities of categories"):
        nsfwscan.scan(media, tmp_path / "out", model={"uri": str(backbone)})
    other = tmp_path / "model.onnx"
    shutil.copy(backbone, other)
    sidecar = json.loads(sidecar_of(backbone).read_text())
    for wrong, said in ((0, "does not say how long its vectors are"), (4, "vectors of 4 numbers: export it again")):
        sidecar_of(other).write_text(json.dumps({**sidecar, "dimensions": wrong}))
        with pytest.raises(ModelError, match=said):
            night(media, tmp_path / "out", "1", other)
    with pytest.raises(ModelError, match="has no tensor nothing"):
        cut(transformer(), "nothing", 3)
    with pytest.raises(ModelError, match="no ONNX graph that can be read"):
        cut(b"no graph", "tokens", 3)
    assert len(onnx.load_from_string(cut(transformer(), "tokens", 3)).graph.initializer) == 4  # without the head's
