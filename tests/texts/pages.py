"""Pictures with text, drawn for tests."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFont


def page(*lines: str, size: tuple[int, int] = (640, 320), letters: int = 30) -> Image.Image:
    """Dark letters on white, a line below the other."""
    image = Image.new("RGB", size, (250, 250, 250))
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        draw.text((24, 24 + number * letters * 2), line, fill=(20, 20, 20), font=ImageFont.load_default(letters))
    return image
