"""Codes in a picture are read, and the row says where they lead, how many are blocked, and which of them hide it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from nsfwscan.config import StorageConfig, TextConfig
from nsfwscan.texts.codes import Codes
from nsfwscan.texts.lines import Line
from nsfwscan.texts.rules import TextRules

zxingcpp = pytest.importorskip("zxingcpp")


def picture(*contents: str) -> NDArray[np.uint8]:
    """Codes side by side on white."""
    page = np.full((260, 60 + 240 * max(1, len(contents)), 3), 255, np.uint8)
    for number, content in enumerate(contents):
        code = np.asarray(zxingcpp.create_barcode(content, zxingcpp.BarcodeFormat.QRCode).to_image(scale=4))
        page[40 : 40 + code.shape[0], 40 + 240 * number : 40 + 240 * number + code.shape[1]] = code[..., None]
    return page


def test_several_codes(tmp_path: Path) -> None:
    """Each with its content and place; the host that counts most is the blocked one."""
    (tmp_path / "block.txt").write_text("evil.example\n")
    (tmp_path / "allow.txt").write_text("good.example\n")
    config = TextConfig(block=str(tmp_path / "block.txt"), allow=str(tmp_path / "allow.txt"))
    reader = Codes(TextRules.of(config, StorageConfig()))
    contents = ("https://good.example/", "http://a@x.evil.example/", "tel:+49")
    lines = reader.read(picture(*contents))
    assert {line.text for line in lines} == set(contents) and all(line.kind == "QRCode" for line in lines)
    assert all(0 < line.place[0] < 1 and 0.2 < line.place[3] < 0.8 for line in lines)
    said = reader.describe(lines)
    assert said.signals == {"codes": 3, "hosts": 2, "other": 1, "odd": 1, "blocked": 1, "allowed": 1}
    assert said.words == {"link_host": "x.evil.example"}


def test_without_lists_nothing_is_said_of_them() -> None:
    """Unknown is no zero; no code is."""
    reader = Codes(TextRules())
    assert reader.read(picture()) == []
    assert reader.describe([]).signals == {"codes": 0, "hosts": 0, "other": 0, "odd": 0}
    said = reader.describe(
        [Line("QRCode", "https://b.example", 1, (0, 0, 1, 1)), Line("EAN13", "4006", 1, (0, 0, 1, 1))]
    )
    assert said.words == {"link_host": "b.example"} and "blocked" not in said.signals
