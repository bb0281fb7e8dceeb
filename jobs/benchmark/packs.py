"""Measure the packs and the factory of them (figures `packs.*`), in images for a second of one core.

The time is the processor's, with one thread, so a busy machine changes little. A pack alone scores batches of random
pixels. The factory scores pictures that are decoded beforehand: by its model, with its detectors, and with a gate that
lets a tenth of them through to the detectors, and a hundredth of the others. Packs are not fetched for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.benchmark.figures import Figure, figure, missing
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from nsfwscan.config import ModelConfig, ScanConfig, StorageConfig
from nsfwscan.execution.pipeline import cpu_stages, model_stages, opened
from nsfwscan.models import registry
from nsfwscan.models.packs.pull import is_there
from nsfwscan.models.spec import Hardware
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.stages.base import fresh, run

PACKS = ("five-class", "nudity", "gore", "backbone")
FACTORY = ("nudity", "gore")
"""Detectors of the factory, beside its model."""
UNIT = "images/core-s"
_PICTURES = 100
_PASSES = 0.1
_BATCH = 8


def measure_packs(workload: Workload) -> list[Figure]:
    """Measure each pack, and the factory without detectors, with them, and with a gate before them."""
    if absent := [name for name in PACKS if not is_there(name)]:
        return [missing("packs", "packs", f"not on this machine: nsfwscan models pull {' '.join(absent)}")]
    found = [
        figure(f"packs.{name}", f"`pack:{name}` alone", apart(pack_rates, name, workload.seconds / 4), UNIT)
        for name in PACKS
    ]
    pictures, detectors = workload.pictures[:_PICTURES], {name: {"uri": f"pack:{name}"} for name in FACTORY}
    alone, limit = apart(factory_rates, pictures, {}, workload.repetitions)
    every, _ = apart(factory_rates, pictures, detectors, workload.repetitions)
    gates = {name: {**one, "when": f"nsfw_score >= {limit}"} for name, one in detectors.items()}
    gated, _ = apart(factory_rates, pictures, gates, workload.repetitions)
    return [
        *found,
        figure("packs.model", "the factory's model on pictures", alone, UNIT),
        figure("packs.factory", "with its detectors", every, UNIT),
        figure("packs.factory.gated", f"with a gate that lets {_PASSES:.0%} through to them", gated, UNIT),
    ]


def pack_rates(name: str, seconds: float, repetitions: int = 3) -> list[float]:
    """Return the rates of one pack on batches of random pixels."""
    spec = registry.resolve_detector(name, ModelConfig(uri=f"pack:{name}"), StorageConfig())
    score = registry.load(spec, StorageConfig(), Hardware("cpu", "float32", _BATCH, 1))
    pixels = np.random.default_rng(0).integers(0, 256, (_BATCH, *spec.geometry.shape), np.uint8)
    score(pixels)
    return [_rate(lambda: len(score(pixels)), seconds / repetitions) for _ in range(repetitions)]


def factory_rates(pictures: tuple[Path, ...], detectors: dict[str, Any], repetitions: int) -> tuple[list[float], float]:
    """Return the rates of the models of a scan on decoded pictures, and the score that a tenth of these reach."""
    uris = [str(path) for path in pictures]
    given = {"source": {"uris": uris}, "out": "", "model": {"uri": "pack:five-class"}, "detectors": detectors}
    config = ScanConfig.of({**given, "decode": {"pdq": "off"}})
    spec, beside = registry.resolve(config.model, config.storage), registry.resolve_auxiliary(config)
    listing = pa.Table.from_pylist([{"uri": uri} for uri in uris], schema=LISTING_SCHEMA)
    decoded = run(opened(cpu_stages(config, spec, auxiliary_models=beside)), fresh(listing))
    rates = []
    for _ in range(repetitions):  # new stages: a worker scores the same bytes once
        stages = opened(model_stages(config, spec, threads=1, auxiliary_models=beside))
        began = time.process_time()
        scored = run(stages, decoded)
        rates.append(len(scored) / (time.process_time() - began))
    return rates, float(np.nanquantile(scored["nsfw_score"].to_numpy(), 1 - _PASSES))


def _rate(step: Callable[[], int], seconds: float) -> float:
    began, images = time.process_time(), 0
    while (taken := time.process_time() - began) < seconds:
        images += step()
    return images / taken
