"""The settings of a training, from Python and from the command line."""

from __future__ import annotations

import math
from typing import Any

import click
import numpy as np
import pytest

from nsfwscan.errors import ConfigError
from tests.later import later
from training.fit.config import TrainConfig
from training.options import train_config, train_options

trainer = later("training.fit.trainer")


GIVEN: dict[str, Any] = {"backbone": "vit", "out": "out"}


def test_conservative_defaults() -> None:
    """All weights learn slowly; a new head alone a good deal faster."""
    assert TrainConfig.of(GIVEN).rate == 2e-5
    assert TrainConfig.of({**GIVEN, "freeze_backbone": True}).rate == 1e-3
    assert TrainConfig.of({**GIVEN, "freeze_backbone": True, "learning_rate": 0.1}).rate == 0.1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"epoch": 3}, "epoch: Extra inputs"),
        ({"batch_size": 32, "workers": 3}, "batch_size 32 is not a multiple of workers x gradient_accumulation, 3"),
        ({"freeze_backbone": True, "layer_decay": 0.9}, "layer_decay is for a backbone that is trained"),
        ({"out": "s3://key:secret@host/x"}, "must not hold a password"),
    ],
)
def test_wrong_settings(changed: dict[str, Any], message: str) -> None:
    """A wrong setting is named, and no secret repeated."""
    with pytest.raises(ConfigError, match=message) as raised:
        TrainConfig.of({**GIVEN, **changed})
    assert "secret" not in str(raised.value)


def test_images_at_once() -> None:
    """A step's images are shared by workers and accumulated batches."""
    assert TrainConfig.of({**GIVEN, "batch_size": 64, "workers": 2, "gradient_accumulation": 4}).images_at_once == 8


def test_what_decides() -> None:
    """Where a training runs is not what makes it another; what changes its weights is."""
    begun = TrainConfig.of(GIVEN).deciding()
    elsewhere = TrainConfig.of({**GIVEN, "out": "other", "num_cpus": 1, "max_failures": 0, "checkpoint_steps": 7})
    assert elsewhere.deciding() == begun
    for changed in ({"seed": 1}, {"workers": 2}, {"augment": False}, {"learning_rate": 1e-4}, {"metric": "macro_f1"}):
        assert TrainConfig.of({**GIVEN, **changed}).deciding() != begun
    assert TrainConfig.of({**GIVEN, "learning_rate": 2e-5}).deciding() == begun


def test_every_setting_has_an_option() -> None:
    """What can be set can be set on the command line, and options change what they name."""
    options = {parameter.name for parameter in click.command()(train_options(lambda: None)).params}
    renamed = {"seed": "training_seed", "export_onnx": "exported"}
    theirs = {"max_pixels"}  # an option of the data, for both
    assert {renamed.get(name, name) for name in TrainConfig.model_fields} - theirs == options
    found = train_config(
        {**GIVEN, "patience": 0, "training_seed": 7, "exported": "onnx", "epochs": 9, "augment": False}
    )
    assert (found.patience, found.seed, found.export_onnx, found.epochs, found.augment) == (None, 7, True, 9, False)
    assert train_config(GIVEN) == TrainConfig.of(GIVEN)


def test_balanced_weights() -> None:
    """Classes weigh in inverse proportion to their images; where all have as many, all weigh 1."""
    assert trainer.balanced_weights([10, 10, 10]) == pytest.approx([1, 1, 1])
    weights = trainer.balanced_weights([100, 50, 10])
    assert np.ptp(weights * [100, 50, 10]) == pytest.approx(0, abs=1e-4)
    assert math.isclose(float(np.sum(weights * [100, 50, 10])), 160, rel_tol=1e-5)
