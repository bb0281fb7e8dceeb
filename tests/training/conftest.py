"""What the tests of training share, since it is dear: the stand-in's images, a small backbone, and a checkpoint trained
on them. Tests in several processes share them too: the first process makes them, the others wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

from nsfwscan.config import StorageConfig
from tests.later import later
from tests.training.stand_in import small_resnet, small_vit, write_folders
from training.config import DataConfig
from training.fit.config import TrainConfig

if TYPE_CHECKING:
    from training.fit.fit import Launch, TrainingResult
    from training.fit.worker import TrainJob

fit = later("training.fit.fit")
worker = later("training.fit.worker")


Say = Callable[[str], None]
TRAINED = {"epochs": 5, "learning_rate": 5e-3}
"""The settings of `trained`."""


@dataclass
class Heard:
    """Hears what a training tells; may stop it there, as a kill would."""

    stop_at: str | None = None
    lines: list[str] = field(default_factory=list)
    epochs: list[dict[str, Any]] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)
        if self.stop_at and self.stop_at in line:
            raise Stopped(line)

    def evaluated(self, figures: dict[str, float]) -> None:
        self.epochs.append(figures)

    def check_wanted(self) -> None:
        pass


class Stopped(BaseException):
    """A training was stopped where the test wanted it."""


def _inline(heard: Heard, job: TrainJob, _: Say) -> None:
    worker.work(job, heard, threads=1)


@dataclass(frozen=True)
class Bench:
    """Stand-in's images and a small untrained model, and how to train it on them, in this process."""

    images: Path
    backbone: Path
    cache: Path
    own_data: DataConfig | None = None

    @property
    def data(self) -> DataConfig:
        return self.own_data or DataConfig(uris=(str(self.images),), cache=str(self.cache))

    def config(self, out: str | Path, **changed: Any) -> TrainConfig:
        settings = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "patience": None, "precision": "float32"}
        settings |= changed  # not `auto`: what is trained is the same on every CPU
        return TrainConfig.of({"backbone": str(self.backbone), "out": str(out), **settings})

    def train(
        self,
        out: str | Path,
        heard: Heard | None = None,
        *,
        launch: Launch | None = None,
        data: DataConfig | None = None,
        storage: StorageConfig | None = None,
        **changed: Any,
    ) -> TrainingResult:
        heard = heard or Heard()
        return fit.train(
            self.config(out, **changed),
            data or self.data,
            storage or StorageConfig(),
            heard.say,
            launch=launch or partial(_inline, heard),
        )


def _made(folder: Path, each: int, make: Callable[[Path], Path]) -> Bench:
    with FileLock(f"{folder}.lock"):
        if not (folder / "whole").exists():
            write_folders(folder / "images", each=each)
            make(folder / "backbone")
            (folder / "whole").touch()
    return Bench(folder / "images", folder / "backbone", folder / "cache")


@pytest.fixture(scope="session")
def bench(shared: Path) -> Bench:
    """640 images to learn from, 80 to choose by, 80 to test with; and a small ResNet, which learns them soon."""
    return _made(shared / "bench", 160, small_resnet)


@pytest.fixture(scope="session")
def small_bench(shared: Path) -> Bench:
    """As `bench`, with a small ViT, and 40 images of each class: 160 to learn from, ten steps an epoch."""
    return _made(shared / "small_bench", 40, small_vit)


@pytest.fixture(scope="session")
def trained(bench: Bench, shared: Path) -> TrainingResult:
    """A checkpoint trained from scratch until it knows the stand-in; by one of the processes, for all."""
    with FileLock(shared / "trained.lock"):
        return bench.train(shared / "trained" / "checkpoint", **TRAINED)
