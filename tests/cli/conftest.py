"""Fixtures that several of these tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runs.rows import files


@pytest.fixture
def media(tmp_path: Path) -> Path:
    return files(tmp_path / "media", 4)
