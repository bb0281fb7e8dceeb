"""Divide labelled images into training, validation and test, which share no image.

The splits lie on disk and are read lazily, beside lists of what was left out. A bad file is a row of a list. What makes
training pointless is a `SourceError` at once: a single class, an empty class, an unknown label, no readable image. A
full disk is a `StoreError`.

    list ─► read and examine ─► group similar images ─► assign sides ─► splits
            kept on disk, under the digest of what was listed             kept under the settings
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray

from nsfwscan.config import StorageConfig, digest_of
from nsfwscan.errors import SourceError
from nsfwscan.schema import Category
from nsfwscan.storage.failures import in_words
from nsfwscan.storage.store import to_json
from nsfwscan.text import write_csv
from training.config import DataConfig
from training.data.catalog import CATALOG_VERSION, RETRIED, Catalog, build_catalog, cache_folder
from training.data.similar import Conflict, conflicts, exactly_contradicted, find_groups
from training.data.sources import Listing, Unreadable, check_classes, list_examples
from training.data.splits import SIDES, assign
from training.data.tables import Disagreement
from training.progress import ProgressCallback, quiet

SPLITS_VERSION = 2
"""Raised whenever the same images and settings give other sides."""
_SIDES_SCHEMA = pa.schema([("row", pa.int64()), ("side", pa.int8()), ("group", pa.int64())])
_FAR_OFF = 0.02
"""Of all images of a class: a note says where a side differs more than that from its share."""


@dataclass(frozen=True)
class Prepared:
    """Labelled images, divided into splits.

    Attributes:
        splits: `train`, `validation` and `test`, each with `uri`, `bytes` (the encoded file), `label` (an integer; its
            names are `labels`) and `sha256`. Mapped from disk: only rows that are read are in memory.
        labels: the categories, in the order of the integers that stand for them.
        fingerprint: hex SHA-256 over content, label and side of every image; names do not count.
        unreadable: what is left out, and why.
        conflicts: content under several labels; the `exact` ones are in no split.
        disagreements: different verdicts on one image, and which one counts.
        counts: images by side and category.
        notes: sentences for a person about the splits.
        folder: where `unreadable.csv`, `conflicts.csv`, `disagreements.csv` and `splits.json` lie.
    """

    splits: datasets.DatasetDict
    labels: tuple[Category, ...]
    fingerprint: str
    unreadable: list[Unreadable]
    conflicts: list[Conflict]
    disagreements: list[Disagreement]
    counts: dict[str, dict[str, int]]
    notes: tuple[str, ...]
    folder: Path


def prepare(
    config: DataConfig, storage: StorageConfig, progress: ProgressCallback = quiet, *, listing: Listing | None = None
) -> Prepared:
    """List, read, examine, group and divide; take from the cache what was done before, and the `listing` from a caller
    that has it. Raises SourceError where the data cannot be listed, or are none to learn from; NsfwscanError where
    credentials are refused, the disk is full, or no process can be started to decode in."""
    listing = listing or list_examples(config, storage)
    check_classes(listing)
    catalog = build_catalog(listing, config, storage, progress)
    ok = catalog.ok()
    check_readable(catalog, ok)
    settings = config.model_dump(include={"seed", "validation_share", "test_share", "similar_distance"})
    content = hashlib.sha256("".join(ok["sha256"].to_pylist()).encode()).hexdigest()
    key = digest_of([CATALOG_VERSION, SPLITS_VERSION, catalog.key, settings, content, _left_out(listing)])[:32]
    folder = cache_folder(config) / "splits" / key
    with in_words(f"cannot write to the cache {folder}", errors=(OSError,)):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not (folder / "splits.json").exists():
                progress("grouped", 0, len(ok))
                _divide(folder, catalog, ok, listing, config)
                progress("grouped", len(ok), len(ok))
    return _loaded(folder, catalog, listing)


def _about_failures(unreadable: Sequence[Unreadable]) -> list[str]:
    """Say where another attempt may help."""
    failed = [u for u in unreadable if u.status in RETRIED and u.label is not None]
    if not failed:
        return []
    kinds = ", ".join(sorted({str(u.status) for u in failed}))
    return [f"{len(failed):,} images could not be read ({kinds}): try them again with --retry-unreadable"]


def _left_out(listing: Listing) -> object:
    """Return everything in the lists that the catalog does not decide."""
    return [
        [[u.uri, u.error] for u in listing.unreadable],
        sorted(listing.contradicted.items()),
        [[d.uri, str(d.verdicts)] for d in listing.disagreements],
    ]


def check_readable(catalog: Catalog, ok: pa.Table) -> None:
    """Raise SourceError where no image is readable, or none of a class."""
    listed, readable = _by_label(catalog.facts), _by_label(ok)
    empty = [label for label in catalog.labels if not readable.get(label)]
    if not empty:
        return
    example = next(u for u in catalog.unreadable() if u.label in empty)
    such = f"as {example.uri}: {example.error} ({example.status})"
    if not readable:
        raise SourceError(f"none of the {len(catalog.facts):,} images can be read, {such}")
    raise SourceError(f"none of the {listed[empty[0]]:,} images of the class {str(empty[0])!r} can be read, {such}")


def _by_label(facts: pa.Table) -> dict[Category, int]:
    counted = facts["label"].value_counts().to_pylist()
    return {Category(entry["values"]): entry["counts"] for entry in counted}


def _divide(folder: Path, catalog: Catalog, ok: pa.Table, listing: Listing, config: DataConfig) -> None:
    """Write the sides and the lists; `splits.json` last: a folder that has it is whole."""
    groups = find_groups(ok, config.similar_distance)
    rows = np.flatnonzero(~exactly_contradicted(ok, groups))
    kept = ok.take(pa.array(rows))
    labels = pc.index_in(kept["label"], pa.array(catalog.labels, pa.string())).to_numpy().astype(np.int64)
    check_kept(kept, catalog.labels)
    sides = assign(
        groups.similar[rows],
        labels,
        kept["sha256"].to_pylist(),
        catalog.labels,
        seed=config.seed,
        validation_share=config.validation_share,
        test_share=config.test_share,
    )
    found = [
        *conflicts(ok, groups),
        *(Conflict("exact", tuple((uri, label) for label in given)) for uri, given in listing.contradicted.items()),
    ]
    pq.write_table(pa.table([rows, sides, groups.similar[rows]], schema=_SIDES_SCHEMA), folder / "sides.parquet")
    _write_lists(folder, [*listing.unreadable, *catalog.unreadable()], found, listing.disagreements)
    by_side = {side: np.bincount(labels[sides == i], minlength=len(catalog.labels)) for i, side in enumerate(SIDES)}
    counts = {s: dict(zip(map(str, catalog.labels), n.tolist(), strict=True)) for s, n in by_side.items()}
    placed = zip(kept["sha256"].to_pylist(), kept["label"].to_pylist(), (SIDES[s] for s in sides), strict=True)
    record = {
        "fingerprint": digest_of(sorted(map(list, placed))),
        "counts": counts,
        "notes": _notes(counts, config, groups.similar[rows]),
        "settings": config.model_dump(include={"seed", "validation_share", "test_share", "similar_distance"}),
        "conflicts": [{"kind": c.kind, "members": c.members} for c in found],
    }
    (folder / "splits.json").write_bytes(to_json(record))


def check_kept(kept: pa.Table, labels: Sequence[Category]) -> None:
    """Raise SourceError where every image of a class stands under another label, too."""
    there = _by_label(kept)
    gone = [label for label in labels if label not in there]
    if gone:
        raise SourceError(
            f"every readable image of the class {str(gone[0])!r} stands under another label, too: "
            "`nsfwscan-train explore` shows which"
        )


def _loaded(folder: Path, catalog: Catalog, listing: Listing) -> Prepared:
    record = json.loads((folder / "splits.json").read_bytes())
    sides = pq.read_table(folder / "sides.parquet")
    rows, side = sides["row"].to_numpy(), sides["side"].to_numpy()
    images = catalog.images
    unreadable = [*listing.unreadable, *catalog.unreadable()]
    splits = datasets.DatasetDict({name: images.select(rows[side == i]) for i, name in enumerate(SIDES)})
    return Prepared(
        splits=splits,
        labels=catalog.labels,
        fingerprint=record["fingerprint"],
        unreadable=unreadable,
        conflicts=[
            Conflict(c["kind"], tuple((uri, Category(label)) for uri, label in c["members"]))
            for c in record["conflicts"]
        ],
        disagreements=listing.disagreements,
        counts=record["counts"],
        notes=(*record["notes"], *_about_failures(unreadable)),
        folder=folder,
    )


def _notes(counts: dict[str, dict[str, int]], config: DataConfig, groups: NDArray[np.int64]) -> list[str]:
    """Say where the splits are not as asked for, and why."""
    shares = {"validation": config.validation_share, "test": config.test_share}
    notes: list[str] = []
    for label in counts["train"]:
        total = sum(counts[side][label] for side in SIDES)
        for side, share in shares.items():
            found = counts[side][label] / total
            if abs(found - share) > max(_FAR_OFF, 1 / total):
                notes.append(
                    f"{side} has {found:.1%} of the class {label!r}, not {share:.0%}: similar images stay together"
                )
    largest = int(np.bincount(groups).max())
    if largest > _FAR_OFF * len(groups) and largest > 2:
        notes.append(f"the largest group of similar images has {largest:,} of {len(groups):,} images")
    return notes


def _write_lists(
    folder: Path, unreadable: list[Unreadable], found: list[Conflict], disagreements: list[Disagreement]
) -> None:
    write_csv(
        folder / "unreadable.csv",
        ("uri", "label", "status", "error"),
        ((u.uri, u.label or "", u.status, u.error) for u in unreadable),
    )
    write_csv(
        folder / "conflicts.csv",
        ("conflict", "kind", "uri", "label"),
        ((i, c.kind, uri, label) for i, c in enumerate(found) for uri, label in c.members),
    )
    write_csv(
        folder / "disagreements.csv",
        ("uri", "taken", "verdict", "reviewer", "reviewed_at"),
        (
            (d.uri, d.taken, verdict, reviewer or "", at.isoformat() if at else "")
            for d in disagreements
            for verdict, reviewer, at in d.verdicts
        ),
    )
