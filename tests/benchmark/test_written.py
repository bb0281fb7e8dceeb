"""The pictures that readers are measured on hold as much text as their names say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.benchmark.media import SMALL, make_pictures
from jobs.benchmark.written import WRITTEN


@pytest.mark.long
@pytest.mark.parametrize(("kind", "lines"), [("", 0), (".line", 1), (".chat", 7), (".page", 48)])
def test_as_many_lines_are_read_as_there_are(kind: str, lines: int, tmp_path: Path) -> None:
    """None in a picture without text, although it is no plain one."""
    pytest.importorskip("rapidocr")
    from nsfwscan.texts.ocr import Ocr

    [picture] = make_pictures(tmp_path, SMALL, 1)
    reader = Ocr(1)
    reader.open()
    assert len(reader.read(np.asarray(WRITTEN[kind][1](picture)))) == lines
