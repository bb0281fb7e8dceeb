"""Count how often each detector fires on harmless pictures: `python -m tests.models.harmless [FOLDER …]`.

It scans scikit-image's photographs and drawings made here, or the pictures of folders that the caller knows to be harmless,
with every pack that is on this machine, with what reads text and codes where it is installed, and decides by the preset
`factory`. The table says how many pictures each condition is true of, with the exact 95 % interval (Clopper and Pearson
1934); parts of one photograph are alike, so it is narrower than it should be. Pictures are few, and all harmless: this
says how often a detector is wrong on them, and nothing of what it finds. `screenshot` and `text` fire rightly on pages.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.stats import binomtest

import nsfwscan
from nsfwscan.models.packs.pull import is_there
from nsfwscan.policy.signals import signals_of_row
from tests.images.tile_effect import NAMES, drawing, parts_of

DRAWINGS = 60
_EXPOSED = ("FEMALE_GENITALIA_EXPOSED", "MALE_GENITALIA_EXPOSED", "ANUS_EXPOSED", "FEMALE_BREAST_EXPOSED")
_OF_SKIMAGE = ("page", "text", "colorwheel", "logo", "horse")
"""Pages and drawings among scikit-image's pictures; the others are photographs."""

Signals = Mapping[str, float]


def at_least(limit: float, *names: str) -> Any:
    """Return a condition: the highest of some signals is so high; None where there is none of them."""

    def fires(_: Mapping[str, Any], signals: Signals) -> bool | None:
        there = [signals[name] for name in names if name in signals]
        return max(there) >= limit if there else None

    return fires


def model_at(limit: float, *names: str) -> Any:
    """Return a condition: the sum of some scores is so high."""
    return lambda row, _: None if row["nsfw_score"] is None else sum(row[name] or 0.0 for name in names) >= limit


CONDITIONS: dict[str, Any] = {
    "`five-class`: porn and hentai 0.95 (`explicit`, blocks)": model_at(0.95, "score_porn", "score_hentai"),
    "`five-class`: `nsfw_score` 0.6 (`borderline`)": model_at(0.6, "nsfw_score"),
    "`embedded:open-nsfw`: 0.327 (PhotoPrism's)": at_least(0.327, "open-nsfw.nsfw"),
    "`nudity`: an exposed part 0.6 (`exposed`)": at_least(0.6, *(f"nudity.{part}" for part in _EXPOSED)),
    "`gore`: NSFL 0.35 (`gore`)": at_least(0.35, "gore.NSFL"),
    "`screenshot` 0.5": at_least(0.5, "screenshot"),
    "`screenshot.chat` 0.5": at_least(0.5, "screenshot.chat"),
    "`text`: any line read": at_least(1, "text.lines"),
    "`text`: any topic of `example:en`, `de`, `es`": at_least(0.01, *(f"text.{topic}" for topic in (
        "solicitation", "extortion", "self-harm", "contact-spam"))),
    "`link`: any code": at_least(1, "link.codes"),
}  # fmt: skip
"""What fires, with the thresholds of the preset `factory` where it has one."""


def make_pictures(folder: Path) -> None:
    """Write photographs, parts of them, pages and drawings, each kind into a folder of its own."""
    from skimage import data

    random = np.random.default_rng(0)
    for kind in ("photographs", "parts of them", "pages and logos", "drawings"):
        (folder / kind).mkdir()
    for name in (*NAMES, "horse"):
        pixels = np.asarray(getattr(data, name)())
        picture = Image.fromarray((pixels * 255).astype(np.uint8) if pixels.dtype == bool else pixels).convert("RGB")
        kind = "pages and logos" if name in _OF_SKIMAGE else "photographs"
        picture.save(folder / kind / f"{name}.png")
        for number, part in enumerate(parts_of(picture, random)) if kind == "photographs" else ():
            if number % 2 == 0:
                part.save(folder / "parts of them" / f"{name}-{number}.png")
    for number in range(DRAWINGS):
        drawing(random).save(folder / "drawings" / f"{number}.png")


def scanned(folders: list[Path], out: Path) -> list[dict[str, Any]]:
    """Return the report's rows, each with its signals as a map and with its folder as its kind."""
    detectors: dict[str, Any] = {"open-nsfw": {"uri": "embedded:open-nsfw"}}
    detectors |= {name: {"uri": f"pack:{name}"} for name in ("nudity", "gore") if is_there(name)}
    if find_spec("rapidocr") is not None:
        detectors |= {name: {"uri": f"embedded:{name}"} for name in ("text", "link")}
    given: dict[str, Any] = {"model": {"uri": "pack:five-class"}} if is_there("five-class") else {}
    result = nsfwscan.scan(
        [str(folder) for folder in folders], out, run_id="harmless", policy="factory", detectors=detectors,
        text={"patterns": ["example:en", "example:de", "example:es"], "keep": False},
        decode={"screenshots": True}, **given,
    )  # fmt: skip
    rows = result.to_arrow().to_pylist()
    return [{**row, "signals": signals_of_row(row["signals"]), "kind": Path(row["uri"]).parent.name} for row in rows]


def main(folders: list[Path]) -> None:
    """Print the table, in Markdown."""
    with tempfile.TemporaryDirectory() as place:
        if not folders:
            make_pictures(Path(place))
            folders = sorted(path for path in Path(place).iterdir())
        with tempfile.TemporaryDirectory() as out:
            rows = scanned(folders, Path(out))
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    print(f"| fires | {' | '.join(kinds)} | all, with interval |\n|---|{'---:|' * (len(kinds) + 1)}")
    for name, fires in CONDITIONS.items():
        found = {kind: [fires(row, row["signals"]) for row in rows if row["kind"] == kind] for kind in kinds}
        known = {kind: [one for one in some if one is not None] for kind, some in found.items()}
        every = [one for some in known.values() for one in some]
        if not every:
            continue
        low, high = binomtest(sum(every), len(every)).proportion_ci()
        each = [f"{sum(some)} of {len(some)}" for some in known.values()]
        print(f"| {name} | {' | '.join(each)} | {np.mean(every):.1%} ({low:.1%} to {high:.1%}) |")


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
