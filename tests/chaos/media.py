"""A media store of small objects from a seed: pictures of four formats, duplicates, and what is no picture.

In: how many, and a seed. Out: keys and bytes, the same ones each time. Most keys lie in class folders, so that rows have
a truth; some have names that need quoting.
"""

from __future__ import annotations

import io
import random
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageDraw

FORMATS = ("JPEG", "JPEG", "PNG", "WEBP", "GIF")
FOLDERS = ("neutral", "neutral", "drawings", "sexy", "uploads/2026 11", "uploads/Füße+100%")
KINDS = {"picture": 0.74, "duplicate": 0.10, "foreign": 0.05, "cut": 0.06, "scrambled": 0.03, "empty": 0.02}
FOREIGN = (b"%PDF-1.7\n%nothing to see here\n", b'{"not": "an image"}\n', b"PK\x03\x04" + bytes(60), b"plain words\n")


def media(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """Keys and bytes of so many objects."""
    chance = random.Random(seed)
    pictures: list[bytes] = []
    for number in range(count):
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        picture = _picture(chance)
        if kind == "picture":
            pictures.append(picture)
        data = {
            "picture": picture,
            "duplicate": chance.choice(pictures or [picture]),
            "foreign": chance.choice(FOREIGN),
            "cut": picture[: chance.randrange(1, len(picture))],
            "scrambled": picture[:12] + chance.randbytes(len(picture) - 12),
            "empty": b"",
        }[kind]
        yield f"{chance.choice(FOLDERS)}/{number:05d}.jpg", data


def _picture(chance: random.Random) -> bytes:
    width, height = chance.randrange(24, 160), chance.randrange(24, 160)
    ends = np.array([[chance.randrange(256) for _ in range(3)] for _ in range(2)], np.float64)
    slope = np.linspace(0, 1, width)[None, :, None] * np.ones((height, 1, 1))
    image = Image.fromarray((ends[0] * (1 - slope) + ends[1] * slope).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(chance.randrange(6)):
        x, y, size = chance.randrange(width), chance.randrange(height), chance.randrange(4, 64)
        draw.ellipse((x, y, x + size, y + size), fill=(chance.randrange(256), chance.randrange(256), 90))
    data = io.BytesIO()
    image.save(data, chance.choice(FORMATS))
    return data.getvalue()
