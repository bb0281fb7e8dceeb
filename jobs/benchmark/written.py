"""Make the pictures that readers of text are measured on, as large as a phone's screen: one without text, the same with
a line on it, a chat, and a page full of text."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

SIZE = 1080, 2340
_TALK = ("Are you coming tonight?", "I have to work until nine", "Then come later", "All right, where is it?",
         "At the old harbour, pier 4", "See you there!", "Bring something to drink")  # fmt: skip
_WIDE, _ROWS = 46, 48
"""Letters in a row of a page, and rows."""


def bare(picture: Path) -> Image.Image:
    """Return one of the benchmark's pictures."""
    return ImageOps.fit(Image.open(picture).convert("RGB"), SIZE)


def captioned(picture: Path) -> Image.Image:
    """Return the same with a line of text on a bar at its end."""
    image = bare(picture)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 2140, SIZE[0], 2260), fill=(0, 0, 0))
    draw.text((60, 2170), _TALK[4], fill=(255, 255, 255), font=ImageFont.load_default(52))
    return image


def chat(_: Path) -> Image.Image:
    """Return a chat of seven lines."""
    image = Image.new("RGB", SIZE, (236, 229, 221))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(40)
    for number, line in enumerate(_TALK):
        left, top = (40, 380)[number % 2], 200 + 150 * number
        draw.rounded_rectangle((left, top, left + 660, top + 90), 20, fill=(255, 255, 255))
        draw.text((left + 20, top + 20), line, fill=(20, 20, 20), font=font)
    return image


def full(_: Path) -> Image.Image:
    """Return a page of 48 rows."""
    image = Image.new("RGB", SIZE, (255, 255, 255))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(40)
    for number, row in enumerate(textwrap.wrap(" ".join(islice(cycle(_TALK), 2 * _ROWS)), _WIDE)[:_ROWS]):
        draw.text((60, 30 + 47 * number), row, fill=(20, 20, 20), font=font)
    return image


WRITTEN: dict[str, tuple[str, Callable[[Path], Image.Image]]] = {
    "": ("a picture without text", bare),
    ".line": ("the same with a line", captioned),
    ".chat": ("a chat of seven lines", chat),
    ".page": ("a page of 48 lines", full),
}
"""What ends the figure's name; what it is called; and what makes it, of one of the benchmark's pictures."""
