"""Values that the template of `explore` shows: counts, tables, and the most telling images."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import nsfwscan
from nsfwscan.errors import ModelError
from nsfwscan.models.labels import categories_of
from nsfwscan.schema import Category
from nsfwscan.text import redacted
from training.config import DataConfig
from training.data.quality import FLAWS
from training.data.sources import Unreadable
from training.data.thumbnails import Thumbnail
from training.explore.exploration import MEASURES, Exploration, groups_of
from training.explore.label_errors import LabelErrors

_SUSPECTS, _GROUPS, _MEMBERS, _FLAWED = 24, 8, 4, 4
"""Pictures on the page, at most: suspects, groups of duplicates and members of each, and images of each flaw."""

_SIDES = ((0, 112), (112, 224), (224, 448), (448, 896), (896, None))
_SHAPES = ((0.0, 0.25), (0.25, 0.8), (0.8, 1.25), (1.25, 4.0), (4.0, None))
_SHAPE_NAMES = ("taller than 1 : 4", "portrait", "about square", "landscape", "wider than 4 : 1")


def context(
    found: Exploration, config: DataConfig, ledger: str, pictures: dict[int, Thumbnail | None] | None
) -> dict[str, Any]:
    """Return the values of the page.

    Args:
        ledger: name of the CSV.
        pictures: by row; None: the page holds none.
    """
    items = _Items(found, pictures)
    errors = found.label_errors
    names = sorted(set(found.ok["label"].to_pylist()))
    return {
        "made_at": datetime.now(UTC).isoformat(),
        "version": nsfwscan.__version__,
        "python": sys.version.split()[0],
        "sources": [redacted(uri) for uri in config.uris],
        "ledger": ledger,
        "pictures": pictures is not None,
        "listed": len(found.catalog.facts) + len(found.listing.unreadable),
        "readable": len(found.ok),
        "bytes": int(np.sum(found.ok["size"].to_numpy())),
        "classes": _classes(found),
        "missing": _missing(found.listing.labels),
        "unreadable": _unreadable(found.unreadable),
        "unreadable_count": len(found.unreadable),
        "tables": _tables(found.ok, names),
        "shortcut": _shortcut(found.ok),
        "flaws": _flaw_rows(found, items),
        "flawed": sum(1 for names_ in found.flawed if names_),
        "distance": config.similar_distance,
        "duplicates": _duplicates(found, items),
        "conflicts": _conflicts(found, items),
        "contradicted": [
            {"uri": redacted(uri), "labels": labels} for uri, labels in found.listing.contradicted.items()
        ],
        "disagreements": [replace(d, uri=redacted(d.uri)) for d in found.listing.disagreements],
        "suspects": [
            items.one(s.row) | {"suggested": names[s.suggested], "p": s.suggested_probability, "q": s.given_probability}
            for s in (errors.suspects[:_SUSPECTS] if errors else ())
        ],
        "suspect_count": len(errors.suspects) if errors else None,
        "suspect_kinds": _suspect_kinds(errors, names),
        "accuracy": errors.accuracy if errors else None,
        "chance": errors.chance if errors else None,
        "basis": found.basis,
    }


class _Items:
    """Images as the page shows them."""

    def __init__(self, found: Exploration, pictures: dict[int, Thumbnail | None] | None) -> None:
        self._rows = found.ok.select(["uri", "label", "width", "height", "size", *MEASURES])
        self._pictures = pictures or {}

    def one(self, row: int) -> dict[str, Any]:
        """Return an image's facts and its picture."""
        (known,) = self._rows.slice(row, 1).to_pylist()
        return {**known, "uri": redacted(known["uri"]), "picture": self._pictures.get(row)}

    def some(self, rows: Iterable[int]) -> list[dict[str, Any]]:
        """Return several images."""
        return [self.one(int(row)) for row in rows]


def shown_rows(found: Exploration) -> list[int]:
    """Return the rows whose picture the page shows."""
    rows: list[int] = []
    if found.label_errors:
        rows += [s.row for s in found.label_errors.suspects[:_SUSPECTS]]
    for group in _shown_groups(found):
        rows += [int(row) for row in group[:_MEMBERS]]
    place = {uri: row for row, uri in enumerate(found.ok["uri"].to_pylist())}
    for conflict in found.conflicts[:_GROUPS]:
        rows += [place[uri] for uri, _ in conflict.members[:_MEMBERS]]
    for name in FLAWS:
        rows += _worst(found, name)
    return sorted(set(rows))


def _classes(found: Exploration) -> list[dict[str, Any]]:
    listed = Counter(found.catalog.facts["label"].to_pylist())
    labels = np.array(found.ok["label"].to_pylist())
    readable = Counter(labels.tolist())
    most = max(readable.values())
    return [
        {
            "name": str(label),
            "listed": listed[str(label)],
            "readable": readable[str(label)],
            "share": readable[str(label)] / len(labels),
            "height": readable[str(label)] / most,
            "different": len(np.unique(found.groups.similar[labels == str(label)])),
        }
        for label in found.listing.labels
    ]


def _missing(labels: Sequence[Category]) -> str | None:
    """Say why a scan could not use a checkpoint with these labels; None: it could."""
    try:
        categories_of([str(label) for label in labels], {}, "these data")
    except ModelError as error:
        return str(error)
    return None


def _unreadable(unreadable: Sequence[Unreadable]) -> list[dict[str, Any]]:
    """Count what happened, with an example of each; the most frequent first."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for bad in unreadable:
        kinds.setdefault((str(bad.status), bad.error), []).append(bad.uri)
    ordered = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    return [{"status": s, "message": m, "count": len(uris), "example": redacted(uris[0])} for (s, m), uris in ordered]


def _tables(ok: pa.Table, names: list[str]) -> list[dict[str, Any]]:
    """Count formats, sizes and shapes by class: a model may learn what differs between classes in their place."""
    labels = ok["label"].to_pylist()
    width, height = ok["width"].to_numpy().astype(float), ok["height"].to_numpy().astype(float)
    short, shape = np.minimum(width, height), width / np.maximum(height, 1)
    sides = [
        f"under {high}" if not low else f"{low} and more" if high is None else f"{low} – {high - 1}"
        for low, high in _SIDES
    ]
    columns = (
        ("Format", ok["format"].to_pylist(), None),
        ("Shorter side, pixels", [sides[_bin(value, _SIDES)] for value in short], sides),
        ("Shape", [_SHAPE_NAMES[_bin(value, _SHAPES)] for value in shape], list(_SHAPE_NAMES)),
    )
    return [_crosstab(title, values, labels, names, order) for title, values, order in columns]


def _bin(value: float, bins: Sequence[tuple[float, float | None]]) -> int:
    return next(i for i, (_, high) in enumerate(bins) if high is None or value < high)


def _crosstab(
    title: str, values: Sequence[Any], labels: Sequence[str], names: Sequence[str], order: list[str] | None
) -> dict[str, Any]:
    counts = Counter(zip(values, labels, strict=True))
    totals = Counter(values)
    of_class = Counter(labels)
    kinds = [kind for kind in order if totals[kind]] if order else [kind for kind, _ in totals.most_common()]
    rows = [
        {
            "name": kind,
            "count": totals[kind],
            "share": totals[kind] / len(labels),
            "by_class": [{"count": counts[kind, n], "share": counts[kind, n] / of_class[n]} for n in names],
        }
        for kind in kinds
    ]
    return {"title": title, "names": names, "rows": rows}


def _shortcut(ok: pa.Table) -> dict[str, float] | None:
    """Return how well format and size alone tell the classes; None unless they beat chance by a third of the rest."""
    labels = ok["label"].to_pylist()
    keys: list[tuple[Any, ...]] = list(
        zip(ok["format"].to_pylist(), ok["width"].to_pylist(), ok["height"].to_pylist(), strict=True)
    )
    seen = Counter(keys)
    keys = [key if seen[key] > 5 else (key[0],) for key in keys]  # a size of its own tells an image, not a class
    best: dict[Any, Counter[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        best.setdefault(key, Counter())[label] += 1
    right = sum(counter.most_common(1)[0][1] for counter in best.values()) / len(labels)
    chance = Counter(labels).most_common(1)[0][1] / len(labels)
    return {"accuracy": right, "chance": chance} if right - chance > (1 - chance) / 3 else None


def _worst(found: Exploration, name: str) -> list[int]:
    """Return the rows in which a flaw is worst."""
    measure = {"blurred": "sharpness", "dark": "brightness", "flat": "contrast", "over-compressed": "jpeg_quality"}
    rows = [row for row, names in enumerate(found.flawed) if name in names]
    if name in measure:
        values = found.ok[measure[name]].to_pylist()
        rows.sort(key=lambda row: values[row] or 0)  # only JPEGs have a quality
    return rows[:_FLAWED]


def _flaw_rows(found: Exploration, items: _Items) -> list[dict[str, Any]]:
    counts = Counter(name for names in found.flawed for name in names)
    return [
        {
            "name": name,
            "meaning": meaning,
            "count": counts[name],
            "share": counts[name] / len(found.ok),
            "items": items.some(_worst(found, name)),
        }
        for name, meaning in FLAWS.items()
    ]


def _shown_groups(found: Exploration) -> list[NDArray[np.int64]]:
    return groups_of(found.groups.similar)[:_GROUPS]


def _duplicates(found: Exploration, items: _Items) -> dict[str, Any]:
    same, similar = groups_of(found.groups.same), groups_of(found.groups.similar)
    return {
        "exact_groups": len(same),
        "exact_extra": sum(len(rows) - 1 for rows in same),
        "similar_groups": len(similar),
        "similar_images": sum(len(rows) for rows in similar),
        "extra": sum(len(rows) - 1 for rows in similar),
        "largest": len(similar[0]) if similar else 0,
        "shown": [{"size": len(rows), "items": items.some(rows[:_MEMBERS])} for rows in _shown_groups(found)],
    }


def _conflicts(found: Exploration, items: _Items) -> dict[str, Any]:
    place = {uri: row for row, uri in enumerate(found.ok["uri"].to_pylist())}
    counts = Counter(conflict.kind for conflict in found.conflicts)
    pairs = Counter(
        " / ".join(sorted({str(label) for _, label in c.members}))
        + f" ({'same content' if c.kind == 'exact' else 'similar'})"
        for c in found.conflicts
    )
    shown = [
        {"kind": c.kind, "size": len(c.members), "items": items.some(place[uri] for uri, _ in c.members[:_MEMBERS])}
        for c in found.conflicts[:_GROUPS]
    ]
    return {"exact": counts["exact"], "similar": counts["similar"], "pairs": pairs.most_common(), "shown": shown}


def _suspect_kinds(errors: LabelErrors | None, names: list[str]) -> list[dict[str, Any]]:
    counted = Counter((s.given, s.suggested) for s in errors.suspects) if errors else Counter()
    return [{"given": names[g], "suggested": names[s], "count": n} for (g, s), n in counted.most_common()]
