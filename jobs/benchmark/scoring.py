"""Measure the model alone (figures `model.*`): from random pixels in memory to probabilities, with a scan's backend.

It runs with all threads in one process, and with one single-threaded process per core; or on the GPU if there is one.
Batch size and precision are a scan's choice on this machine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jobs.benchmark.figures import Figure, figure
from jobs.benchmark.timing import Step, apart, repeat, together
from jobs.benchmark.workload import Workload
from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.models import registry
from nsfwscan.models.spec import Hardware, ModelSpec

_GPU_BATCHES = 16


def measure_model(workload: Workload) -> list[Figure]:
    """Measure the rates of the workload's model."""
    rates, hardware = apart(_one_process, workload.model, workload.cores, workload.seconds, workload.repetitions)
    if hardware.device == "cuda":
        return [figure("model.gpu", "model, one GPU", rates, note=in_words(hardware))]
    label = f"model, {workload.cores} threads in one process"
    figures = [figure("model.threads", label, rates, note=in_words(hardware))]
    given = (workload.model, 1)
    at_once = together(prepare_model, given, workload.cores, workload.seconds, workload.repetitions)
    label = f"model, {workload.cores} processes of one thread"
    return [*figures, figure("model.processes", label, at_once, note=in_words(hardware))]


def hardware_of(model: Path, threads: int) -> Hardware:
    """Return the hardware settings that a scan would choose for the model here."""
    return registry.choose_hardware(_spec(model), ModelConfig(uri=str(model)), threads=threads)


def in_words(hardware: Hardware) -> str:
    """Describe precision, batch size and device."""
    return f"{hardware.dtype}, batches of {hardware.batch_size}, {hardware.device}"


def prepare_model(model: Path, threads: int) -> Step:
    """Return a step that scores batches of random pixels: one on a CPU; several on a GPU, which may fetch one batch
    while it works on another."""
    spec, hardware = _spec(model), hardware_of(model, threads)
    classify = registry.load(spec, StorageConfig(), hardware)
    shape = (hardware.batch_size, *spec.geometry.shape)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    batches = [pixels] * (_GPU_BATCHES if hardware.device == "cuda" else 1)

    def step() -> int:
        return sum(len(scores) for scores in classify.stream(batches))

    return step


def _one_process(model: Path, threads: int, seconds: float, repetitions: int) -> tuple[list[float], Hardware]:
    step = prepare_model(model, threads)
    for _ in range(2):
        step()
    return repeat(step, seconds, repetitions), hardware_of(model, threads)


def _spec(model: Path) -> ModelSpec:
    return registry.resolve(ModelConfig(uri=str(model)), StorageConfig())
