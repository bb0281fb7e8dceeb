"""The worked example of nsfwscan/images/README.md runs, and the page names all that is read."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from nsfwscan.errors import RowError
from nsfwscan.images.decoder import decode
from nsfwscan.images.formats import registry
from nsfwscan.images.formats.registry import FORMATS, register_formats

ROOM = Path(__file__).parents[2] / "nsfwscan" / "images"
README = (ROOM / "README.md").read_text(encoding="utf-8")
FARBFELD = b"farbfeld" + struct.pack(">II", 40, 30) + struct.pack(">4H", 0x3300, 0x6600, 0x9900, 0xFFFF) * 1200


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Example's names, its format registered until the end of the test."""
    found: dict[str, Any] = {"__name__": "example"}
    exec(compile("\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL)), "README.md", "exec"), found)
    monkeypatch.setitem(registry.READ, "FARBFELD", found["line"])
    register_formats.cache_clear()
    register_formats()
    yield found
    for known in (Image.OPEN, Image.ID):
        known.remove(found["line"].plugin) if isinstance(known, list) else known.pop(found["line"].plugin)


@pytest.mark.usefixtures("example")
def test_the_example_of_a_format_is_read() -> None:
    """One class and one line: the file is decoded, and one that is cut off is salvaged."""
    formats = (*FORMATS, "FARBFELD")
    decoded = decode(FARBFELD, max_pixels=10_000, formats=formats)
    assert decoded.image.size == (40, 30) and decoded.image.getpixel((0, 0)) == (0x33, 0x66, 0x99)
    assert decoded.facts["format"] == "FARBFELD"
    cut = decode(FARBFELD[: len(FARBFELD) // 2], max_pixels=10_000, formats=formats)
    assert cut.facts["signals"]["decode.salvaged"] == 1 and 0.4 < cut.facts["signals"]["decode.complete"] < 0.6
    with pytest.raises(RowError, match="over the limit of 100"):
        decode(FARBFELD, max_pixels=100, formats=formats)


def test_the_page_names_every_format_and_every_step() -> None:
    """Each format of the registry, each module of the room, and no link to nowhere."""
    read = README.split("## What is read")[1].split("Refused")[0].upper()
    assert not [name for name in FORMATS if name not in read]
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert not [link for link in links if not (ROOM / link).exists()]
    assert {path.name for path in ROOM.glob("*.py")} - {"__init__.py", "out_of_memory.py"} <= set(links)
