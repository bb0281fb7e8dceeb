"""A store whose items have real pictures, and packs of it, for the tests of the page that reviewers decide on."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nsfwscan.config import StorageConfig
from nsfwscan.review.covers import Artist
from nsfwscan.review.originals import Originals
from nsfwscan.review.pack import Pack, PackRequest, picture_saver, write_pack
from nsfwscan.review.ranking import ranked
from nsfwscan.runs.run import Run
from nsfwscan.storage.output import Output
from tests.review.stores import committed, row

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e{{7*7}}'\"&.png"
EVIL_CONTEXT = '{"<b>note</b>": "</script><script>alert(2)</script>\u2028", "age": 3}'


def picture(path: Path, seed: int) -> Path:
    """A picture of coloured squares, the same for the same seed."""
    chosen = random.Random(seed)
    squares = np.array([[[chosen.randrange(256) for _ in range(3)] for _ in range(8)] for _ in range(6)], np.uint8)
    Image.fromarray(squares).resize((320, 240), Image.Resampling.NEAREST).save(path)
    return path


def animation(path: Path) -> Path:
    """Four frames that look different, a tenth of a second each."""
    frames = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue", "white", "black")]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=0)
    return path


def of_file(path: Path, **values: Any) -> dict[str, Any]:
    """A row of a file in the queue `adult`."""
    scored = {"nsfw_score": 0.9, "label": "porn", "confidence": 0.9, "score_porn": 0.9, "score_neutral": 0.1}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    known = {"sha256": digest, "model": "made@abcd", "policy": "mine@1234", "rule": "explicit"}
    return row(str(path), **{**known, **scored, **values})


@dataclass(frozen=True)
class Store:
    """A committed run, and its files by name."""

    run: Run
    media: Path


def store(folder: Path) -> Store:
    """A run over eight files: plain, in a cluster of three, animated, hidden, illegal, like an illegal one, gone, with a
    hostile name."""
    media = folder / "media"
    media.mkdir(parents=True)
    for seed, name in enumerate(
        ("plain.png", "one.png", "two.png", "three.png", "hidden.png", "illegal.png", "like.png")
    ):
        picture(media / name, seed)
    Path(media, HOSTILE.replace("/", "∕")).write_bytes(picture(media / "h.png", 9).read_bytes())
    hostile = media / HOSTILE.replace("/", "∕")
    (media / "gone.png").write_bytes(b"gone")
    cluster = {"cluster": "c1", "cluster_size": 3, "cluster_places": 3, "severity": 3}
    like = {"cluster": "c2", "cluster_size": 2, "cluster_places": 2}
    illegal = {
        "match_kind": "illegal",
        "match_bank": "known",
        "match_id": "7",
        "match_hash": "pdq",
        "match_distance": 0,
    }
    rows = [
        *(of_file(media / f"{name}.png", **cluster) for name in ("one", "two", "three")),
        of_file(media / "plain.png"),
        of_file(animation(media / "moving.gif"), media="animation", views=4),
        of_file(media / "hidden.png", shield="hidden"),
        of_file(media / "illegal.png", shield="hidden", severity=4, **illegal, **like),
        of_file(media / "like.png", **like),
        of_file(media / "gone.png"),
        of_file(hostile, rule="<i>rule</i>", error="<script>alert(3)</script>"),
    ]
    run = committed(folder / "reports", rows)
    (media / "gone.png").unlink()
    return Store(run, media)


def packed(
    made: Store,
    out: Path,
    originals: Originals | None,
    *,
    covers: bool = True,
    **asked: Any,
) -> Pack:
    """A pack of the run."""
    storage = StorageConfig()
    target = Output.given(out, storage, "--out")
    save = picture_saver(target) if originals is None else None
    artist = Artist(made.run.record().config, storage, save) if covers else None
    with ranked(made.run) as rows:
        return write_pack(made.run, rows.items, target, PackRequest("Adult", originals=originals, **asked), artist)
