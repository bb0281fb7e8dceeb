"""Pictures of screens and of chats are told from photographs and drawings by their looks, where that is asked for."""

from __future__ import annotations

import io
import json
import random

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw

from nsfwscan.config import DecodeConfig, ScanConfig
from nsfwscan.execution.pipeline import reuse_keys
from nsfwscan.images import screenshots
from nsfwscan.images.preprocessing import Geometry
from nsfwscan.images.sandbox.child import DecodeChild
from nsfwscan.images.screenshots import NAMES, measures, screenshot_signals
from nsfwscan.models.registry import resolve
from nsfwscan.stages.decode import settings_of


def drawn_chat(width: int = 400, height: int = 800) -> Image.Image:
    """Boxes with lines in them, left and right in turn."""
    draw, sheet = random.Random(3), Image.new("RGB", (width, height), (245, 246, 248))
    pen, y, left = ImageDraw.Draw(sheet), 70, True
    pen.rectangle((0, 0, width, 56), fill=(230, 232, 236))
    while y < height - 120:
        size = draw.randint(width // 3, width * 2 // 3), draw.randint(34, 90)
        x = 12 if left else width - 12 - size[0]
        pen.rounded_rectangle((x, y, x + size[0], y + size[1]), 14, fill=(220, 222, 228) if left else (60, 130, 240))
        for line in range(y + 10, y + size[1] - 12, 20):
            pen.text(
                (x + 12, line), "see you at noon then"[: size[0] // 9], fill="black" if left else "white", font_size=14
            )
        y, left = y + size[1] + 8, not left
    return sheet


def test_a_chat_is_told() -> None:
    """Also small, large and compressed; photographs are neither, and a page of text is no chat."""
    chat = drawn_chat()
    out = io.BytesIO()
    chat.save(out, "JPEG", quality=60)
    for picture in (chat, chat.resize((260, 520)), chat.resize((1080, 2160)), Image.open(out).convert("RGB")):
        found = screenshot_signals(picture)
        assert found["screenshot"] > 0.5 and found["screenshot.chat"] > 0.5
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        found = screenshot_signals(Image.fromarray(getattr(skimage.data, name)()))
        assert found["screenshot"] < 0.5 and found["screenshot.chat"] < 0.5
    page = Image.fromarray(skimage.data.page()).convert("RGB")
    assert screenshot_signals(page)["screenshot.chat"] < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (2, 2), (9, 9), (4000, 12)])
def test_every_shape_has_its_numbers(size: tuple[int, int]) -> None:
    """However small or narrow a picture is."""
    found = measures(Image.new("RGB", size, "red"))
    assert found.shape == (len(NAMES),) and np.isfinite(found).all()
    assert all(0 <= value <= 1 for value in screenshot_signals(Image.new("RGB", size)).values())


def test_the_decode_child_says_it_where_it_is_asked() -> None:
    """The same signals as here, beside others; none by default."""
    out = io.BytesIO()
    drawn_chat().save(out, "PNG")
    asked = DecodeChild(settings_of(DecodeConfig(screenshots=True), Geometry((16, 16), 2)))
    plain = DecodeChild(settings_of(DecodeConfig(), Geometry((16, 16), 2)))
    try:
        assert asked.decode(out.getvalue())[0]["signals"] == screenshot_signals(drawn_chat())
        assert plain.decode(out.getvalue())[0]["signals"] is None
    finally:
        asked.close()
        plain.close()


def test_rows_are_looked_at_again_for_it() -> None:
    """Rows without these signals are stale where they are asked for; keys without them are as they were before."""
    plain = ScanConfig.of({"source": {"uris": ["a"]}, "out": "b"})
    asked = plain.model_copy(update={"decode": DecodeConfig(screenshots=True)})
    keys = [reuse_keys(config, resolve(config.model, config.storage)) for config in (plain, asked)]
    assert keys[0]["scoring"] != keys[1]["scoring"] and keys[0]["decoding"] == keys[1]["decoding"]
    assert "decode.screenshots" not in plain.deciding() and asked.deciding()["decode.screenshots"] is True


def test_weights_are_those_of_these_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """They say where they come from; for other measures they are refused."""
    known = json.loads(screenshots.WEIGHTS.read_text())
    assert tuple(known["measures"]) == NAMES and known["made"]["by"] == "training/screenshots/fit.py"
    other = tmp_path_factory.mktemp("weights") / "screenshots.json"
    other.write_text(json.dumps({**known, "measures": ["height"]}))
    monkeypatch.setattr(screenshots, "WEIGHTS", other)
    screenshots._weights.cache_clear()
    with pytest.raises(ValueError, match="is for other measures"):
        screenshot_signals(Image.new("RGB", (8, 8)))
    screenshots._weights.cache_clear()
