"""training/README.md says what training does; tests/test_readme.py holds what all pages must."""

from __future__ import annotations

import re
from pathlib import Path

from nsfwscan.schema import Category
from training.cli import main
from training.config import DataConfig

README = (Path(__file__).parents[2] / "training" / "README.md").read_text(encoding="utf-8")


def test_every_command_is_shown() -> None:
    """README shows each command of `nsfwscan-train`, and names no option that none has."""
    assert set(re.findall(r"^\$ nsfwscan-train (\w+)", README, re.MULTILINE)) == set(main.commands)
    known = {opt for command in main.commands.values() for option in command.params for opt in option.opts}
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README)) <= known | {"--working-dir"}


def test_numbers_are_the_defaults() -> None:
    """The shares, the distance and the categories in README are those of the configuration."""
    data = DataConfig(uris=("x",))
    shares = [1 - data.validation_share - data.test_share, data.validation_share, data.test_share]
    assert f"divided {'/'.join(f'{100 * share:.0f}' for share in shares)} into" in README
    assert f"`--similar-distance`, {data.similar_distance} of 256 bits" in " ".join(README.split())
    assert all(f"`{category}`" in README for category in Category)
