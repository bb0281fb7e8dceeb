"""A real pretrained ViT against one from scratch, on a tenth of the data. Needs DINOv2 small as a checkpoint."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import Bench
from tests.training.stand_in import small_vit
from training.config import DataConfig

DINOV2 = os.environ.get("NSFWSCAN_DINOV2")

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not DINOV2, reason="NSFWSCAN_DINOV2 names no checkpoint directory of DINOv2 small"),
]


@pytest.fixture(scope="module")
def tenth(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """As `bench`, with a ViT, a tenth of its images to learn from, and as many to be tested with."""
    data = DataConfig(uris=(str(bench.images),), cache=str(bench.cache), max_per_class=32, test_share=0.4, seed=1)
    return replace(bench, backbone=small_vit(tmp_path_factory.mktemp("vit")), own_data=data)


@pytest.fixture(scope="module")
def from_scratch(tenth: Bench, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Test accuracy of the small ViT, with the settings by which it learns the whole of the data."""
    return _accuracy(tenth, tmp_path_factory.mktemp("scratch"), epochs=12)


@pytest.mark.parametrize(
    "settings",
    [
        {"freeze_backbone": True, "learning_rate": 3e-3, "epochs": 6},
        {"learning_rate": 5e-5, "layer_decay": 0.8, "epochs": 5},
    ],
    ids=["frozen", "fine-tuned"],
)
def test_a_pretrained_backbone_needs_fewer_images(
    tenth: Bench, from_scratch: float, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """DINOv2 beats the ViT from scratch on a tenth of the data, with a frozen backbone and fine-tuned as a whole."""
    assert DINOV2
    pretrained = replace(tenth, backbone=Path(DINOV2))
    assert _accuracy(pretrained, tmp_path, **settings) > from_scratch + 0.05


def _accuracy(bench: Bench, folder: Path, **settings: Any) -> float:
    accuracy: float = bench.train(folder / "out", **settings).record["metrics"]["test"]["accuracy"]
    return accuracy
