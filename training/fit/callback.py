"""`TrainerCallback` of each worker: checkpoints, TensorBoard curves, progress, and early stopping.

A storage that fails is a `StoreError` and ends the attempt.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Protocol

import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nsfwscan.storage.store import Store
from training.fit.checkpoints import Checkpoints, upload
from training.fit.config import TrainConfig
from training.fit.transforms import EpochOrder

CURVES = "tensorboard"

Figures = dict[str, float]


class Tell(Protocol):
    """Receiver of a worker's news."""

    def say(self, line: str) -> None:
        """Take a line for a person."""

    def evaluated(self, figures: dict[str, float]) -> None:
        """Take the figures of an epoch; called on every worker alike."""

    def check_wanted(self) -> None:
        """Raise where nobody waits for this worker any more: its driver is dead, and another may be at work."""


def rank() -> int:
    """Return this worker's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Return the number of workers."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gathered(value: Any) -> list[Any]:
    """Return the values of all workers, by rank, on every worker."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value)
    return found


def agreed(choose: Callable[[], Any]) -> Any:
    """Return the first worker's choice, on every worker."""
    return gathered(choose() if rank() == 0 else None)[0]


def epochs_without_gain(state: TrainerState, metric: str) -> int:
    """Count the evaluations since the best one."""
    values = [entry[f"eval_{metric}"] for entry in state.log_history if f"eval_{metric}" in entry]
    return len(values) - 1 - values.index(max(values)) if values else 0


def is_over(state: TrainerState, config: TrainConfig) -> bool:
    """Return whether the training is over: all steps are done, or the metric got no better for too long."""
    exhausted = config.patience is not None and epochs_without_gain(state, config.metric) >= config.patience
    return exhausted or state.global_step >= state.max_steps


class TrainingCallback(TrainerCallback):
    """Callback of one worker; the `order` of the images is set before training starts."""

    order: EpochOrder

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints, scratch: Path, facts: dict[str, Any], tell: Tell):
        self._config, self._checkpoints, self._scratch = config, checkpoints, scratch
        self._facts, self._tell = facts, tell
        self._curves: Curves | None = None
        self._began, self._began_at_step = time.monotonic(), 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Open the curves; points of an earlier attempt beyond the checkpoint are drawn anew."""
        self._began, self._began_at_step = time.monotonic(), state.global_step
        if rank() == 0:
            self._curves = Curves(self._checkpoints.store, state.global_step)

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Put the images into the epoch's order, also in the middle of a resumed epoch."""
        self.order.epoch = state.global_step // _steps_an_epoch(state)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask for a checkpoint every so many steps; the last step of an epoch has one anyway."""
        within = state.global_step % _steps_an_epoch(state)
        every = self._config.checkpoint_steps
        if every and within and state.global_step % every == 0:
            control.should_save = True

    def on_log(self, args: Any, state: TrainerState, control: Any, logs: Figures | None = None, **_: Any) -> None:
        """Draw a point of each curve, and tell the progress."""
        if self._curves is None or not logs:
            return
        if "loss" in logs:
            self._curves.draw("train", logs, ("loss", "learning_rate", "grad_norm"), state.global_step)
            self._tell.say(self._progress(state, logs))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Figures | None = None, **_: Any) -> None:
        """Draw and tell the figures of the validation split."""
        figures = {name: (metrics or {})[f"eval_{name}"] for name in ("accuracy", "macro_f1", "log_loss")}
        self._tell.evaluated({**figures, "epoch": round(state.epoch or 0), "step": state.global_step})
        if self._curves is None:
            return
        self._curves.draw("validation", figures, tuple(figures), state.global_step)
        self._curves.publish()
        self._tell.say(
            f"epoch {round(state.epoch or 0)} of {self._config.epochs}: validation accuracy {figures['accuracy']:.4f}  "
            f"macro-F1 {figures['macro_f1']:.4f}  log loss {figures['log_loss']:.4f}"
        )

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Upload every worker's files; then complete the checkpoint, and delete older ones."""
        self._tell.check_wanted()
        folder = self._scratch / f"checkpoint-{state.global_step}"
        name = self._checkpoints.name(state.global_step)
        files = gathered(self._checkpoints.put(name, folder))
        if rank() == 0:
            merged = {file: digest for part in files for file, digest in part.items()}
            self._checkpoints.complete(name, state.global_step, merged, self._facts)
            best = {state.best_global_step} if state.best_global_step else set()
            self._checkpoints.prune(best, before=state.global_step)
            if self._curves:
                self._curves.publish()
        shutil.rmtree(folder, ignore_errors=True)
        if is_over(state, self._config):
            if rank() == 0 and state.global_step < state.max_steps:
                self._tell.say(
                    f"no better {self._config.metric} for {self._config.patience} epochs: training ends here"
                )
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the curves."""
        if self._curves:
            self._curves.close()

    def _progress(self, state: TrainerState, logs: Figures) -> str:
        done = state.global_step - self._began_at_step
        a_second = done * self._config.batch_size / max(time.monotonic() - self._began, 1e-9)
        left_s = (state.max_steps - state.global_step) * self._config.batch_size / max(a_second, 1e-9)
        return (
            f"step {state.global_step:,} of {state.max_steps:,}  loss {logs['loss']:.4f}  "
            f"lr {logs['learning_rate']:.2g}  {a_second:,.1f} images/s  ETA {timedelta(seconds=round(left_s))}"
        )


class Curves:
    """TensorBoard files beside the checkpoint; on an object store they appear when they are published."""

    def __init__(self, store: Store, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._store = store
        self._is_local = store.is_local
        self._folder = Path(store.locate(CURVES) if self._is_local else tempfile.mkdtemp(prefix="nsfwscan-curves-"))
        self._writer: Any = SummaryWriter(str(self._folder), purge_step=step + 1)

    def draw(self, split: str, values: dict[str, float], names: tuple[str, ...], step: int) -> None:
        """Draw a point for each name that has a value."""
        for name in names:
            if name in values:
                self._writer.add_scalar(f"{split}/{name}", values[name], step)

    def publish(self) -> None:
        """Make everything that was drawn visible to others. Raises StoreError."""
        self._writer.flush()
        if not self._is_local:
            for path in self._folder.iterdir():
                upload(self._store, f"{CURVES}/{path.name}", path)

    def close(self) -> None:
        """Publish, and take no more points. Raises StoreError."""
        self.publish()
        self._writer.close()
        if not self._is_local:
            shutil.rmtree(self._folder, ignore_errors=True)


def _steps_an_epoch(state: TrainerState) -> int:
    return max(1, state.max_steps // int(state.num_train_epochs))
