"""Measure decoding of PNG, WebP, AVIF and HEIC on one core, beside their libraries alone (figures `formats.*`).

The files are a block's smaller pictures in these formats: encoding the large ones takes minutes. A library alone is
Pillow's or pi-heif's binding to it: open, decode, and nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import pi_heif
from PIL import AvifImagePlugin, Image

from jobs.benchmark.figures import Figure, figure, missing
from jobs.benchmark.timing import Step, apart, environment, repeat_in_turn
from jobs.benchmark.workload import Workload
from nsfwscan.config import DecodeConfig
from nsfwscan.images.decoder import to_pixels
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.zygote import ENVIRONMENT

FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 6},
    "WEBP": {"quality": 80},
    "AVIF": {"quality": 75, "speed": 9},
    "HEIF": {"quality": 75},
}
"""Pillow's names of the formats, and how the pictures are encoded."""
_MOST_PIXELS = 2**22


def measure_formats(workload: Workload, geometry: Geometry) -> list[Figure]:
    """Measure each format: its library alone, and with hash and the model's pixels."""
    files, figures = list(workload.blocks()[0]), []
    for name, options in FORMATS.items():
        raw, ours = f"formats.{name.lower()}.raw", f"formats.{name.lower()}"
        try:
            with environment(ENVIRONMENT):
                given = files, name, options, geometry, workload.seconds / 4, workload.repetitions
                alone, whole = apart(_rates, *given)
        except (ImportError, KeyError, OSError) as error:
            figures.append(missing(ours, f"decode {name}, one core", f"cannot be encoded here: {error!r}"))
            continue
        figures.append(figure(raw, f"{name}: its library alone, one core", alone, note="opened and decoded, no more"))
        figures.append(figure(ours, f"{name}: decode in full and hash, one core", whole))
    return figures


def _rates(
    files: list[Path], name: str, options: dict[str, Any], geometry: Geometry, seconds: float, repetitions: int
) -> tuple[list[float], list[float]]:
    """Return the images a second of the library alone, and of a scan's decoding."""
    AvifImagePlugin.DEFAULT_MAX_THREADS = pi_heif.options.DECODE_THREADS = 1
    data = [_encoded(path, name, options) for path in files if prod(Image.open(path).size) <= _MOST_PIXELS]
    whole = partial(to_pixels, max_pixels=DecodeConfig().max_pixels, hashed=True)
    steps = {"alone": _step(data, _alone), "whole": _step(data, lambda one: whole(one, geometry))}
    for step in steps.values():
        step()
    rates = repeat_in_turn(steps, seconds, repetitions)
    return rates["alone"], rates["whole"]


def _encoded(path: Path, name: str, options: dict[str, Any]) -> bytes:
    if name == "HEIF":
        from pillow_heif import register_heif_opener  # which reads and writes; pi-heif only reads

        register_heif_opener()
    out = io.BytesIO()
    Image.open(path).save(out, name, **options)
    return out.getvalue()


def _alone(data: bytes) -> None:
    with Image.open(io.BytesIO(data)) as image:
        image.load()


def _step(data: list[bytes], decode: Callable[[bytes], object]) -> Step:
    def step() -> int:
        for one in data:
            decode(one)
        return len(data)

    return step
