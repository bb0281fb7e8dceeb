"""Drawings of the demo store: shapes, scenes, charts, text. Each function draws one picture, the same in each build."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Size = tuple[int, int]
Colour = tuple[int, int, int]


def canvas(size: Size, ground: Colour) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a new RGB picture of one colour, and the pen for it."""
    image = Image.new("RGB", size, ground)
    return image, ImageDraw.Draw(image)


def blend(first: Colour, second: Colour, share: float) -> Colour:
    """Return the colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _fill_sky(pen: ImageDraw.ImageDraw, size: Size, top: Colour, bottom: Colour) -> None:
    """Paint a vertical gradient, one line at a time."""
    width, height = size
    for y in range(height):
        pen.line((0, y, width, y), fill=blend(top, bottom, y / height))


def _draw_shapes() -> Image.Image:
    """Draw overlapping flat-coloured shapes on white."""
    image, pen = canvas((480, 480), (255, 255, 255))
    dice = random.Random(11)
    for number in range(40):
        x, y, side = dice.randrange(420), dice.randrange(420), dice.randrange(20, 120)
        colour = dice.randrange(256), dice.randrange(256), dice.randrange(256)
        box = (x, y, x + side, y + side)
        if number % 3 == 0:
            pen.ellipse(box, fill=colour)
        elif number % 3 == 1:
            pen.rectangle(box, fill=colour, outline=(0, 0, 0))
        else:
            pen.polygon([(x, y + side), (x + side // 2, y), (x + side, y + side)], fill=colour)
    return image


def _draw_landscape() -> Image.Image:
    """Draw sky, sun, hills and fir trees."""
    size = width, height = 640, 420
    image, pen = canvas(size, (0, 0, 0))
    _fill_sky(pen, size, (90, 160, 230), (250, 220, 180))
    pen.ellipse((480, 50, 560, 130), fill=(255, 235, 120))
    for depth, colour in enumerate([(120, 150, 170), (90, 140, 110), (50, 110, 60)]):
        ridge = [(x, 230 + 50 * depth + round(30 * math.sin(x / (70 + 25 * depth) + depth))) for x in range(0, 641, 8)]
        pen.polygon([(0, height), *ridge, (width, height)], fill=colour)
    for x in range(30, width, 75):
        pen.polygon([(x - 16, 390), (x, 320), (x + 16, 390)], fill=(20, 70, 40))
        pen.rectangle((x - 3, 390, x + 3, 402), fill=(90, 60, 30))
    return image


def _draw_night_city() -> Image.Image:
    """Draw dark towers with lit windows."""
    size = width, height = 500, 360
    image, pen = canvas(size, (0, 0, 0))
    _fill_sky(pen, size, (10, 10, 40), (70, 30, 80))
    dice = random.Random(12)
    for left in range(0, width, 50):
        top = dice.randrange(80, 240)
        pen.rectangle((left, top, left + 46, height), fill=(20, 20, 30))
        for x in range(left + 6, left + 40, 10):
            for y in range(top + 8, height - 8, 14):
                if dice.random() < 0.5:
                    pen.rectangle((x, y, x + 5, y + 7), fill=(250, 220, 120))
    return image


def _draw_bar_chart() -> Image.Image:
    """Draw bars with axes and labels."""
    image, pen = canvas((520, 360), (250, 250, 250))
    font = ImageFont.load_default(16)
    for number, value in enumerate([120, 210, 90, 260, 170, 230]):
        left = 60 + 75 * number
        pen.rectangle((left, 310 - value, left + 48, 310), fill=blend((40, 90, 200), (230, 90, 60), number / 5))
        pen.text((left + 12, 318), f"Q{number + 1}", fill=(0, 0, 0), font=font)
    pen.line((50, 20, 50, 310, 510, 310), fill=(0, 0, 0), width=2)
    return image


def _draw_line_chart() -> Image.Image:
    """Draw three wavy lines on a grid."""
    image, pen = canvas((600, 300), (255, 255, 255))
    for x in range(0, 600, 50):
        pen.line((x, 0, x, 300), fill=(220, 220, 220))
    for y in range(0, 300, 50):
        pen.line((0, y, 600, y), fill=(220, 220, 220))
    for number, colour in enumerate([(200, 30, 30), (30, 120, 30), (30, 30, 200)]):
        curve = [(x, 150 + round(90 * math.sin(x / (40 + 20 * number)))) for x in range(0, 600, 4)]
        pen.line(curve, fill=colour, width=3)
    return image


def _draw_pie_chart() -> Image.Image:
    """Draw a pie in warm, skin-like tones, which pull a classifier away from "drawing"."""
    image, pen = canvas((400, 400), (245, 235, 225))
    start = 0
    for number, degrees in enumerate([130, 90, 80, 60]):
        colour = blend((240, 200, 170), (150, 90, 60), number / 3)
        pen.pieslice((40, 40, 360, 360), start, start + degrees, fill=colour, outline=(255, 255, 255), width=3)
        start += degrees
    return image


def _draw_poster() -> Image.Image:
    """Draw large and small text."""
    image, pen = canvas((420, 594), (240, 60, 50))
    pen.text((30, 40), "DEMO", fill=(255, 255, 255), font=ImageFont.load_default(120))
    for line in range(16):
        words = "the quick brown fox jumps over the lazy dog"
        pen.text((30, 220 + 22 * line), words, fill=(255, 240, 200), font=ImageFont.load_default(14))
    return image


def draw_gradient() -> Image.Image:
    """Draw a smooth sweep of colours without any edge."""
    across = np.linspace(0, 255, 448, dtype=np.float64)
    red, green = np.meshgrid(across, across)
    return Image.fromarray(np.stack([red, green, 255 - (red + green) / 2], axis=2).astype(np.uint8))


def _draw_smiley() -> Image.Image:
    """Draw a cartoon face of few colours."""
    image, pen = canvas((300, 300), (120, 200, 240))
    pen.ellipse((30, 30, 270, 270), fill=(255, 210, 60), outline=(60, 40, 0), width=5)
    for x in (95, 175):
        pen.ellipse((x, 95, x + 30, 140), fill=(40, 30, 20))
    pen.arc((85, 110, 215, 220), 20, 160, fill=(60, 40, 0), width=8)
    return image


def _draw_house_sketch() -> Image.Image:
    """Draw thin black lines on white, like a pencil sketch."""
    image, pen = canvas((460, 380), (255, 255, 255))
    pen.rectangle((110, 180, 350, 340), outline=(30, 30, 30), width=2)
    pen.polygon([(90, 180), (230, 70), (370, 180)], outline=(30, 30, 30), width=2)
    pen.rectangle((205, 250, 255, 340), outline=(30, 30, 30), width=2)
    for left in (135, 280):
        pen.rectangle((left, 210, left + 45, 250), outline=(30, 30, 30))
        pen.line((left, 230, left + 45, 230), fill=(30, 30, 30))
    for x in range(100, 360, 6):
        pen.line((x, 180, x + 14, 168), fill=(120, 120, 120))
    return image


DRAWN: tuple[tuple[str, str, Callable[[], Image.Image], str], ...] = (
    ("shapes.png", "PNG", _draw_shapes, "Many flat-coloured shapes."),
    ("landscape.jpg", "JPEG", _draw_landscape, "Looks a little like a photograph of scenery."),
    ("night_city.jpg", "JPEG", _draw_night_city, "Mostly dark."),
    ("bar_chart.png", "PNG", _draw_bar_chart, "A chart with labels."),
    ("line_chart.png", "PNG", _draw_line_chart, "A chart of thin lines."),
    ("pie_chart.webp", "WEBP", _draw_pie_chart, "A chart in skin-like tones, lossy WebP."),
    ("poster.jpg", "JPEG", _draw_poster, "Text on a red ground."),
    ("gradient.png", "PNG", draw_gradient, "No edges at all."),
    ("smiley.gif", "GIF", _draw_smiley, "A cartoon face, a GIF of one frame."),
    ("house_sketch.png", "PNG", _draw_house_sketch, "Line art."),
)


def drawing(name: str) -> Image.Image:
    """Return one of the drawings, by its file's name."""
    return next(draw() for known, _, draw, _ in DRAWN if known == name)
