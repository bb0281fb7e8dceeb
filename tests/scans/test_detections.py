"""Boxes and gates from scan to report: boxes are counted, verified and carried over, and what was not seen is unknown."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

import nsfwscan
from nsfwscan.config import StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.exported import describe, sidecar_of
from nsfwscan.policy.signals import signals_of_row
from nsfwscan.reports.effects_text import describe_effects
from nsfwscan.runs.run import Run
from nsfwscan.runs.verify import verify
from nsfwscan.schema import DETECTION_SCHEMA
from nsfwscan.storage.store import Store
from nsfwscan.workflows.forget import forget
from nsfwscan.workflows.scan import ScanResult
from nsfwscan.workflows.why import explain_object
from tests.boxes_graph import BOX_LABELS, SIDE, boxes_graph

RED, GREEN, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 0)


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40)) -> Image.Image:
    return Image.new("RGB", size, colour)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported graph that gives boxes, in a letterbox."""
    graph = tmp_path_factory.mktemp("detector") / "model.onnx"
    graph.write_bytes(boxes_graph())
    size = {"height": SIDE, "width": SIDE}
    preprocessor = {"size": size, "resample": 2, "image_mean": 0, "image_std": 1, "letterbox": "start"}
    sidecar = {**describe(graph, BOX_LABELS, preprocessor, None, "-"), "gives": "boxes"}
    sidecar_of(graph).write_text(json.dumps(sidecar))
    return graph


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red, a green and a black picture, a copy, a wide one, pages of two sizes, and a file that is no image."""
    folder = tmp_path_factory.mktemp("media")
    for name, colour in (("red", RED), ("green", GREEN), ("black", BLACK)):
        picture(colour).save(folder / f"{name}.png")
    shutil.copy(folder / "red.png", folder / "copy.png")
    picture(RED, (80, 40)).save(folder / "wide.png")
    picture(RED, (40, 40)).save(folder / "pages.tiff", save_all=True, append_images=[picture(GREEN, (40, 80))])
    (folder / "notes.txt").write_text("no image")
    for path in folder.iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    return folder


def night(media: Path, out: Path, run_id: str, detector: Path, **further: Any) -> ScanResult:
    given = {"uri": str(detector), **further.pop("box", {})}
    return nsfwscan.scan(media, out, run_id=run_id, detectors={"box": given}, **further)


@pytest.fixture(scope="module")
def store(media: Path, detector: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first night."""
    out = tmp_path_factory.mktemp("reports")
    night(media, out, "1", detector)
    return out


def read(out: Path, run_id: str) -> tuple[dict[str, dict[str, float]], dict[str, list[dict[str, Any]]]]:
    """The signals of the report's rows, and the rows of boxes, by the names of their objects."""
    folder = out / "runs" / run_id
    rows = [row for path in folder.glob("report/*.parquet") for row in pq.read_table(path).to_pylist()]
    boxes: dict[str, list[dict[str, Any]]] = {}
    for path in folder.glob("detections/*.parquet"):
        table = pq.read_table(path)
        assert table.schema.equals(DETECTION_SCHEMA)
        for row in table.to_pylist():
            boxes.setdefault(os.path.basename(row.pop("uri")), []).append(row)
    return {os.path.basename(row["uri"]): signals_of_row(row["signals"]) for row in rows}, boxes


def findings(out: Path, run_id: str) -> list[str]:
    return [one.text for one in verify(Run(Store.at(str(out), StorageConfig()), run_id))]


def test_boxes_have_their_rows(store: Path) -> None:
    """Each box with its label, score and place in the view; the row has their number, and the highest score of every
    label. What was looked at without a find has zeros, what was not has no such signal."""
    signals, boxes = read(store, "1")
    assert {name: of.get("boxes.box") for name, of in signals.items()} == {
        "red.png": 1, "copy.png": 1, "green.png": 1, "black.png": 0, "wide.png": 1, "pages.tiff": 2, "notes.txt": None,
    }  # fmt: skip
    assert sorted(boxes) == ["copy.png", "green.png", "pages.tiff", "red.png", "wide.png"]
    [red] = boxes["red.png"]
    assert red == {
        "view": 0,
        "detector": "box",
        "label": "red",
        "score": 1.0,
        "x": 0.125,
        "y": 0.125,
        "w": 0.25,
        "h": 0.5,
    }
    assert signals["red.png"]["box.red"] == 1 and signals["red.png"]["box.green"] == 0
    assert signals["black.png"]["box.red"] == 0 and "box.red" not in signals["notes.txt"]
    assert findings(store, "1") == []


def test_places_are_shares_of_the_view(store: Path) -> None:
    """Of its own width and height, also where pages differ in size: the letterbox's black is no part of it."""
    _, boxes = read(store, "1")
    [wide] = boxes["wide.png"]  # 16 x 8 of the letterbox; half of its red is black
    assert (wide["x"], wide["w"], wide["y"], wide["h"]) == (0.125, 0.25, 0.25, 0.75)
    first, second = boxes["pages.tiff"]
    assert (first["view"], first["label"], first["w"], first["h"]) == (0, "red", 0.25, 0.5)
    assert (second["view"], second["label"], second["w"], second["h"]) == (1, "green", 0.5, 0.5)


def test_the_balance_of_a_detector(store: Path) -> None:
    """The record and the summary say how many rows it looked at, and why not at the others."""
    record = Run(Store.at(str(store), StorageConfig()), "1").record()
    assert record.detectors is not None
    [box] = record.detectors
    assert (box.looked_at, box.not_looked_at, box.boxes, box.gate) == (6, {"unreadable": 1}, 6, None)
    said = dict(describe_effects(record))
    assert said["detector"] == "box looked at 6 of 7, not at 1 unreadable; 6 boxes, in detections/"


def test_a_single_image_has_its_boxes(media: Path, detector: Path) -> None:
    """`classify` gives them as a run has them."""
    [verdict] = nsfwscan.classify(str(media / "red.png"), detectors={"box": {"uri": str(detector)}})
    assert [(one["label"], one["w"], one["h"]) for one in verdict.detections] == [("red", 0.25, 0.5)]


def test_boxes_are_carried_over_and_replayed(media: Path, detector: Path, store: Path, tmp_path: Path) -> None:
    """A second night has the same boxes without looking; a delta leaves them where they are; lost ones are told."""
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    result = night(media, tmp_path, "2", detector)
    assert result.record.plan.actions["carried"] == 7
    assert read(tmp_path, "2") == read(tmp_path, "1") and findings(tmp_path, "2") == []
    night(media, tmp_path, "3", detector, report={"mode": "delta"})
    assert read(tmp_path, "3") == ({}, {}) and findings(tmp_path, "3") == []
    for path in (tmp_path / "runs" / "1" / "detections").iterdir():
        path.unlink()
    assert any("detections/part-" in text and "absent" in text for text in findings(tmp_path, "1"))


def test_boxes_must_balance(store: Path, tmp_path: Path) -> None:
    """A file of boxes with fewer rows, under the digest that a record gives it, is still found out."""
    shutil.copytree(store / "runs" / "1", tmp_path / "runs" / "1")
    folder = tmp_path / "runs" / "1"
    record = json.loads((folder / "run.json").read_text())
    record["files"] = [file for file in record["files"] if not file["path"].startswith("detections/")]
    (folder / "run.json").write_text(json.dumps(record))
    assert any("5 objects have other numbers of rows in detections/" in text for text in findings(tmp_path, "1"))


def test_a_gate_holds_back(media: Path, detector: Path, tmp_path: Path) -> None:
    """Only what its condition wants is looked at; the rest is unknown, but for the shadow sample, whose misses are
    counted by what the policy would have decided without the detector's word."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nrules:\n  - {name: red, when: \"signals['box.red'] > 0.5\", decision: review}\notherwise: {decision: allow}\n"
    )
    box = {"when": "width = 80", "shadow": 0.0}
    result = night(media, tmp_path / "none", "1", detector, box=box, policy=str(policy))
    signals, boxes = read(tmp_path / "none", "1")
    assert list(boxes) == ["wide.png"] and "box.red" not in signals["red.png"]
    assert {name: of.get("gate.box") for name, of in signals.items()} == {
        "red.png": 0, "copy.png": 0, "green.png": 0, "black.png": 0, "wide.png": 1, "pages.tiff": 0, "notes.txt": None,
    }  # fmt: skip
    [found] = result.record.detectors or ()
    assert (found.looked_at, found.not_looked_at) == (1, {"gate": 5, "unreadable": 1})
    assert found.gate is not None and found.gate.miss_rate is None
    assert "what it missed is unknown" in dict(describe_effects(result.record))["gate"]

    result = night(media, tmp_path / "all", "1", detector, box={**box, "shadow": 1.0}, policy=str(policy))
    [found] = result.record.detectors or ()
    assert found.gate is not None and found.looked_at == 6
    gate = found.gate
    assert (gate.let_through, gate.held_back, gate.shadow_sample, gate.misses) == (1, 4, 4, 2)  # the copy counts once
    assert gate.miss_rate == 0.5 and findings(tmp_path / "all", "1") == []


def test_why_says_what_detectors_said(media: Path, store: Path) -> None:
    """The highest numbers and the boxes of what was looked at; of the rest that it was not."""
    place = Store.at(str(store), StorageConfig())
    assert explain_object(place, str(media / "red.png")).detectors == {"box": "red 1, green 0; 1 boxes, in detections/"}
    assert explain_object(place, str(media / "notes.txt")).detectors == {"box": "did not look"}


def test_a_forgotten_object_has_no_boxes(store: Path, tmp_path: Path) -> None:
    """Its boxes stay as tombstones, without a score or a place, and the store is sound."""
    shutil.copytree(store, tmp_path, dirs_exist_ok=True)
    [uri] = [path for path in _uris(tmp_path) if path.endswith("/red.png")]
    forget(Store.at(str(tmp_path), StorageConfig()), "me", "asked", uri=uri)
    assert all("written anew since" in text for text in findings(tmp_path, "1"))
    _, boxes = read(tmp_path, "1")
    [gone] = [boxes[name][0] for name in boxes if not name.endswith((".png", ".tiff"))]
    assert not any(gone[name] for name in ("detector", "score", "x", "w"))


def _uris(out: Path) -> set[str]:
    found = (pq.read_table(path)["uri"].to_pylist() for path in (out / "runs" / "1").glob("detections/*.parquet"))
    return {uri for uris in found for uri in uris}


def test_a_model_must_give_probabilities(media: Path, detector: Path, tmp_path: Path) -> None:
    """A detector of boxes is no `--model`; and a graph whose output does not fit its labels is refused."""
    with pytest.raises(ModelError, match="gives boxes, and no probabilities of categories: name it as a detector"):
        nsfwscan.scan(media, tmp_path / "out", model={"uri": str(detector)})
    other = tmp_path / "model.onnx"
    shutil.copy(detector, other)
    sidecar = json.loads(sidecar_of(detector).read_text())
    sidecar_of(other).write_text(json.dumps({**sidecar, "labels": ["red", "green", "blue"]}))
    with pytest.raises(ModelError, match="3 labels: export it again"):
        night(media, tmp_path / "out", "1", other)
    sidecar_of(other).write_text(json.dumps({**sidecar, "gives": "smells"}))
    with pytest.raises(ModelError, match="says that it gives 'smells'; known are probabilities, boxes"):
        night(media, tmp_path / "out", "2", other)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"looked_at": 7}, "of the detector box the rows say .*'looked_at': 6.*but run.json says .*'looked_at': 7"),
        ({"not_looked_at": {}}, "'not_looked_at': {'unreadable': 1}"),
        ({"boxes": 5}, "detections/ has 6 rows, but run.json counts 5"),
        ({"name": "other"}, "counts for a detector 'other', which the run did not have"),
        (None, r"counts for the detectors \[\], but the run had \['box'\]"),
    ],
)
def test_what_a_record_says_of_detectors_is_checked(
    store: Path, tmp_path: Path, changed: dict[str, Any] | None, why: str
) -> None:
    """Against the rows and the files, whatever digests an edit leaves."""
    shutil.copytree(store / "runs" / "1", tmp_path / "runs" / "1")
    path = tmp_path / "runs" / "1" / "run.json"
    record = json.loads(path.read_text())
    record["detectors"] = [] if changed is None else [{**record["detectors"][0], **changed}]
    path.write_text(json.dumps(record))
    assert any(re.search(why, text) for text in findings(tmp_path, "1"))
