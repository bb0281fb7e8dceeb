"""A file or a folder appears whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from nsfwscan.storage.atomic import appearing


def test_a_file_takes_its_place_at_the_end(tmp_path: Path) -> None:
    """Until then the older one is there; its permissions are those that were asked for."""
    target = tmp_path / "out.csv"
    target.write_text("old")
    with appearing(target, mode=0o600) as path:
        path.write_text("new")
        assert target.read_text() == "old"
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o600)
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("locked", [False, True])
def test_nothing_is_left_of_what_failed(tmp_path: Path, locked: bool) -> None:
    """Neither a file nor a folder, and the older one stays."""
    target = tmp_path / "bank"
    target.mkdir()

    def write() -> None:
        with appearing(target, locked=locked) as path:
            path.mkdir()
            (path / "a").write_text("half")
            raise ValueError("full")

    with pytest.raises(ValueError, match="full"):
        write()
    assert list(tmp_path.rglob("*")) == [target]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    """Of a folder that is written under a lock: the next one begins anew, and replaces a damaged one."""
    target = tmp_path / "model"
    for _ in range(2):
        with appearing(target, locked=True) as path:
            left = path
            path.mkdir()
            (path / "weights").write_text("whole")
        left.mkdir()
        (left / "half").write_text("half")
    assert [path.name for path in target.iterdir()] == ["weights"]
