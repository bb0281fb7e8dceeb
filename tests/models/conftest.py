"""Fixtures that several of these tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.checkpoints import make_vit


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One ViT, which tests copy before they change it."""
    return make_vit(tmp_path_factory.mktemp("made") / "small-vit")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy of the ViT to be spoilt."""
    return Path(shutil.copytree(made, tmp_path / "small-vit"))
