"""The page says what is wrong with the data, shows no picture unasked, loads nothing, and survives hostile names."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from tests.checkpoints import make_vit
from tests.later import later
from tests.training.pictures import blobs, encoded, photograph, write, write_classes
from training.config import DataConfig

explore = later("training.explore.explore")


if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.long

HOSTILE = "<script>alert(1)<!--\"'><img src=x onerror=alert(2)>\u202egpj.jpg"
LOCAL = StorageConfig()


def explored(root: Path, out: Path, cache: Path, **options: Any) -> tuple[str, list[dict[str, str]], list[str]]:
    """Return the page, the rows of its CSV, and what the command says."""
    lines = explore.explore(DataConfig(uris=(str(root),), cache=str(cache)), LOCAL, str(out), **options)
    with out.with_suffix(".csv").open(newline="", encoding="utf-8") as file:
        return out.read_text(encoding="utf-8"), list(csv.DictReader(file)), lines


def stripes(seed: int) -> Image.Image:
    """A class of its own: stripes in any colour, of any width."""
    random = np.random.default_rng(seed)
    wave = np.sin(np.linspace(0, random.uniform(20, 60), 160))[None, :, None] * 100 + random.uniform(60, 200, 3)
    noisy = np.broadcast_to(wave, (120, 160, 3)) + random.normal(0, 25, (120, 160, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that differ, and one of everything that can be wrong."""
    root = write_classes(tmp_path_factory.mktemp("data"), {"neutral": 40})
    for i in range(40):
        write(root / "porn" / f"{i:04d}.jpg", encoded(stripes(i)))
    for i in range(3):
        write(root / "neutral" / f"wrong {i}.jpg", encoded(stripes(1000 + i)))
    photo = photograph("chelsea.png")
    write(root / "neutral" / "cat.jpg", encoded(photo))
    write(root / "neutral" / "blurred.jpg", encoded(photograph("coffee.png").filter(ImageFilter.GaussianBlur(9))))
    write(root / "neutral" / "dark.jpg", encoded(photograph("coins.png").point(lambda v: v // 9)))
    write(root / "neutral" / "small cat.jpg", encoded(photo.resize((90, 60))))
    write(root / "neutral" / "compressed.jpg", encoded(photograph("rocket.jpg"), quality=9))
    write(root / "neutral" / "grey.png", encoded(Image.new("RGB", (900, 200), (120, 120, 120)), "PNG"))
    write(root / "neutral" / HOSTILE, encoded(photograph("astronaut.png").resize((100, 100))))
    write(root / "porn" / "conflict.jpg", (root / "neutral" / "0001.jpg").read_bytes())
    write(root / "porn" / "cut off.jpg", encoded(stripes(5000))[:700])
    return root


@pytest.fixture(scope="module")
def page(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[dict[str, str]], list[str]]:
    folder = tmp_path_factory.mktemp("out")
    return folder / "look.html", *explored(data, folder / "look.html", folder / "cache")


def named(rows: list[dict[str, str]], finding: str) -> set[str]:
    return {row["uri"].rsplit("/", 1)[-1] for row in rows if row["finding"] == finding}


def test_everything_that_was_planted_is_found(page: tuple[Path, str, list[dict[str, str]], list[str]]) -> None:
    """Flaws, duplicates, conflicts and broken files, each under its name, and nothing of the kind elsewhere."""
    _, _, rows, lines = page
    assert named(rows, "dark") == {"dark.jpg"}
    assert named(rows, "tiny") == {"small cat.jpg", HOSTILE}
    assert named(rows, "over-compressed") == {"compressed.jpg"}
    assert named(rows, "flat") == {"grey.png", "dark.jpg"} and named(rows, "sliver") == {"grey.png"}
    assert "blurred.jpg" in named(rows, "blurred") and "cat.jpg" not in named(rows, "blurred")
    assert named(rows, "similar image") == {"cat.jpg", "small cat.jpg", "0001.jpg", "conflict.jpg"}
    assert named(rows, "duplicate") == named(rows, "label conflict") == {"0001.jpg", "conflict.jpg"}
    assert named(rows, "decode_error") == {"cut off.jpg"}
    assert lines[0] == "91 images in 2 classes; 1 unreadable"


def test_likely_label_errors_come_first(page: tuple[Path, str, list[dict[str, str]], list[str]]) -> None:
    """The images in the wrong folder are the most confident suspects, with the right class suggested."""
    suspects = [row for row in page[2] if row["finding"] == "likely label error"]
    wrong = {"wrong 0.jpg", "wrong 1.jpg", "wrong 2.jpg", "conflict.jpg"}
    assert {row["uri"].rsplit("/", 1)[-1] for row in suspects[:4]} == wrong
    assert Counter(row["suggested"] for row in suspects[:4]) == {"porn": 3, "neutral": 1}
    assert "the embedded open_nsfw and simple measures" in page[1] and "--model" in page[1]


def test_a_checkpoint_can_be_the_eye(data: Path, page: Any, tmp_path: Path) -> None:
    """With `--model` the features are the checkpoint's, and the page says so."""
    model = make_vit(tmp_path / "vit")
    html, rows, _ = explored(data, tmp_path / "a.html", page[0].parent / "cache", model=str(model), thumbnails=False)
    assert f"the last layer of {model}" in html
    assert len({"wrong 0.jpg", "wrong 1.jpg", "wrong 2.jpg"} & named(rows, "likely label error")) >= 2


def test_without_thumbnails_no_pixel_is_on_the_page(data: Path, page: Any, tmp_path: Path) -> None:
    """`--no-thumbnails` leaves no image in the file, not even a blurred one."""
    html, rows, _ = explored(data, tmp_path / "a.html", page[0].parent / "cache", model="none", thumbnails=False)
    assert "data:image" not in html and "<img src" not in html and "It holds no picture" in html
    assert not named(rows, "likely label error") and "not looked for" in html


def test_names_are_text(page: tuple[Path, str, list[dict[str, str]], list[str]]) -> None:
    """A hostile name is shown, spelled out, and is no markup."""
    assert "<script" not in page[1] and "onerror=alert(2)>" not in page[1]
    assert "&lt;script&gt;alert(1)&lt;!--" in page[1] and "\\u202egpj.jpg" in page[1]


def test_one_class_and_too_little_to_judge(tmp_path: Path) -> None:
    """Data that cannot be trained on can be looked at, and the page says what is missing; all broken is an error."""
    root = write_classes(tmp_path / "data", {"drawings": 3})
    html, _, _ = explored(root, tmp_path / "one.html", tmp_path / "cache")
    assert "Only one class" in html and "there is only one class" in html
    write(root / "neutral" / "a.jpg", encoded(blobs(5)))
    html, _, _ = explored(root, tmp_path / "two.html", tmp_path / "cache")
    assert "A scan could not use this set of classes" in html and "too few different images to judge by" in html
    write(tmp_path / "broken" / "neutral" / "a.jpg", b"no image")
    with pytest.raises(SourceError, match="none of the 1 images can be read"):
        explored(tmp_path / "broken", tmp_path / "c.html", tmp_path / "cache")


@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_in_a_browser(
    page: tuple[Path, str, list[dict[str, str]], list[str]], browser: BrowserContext, width: int
) -> None:
    """Nothing is asked for but the page, nothing complains, nothing sticks out; a picture is clear only when opened."""
    opened = browser.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    opened.on("console", lambda message: complaints.append(message.text))
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("dialog", lambda dialog: complaints.append(dialog.message))
    opened.set_viewport_size({"width": width, "height": 900})
    opened.goto(page[0].as_uri())
    assert [url for url in requests if not url.startswith("data:")] == [page[0].as_uri()]
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    first = opened.locator("details.reveal").first
    clear = first.locator(":scope > .picture img")
    assert first.locator("summary img").is_visible() and not clear.is_visible()
    first.locator("summary").click()
    assert clear.is_visible()
    assert clear.evaluate("image => image.naturalWidth") > 0
    assert opened.locator(".swatches").first.inner_text()
    assert complaints == []
    opened.close()
