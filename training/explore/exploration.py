"""Examine labelled images before anything is learned from them.

A bad file is a finding. Data that cannot be listed, or without a readable image, are a `SourceError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.config import StorageConfig
from nsfwscan.errors import SourceError
from training.config import DataConfig
from training.data.catalog import Catalog, build_catalog
from training.data.quality import FLAWS, flaws
from training.data.similar import Conflict, Groups, conflicts, find_groups
from training.data.sources import Listing, Unreadable, list_examples
from training.explore.features import load_extractor, vectors_of
from training.explore.label_errors import LabelErrors, find_label_errors
from training.progress import ProgressCallback

NO_MODEL = "none"
FINDING_COLUMNS = ("finding", "uri", "label", "detail", "suggested", "score", "group")
MEASURES = ("sharpness", "brightness", "contrast", "jpeg_quality")


@dataclass(frozen=True)
class Exploration:
    """Everything that was found.

    Attributes:
        ok: the facts of the readable images; row numbers are those of this table.
        flawed: the flaws of each of them.
        label_errors: None where they were not looked for, or could not be; `basis` says why, or on what they rest.
    """

    listing: Listing
    catalog: Catalog
    ok: pa.Table
    unreadable: list[Unreadable]
    groups: Groups
    conflicts: list[Conflict]
    flawed: list[list[str]]
    label_errors: LabelErrors | None
    basis: str


def examine(config: DataConfig, storage: StorageConfig, model: str, progress: ProgressCallback) -> Exploration:
    """List, read, group and judge. Raises SourceError, NsfwscanError."""
    listing = list_examples(config, storage)
    extractor = load_extractor(model, storage) if model != NO_MODEL and len(listing.labels) > 1 else None
    catalog = build_catalog(listing, config, storage, progress)
    ok = catalog.ok()
    unreadable = [*listing.unreadable, *catalog.unreadable()]
    if not len(ok):
        first = unreadable[0]
        raise SourceError(
            f"none of the {len(unreadable):,} images can be read, as {first.uri}: {first.error} ({first.status})"
        )
    groups = find_groups(ok, config.similar_distance)
    errors, basis = None, "not looked for"
    if extractor is not None:
        vectors = vectors_of(catalog.images, extractor, config.decode, progress)
        labels = np.unique(np.array(ok["label"].to_pylist()), return_inverse=True)[1].astype(np.int64)
        errors = find_label_errors(vectors, labels, groups.similar, seed=config.seed)
        basis = extractor.basis if errors else "not looked for: a class has too few different images to judge by"
    elif len(listing.labels) < 2:
        basis = "not looked for: there is only one class"
    return Exploration(
        listing,
        catalog,
        ok,
        unreadable,
        groups,
        conflicts(ok, groups),
        [flaws(row) for row in ok.select([*MEASURES, "format", "size", "width", "height"]).to_pylist()],
        errors,
        basis,
    )


def findings(found: Exploration) -> Iterator[dict[str, Any]]:
    """Yield every finding as a row of the CSV."""
    for bad in found.unreadable:
        yield {"finding": bad.status, "uri": bad.uri, "label": bad.label or "", "detail": bad.error}
    for uri, labels in found.listing.contradicted.items():
        yield {"finding": "label conflict", "uri": uri, "detail": f"listed as {' and '.join(labels)}"}
    for disagreement in found.listing.disagreements:
        said = ", ".join(f"{verdict} ({reviewer or 'unnamed'})" for verdict, reviewer, _ in disagreement.verdicts)
        yield {"finding": "disagreement", "uri": disagreement.uri, "label": disagreement.taken, "detail": said}
    for number, conflict in enumerate(found.conflicts):
        for uri, label in conflict.members:
            words = "label conflict" if conflict.kind == "exact" else "similar image under another label"
            yield {"finding": words, "uri": uri, "label": label, "group": f"conflict {number}"}
    rows = found.ok.select(["uri", "label"]).to_pylist()
    for name, groups in (("duplicate", found.groups.same), ("similar image", found.groups.similar)):
        for members in groups_of(groups):
            yield from ({"finding": name, **rows[i], "group": f"{name} {groups[i]}"} for i in members)
    for row, names in zip(rows, found.flawed, strict=True):
        yield from ({"finding": name, **row, "detail": FLAWS[name]} for name in names)
    names_of = sorted(set(found.ok["label"].to_pylist()))
    for suspect in found.label_errors.suspects if found.label_errors else ():
        score = f"{suspect.suggested_probability:.4f}"
        given = f"as given: {suspect.given_probability:.4f}"
        suggested = names_of[suspect.suggested]
        yield {
            "finding": "likely label error",
            **rows[suspect.row],
            "detail": given,
            "suggested": suggested,
            "score": score,
        }


def groups_of(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return the rows of each group of two or more, the largest first."""
    order = np.argsort(groups, kind="stable")
    split = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    return sorted((rows for rows in split if len(rows) > 1), key=lambda rows: (-len(rows), rows[0]))
