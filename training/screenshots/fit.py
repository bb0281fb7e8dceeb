"""Fit the weights by which pictures of screens and of chats are told (`nsfwscan/images/screenshots.json`).

    python -m training.screenshots.fit --pages FOLDER --photos FOLDER [--photos FOLDER …] [--each 16]

Renders pages of many themes in Chromium, takes photographs, and makes drawings, captioned pictures and scans of them;
all are cut, scaled and compressed as uploads are. The weights are fitted on some families of pages and some of the
photographs, and measured on the others. Prints the table of the model card. Needs a Chromium (`CHROMIUM`, else
/usr/bin/chromium) and `pip install 'nsfwscan[train,demo]' playwright`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from nsfwscan.images.screenshots import NAMES, WEIGHTS, measures
from nsfwscan.runs.effects import share_with_interval
from training.screenshots.pages import CHATS, OTHERS, UNSEEN, Page, chat, other, words

SIGNALS = {"screenshot": ("chat-", "page-"), "screenshot.chat": ("chat-",)}
"""Which families each signal tells from all others."""
AT = 0.5
"""Likelihood from which a picture counts as found in the table."""
SEED = 20261127
_OF_PHOTO, _DRAWN = 8, 90
"""Parts of each photograph, and the same with words; drawings, and scans."""


@dataclass(frozen=True)
class Example:
    """A picture's numbers, and where it comes from."""

    family: str
    is_held_out: bool
    values: Any


def rendered(pages: Sequence[Page]) -> Iterator[tuple[str, Image.Image]]:
    """Yield each page's family and what Chromium shows of it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=["--disable-gpu"]
        )
        sheet = browser.new_page(java_script_enabled=False)
        for page in pages:
            sheet.set_viewport_size({"width": page.width, "height": page.height})
            sheet.set_content(page.html)
            yield page.family, Image.open(io.BytesIO(sheet.screenshot())).convert("RGB")
        browser.close()


def uploaded(image: Image.Image, draw: random.Random) -> Image.Image:
    """Return a picture as somebody may upload it: cut, scaled, and compressed."""
    if draw.random() < 0.3:
        top, bottom = draw.uniform(0, 0.2), draw.uniform(0.8, 1)
        image = image.crop((0, round(top * image.height), image.width, round(bottom * image.height)))
    scale = draw.choice((0.6, 0.8, 1.0, 1.0, 1.5))
    if scale != 1:
        size = max(16, round(image.width * scale)), max(16, round(image.height * scale))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if draw.random() < 0.6:
        out = io.BytesIO()
        image.save(out, "JPEG", quality=draw.randint(55, 95))
        image = Image.open(out).convert("RGB")
    return image


def taken(photo: Image.Image, draw: random.Random) -> Image.Image:
    """Return a part of a photograph in one of the shapes that pictures have, those of screens among them."""
    wide, high = draw.choice(((4, 3), (3, 4), (3, 2), (1, 1), (16, 9), (9, 16), (9, 19)))
    scale = min(photo.width / wide, photo.height / high) * draw.uniform(0.5, 1)
    size = round(wide * scale), round(high * scale)
    left, top = draw.randint(0, photo.width - size[0]), draw.randint(0, photo.height - size[1])
    part = photo.crop((left, top, left + size[0], top + size[1]))
    part.thumbnail((1600, 1600))
    return part


def drawing(draw: random.Random) -> Image.Image:
    """Return a drawing of flat shapes on a flat ground."""
    size = draw.randint(300, 900), draw.randint(300, 900)
    image = Image.new("RGB", size, _any(draw))
    pen = ImageDraw.Draw(image)
    for _ in range(draw.randint(4, 40)):
        corners = [(draw.randint(0, size[0]), draw.randint(0, size[1])) for _ in range(draw.randint(3, 6))]
        shape = draw.choice(("polygon", "ellipse", "line"))
        if shape == "polygon":
            pen.polygon(corners, fill=_any(draw))
        elif shape == "ellipse":
            x, y, r = *corners[0], draw.randint(5, 160)
            pen.ellipse((x - r, y - r, x + r, y + r), fill=_any(draw))
        else:
            pen.line(corners, fill=_any(draw), width=draw.randint(1, 12), joint="curve")
    return image.filter(ImageFilter.SMOOTH) if draw.random() < 0.5 else image


def captioned(photo: Image.Image, draw: random.Random) -> Image.Image:
    """Return a photograph with words on it, or on a bar above and below it."""
    image = taken(photo, draw)
    bar = round(image.height * draw.uniform(0.1, 0.25)) if draw.random() < 0.6 else 0
    sheet = Image.new("RGB", (image.width, image.height + 2 * bar), draw.choice(("white", "black")))
    sheet.paste(image, (0, bar))
    pen, size = ImageDraw.Draw(sheet), max(12, round(image.width / draw.randint(10, 18)))
    ink = "black" if bar and sheet.getpixel((0, 0)) == (255, 255, 255) else "white"
    for y in (size // 3, sheet.height - 2 * size):
        pen.text(
            (sheet.width // 10, y),
            words(draw, 2, 5).upper(),
            fill=ink,
            font_size=size,
            stroke_width=2 if not bar else 0,
        )
    return sheet


def scanned(draw: random.Random) -> Image.Image:
    """Return a page of text on paper, as a scanner or a camera sees it: noise, a shade, a slight turn."""
    size = draw.randint(500, 900), draw.randint(700, 1200)
    image = Image.new("L", size, draw.randint(205, 250))
    pen, height = ImageDraw.Draw(image), draw.randint(14, 26)
    for y in range(size[1] // 12, size[1] - size[1] // 12, round(height * 1.5)):
        pen.text(
            (size[0] // 10, y),
            words(draw, 6, 9)[: round(size[0] * 0.8 / (height * 0.5))],
            fill=draw.randint(20, 80),
            font_size=height,
        )
    image = image.rotate(draw.uniform(-2, 2), fillcolor=230, resample=Image.Resampling.BICUBIC)
    grey = np.asarray(image, np.float32) * np.linspace(1, draw.uniform(0.75, 1), size[0])
    grey += np.random.default_rng(draw.randint(0, 2**31)).normal(0, draw.uniform(1, 6), grey.shape)
    return Image.fromarray(grey.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6)).convert("RGB")


def _any(draw: random.Random) -> tuple[int, int, int]:
    return draw.randint(0, 255), draw.randint(0, 255), draw.randint(0, 255)


def photographs(folders: Sequence[Path]) -> list[Image.Image]:
    """Return the photographs of folders, and of scikit-image and scikit-learn."""
    import skimage.data
    import sklearn.datasets

    found = [
        getattr(skimage.data, name)()[..., :3]
        for name in ("astronaut", "coffee", "chelsea", "rocket", "retina", "hubble_deep_field")
    ]
    found += sklearn.datasets.load_sample_images().images
    images = [Image.fromarray(one) for one in found]
    for path in sorted(path for folder in folders for path in folder.rglob("*.jpg")):
        image = Image.open(path)
        image.draft("RGB", (1600, 1600))
        images.append(image.convert("RGB"))
    return images


def pages_in(folder: Path, each: int) -> Iterator[tuple[str, Image.Image]]:
    """Yield the family and the picture of each page in a folder, where they are rendered first if there are none."""
    if not any(folder.glob("*.png")):
        folder.mkdir(parents=True, exist_ok=True)
        draw = random.Random(SEED)
        pages = [chat(family, draw) for family in CHATS for _ in range(each)]
        pages += [other(family, draw) for family in OTHERS for _ in range(each)]
        for number, (family, image) in enumerate(rendered(pages)):
            image.save(folder / f"{family}_{number:05d}.png")
    for path in sorted(folder.glob("*.png")):
        yield path.name.split("_")[0], Image.open(path).convert("RGB")


def examples(pages: Path, folders: Sequence[Path], each: int) -> list[Example]:
    """Make all pictures, two of each page, and measure them."""
    draw, found = random.Random(SEED), list[Example]()
    for family, image in pages_in(pages, each):
        found += [Example(family, family in UNSEEN, measures(uploaded(image, draw))) for _ in range(2)]
    for number, photo in enumerate(photographs(folders)):
        held_out = number % 3 == 0
        for _ in range(_OF_PHOTO):
            found.append(Example("photograph", held_out, measures(uploaded(taken(photo, draw), draw))))
            found.append(Example("captioned", held_out, measures(uploaded(captioned(photo, draw), draw))))
    for number in range(_DRAWN):
        found.append(Example("drawing", number % 3 == 0, measures(uploaded(drawing(draw), draw))))
        found.append(Example("scan", number % 3 == 0, measures(uploaded(scanned(draw), draw))))
    return found


def fitted(found: Sequence[Example], families: tuple[str, ...]) -> dict[str, Any]:
    """Return the weights that tell these families from all others, fitted on what is not held out."""
    from sklearn.linear_model import LogisticRegression

    kept = [one for one in found if not one.is_held_out]
    values = np.array([one.values for one in kept])
    mean, scale = values.mean(0), values.std(0) + 1e-6
    truth = [one.family.startswith(families) for one in kept]
    model = LogisticRegression(C=0.5, class_weight="balanced", max_iter=2000).fit((values - mean) / scale, truth)
    numbers = {"mean": mean, "scale": scale, "weights": model.coef_[0]}
    return {
        **{name: np.round(some, 6).tolist() for name, some in numbers.items()},
        "bias": round(float(model.intercept_[0]), 6),
    }


def likelihoods(found: Sequence[Example], weights: dict[str, Any]) -> Any:
    """Return the signal of each example."""
    scaled = (np.array([one.values for one in found]) - weights["mean"]) / weights["scale"]
    return 1 / (1 + np.exp(-(scaled @ np.array(weights["weights"]) + weights["bias"])))


def table(found: Sequence[Example], signals: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the model card: what is found of each held-out family, with exact 95 % intervals."""
    held = [one for one in found if one.is_held_out]
    for name, weights in signals.items():
        said = likelihoods(held, weights) >= AT
        true = np.array([one.family.startswith(SIGNALS[name]) for one in held])
        yield _line(name, "**precision**", said & true, said)
        yield _line(name, "**recall**", said & true, true)
        for family in sorted({one.family for one in held}):
            mine = np.array([one.family == family for one in held])
            yield _line(name, family, said & mine, mine)


def _line(name: str, what: str, hits: Any, of: Any) -> str:
    share, low, high = share_with_interval(int(hits.sum()), int(of.sum()))
    interval = "–" if low is None or high is None else f"{low:.0%} to {high:.0%}"
    return f"| `{name}` | {what} | {share or 0:.0%} | {interval} | {int(of.sum()):,} |"


def main() -> None:
    """Make, fit, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, action="append", default=[], help="a folder of photographs (JPEG)")
    parser.add_argument("--pages", type=Path, required=True, help="a folder for rendered pages; those in it are taken")
    parser.add_argument("--each", type=int, default=16, help="pages of each family, where none are there")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    given = parser.parse_args()
    found = examples(given.pages, given.photos, given.each)
    signals = {name: fitted(found, families) for name, families in SIGNALS.items()}
    made = {"by": "training/screenshots/fit.py", "seed": SEED, "examples": len(found)}
    content = {"made": made, "measures": NAMES, "signals": signals}
    given.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(found, signals)))  # noqa: T201


if __name__ == "__main__":
    main()
