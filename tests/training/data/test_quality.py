"""Each flaw is told by its measure, and photographs as they are have none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.training.pictures import encoded, photograph, photographs
from training.data.quality import FLAWS, flaws, jpeg_quality, measure


def flaws_of(image: Image.Image, fmt: str = "JPEG", **options: int) -> list[str]:
    data = encoded(image, fmt, **options)
    with Image.open(__import__("io").BytesIO(data)) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR))
    found = measure(pixels, data, fmt)
    return flaws(found | {"format": fmt, "size": len(data), "width": image.width, "height": image.height})


@pytest.mark.parametrize("name", list(photographs()))
def test_photographs_have_no_flaw(name: str) -> None:
    """What a person would keep is not accused."""
    assert flaws_of(photograph(name)) == []


def test_each_flaw_has_its_name() -> None:
    """Each kind of damage is told, and nothing else with it."""
    coffee = photograph("coffee.png")
    found = {
        "blurred": flaws_of(coffee.filter(ImageFilter.GaussianBlur(6))),
        "dark": flaws_of(coffee.point(lambda v: v // 4)),
        "flat": flaws_of(Image.new("RGB", (300, 300), (100, 100, 100))),
        "tiny": flaws_of(coffee.resize((120, 80))),
        "over-compressed": flaws_of(coffee, quality=15),
        "sliver": flaws_of(photograph("rocket.jpg").crop((0, 100, 640, 240))),
    }
    assert found == {name: [name] for name in FLAWS}
    assert flaws_of(photograph("rocket.jpg"), "AVIF", quality=1) == ["over-compressed"]
    assert flaws_of(photograph("rocket.jpg"), "AVIF", quality=60) == []


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 100])
def test_jpeg_quality(quality: int) -> None:
    """The setting that a JPEG was written with is read from its tables; what is no JPEG has none."""
    found = jpeg_quality(encoded(photograph("coins.png"), quality=quality))
    assert found is not None and abs(found - quality) <= 2
    assert jpeg_quality(encoded(photograph("coins.png"), "PNG")) is None
    assert jpeg_quality(b"\xff\xd8\xff\xdb no") is None
