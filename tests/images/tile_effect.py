"""Measure what `--tiles` finds, what it raises wrongly, and what it costs: `python -m tests.images.tile_effect`.

Pictures are photographs that scikit-image ships, and the measure is the score of open_nsfw. It is low for all of them, so
the inserts are the parts of photographs that score highest, found by looking at many. A contact sheet shows a dozen
parts of photographs or drawings, of which none scores high; so does a plain photograph that is cut. Whatever is raised
over a limit there is raised wrongly.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw
from skimage import data

import nsfwscan

Pictures = list[Image.Image]
Random = np.random.Generator

SIZE = (2000, 1500)
NAMES = (
    "astronaut", "brick", "camera", "cat", "cell", "clock", "coffee", "coins", "colorwheel", "grass", "gravel",
    "hubble_deep_field", "immunohistochemistry", "logo", "microaneurysms", "moon", "page", "retina", "rocket", "text",
)  # fmt: skip
SHARES = (3, 5, 8)
"""Edges of a picture divided by those of its insert."""
INSERTS, PARTS, SHEETS = 6, 8, 30
"""Numbers of inserts, of parts of each photograph that are looked at, of contact sheets of each kind."""
MILD = 0.1
"""Scores below it are of what nobody would mind."""
LIMITS = (0.1, 0.2, 0.4)
"""Scores over which a picture is raised; at 0.2, open_nsfw's preset sends it to a person."""


def scores(pictures: Sequence[Image.Image], tiles: bool) -> np.ndarray:
    """Return float64 [pictures, 2]: the score of each picture, and that of its worst view."""
    verdicts = nsfwscan.classify(list(pictures), views={"tiles": tiles})
    found = [(verdict.nsfw_score or 0.0, dict(verdict.signals or {}).get("view.max")) for verdict in verdicts]
    return np.array([(score, score if worst is None else worst) for score, worst in found])


def parts_of(photograph: Image.Image, random: Random) -> Iterator[Image.Image]:
    """Yield parts of a photograph, from a half to a quarter of its edges."""
    for share in np.repeat((2, 3, 4), (PARTS + 2) // 3)[:PARTS]:
        width, height = photograph.width // share, photograph.height // share
        left, top = (int(random.integers(0, edge)) for edge in (photograph.width - width, photograph.height - height))
        yield photograph.crop((left, top, left + width, top + height)).resize((480, 360))


def drawing(random: Random) -> Image.Image:
    """Return a drawing of ellipses, boxes and lines, in all colours and in those of skin."""
    colours = [(233, 190, 160), (198, 134, 96), (120, 72, 48), *random.integers(0, 255, (5, 3)).tolist()]
    drawn = Image.new("RGB", (480, 360), tuple(colours[int(random.integers(8))]))
    pen = ImageDraw.Draw(drawn)
    for _ in range(int(random.integers(2, 12))):
        box = [*random.integers(-60, 300, 2).tolist()]
        box += [box[0] + int(random.integers(20, 260)), box[1] + int(random.integers(20, 260))]
        colour = tuple(colours[int(random.integers(8))])
        [pen.ellipse, pen.rectangle, pen.line][int(random.integers(3))](box, fill=colour)
    return drawn


def sheet_of(pictures: Pictures, random: Random) -> Image.Image:
    """Return a contact sheet, of two by two to five by four pictures."""
    across, down = [(2, 2), (3, 3), (4, 4), (5, 4)][int(random.integers(4))]
    sheet = Image.new("RGB", SIZE, "white")
    size = SIZE[0] // across - 20, SIZE[1] // down - 20
    for cell, which in enumerate(random.integers(0, len(pictures), across * down).tolist()):
        place = 10 + cell % across * (size[0] + 20), 10 + cell // across * (size[1] + 20)
        sheet.paste(pictures[which].resize(size), place)
    return sheet


def inserted(ground: Image.Image, insert: Image.Image, share: int, random: Random) -> Image.Image:
    """Return a picture with another one somewhere in it."""
    size = ground.width // share, ground.height // share
    place = tuple(int(random.integers(20, edge - own - 20)) for edge, own in zip(ground.size, size, strict=True))
    drawn = ground.copy()
    drawn.paste(insert.resize(size), place)
    return drawn


def show_inserts(grounds: Pictures, inserts: Pictures, random: Random) -> None:
    """Print how far the score of a picture goes towards that of its insert, and what looking costs."""
    before, alone = scores(grounds, tiles=False)[:, 0], scores(inserts, tiles=False)[:, 0]
    print(f"{len(inserts)} inserts score {alone.min():.2f} to {alone.max():.2f} as they are, {len(grounds)} photographs "
          f"{before.min():.2f} to {before.max():.2f}")  # fmt: skip
    for share in SHARES:
        pairs = [(ground, insert) for ground in range(len(grounds)) for insert in range(len(inserts))]
        pictures = [inserted(grounds[ground], inserts[insert], share, random) for ground, insert in pairs]
        low, high = np.array([before[ground] for ground, _ in pairs]), np.array([alone[insert] for _, insert in pairs])
        for tiles in (False, True):
            began = time.process_time()
            found = scores(pictures, tiles)
            cost = (time.process_time() - began) / len(pictures)
            moved = (found - low[:, None]) / (high - low)[:, None]
            score, view = np.median(moved, axis=0)
            half = (found[:, 1] - low > (high - low) / 2).mean()
            print(f"insert of 1/{share} edge, tiles {tiles}, {len(pairs)} pictures: the score moves by {score:.0%} of the "
                  f"insert's, its worst view by {view:.0%}, by more than half in {half:.0%}; {cost:.3f} s a picture")  # fmt: skip


def show_raised(kind: str, pictures: Pictures) -> None:
    """Print how many pictures are over each limit that nothing in them scores."""
    whole, tiled = scores(pictures, tiles=False), scores(pictures, tiles=True)
    for limit in LIMITS:
        over = [(found > limit).sum() for found in (whole[:, 0], tiled[:, 0], tiled[:, 1])]
        print(
            f"{kind}: over {limit} are {over[0]} of {len(pictures)}, with tiles {over[1]}, their worst view {over[2]}"
        )


def main() -> None:
    """Print the figures."""
    random = np.random.default_rng(0)
    found = [np.asarray(getattr(data, name)()) for name in NAMES]
    rgb = [one[..., :3] if one.ndim == 3 else np.stack([one] * 3, axis=-1) for one in found]
    photographs = [Image.fromarray(one.astype(np.uint8)).resize(SIZE) for one in rgb]
    parts = [part for photograph in photographs for part in parts_of(photograph, random)]
    known = scores(parts, tiles=False)[:, 0]
    mild = [part for part, score in zip(parts, known, strict=True) if score < MILD]
    drawings = [drawing(random) for _ in range(60)]
    harmless = [one for one, (score, _) in zip(drawings, scores(drawings, tiles=False), strict=True) if score < MILD]
    print(f"{len(photographs)} photographs, {len(parts)} parts of them, {len(parts) - len(mild)} of these over {MILD}; "
          f"{len(drawings)} drawings, {len(drawings) - len(harmless)} over {MILD}")  # fmt: skip
    worst = [parts[place] for place in np.argsort(-known)[:INSERTS]]
    grounds = [
        one for one, (score, _) in zip(photographs, scores(photographs, tiles=False), strict=True) if score < MILD
    ]
    show_inserts(grounds[:12], worst, random)
    show_raised("contact sheets of photographs", [sheet_of(mild, random) for _ in range(SHEETS)])
    show_raised("contact sheets of drawings", [sheet_of(harmless, random) for _ in range(SHEETS)])
    show_raised("photographs", grounds)


if __name__ == "__main__":
    main()
