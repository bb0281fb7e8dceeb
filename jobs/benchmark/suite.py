"""Run the parts of the benchmark in order, and derive the limits and ratios from their figures.

A part that fails becomes a row that says so, and the others go on. The order matters: a part's figures tell later parts
which rates to expect.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from jobs.benchmark import cascading, contenders, decoding, formats, limits, nights, packs, replaying, scans, scoring
from jobs.benchmark.figures import Figure, figure, missing, value_of
from jobs.benchmark.media import make_mixed_store
from jobs.benchmark.timing import apart
from jobs.benchmark.workload import Workload
from jobs.benchmark.written import WRITTEN
from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.models.onnx_backend import EMBEDDED
from nsfwscan.models.registry import resolve

Say = Callable[[str], None]

_UNKNOWN_RATE = 5.0
"""Images a second to expect if no measured figure tells."""


@dataclass
class Suite:
    """Runner of parts; keeps their figures."""

    workload: Workload
    say: Say
    figures: list[Figure] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    """Names of the parts that have run."""

    def run(self, parts: Collection[str]) -> Iterator[list[Figure]]:
        """Run these parts and the parts that they need; yield all figures so far after each."""
        os.environ.pop("RAY_ADDRESS", None)  # measure this machine, not a cluster
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # nor compilation at every start
        wanted = set(parts)
        wanted.update(needed for part in parts for needed in NEEDS.get(part, ()))
        for name, part in PARTS.items():
            if name not in wanted:
                continue
            self.say(f"measuring {name}")
            try:
                found = part(self)
            except Exception as error:  # noqa: BLE001  # other tools raise anything; the other parts go on
                words = str(error).strip().splitlines() or [""]
                found = [missing(name, name, f"failed: {type(error).__name__}: {words[-1]}")]
            for one in found:
                self.say(f"  {one.label}: {one.note if one.value is None else f'{one.value:,.2f} {one.unit}'}")
            self.figures += found
            self.done.append(name)
            yield self.figures

    def known(self, key: str) -> float | None:
        """Return a value measured so far; None if there is none."""
        return value_of(self.figures, key)

    def expected(self, *keys: str) -> float:
        """Return the first known of these values, else `_UNKNOWN_RATE`."""
        return next((value for key in keys if (value := self.known(key)) is not None), _UNKNOWN_RATE)


def _geometry(workload: Workload) -> Geometry:
    return resolve(ModelConfig(uri=str(workload.model)), StorageConfig()).geometry


def _limits(suite: Suite) -> list[Figure]:
    """Return the limits that follow from decoding alone and the model alone."""
    cores = suite.workload.cores
    hashed, fast = (
        limits.least_core_seconds((suite.known(f"decode.{way}"), 1), (suite.known(f"decode.{way}.all"), cores))
        for way in ("hashed", "fast")
    )
    gpu = suite.known("model.gpu")
    model = limits.least_core_seconds(*((suite.known(key), cores) for key in ("model.threads", "model.processes")))
    if hashed is None or fast is None or (gpu is None and model is None):
        return [missing("limit", "the combined limit", "needs the parts decode and model")]
    if gpu is not None:
        return [
            _gpu_limit("limit", f"the limit: one GPU, {cores} cores", gpu, cores, hashed),
            _gpu_limit("limit.fast", "the limit, without PDQ hashes", gpu, cores, fast),
            _feeding("limit.feeding", "cores that must decode and hash to feed one such GPU", gpu, hashed),
            _feeding("limit.feeding.fast", "cores that must decode to feed one such GPU", gpu, fast),
        ]
    assert model is not None
    return [
        _core_limit("limit", f"the limit: decoding, hashing and model on {cores} cores", cores, model, hashed),
        _core_limit("limit.fast", "the limit, without PDQ hashes", cores, model, fast),
    ]


def _feeding(key: str, label: str, gpu: float, decode_s: float) -> Figure:
    note = f"{gpu:,.1f} images/s x {decode_s * 1000:.2f} core-ms"
    return figure(key, label, [limits.cores_to_feed(gpu, decode_s)], "cores", note)


def _core_limit(key: str, label: str, cores: int, model_s: float, decode_s: float) -> Figure:
    note = f"{cores} / ({model_s * 1000:.2f} core-ms model + {decode_s * 1000:.2f} core-ms decode)"
    return figure(key, label, [limits.limit_on_cores(cores, model_s, decode_s)], note=note)


def _gpu_limit(key: str, label: str, gpu: float, cores: int, decode_s: float) -> Figure:
    note = f"min({gpu:,.1f} of the GPU, {cores} / {decode_s * 1000:.2f} core-ms decode)"
    return figure(key, label, [limits.limit_with_gpu(gpu, cores, decode_s)], note=note)


def _scan(suite: Suite) -> list[Figure]:
    workload = suite.workload
    return scans.measure_scan(workload, str(workload.model), "scan", "nsfwscan scan", suite.expected("limit"))


def _views(suite: Suite) -> list[Figure]:
    workload, label = suite.workload, "nsfwscan scan, 5 % animations and 2 % videos"
    if find_spec("av") is None:
        return [missing("views.steady", label, "needs the extra nsfwscan[video]")]
    expected = suite.expected("scan.steady", "limit")
    _, images = workload.store_for(expected / 2)
    store = make_mixed_store(workload.work, workload.pictures, images), images
    return scans.measure_scan(workload, str(workload.model), "views", label, expected, store=store)


def _free_scan(suite: Suite) -> list[Figure]:
    workload, label = suite.workload, "nsfwscan scan, a model that costs nothing"
    model = str(workload.free)
    expected = suite.expected("decode.hashed.all")
    hashed = scans.measure_scan(workload, model, "free", label, expected)
    hashed += scans.measure_scan(workload, model, "free.inline", f"{label}, without Ray", expected, on_ray=False)
    expected = suite.expected("decode.fast.all")
    return hashed + scans.measure_scan(
        workload, model, "free.fast", f"{label}, no PDQ", expected, sections={"decode": {"pdq": "off"}}
    )


def _cascade(suite: Suite) -> list[Figure]:
    return cascading.measure_cascade(suite.workload, suite.expected("scan.steady", "limit"))


def _embedded(suite: Suite) -> list[Figure]:
    found = contenders.measure_opennsfw(suite.workload)
    expected = max(one.value or _UNKNOWN_RATE for one in found)
    return found + scans.measure_scan(suite.workload, EMBEDDED, "embedded", f"nsfwscan scan, {EMBEDDED}", expected)


def _ray_data(suite: Suite) -> list[Figure]:
    return contenders.measure_ray_data(suite.workload, suite.expected("pipeline.one", "model.processes"))


PARTS: dict[str, Callable[[Suite], list[Figure]]] = {
    "decode": lambda suite: decoding.measure_decoding(suite.workload, apart(_geometry, suite.workload)),
    "formats": lambda suite: formats.measure_formats(suite.workload, apart(_geometry, suite.workload)),
    "model": lambda suite: scoring.measure_model(suite.workload),
    "gpu": lambda suite: decoding.measure_on_gpu(suite.workload, apart(_geometry, suite.workload)),
    "limit": _limits,
    "scan": _scan,
    "cold": lambda suite: scans.measure_cold_start(suite.workload),
    "nights": lambda suite: nights.measure_nights(suite.workload),
    "views": _views,
    "cascade": _cascade,
    "packs": lambda suite: packs.measure_packs(suite.workload),
    "free": _free_scan,
    "replay": lambda suite: replaying.measure_replay(suite.workload),
    "pipeline": lambda suite: contenders.measure_pipeline(suite.workload),
    "ray": _ray_data,
    "opennsfw": _embedded,
}
"""The parts in their order. The long part `memory` is not among them (see `memory.py`)."""

NEEDS = {
    "gpu": ("decode", "model"),
    "limit": ("decode", "model"),
    "scan": ("decode", "model", "limit"),
    "views": ("decode", "model", "limit", "scan"),
    "cascade": ("decode", "model", "limit", "scan"),
    "free": ("decode",),
}
"""Parts that a part needs: its ratios refer to their figures, and so does the size of its store."""

_RAW, _RAW_ALL = ("decode.turbo", "libjpeg-turbo alone"), ("decode.turbo.all", "libjpeg-turbo alone")

RATIOS: dict[str, tuple[tuple[str, str], ...]] = {
    "decode.hashed": (_RAW, ("decode.exact", "without a hash"), ("decode.pdqhash", "`pdqhash`")),
    "decode.fast": (
        _RAW,
        ("decode.exact", "in full"),
    ),
    "decode.reduced": (_RAW, ("decode.fast", "without a hash"), ("decode.hashed", "in full")),
    "decode.child.hashed": (
        _RAW,
        ("decode.hashed", "without the child"),
    ),
    "decode.child.left": (("decode.child.exact", "decoded in full there"),),
    "gpu.decode": (("decode.exact", "a core"), ("model.gpu", "the model alone")),
    "decode.exact": (_RAW,),
    "decode.pdqhash": (_RAW,),
    "decode.child.exact": (_RAW, ("decode.exact", "without the child")),
    **{f"formats.{name.lower()}": ((f"formats.{name.lower()}.raw", "its library alone"),) for name in formats.FORMATS},
    "decode.turbo.all": (("decode.turbo", "one core"),),
    "decode.child.fast": (
        _RAW,
        ("decode.fast", "without the child"),
    ),
    "decode.hashed.all": (
        _RAW_ALL,
        ("decode.hashed", "one core"),
    ),
    "decode.fast.all": (
        _RAW_ALL,
        ("decode.fast", "one core"),
    ),
    "scan.steady": (("limit", "the limit"), ("pipeline.one", "the pipeline loop"), ("ray.steady", "Ray Data")),
    "scan.overall": (("limit", "the limit"),),
    **{f"nights.{night}": (("nights.first", "the first night"),) for night in ("same", "second")},
    "views.steady": (("scan.steady", "photographs alone"),),
    "cascade.steady": (("scan.steady", "without filters"),),
    **{f"packs.{name}": ((f"packs.{packs.MODEL}", "the model alone"),) for name in packs.PACKS if name != packs.MODEL},
    **{
        f"packs.{name}{kind}": ((f"packs.{name}", "without text"),)
        for name in packs.READERS
        for kind in WRITTEN
        if kind
    },
    "packs.factory": (("packs.model", "the model alone"),),
    "packs.factory.gated": (("packs.model", "the model alone"), ("packs.factory", "without a gate")),
    "free.steady": (
        _RAW_ALL,
        ("decode.hashed.all", "raw decoding and hashing"),
    ),
    "free.overall": (
        _RAW_ALL,
        ("decode.hashed.all", "raw decoding and hashing"),
    ),
    "free.inline.steady": (
        ("free.steady", "on Ray"),
        _RAW_ALL,
        ("decode.hashed.all", "raw decoding and hashing"),
    ),
    "free.inline.overall": (("free.overall", "on Ray"),),
    "free.inline.beside": (("free.beside", "on Ray"),),
    "free.fast.steady": (
        _RAW_ALL,
        ("decode.fast.all", "raw decoding"),
    ),
    "free.fast.overall": (
        _RAW_ALL,
        ("decode.fast.all", "raw decoding"),
    ),
    "pipeline.one": (("limit", "the limit"),),
    "pipeline.batched": (("limit", "the limit"), ("pipeline.one", "image by image")),
    "ray.overall": (("limit", "the limit"),),
    "ray.steady": (("limit", "the limit"), ("pipeline.one", "the pipeline loop")),
    "opennsfw.batched": (("opennsfw.one", "classify"),),
    "embedded.steady": (("opennsfw.one", "classify"), ("opennsfw.batched", "classify_batch")),
}
"""For a figure's key: the (key, name) of each figure that the table divides it by."""


def ratios(figures: Iterable[Figure]) -> dict[str, list[dict[str, Any]]]:
    """Return the ratios of each figure to others, by key: `{"of": key, "name": …, "ratio": …}`."""
    values = {one.key: one.value for one in figures}
    found: dict[str, list[dict[str, Any]]] = {}
    for key, others in RATIOS.items():
        mine = values.get(key)
        for other, name in others:
            theirs = values.get(other)
            if mine is not None and theirs:
                found.setdefault(key, []).append({"of": other, "name": name, "ratio": mine / theirs})
    return found
