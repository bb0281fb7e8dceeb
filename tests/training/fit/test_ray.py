"""A training on a real Ray: two workers, killed drivers and workers, and what a cluster cannot give."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from nsfwscan.errors import NsfwscanError
from tests.later import later
from tests.training.conftest import Bench, Heard

if TYPE_CHECKING:
    from training.fit.fit import TrainingResult

ray = later("training.fit.ray")
ship = later("training.fit.ship")


ROOT = Path(__file__).parents[3]
_STEPS = 3
"""Between checkpoints."""


@pytest.mark.ray
@pytest.mark.full
@pytest.mark.parametrize(("precision", "rounding"), [("float32", 2e-3), ("bfloat16", 2e-2)])
def test_two_workers_train_as_one_does(
    small_bench: Bench, ray_local: None, tmp_path: Path, precision: str, rounding: float
) -> None:
    """Two workers see the images of each step together: epoch by epoch the figures are those of one worker."""
    settings = {"class_weights": "none", "precision": precision}
    alone = small_bench.train(tmp_path / "alone", **settings)
    heard = Heard()
    together = small_bench.train(tmp_path / "together", heard, launch=ray.on_ray, workers=2, **settings)
    assert together.record["hardware"]["workers"] == 2
    assert together.record["hardware"]["precision"] == precision
    assert "Ray: 2 workers with 1 CPU each" in heard.lines
    for one, two in zip(_losses(alone), _losses(together), strict=True):
        assert two == pytest.approx(one, abs=rounding)


def _losses(outcome: TrainingResult) -> list[float]:
    return [entry["eval_log_loss"] for entry in outcome.record["history"] if "eval_log_loss" in entry]


@pytest.mark.ray
@pytest.mark.full
def test_an_error_of_ours_comes_back_as_itself(small_bench: Bench, ray_local: None, tmp_path: Path) -> None:
    """What breaks on a worker stops the training at once, in the worker's own words, and is not tried again and again."""
    out = tmp_path / "out"

    class Breaking(Heard):
        def say(self, line: str) -> None:
            super().say(line)
            if line.startswith("step 3 of"):
                (out / "state" / "checkpoints").mkdir(exist_ok=True)
                (out / "state" / "checkpoints").rename(out / "state" / "was")
                (out / "state" / "checkpoints").write_text("in the way")

    heard = Breaking()
    with pytest.raises(NsfwscanError, match=r"cannot write .*checkpoints"):
        small_bench.train(out, heard, launch=ray.on_ray, epochs=30, checkpoint_steps=_STEPS, use_gpu=False)
    assert len([line for line in heard.lines if line.startswith("Ray:")]) == 1


@pytest.mark.ray
@pytest.mark.full
@pytest.mark.timeout(600)
def test_killed_twice_it_ends_as_if_left_alone(small_bench: Bench, tmp_path: Path) -> None:
    """The driver is killed, the command submitted again, and then a worker is killed: the weights that come out are
    those of a training that nobody disturbed, to the bit."""
    alone = small_bench.train(tmp_path / "alone", epochs=4, checkpoint_steps=_STEPS, precision="bfloat16")
    out = tmp_path / "out"
    with _submitted(small_bench, out, tmp_path / "first.log") as driver:
        _wait_for_step(out, 1, driver, tmp_path / "first.log")
        worker, family = _worker_of(driver), psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        worker.wait(60)  # it goes with its driver, a little later
        _end(family)
    assert driver.returncode == -signal.SIGKILL
    assert not (out / ship.RECORD).exists()
    with _submitted(small_bench, out, tmp_path / "second.log") as driver:
        first = _newest(out)
        _wait_for_step(out, first + 1, driver, tmp_path / "second.log")
        _worker_of(driver).kill()
        assert driver.wait(240) == 0, (tmp_path / "second.log").read_text()
    record = json.loads((out / ship.RECORD).read_text())
    assert record["digest"] == alone.record["digest"]
    assert record["metrics"] == alone.record["metrics"]
    said = (tmp_path / "second.log").read_text()
    assert said.count("going on after step") == 2


@contextmanager
def _submitted(bench: Bench, out: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`python jobs/train.py …`, with a Ray of its own."""
    command = [sys.executable, str(ROOT / "jobs" / "train.py"), str(bench.images), "--backbone", str(bench.backbone)]
    command += ["--out", str(out), "--cache", str(bench.cache), "--epochs=4", "--batch-size=16", "--learning-rate=1e-3"]
    command += ["--patience=0", f"--checkpoint-steps={_STEPS}", "--num-cpus=1", "--precision=bfloat16"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as output:
        driver = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
    family: list[psutil.Process] = []
    try:
        yield driver
    finally:
        with suppress(psutil.Error):
            family = psutil.Process(driver.pid).children(recursive=True)
        driver.kill()
        driver.wait()
        _end(family)


def _end(family: list[psutil.Process]) -> None:
    """Ray's own processes may outlive a driver that was killed."""
    for process in psutil.wait_procs(family, timeout=5)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _worker_of(driver: subprocess.Popen[bytes]) -> psutil.Process:
    for process in psutil.Process(driver.pid).children(recursive=True):
        with suppress(psutil.Error):
            if any("TrainWorker" in part for part in process.cmdline()):
                return process
    family = [process.cmdline()[:1] for process in psutil.Process(driver.pid).children(recursive=True)]
    raise AssertionError(f"no worker of Ray Train is running, but {family}")


def _newest(out: Path) -> int:
    """Steps of the newest complete checkpoint; 0: there is none."""
    done = [int(path.parent.name.split("-")[0]) for path in out.glob("state/checkpoints/*/complete.json")]
    return max(done, default=0)


def _wait_for_step(out: Path, step: int, driver: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 180
    while _newest(out) < step:
        assert driver.poll() is None, log.read_text()
        assert time.monotonic() < ends, log.read_text()
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpu", "expected"),
    [
        ([{"CPU": 2}], 1, None, (2, False)),
        ([{"CPU": 2}], 2, None, (1, False)),
        ([{"CPU": 16, "GPU": 1}], 1, None, (16, True)),
        ([{"CPU": 16, "GPU": 1}], 2, None, (8, False)),
        ([{"CPU": 16, "GPU": 4}, {"CPU": 16, "GPU": 4}], 8, None, (4, True)),
        ([{"CPU": 8}, {"CPU": 8}], 3, None, (4, False)),
        ([{"CPU": 16, "GPU": 1}], 1, False, (16, False)),
    ],
)
def test_shares(nodes: list[dict[str, float]], workers: int, use_gpu: bool | None, expected: tuple[int, bool]) -> None:
    """Workers get the largest equal share that fits on the nodes, GPUs where there are enough."""
    assert ray.worker_resources(nodes, workers, use_gpu) == ray.WorkerResources(*expected)


@pytest.mark.parametrize(
    ("nodes", "workers", "use_gpu", "message"),
    [
        ([{"CPU": 2}], 3, None, "3 workers need a CPU each, and the cluster has 2 CPUs and 0 GPUs on 1 node"),
        ([{"CPU": 64}], 1, True, "1 worker needs a GPU, and the cluster has 64 CPUs and 0 GPUs"),
    ],
)
def test_a_cluster_too_small(nodes: list[dict[str, float]], workers: int, use_gpu: bool | None, message: str) -> None:
    """Workers that will never find their place are an error at once, where Ray would wait."""
    with pytest.raises(NsfwscanError, match=message):
        ray.worker_resources(nodes, workers, use_gpu)
