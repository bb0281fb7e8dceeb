"""Do the work of a training worker, from the data to the checkpoint that the first worker ships.

It goes on from the newest checkpoint in OUT. A broken set-up (other data on this node, a full storage, a GPU too small)
is a `NsfwscanError`; finished work is kept.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ModelError, RunConflict, SourceError
from nsfwscan.models.learned import learned_by, learned_parquet
from nsfwscan.storage.store import Store
from nsfwscan.text import plural
from training.data.dataset import Prepared
from training.evaluate.calibration import LEAST_IMAGES, Scored, calibration
from training.fit.backbone import Backbone, find_backbone, load_with_new_head
from training.fit.callback import Tell, TrainingCallback, agreed, is_over, rank, world
from training.fit.checkpoints import Checkpoint, Checkpoints, Damaged
from training.fit.config import TrainConfig
from training.fit.metrics import summarise
from training.fit.ship import Trained, ship
from training.fit.trainer import WEIGHTS, ImageTrainer, arguments_for, balanced_weights, choose_precision
from training.fit.transforms import Augmentation, Pixels


@dataclass(frozen=True)
class TrainJob:
    """Job that all workers share."""

    config: TrainConfig
    storage: StorageConfig
    prepare: Callable[[], Prepared]
    """Prepares the data on each worker; on the driver's node, from the driver's cache."""
    fingerprint: str
    """Of the data, as the driver saw them."""
    backbone_digest: str
    attempt: str
    record: dict[str, Any]
    """Driver's part of training.json."""

    @property
    def store(self) -> Store:
        """Store of the checkpoint."""
        return Store.at(self.config.out, self.storage)


def work(job: TrainJob, tell: Tell, *, threads: int) -> None:
    """Train, evaluate and ship, on so many `threads` of this worker's torch; return when the checkpoint is in its
    place. Raises NsfwscanError."""
    torch.set_num_threads(threads)
    prepared = job.prepare()
    if prepared.fingerprint != job.fingerprint:
        raise SourceError(
            "the data on this worker are not those that the training began with; were they changed since?"
        )
    backbone = find_backbone(job.config.backbone, job.storage)
    if backbone.digest != job.backbone_digest:
        raise ModelError(f"{backbone.uri}: the weights on this worker are not those that the training began with")
    scratch: AbstractContextManager[str] = tempfile.TemporaryDirectory(prefix="nsfwscan-train-")
    with scratch as folder:
        _Worker(job, tell, prepared, backbone, Path(folder)).run()


class _Worker:
    def __init__(self, job: TrainJob, tell: Tell, prepared: Prepared, backbone: Backbone, scratch: Path) -> None:
        self._job, self._tell, self._prepared = job, tell, prepared
        self._backbone, self._scratch = backbone, scratch
        self._labels = [str(label) for label in prepared.labels]
        self._checkpoints = Checkpoints(job.store, job.attempt)
        self._precision = agreed(lambda: choose_precision(job.config))

    def run(self) -> None:
        """Train, evaluate, ship."""
        trainer = self._trainer()
        state = self._train(trainer)
        self._load_best(trainer, state)
        trainer.compute_in_full()
        found = {name: self._evaluate(trainer, name) for name in ("validation", "test")}
        if rank() == 0:
            self._tell.check_wanted()
            metrics = {name: self._summary(scored) for name, scored in found.items()}
            calibrated = calibration(found["validation"], found["test"], LEAST_IMAGES)
            hardware = self._hardware(trainer)
            trained = Trained(trainer.model, self._backbone, self._labels, metrics, calibrated, state, hardware)
            probe = [
                self._pixels("validation")[i]["pixel_values"].numpy() for i in range(min(8, self._count("validation")))
            ]
            place = self._job.store, self._job.record, self._scratch / "shipped"
            ship(trained, np.stack(probe), self._learned(), *place, self._tell.say)
            self._checkpoints.clear()

    def _learned(self) -> bytes:
        """Return the list of what the checkpoint learned from, and its backbone before it, if that says so."""
        contents = {split: self._prepared.splits[split]["sha256"] for split in ("train", "validation")}
        before = learned_by([self._backbone.uri], self._job.storage).contents
        return learned_parquet({**contents, "backbone": before.to_pylist()})

    def _count(self, split: str) -> int:
        return len(self._prepared.splits[split])

    def _pixels(self, split: str, augmentation: Augmentation | None = None) -> Pixels:
        return Pixels(
            self._prepared.splits[split],
            self._backbone.geometry,
            max_pixels=self._job.config.max_pixels,
            augmentation=augmentation,
        )

    def _trainer(self) -> ImageTrainer:
        config = self._job.config
        model, lines = load_with_new_head(self._backbone, self._labels, config.seed)
        facts = {"precision": self._precision, "workers": world()}
        callback = TrainingCallback(config, self._checkpoints, self._scratch, facts, self._tell)
        weights = None
        if config.class_weights == "balanced":
            labels = np.asarray(self._prepared.splits["train"]["label"], np.int64)
            weights = balanced_weights(np.bincount(labels, minlength=len(self._labels)).tolist())
        trainer = ImageTrainer(
            model,
            config,
            arguments_for(config, self._scratch, self._count("train"), self._precision),
            normalisation=self._backbone.normalisation,
            train=self._pixels("train", Augmentation(config.seed) if config.augment else None),
            validation=self._pixels("validation"),
            labels=self._labels,
            class_weights=weights,
            callbacks=[callback],
        )
        callback.order = trainer.order
        if rank() == 0:
            for line in [*lines, self._about(trainer)]:
                self._tell.say(line)
        return trainer

    def _about(self, trainer: ImageTrainer) -> str:
        parameters = list(trainer.model.parameters())
        trained = sum(p.numel() for p in parameters if p.requires_grad)
        return (
            f"{trained:,} of {sum(p.numel() for p in parameters):,} weights are trained in {self._precision} on "
            f"{trainer.args.device} by {plural(world(), 'worker')}, on {self._count('train'):,} images"
        )

    def _train(self, trainer: ImageTrainer) -> TrainerState:
        """Go on from the newest checkpoint, or begin."""
        folder = self._resumed()
        if folder is None:
            trainer.train()
            return trainer.state
        state: TrainerState = TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))
        if is_over(state, self._job.config):
            return state
        trainer.train(resume_from_checkpoint=str(folder))
        return trainer.state

    def _resumed(self) -> Path | None:
        """Download the newest complete checkpoint to this worker's disk."""
        folder = self._scratch / "resumed"
        found: Checkpoint | None = agreed(lambda: self._newest(folder))
        if found is None:
            return None
        if found.facts["precision"] != self._precision:
            raise RunConflict(
                f"{self._job.config.out}: this training was begun in {found.facts['precision']}, and this hardware "
                f"would go on in {self._precision}: give --precision {found.facts['precision']}, or a new --out"
            )
        if rank() > 0:
            self._checkpoints.get(found, folder)
        return folder

    def _newest(self, folder: Path) -> Checkpoint | None:
        for found in self._checkpoints.newest_first():
            try:
                self._checkpoints.get(found, folder)
            except Damaged as damage:
                self._tell.say(f"{damage}: an older one is taken")
                continue
            self._tell.say(f"going on after step {found.step:,}")
            return found
        return None

    def _load_best(self, trainer: ImageTrainer, state: TrainerState) -> None:
        if state.best_global_step == trainer.state.global_step:
            return
        best = self._checkpoints.at(state.best_global_step or state.global_step)
        if best is None:
            raise RunConflict(
                f"{self._job.config.out}: its best checkpoint, after step {state.best_global_step}, is gone: delete "
                "the directory, or give a new --out"
            )
        trainer.load_weights(self._checkpoints.get(best, self._scratch / "best", [WEIGHTS]))

    def _evaluate(self, trainer: ImageTrainer, split: str) -> Scored:
        output = trainer.predict(self._pixels(split))
        logits = np.asarray(output.predictions, np.float64)
        return Scored(softmax(logits, axis=1), np.asarray(output.label_ids, np.int64))

    def _summary(self, scored: Scored) -> dict[str, Any]:
        return summarise(scored.truth, scored.probabilities.argmax(axis=1), self._labels)

    def _hardware(self, trainer: ImageTrainer) -> dict[str, Any]:
        on_gpu = trainer.args.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name() if on_gpu else "CPU",
            "workers": world(),
            "precision": self._precision,
            "threads": torch.get_num_threads(),
        }
