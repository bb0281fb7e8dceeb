"""Train on Ray: one process a worker, on the cluster's GPUs or CPUs.

An error of ours in a worker comes back as itself and ends the training. A lost worker or node is replaced, and the
group goes on from the last checkpoint. A cluster that could never hold the workers is a `NsfwscanError` at once, where
Ray would wait for it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer

from nsfwscan.errors import NsfwscanError
from nsfwscan.execution.ray_session import ray_session
from nsfwscan.text import plural
from training.fit.worker import TrainJob, work

_KNOCK_S = 10.0
_LOOK_S = 0.5
_OBJECT_STORE_BYTES = 200 * 2**20


@dataclass(frozen=True)
class WorkerResources:
    """CPUs of each worker, and whether it has a GPU."""

    cpus: int
    gpu: bool

    @property
    def resources(self) -> dict[str, float]:
        """Resources as Ray names them."""
        return {"CPU": float(self.cpus)} | ({"GPU": 1.0} if self.gpu else {})

    def __str__(self) -> str:
        return f"{plural(self.cpus, 'CPU')}{' and a GPU' if self.gpu else ''}"


def worker_resources(nodes: Sequence[dict[str, float]], workers: int, use_gpu: bool | None) -> WorkerResources:
    """Return the most resources that each worker can have while all run at once. Raises NsfwscanError where the workers
    do not fit on the cluster.

    Args:
        nodes: the resources of each node, as Ray names them.
        use_gpu: None: where there are enough.
    """
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    cpus = int(sum(node.get("CPU", 0) for node in nodes))
    gpu = gpus >= workers if use_gpu is None else use_gpu
    for each in range(cpus // workers, 0, -1):
        places = (min(int(node.get("CPU", 0) // each), int(node.get("GPU", 0)) if gpu else workers) for node in nodes)
        if sum(places) >= workers:
            return WorkerResources(each, gpu)
    raise NsfwscanError(
        f"{plural(workers, 'worker')} need{'s' if workers == 1 else ''} a {'GPU' if gpu else 'CPU'}"
        f"{' each' if workers > 1 else ''}, and the cluster has {plural(cpus, 'CPU')} and {plural(gpus, 'GPU')} on "
        f"{plural(len(nodes), 'node')}: use fewer --workers{', or leave out --use-gpu' if use_gpu else ''}"
    )


def on_ray(job: TrainJob, say: Callable[[str], None], *, verbose: bool = False) -> None:
    """Run the job's workers on a cluster, or on a local Ray. Raises NsfwscanError as a worker raised it, and where
    workers were lost more often than allowed."""
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths stay what they are
    session = ray_session(
        job.config.cluster, verbose=verbose, num_cpus=job.config.num_cpus, store_bytes=_OBJECT_STORE_BYTES
    )
    with session, tempfile.TemporaryDirectory(prefix="nsfwscan-ray-train-") as folder:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        each = worker_resources(nodes, job.config.workers, job.config.use_gpu)
        say(f"Ray: {plural(job.config.workers, 'worker')} with {each} each")
        board = ray.remote(num_cpus=0)(_Board).remote()
        trainer = TorchTrainer(
            _in_worker,
            train_loop_config={"job": _with_resources(job, each), "board": board, "threads": each.cpus},
            scaling_config=ray.train.ScalingConfig(
                num_workers=job.config.workers, use_gpu=each.gpu, resources_per_worker=each.resources
            ),
            run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # mypy sees the old one
                name=job.attempt,
                storage_path=folder,  # Ray keeps nothing of it: see training.fit.checkpoints
                failure_config=ray.train.FailureConfig(max_failures=job.config.max_failures),
                logging_config=ray.train.LoggingConfig(log_level="INFO" if verbose else "ERROR"),
            ),
        )
        with _reading(board, say):
            _fit(trainer, board, job)


def _with_resources(job: TrainJob, each: WorkerResources) -> TrainJob:
    processes = job.config.loader_processes
    if processes is None:
        processes = each.cpus - 1 if each.gpu else 0
    return replace(job, config=job.config.model_copy(update={"use_gpu": each.gpu, "loader_processes": processes}))


def _fit(trainer: TorchTrainer, board: Any, job: TrainJob) -> None:
    try:
        trainer.fit()
    except (ray.train.TrainingFailedError, ray.exceptions.RayError) as error:
        _raise_own(board)
        causes = list(getattr(error, "worker_failures", {}).values()) or [error]
        said = str(causes[0]).strip().splitlines() or [type(causes[0]).__name__]
        raise NsfwscanError(
            f"the training was stopped: {said[-1]} (--verbose shows all); the same command goes on from the last "
            f"checkpoint in {job.config.out}"
        ) from error
    _raise_own(board)


def _raise_own(board: Any) -> None:
    failure: NsfwscanError | None = ray.get(board.failure.remote())
    if failure is not None:
        raise failure


class _Board:
    """Actor that holds the workers' lines, and the error that ends the training, for the driver."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._failure: NsfwscanError | None = None

    def say(self, line: str) -> None:
        self._lines.append(line)

    def take(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines

    def fail(self, error: NsfwscanError) -> None:
        self._failure = self._failure or error

    def failure(self) -> NsfwscanError | None:
        return self._failure


class _ToBoard:
    """Passes a worker's news on to the driver."""

    def __init__(self, board: Any) -> None:
        self._board = board

    def say(self, line: str) -> None:
        self._board.say.remote(line)

    def evaluated(self, figures: dict[str, float]) -> None:
        ray.train.report(figures)

    def check_wanted(self) -> None:
        ray.get(self._board.failure.remote())  # it dies with the driver; so does, a little later, this worker


def _in_worker(config: dict[str, Any]) -> None:
    board = config["board"]
    if ray.get(board.failure.remote()) is not None:
        return  # Ray replaces every worker that fails; one that failed for good has said so
    try:
        work(config["job"], _ToBoard(board), threads=config["threads"])
    except NsfwscanError as error:
        ray.get(board.fail.remote(error))
        raise


@contextmanager
def _reading(board: Any, say: Callable[[str], None]) -> Iterator[None]:
    """Pass on the workers' lines as they come."""
    done = threading.Event()

    def pass_on() -> None:
        while True:
            last = done.is_set()
            try:
                for line in ray.get(board.take.remote()):
                    say(line)
            except ray.exceptions.RayError:
                return
            if last:
                return
            done.wait(_LOOK_S)

    reading = threading.Thread(target=pass_on, daemon=True, name="board")
    reading.start()
    try:
        yield
    finally:
        done.set()
        reading.join(_KNOCK_S)
