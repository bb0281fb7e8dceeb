"""Measure the packs and the factory of them (figures `packs.*`), in images for a second of one core.

The time is the processor's, with one thread, so a busy machine changes little. A pack alone scores batches of random
pixels. The factory scores pictures that are decoded beforehand: by its model, with its detectors, and with a gate that
lets a tenth of them through to the detectors, and a hundredth of the others; text and codes are read in pictures that
are decoded again, by another process, whose time is not counted. Packs are not fetched for it. Text and codes are also
read in pictures without text, with a line, and full of it (`written.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.benchmark.figures import Figure, figure, missing
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from jobs.benchmark.written import WRITTEN
from nsfwscan.config import DetectorConfig, ModelConfig, ScanConfig, StorageConfig
from nsfwscan.execution.pipeline import cpu_stages, model_stages, opened
from nsfwscan.models import registry
from nsfwscan.models.packs.pull import is_there
from nsfwscan.models.spec import Hardware
from nsfwscan.schema import LISTING_SCHEMA
from nsfwscan.stages.base import fresh, run
from nsfwscan.texts.rules import TextRules

MODEL = "five-class"
"""The factory's model; what the other packs take is told as a ratio to it."""
PACKS = (MODEL, "five-class-large", "nudity", "gore", "backbone")
FACTORY = ("nudity", "gore")
"""Packs of the factory, beside its model; what reads pictures comes to them where it is installed."""
READERS = ("text", "link")
_LIBRARIES = {"text": "rapidocr", "link": "zxingcpp"}
UNIT = "images/core-s"
_PICTURES, _FEWEST = 40, 5
"""Pictures of the factory, each of which takes a second or more: two for each second of `--seconds`, within these."""
_PASSES = 0.1
_BATCH = 8
_SECONDS = 0.5
"""For reading pictures, at least one."""


def measure_packs(workload: Workload) -> list[Figure]:
    """Measure each pack, and the factory without detectors, with them, and with a gate before them."""
    reading = [
        figure(
            f"packs.{name}{kind}",
            f"`embedded:{name}` on {what}",
            apart(reading_rates, name, kind, workload.pictures[0], 3),
            UNIT,
        )
        for name in READERS
        for kind, (what, _) in WRITTEN.items()
        if find_spec(_LIBRARIES[name]) is not None
    ]
    if absent := [name for name in PACKS if not is_there(name)]:
        why = f"not on this machine: nsfwscan models pull {' '.join(absent)}"
        return [missing("packs", "packs", why), *reading]
    found = [
        figure(f"packs.{name}", f"`pack:{name}` alone", apart(pack_rates, name, workload.seconds / 4), UNIT)
        for name in PACKS
    ]
    most = max(_FEWEST, min(_PICTURES, int(2 * workload.seconds)))
    pictures, detectors = workload.pictures[:most], {name: {"uri": f"pack:{name}"} for name in FACTORY}
    detectors |= {name: {"uri": f"embedded:{name}"} for name in READERS if find_spec(_LIBRARIES[name]) is not None}
    alone, limit = apart(factory_rates, pictures, {}, workload.repetitions)
    every, _ = apart(factory_rates, pictures, detectors, workload.repetitions)
    gates = {name: {**one, "when": f"nsfw_score >= {limit}"} for name, one in detectors.items()}
    gated, _ = apart(factory_rates, pictures, gates, workload.repetitions)
    return [
        *found,
        figure("packs.model", "the factory's model on pictures", alone, UNIT),
        figure("packs.factory", f"with its detectors ({', '.join(detectors)})", every, UNIT),
        figure("packs.factory.gated", f"with a gate that lets {_PASSES:.0%} through to them", gated, UNIT),
        *reading,
    ]


def reading_rates(name: str, kind: str, picture: Path, repetitions: int) -> list[float]:
    """Return the rates at which a picture is read, one of `WRITTEN`."""
    spec = registry.resolve_detector(name, DetectorConfig(uri=f"embedded:{name}"), StorageConfig())
    reader = registry.reader_of_pictures(spec, TextRules(), 1)
    reader.open()
    _, drawn = WRITTEN[kind]
    pixels = np.asarray(drawn(picture))
    reader.read(pixels)  # loads what is loaded with the first picture
    return [_rate(lambda: len([reader.describe(reader.read(pixels))]), _SECONDS) for _ in range(repetitions)]


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
    given = {"source": {"uris": uris}, "out": "", "model": {"uri": f"pack:{MODEL}"}, "detectors": detectors}
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
