"""Tables that are read at run time travel with the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("package", ["nsfwscan", "training"])
def test_every_table_is_package_data(package: str) -> None:
    """A YAML file in a package is matched by `package-data`: setuptools leaves out whatever is not."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    packaged = {path for glob in settings["package-data"][package] for path in (ROOT / package).glob(glob)}
    assert set((ROOT / package).rglob("*.yaml")) <= packaged
