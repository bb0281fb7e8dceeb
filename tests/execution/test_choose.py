"""Where shards run: a few objects here, at once; more, or with a cluster, on Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from nsfwscan.config import EngineConfig
from nsfwscan.execution.choose import is_inline


@pytest.mark.parametrize(
    ("given", "rows", "expected"),
    [
        ({}, 0, True),
        ({}, 1000, True),
        ({}, 1001, False),
        ({"inline_rows": 0}, 1, False),
        ({"inline_rows": 10_000}, 10_000, True),
        ({"address": "ray://head:10001"}, 1, False),
        ({"address": "local"}, 1, False),
    ],
)
def test_few_objects_are_scanned_here(
    given: dict[str, object], rows: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to `inline_rows` objects in this process, unless there is a cluster, by option or environment."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    config = EngineConfig.of(dict(given))
    assert is_inline(config, rows) is expected
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not is_inline(config, rows)


def test_a_small_scan_does_without_ray(tmp_path: Path) -> None:
    """Three images end in a committed report, and nothing of Ray was even imported; the record says where it ran."""
    (tmp_path / "media").mkdir()
    for i in range(3):
        Image.new("RGB", (64, 64), (80 * i, 0, 0)).save(tmp_path / "media" / f"{i}.png")
    script = (
        "import sys, nsfwscan\n"
        f"result = nsfwscan.scan({str(tmp_path / 'media')!r}, {str(tmp_path / 'out')!r})\n"
        "layout = result.record.machine.layout\n"
        "print(result.exit_code, result.record.balance.scored, layout.kind, 'ray' in sys.modules)\n"
    )
    environment = {"PATH": "/usr/bin:/bin"}
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment, cwd=Path.cwd()
    )
    assert shown.stdout.split() == ["0", "3", "inline", "False"]
