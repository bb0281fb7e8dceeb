"""The page on models names the presets and labels that there are."""

from __future__ import annotations

import re
from pathlib import Path

import nsfwscan
from nsfwscan.models.labels import ALIASES, category_of
from nsfwscan.models.registry import PRESETS

PAGE = (Path(nsfwscan.__file__).parent / "models" / "README.md").read_text(encoding="utf-8")


def test_presets() -> None:
    """Each with its checkpoint and its policy."""
    rows = re.findall(r"^\| `([\w-]+)` \| `([\w/:-]+)` \| `([\w-]+)` \|$", PAGE, re.MULTILINE)
    assert rows == [(name, preset.model, preset.policy) for name, preset in PRESETS.items()]


def test_labels() -> None:
    """Each label of the table means its category, and every alias but the categories' own names is in it."""
    rows = re.findall(r"^\| (`[^|]*`) \| `(\w+)` \|$", PAGE, re.MULTILINE)
    labels = {label: category for names, category in rows for label in re.findall(r"`(.*?)`", names)}
    assert all(category_of(label) == category for label, category in labels.items())
    assert {label.lower().replace("-", " ") for label in labels} == {a for a, c in ALIASES.items() if a != c}
