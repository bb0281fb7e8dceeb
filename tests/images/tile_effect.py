"""Measure what `--tiles` finds, what it raises wrongly, and what it costs: `python -m tests.images.tile_effect`.

Pictures are photographs that scikit-image ships, and the measure is the score of open_nsfw, which is low for all of
them. An insert is the photograph of the highest score, drawn small into the others. A contact sheet is four by four
others, of which none has a high score.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from PIL import Image
from skimage import data

import nsfwscan

SIZE = (2000, 1500)
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "immunohistochemistry", "retina")
SHARES = (3, 5, 8)
"""Edges of a picture divided by those of its insert."""


def scores(pictures: Sequence[Image.Image], tiles: bool) -> list[tuple[float, float]]:
    """Return the score of each picture, and that of its worst view."""
    verdicts = nsfwscan.classify(list(pictures), views={"tiles": tiles})
    found = [(verdict.nsfw_score or 0.0, dict(verdict.signals or {}).get("view.max")) for verdict in verdicts]
    return [(score, score if worst is None else worst) for score, worst in found]


def inserted(ground: Image.Image, insert: Image.Image, share: int, place: int) -> Image.Image:
    """Return a picture with another one in one of two corners."""
    size = ground.width // share, ground.height // share
    left, top = [(40, 40), (ground.width - size[0] - 40, ground.height - size[1] - 60)][place]
    drawn = ground.copy()
    drawn.paste(insert.resize(size), (left, top))
    return drawn


def main() -> None:
    """Print the figures."""
    photographs = [Image.fromarray(getattr(data, name)()[..., :3]).resize(SIZE) for name in NAMES]
    alone = [score for score, _ in scores(photographs, tiles=False)]
    worst = int(np.argmax(alone))
    insert, grounds = photographs[worst], [one for i, one in enumerate(photographs) if i != worst]
    before = [score for score, _ in scores(grounds, tiles=False)]
    print(f"the insert scores {alone[worst]:.3f}, the others {np.mean(before):.3f} on average")
    for share in SHARES:
        pictures = [inserted(ground, insert, share, place) for ground in grounds for place in range(2)]
        for tiles in (False, True):
            began = time.process_time()
            found = np.array(scores(pictures, tiles)) - np.repeat(before, 2)[:, None]
            score, view = np.median(found, axis=0) / (alone[worst] - np.mean(before))
            cost = (time.process_time() - began) / len(pictures)
            print(f"insert of 1/{share} edge, tiles {tiles}: score moves by {score:.0%} of the insert's, its worst view by "
                  f"{view:.0%}; {cost:.3f} s a picture")  # fmt: skip
    random = np.random.default_rng(0)
    sheets = []
    for _ in range(8):
        sheet = Image.new("RGB", SIZE, "white")
        for cell, which in enumerate(random.integers(0, len(grounds), 16)):
            sheet.paste(grounds[which].resize((480, 355)), (10 + cell % 4 * 500, 10 + cell // 4 * 375))
        sheets.append(sheet)
    whole, tiled = (np.array(scores(sheets, tiles)) for tiles in (False, True))
    for limit in (0.05, 0.1, 0.2):
        print(f"contact sheets over {limit}: {(whole[:, 0] > limit).sum()} of {len(sheets)}, with tiles "
              f"{(tiled[:, 0] > limit).sum()}, their worst view {(tiled[:, 1] > limit).sum()}")  # fmt: skip


if __name__ == "__main__":
    main()
