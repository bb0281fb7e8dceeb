"""Pages that no family of the screenshot model has are what they are called."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image

from training.screenshots.beyond import KINDS, pages_of, photographed, table
from training.screenshots.pages import CHATS


def test_a_screen_is_photographed_whole() -> None:
    """It lies within a darker room, no more straight, with its colours where they were; the same draw is the same."""
    screen = Image.new("RGB", (300, 600), (220, 40, 40))
    screen.paste((40, 40, 220), (0, 300, 300, 600))
    seen = photographed(screen, random.Random(1))
    pixels = np.asarray(seen, np.int16)
    red, blue = (pixels[..., one] - pixels[..., other] > 60 for one, other in ((0, 2), (2, 0)))
    assert seen.size == (390, 780) and np.max(pixels[:20, :20]) < 90
    assert 0.5 < (red.mean() + blue.mean()) / (300 * 600 / (390 * 780)) < 1.1
    assert np.nonzero(red)[0].mean() < np.nonzero(blue)[0].mean()
    lefts = red.argmax(1)[red.any(1)]
    assert np.ptp(lefts) > 3
    assert seen.tobytes() == photographed(screen, random.Random(1)).tobytes()


def test_every_kind_has_the_same_chats() -> None:
    """Only where their bubbles stand differs, so that the kinds can be compared."""
    pages = pages_of(2)
    of_kind = [[page for page in pages if page.family == kind] for kind in KINDS[:-1]]
    assert [len(found) for found in of_kind] == [2 * len(CHATS)] * 3
    for plain, left, listed in zip(*of_kind, strict=True):
        assert left.html.startswith(plain.html) and listed.html.startswith(plain.html)
        assert (plain.width, plain.height) == (left.width, left.height) == (listed.width, listed.height)


def test_the_table_counts_from_a_half() -> None:
    """Of each kind: median, share from 0.5 on, and an interval around it."""
    found = [(kind, {"screenshot": value, "screenshot.chat": 0.1}) for kind in KINDS for value in (0.2, 0.5, 0.9, 0.9)]
    lines = list(table(found))
    assert len(lines) == 2 * len(KINDS) and lines[0].startswith("| `screenshot` | both sides | 0.70 | 75% | ")
    assert lines[-1].startswith("| `screenshot.chat` | photographed | 0.10 | 0% | 0% to ")
