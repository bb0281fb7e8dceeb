"""Decoding alone: files in memory to a model's pixels, on one core and on all.

In: a `Workload` and a geometry. Out: figures `decode.*`. Nothing but decoding is timed, in whole blocks of the mix.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np

from nsfwscan.benchmark.figures import Figure, figure, missing
from nsfwscan.benchmark.timing import Step, apart, repeat, together
from nsfwscan.benchmark.workload import Workload
from nsfwscan.config import DecodeConfig
from nsfwscan.images.child import DecodeChild
from nsfwscan.images.decoder import decode, to_pixels
from nsfwscan.images.wire import Settings
from nsfwscan.models.geometry import Geometry

_BLOCKS = 5
"""Blocks of files that are held in memory, and decoded in turn."""
HOW = {
    "fast": ("decode, fast (a large JPEG at reduced scale)", "what a scan does unless told otherwise"),
    "exact": ("decode, exact (every JPEG in full)", "`--decode exact`"),
    "child.fast": ("decode, fast, in the decode child", "one process waits for the other: as within a scan's actor"),
    "child.exact": ("decode, exact, in the decode child", ""),
    "pdq": ("decode in full, pixels and PDQ hash", "a perceptual hash needs the reference's pixels: no reduced scale"),
}
"""What is decoded on one core, in words."""


def measure_decoding(workload: Workload, geometry: Geometry) -> list[Figure]:
    """Every way of decoding on one core, and the scan's way on all cores at once."""
    files = [path for block in workload.blocks()[:_BLOCKS] for path in block]
    block, seconds = len(workload.blocks()[0]), workload.seconds / 2
    figures = []
    for way, rates in apart(_one_core, files, block, geometry, seconds, workload.repetitions).items():
        words, note = HOW[way]
        key, label = f"decode.{way}", f"{words}, one core"
        if rates is None:
            figures.append(missing(key, label, "pdqhash is not installed (the extra `bench`)"))
        else:
            figures.append(figure(key, label, rates, note=note))
    given = ("fast", files, block, geometry)
    rates = together(prepare_decoding, given, workload.cores, seconds, workload.repetitions)
    note = "a process a core, all at once"
    return [*figures, figure("decode.all", f"decode, fast, {workload.cores} cores", rates, note=note)]


def prepare_decoding(way: str, files: list[Path], block: int, geometry: Geometry) -> Step:
    """A step that decodes the next block of the files, read beforehand.

    Raises:
        ImportError: the package of the perceptual hash is not installed.
    """
    data = [path.read_bytes() for path in files]
    blocks = cycle([data[i : i + block] for i in range(0, len(data), block)])
    one = _decoder(way, geometry)

    def step() -> int:
        for encoded in (given := next(blocks)):
            one(encoded)
        return len(given)

    return step


def _one_core(
    files: list[Path], block: int, geometry: Geometry, seconds: float, repetitions: int
) -> dict[str, list[float] | None]:
    """Images a second of every way; None where its package is not installed."""
    rates: dict[str, list[float] | None] = {}
    for way in HOW:
        try:
            step = prepare_decoding(way, files, block, geometry)
        except ImportError:
            rates[way] = None
            continue
        step()
        rates[way] = repeat(step, seconds, repetitions)
    return rates


def _decoder(way: str, geometry: Geometry) -> Callable[[bytes], object]:
    limits = DecodeConfig()
    if way == "pdq":
        import pdqhash

        return partial(_with_hash, pdqhash.compute, geometry, limits.max_pixels)
    if way.startswith("child."):
        mode = way.removeprefix("child.")
        return partial(DecodeChild(Settings(geometry=geometry, **{**limits.model_dump(), "mode": mode})).decode)
    return partial(to_pixels, geometry=geometry, fast=way == "fast", max_pixels=limits.max_pixels)


def _with_hash(
    compute: Callable[..., object], geometry: Geometry, max_pixels: int, data: bytes
) -> tuple[bytes, object]:
    image = decode(data, max_pixels=max_pixels).image
    return geometry.apply(image), compute(np.asarray(image))
