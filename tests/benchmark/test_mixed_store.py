"""The benchmark's store of photographs, animations and videos."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.benchmark.media import SMALL, make_mixed_store, make_pictures
from nsfwscan.images.formats.containers import container_of

pytest.importorskip("av")


@pytest.mark.long
def test_the_shares_of_a_mixed_store(tmp_path: Path) -> None:
    """5 % animations and 2 % videos, no two objects with the same bytes; a second call makes nothing."""
    store = make_mixed_store(tmp_path, make_pictures(tmp_path, SMALL, 8), 100)
    files = [path for path in store.rglob("*") if path.is_file()]
    assert Counter(path.suffix for path in files) == {".jpg": 93, ".gif": 5, ".mp4": 2}
    assert len({path.read_bytes() for path in files}) == 100
    assert all(container_of(path.read_bytes()) for path in files if path.suffix == ".mp4")
    assert make_mixed_store(tmp_path, make_pictures(tmp_path, SMALL, 8), 100) == store
