"""Measure decoding alone, from files in memory to a model's pixels, on one core and on all (figures `decode.*`).

The clock covers only decoding, in whole blocks of the mix; all ways on one core decode in turn, block by block. A core
is a process of one thread with the environment of a decode child.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import numpy as np
import pdqhash
import simplejpeg
from PIL import Image

from jobs.benchmark.figures import Figure, figure, missing
from jobs.benchmark.timing import Step, apart, environment, repeat, repeat_in_turn, together
from jobs.benchmark.workload import Workload
from nsfwscan.config import DecodeConfig
from nsfwscan.errors import ConfigError
from nsfwscan.images.decoder import decode, to_pixels
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.sandbox.zygote import ENVIRONMENT
from nsfwscan.stages.base import cut
from nsfwscan.stages.decode import settings_of
from nsfwscan.stages.finish_on_gpu import LARGEST_BATCH

_BLOCKS = 20
"""Blocks of files that are held in memory and decoded in turn: as many as make up a store."""
Decode = Callable[[bytes, bytes | None], object]
HOW = {
    "turbo": ("libjpeg-turbo alone, to an array", "`simplejpeg`: no decoder of whole JPEGs is faster"),
    "hashed": ("decode in full and hash (PDQ)", "what a scan does unless told otherwise"),
    "fast": ("decode, fast (a large JPEG at reduced scale)", "`--pdq off`"),
    "reduced": ("decode, fast, and hash what is decoded", "`--pdq reduced`"),
    "exact": ("decode in full", "`--pdq off --decode exact`"),
    "child.hashed": ("decode in full and hash, in the decode child", "as in an actor: two processes share the core"),
    "child.exact": ("decode in full, in the decode child", "`--pdq off --decode exact`"),
    "child.fast": ("decode, fast, in the decode child", ""),
    "child.left": (
        "describe a JPEG that is left to a GPU, in the child",
        "`--pdq off --decode gpu`: what cores still do",
    ),
    "pdqhash": ("decode in full and hash with `pdqhash`", "the reference, whose hashes are the same"),
}
"""Ways of decoding on one core: label and note of each."""
_CONFIGS = {
    "hashed": DecodeConfig(),
    "fast": DecodeConfig(pdq="off"),
    "reduced": DecodeConfig(pdq="reduced"),
    "exact": DecodeConfig(pdq="off", mode="exact"),
    "left": DecodeConfig(pdq="off", mode="gpu"),
}
TOGETHER = ("turbo", "hashed", "fast")
"""Ways of decoding on all cores, too."""


def measure_decoding(workload: Workload, geometry: Geometry) -> list[Figure]:
    """Measure every way of decoding on one core, and the ways `TOGETHER` on all cores at once."""
    files = [path for block in workload.blocks()[:_BLOCKS] for path in block]
    block, seconds = len(workload.blocks()[0]), workload.seconds / 2
    figures = []
    with environment(ENVIRONMENT):
        for way, rates in apart(_one_core, files, block, geometry, seconds, workload.repetitions).items():
            words, note = HOW[way]
            figures.append(figure(f"decode.{way}", f"{words}, one core", rates, note=note))
        for way in TOGETHER:
            given = (way, files, block, geometry)
            rates = together(prepare_decoding, given, workload.cores, seconds, workload.repetitions)
            label, note = f"{HOW[way][0]}, {workload.cores} cores", "a process a core, all at once"
            figures.append(figure(f"decode.{way}.all", label, rates, note=note))
    return figures


def measure_on_gpu(workload: Workload, geometry: Geometry) -> list[Figure]:
    """Measure decoding on the GPU, from files in memory to a model's pixels in memory, as `--decode gpu` does it."""
    key, label = "gpu.decode", "decode in full on the GPU, and resize there"
    files = [path for block in workload.blocks()[:_BLOCKS] for path in block]
    try:
        rates = apart(_on_gpu, files, geometry, workload.seconds, workload.repetitions)
    except ConfigError as error:
        return [missing(key, label, str(error))]
    return [figure(key, label, rates, note="what it refuses is not counted")]


def _on_gpu(files: list[Path], geometry: Geometry, seconds: float, repetitions: int) -> list[float]:
    """Return the images a second. Raises ConfigError without a GPU or the extra."""
    from nsfwscan.models.jpegs import EncodedJpeg, JpegDecoder

    decoder = JpegDecoder([geometry])
    jpegs = [EncodedJpeg(path.read_bytes(), 1, Image.open(path).size) for path in files]
    pixels = [width * height for width, height in (one.size for one in jpegs)]
    batches = cycle([jpegs[rows] for rows in cut(pixels, *LARGEST_BATCH)])

    def step() -> int:
        done, _ = decoder(next(batches))
        return int(done.sum())

    step()
    return repeat(step, seconds, repetitions)


def prepare_decoding(way: str, files: list[Path], block: int, geometry: Geometry) -> Step:
    """Read the files, and return a step that decodes the next block of them."""
    return _step([path.read_bytes() for path in files], block, _decoder(way, geometry))


def _step(data: list[bytes], block: int, decode: Decode) -> Step:
    blocks = cycle([data[i : i + block] for i in range(0, len(data), block)])

    def step() -> int:
        given = next(blocks)
        for encoded, then in zip(given, [*given[1:], None], strict=True):
            decode(encoded, then)
        return len(given)

    return step


def _one_core(
    files: list[Path], block: int, geometry: Geometry, seconds: float, repetitions: int
) -> dict[str, list[float]]:
    """Return the images a second of every way, on one core: a decode child shares it with the process that asks."""
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    data = [path.read_bytes() for path in files]
    steps = {way: _step(data, block, _decoder(way, geometry)) for way in HOW}
    for step in steps.values():
        step()
    return repeat_in_turn(steps, seconds, repetitions)


def _decoder(way: str, geometry: Geometry) -> Decode:
    """Return a function of a file and the one after it; only a decode child makes use of the latter."""
    if way == "turbo":
        return lambda data, _: simplejpeg.decode_jpeg(data)
    if way == "pdqhash":
        return lambda data, _: _with_reference(geometry, data)
    settings = settings_of(_CONFIGS[way.removeprefix("child.")], geometry)
    if way.startswith("child."):
        child = DecodeChild(replace(settings, leaves=way == "child.left"))
        return lambda data, then: child.decode_views(data, then=then)
    fast, hashed, examined, most = settings.fast, settings.hashed, settings.examined, settings.max_pixels
    return lambda data, _: to_pixels(data, geometry, fast=fast, hashed=hashed, examined=examined, max_pixels=most)


def _with_reference(geometry: Geometry, data: bytes) -> tuple[bytes, object]:
    image = decode(data, max_pixels=DecodeConfig().max_pixels).image
    return geometry.apply(image), pdqhash.compute(np.asarray(image))
