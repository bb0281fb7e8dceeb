"""Say how chats are called that no family of pages has: with bubbles at one side alone, and on photographed screens.

    python -m training.screenshots.beyond [--each 16]

Renders pages in Chromium, as `fit.py` does, and prints a row for each kind and signal: the median, and how many
pictures are called so from 0.5 on, with an exact 95 % interval. Nothing is fitted and nothing is written.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageFilter

from nsfwscan.images.screenshots import screenshot_signals
from nsfwscan.runs.effects import share_with_interval
from training.screenshots.fit import AT, SEED, SIGNALS, rendered
from training.screenshots.pages import CHATS, Page, chat

_LEFT = "<style>.mine{margin-left:10px}</style>"
_LIST = "<style>.box{background:none;margin-left:10px;max-width:none}.mine{color:inherit}</style>"
KINDS = ("both sides", "bubbles at the left", "lines at the left", "photographed")


def pages_of(each: int) -> list[Page]:
    """Return chats of every family: as they are, all bubbles at the left, and lines at the left without bubbles."""
    draw = random.Random(SEED)
    chats = [chat(family, draw) for family in CHATS for _ in range(each)]
    further = zip(KINDS, ("", _LEFT, _LIST), strict=False)
    return [Page(kind, page.html + style, page.width, page.height) for kind, style in further for page in chats]


def photographed(screen: Image.Image, draw: random.Random) -> Image.Image:
    """Return a screen as a camera sees it: not straight on, in a dark room, a little blurred, with noise."""
    wide, high = screen.size
    room = Image.new("RGB", (round(wide * 1.3), round(high * 1.3)), (40, 36, 32))
    ends = ((0.1, 0.1), (0.1, 1.1), (1.1, 1.1), (1.1, 0.1))
    corners = [((x + draw.uniform(0, 0.12)) * wide, (y + draw.uniform(0, 0.08)) * high) for x, y in ends]
    there = ((0, 0), (0, high), (wide, high), (wide, 0))
    seen = screen.transform(
        room.size, Image.Transform.PERSPECTIVE, _projection(corners, there), Image.Resampling.BICUBIC
    )
    inside = Image.new("L", screen.size, 255).transform(
        room.size, Image.Transform.PERSPECTIVE, _projection(corners, there)
    )
    room.paste(seen, mask=inside)
    blurred = np.asarray(room.filter(ImageFilter.GaussianBlur(draw.uniform(0.6, 1.4))), np.float64)
    noise = np.random.default_rng(draw.randrange(2**32)).normal(0, draw.uniform(4, 9), blurred.shape)
    return Image.fromarray((blurred * draw.uniform(0.7, 0.95) + noise).clip(0, 255).astype(np.uint8))


def _projection(seen: Sequence[tuple[float, float]], there: Sequence[tuple[float, float]]) -> tuple[float, ...]:
    """Return the eight numbers with which Pillow finds, for a place that is seen, the place on the screen."""
    rows, values = [], []
    for (x, y), (u, v) in zip(seen, there, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return tuple(np.linalg.solve(np.array(rows), np.array(values)).tolist())


def measured(each: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the kind and the signals of each picture."""
    draw = random.Random(SEED)
    for kind, image in rendered(pages_of(each)):
        yield kind, screenshot_signals(image)
        if kind == KINDS[0]:
            yield KINDS[-1], screenshot_signals(photographed(image, draw))


def table(found: Sequence[tuple[str, dict[str, float]]]) -> Iterator[str]:
    """Yield the rows of the model card."""
    for name in SIGNALS:
        for kind in KINDS:
            values = [signals[name] for one, signals in found if one == kind]
            share, low, high = share_with_interval(sum(value >= AT for value in values), len(values))
            called = f"{share or 0:.0%} | {low or 0:.0%} to {high or 0:.0%}"
            yield f"| `{name}` | {kind} | {statistics.median(values):.2f} | {called} | {len(values)} |"


def main() -> None:
    """Render, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=16, help="pages of each family of chats")
    print("\n".join(table(list(measured(parser.parse_args().each)))))  # noqa: T201


if __name__ == "__main__":
    main()
