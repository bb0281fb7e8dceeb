"""Write the directory that `nsfwscan scan --model DIR` takes, with a record of everything that made it.

It holds `model.safetensors`, `config.json` with the labels by name, `preprocessor_config.json`, `temperature.json`
(where validation determines one), `learned.parquet`, `model_card.md`, `model.onnx` with its sidecar (where asked), and,
last of all, `training.json`: without it the training is not finished. Before anything is written, the directory is
loaded as a scan would load it; one that does not give the model's own scores is a `ModelError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerState

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.errors import ModelError
from nsfwscan.models.checkpoint import TEMPERATURE
from nsfwscan.models.learned import LEARNED
from nsfwscan.models.registry import load, resolve
from nsfwscan.models.spec import Hardware
from nsfwscan.models.torch_backend import Normaliser
from nsfwscan.storage.store import Store, to_json
from training.fit.backbone import Backbone
from training.fit.checkpoints import upload
from training.fit.model_card import model_card
from training.fit.onnx_export import export_onnx

RECORD = "training.json"
CONFIG = "config.json"
_TOLERANCE = 1e-4
"""Largest difference of a probability between the model in memory and the directory as a scan loads it."""


@dataclass(frozen=True)
class Trained:
    """A trained model, and its figures."""

    model: Any
    backbone: Backbone
    labels: list[str]
    metrics: dict[str, Any]
    """By split, as `training.fit.metrics.summarise` gives them."""
    calibration: dict[str, Any]
    """As `training.evaluate.calibration.calibration` gives it."""
    state: TrainerState
    hardware: dict[str, Any]


def ship(
    trained: Trained,
    probe: NDArray[np.uint8],
    learned: bytes,
    store: Store,
    record: dict[str, Any],
    folder: Path,
    say: Callable[[str], None],
) -> None:
    """Write the directory. Raises ModelError where the directory's scores are not the model's; StoreError where it
    cannot be written.

    Args:
        probe: pixels [images, H, W, 3] on which the directory's scores are compared with the model's.
        learned: content of `learned.parquet`.
        record: the driver's part of training.json.
        folder: on this node, for the files before they are uploaded.
    """
    model = trained.model.to("cpu").float().eval()
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes(to_json(trained.backbone.preprocessor))
    (folder / LEARNED).write_bytes(learned)
    files = ["model.safetensors", "preprocessor_config.json", LEARNED, "model_card.md", CONFIG]
    if trained.calibration["temperature"] is not None:
        (folder / TEMPERATURE).write_bytes(to_json(_temperature(trained, record)))
        files.insert(0, TEMPERATURE)
    spec = resolve(ModelConfig(uri=str(folder)), StorageConfig())
    _check_scores(trained, model, probe, folder)
    onnx = None
    if record["settings"]["export_onnx"]:
        onnx = export_onnx(folder)
        say(f"model.onnx agrees with the checkpoint within {onnx['largest_difference']:.1e}")
        files[:0] = [onnx["file"], onnx["sidecar"]]
    whole = record | {
        "digest": spec.digest,
        "labels": trained.labels,
        "hardware": trained.hardware,
        "metrics": trained.metrics,
        "calibration": trained.calibration,
        "best": {"step": trained.state.best_global_step, "value": trained.state.best_metric},
        "steps": trained.state.global_step,
        "history": trained.state.log_history,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "onnx": onnx,
    }
    (folder / "model_card.md").write_text(model_card(whole), encoding="utf-8")
    for name in files:
        upload(store, name, folder / name)
    store.write(RECORD, to_json(whole))


def _temperature(trained: Trained, record: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `temperature.json`: the temperature, and what it was fitted on."""
    found, images = trained.calibration, trained.metrics["validation"]["images"]
    measured = {side: {name: found[side][name] for name in ("ece", "nll")} for side in ("before", "after")}
    fitted_on = {"split": "validation", "images": images, "fingerprint": record["data"]["fingerprint"]}
    return {"temperature": found["temperature"], "fitted_on": fitted_on, "on_test": measured}


def _check_scores(trained: Trained, model: Any, probe: NDArray[np.uint8], folder: Path) -> None:
    """Raise ModelError where a scan with the directory would give other scores than the model in memory."""
    spec = resolve(ModelConfig(uri=str(folder)), StorageConfig())
    classify = load(spec, StorageConfig(), Hardware("cpu", "float32", len(probe), torch.get_num_threads()))
    with torch.inference_mode():
        values = Normaliser(trained.backbone.normalisation, "cpu")(probe)
        temperature = trained.calibration["temperature"] or 1.0
        ours = (model(pixel_values=values).logits / temperature).softmax(-1).numpy()
    if list(spec.labels) != trained.labels or not np.allclose(classify(probe), ours, atol=_TOLERANCE):
        raise ModelError(
            "the checkpoint as it would be shipped gives other scores than the model that was trained; its "
            f"architecture, {type(model).__name__}, does not save whole: choose another backbone"
        )
