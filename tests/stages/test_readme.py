"""The worked example of nsfwscan/stages/README.md runs, and its table has every stage."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

STAGES = Path(__file__).parents[2] / "nsfwscan" / "stages"
README = (STAGES / "README.md").read_text(encoding="utf-8")


def test_the_example_of_a_stage_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new stage gives its signal where there is a picture, and leaves a row alone that has none."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), (51, 51, 51)).save("photo.png")
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    exec(compile("\n".join(blocks), "README.md", "exec"), {"__name__": "example"})
    good, absent = capsys.readouterr().out.splitlines()
    assert good.startswith("photo.png ok [") and "'look.brightness', 'value': 0.2" in good
    assert absent == "absent.png not_found None"


def test_every_stage_has_a_line() -> None:
    """No stage is missing from the table, and none is there that is gone."""
    classes = {
        name
        for path in STAGES.glob("*.py")
        for name in re.findall(r"^class ([A-Z]\w+)\(", path.read_text(), re.MULTILINE)
    }
    told = {
        name for line in README.splitlines() if line.startswith("| [") for name in re.findall(r"`([A-Z]\w+)`", line)
    }
    assert told == classes - {"Stage", "ScoringStage", "Poison"}
