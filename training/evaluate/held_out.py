"""Images that a checkpoint has not learned from: a manifest for a scan, and what the scan says of each image.

The manifest names the originals of validation and test, with their truth, so that they are scanned where they lie.
The report's rows are joined with the splits by URI, and must be of the same bytes by SHA-256. The manifest lies in the
local cache beside the splits: only the driver of a scan reads it, and a list on this machine may name objects of any
store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nsfwscan.errors import StoreError
from nsfwscan.location import Location
from nsfwscan.schema import Category, score_column
from nsfwscan.storage.failures import in_words
from nsfwscan.storage.store import Store, from_parquet
from training.data.archives import local_members
from training.data.dataset import Prepared

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult

HELD_OUT = ("validation", "test")
_COLUMNS = [
    *("uri", "sha256", "status", "error", "label", "confidence", "nsfw_score", *map(score_column, Category)),
    *("decision", "format", "width", "height"),
]

Row = dict[str, Any]


@dataclass(frozen=True)
class Predictions:
    """A checkpoint's predictions for the images of one split, in the split's order.

    Attributes:
        uris: where the images come from.
        sha256: of their content, hex.
        truth: what a person called them.
        rows: of the scan's report.
    """

    uris: list[str]
    sha256: list[str]
    truth: list[Category]
    rows: list[Row]

    @property
    def scored(self) -> NDArray[np.bool_]:
        """True for images that have a score: bool [images]."""
        return np.array([row["nsfw_score"] is not None for row in self.rows], bool)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column of scores: float64 [images], NaN where there is none."""
        return np.array([np.nan if row[name] is None else row[name] for row in self.rows], np.float64)


@dataclass(frozen=True)
class Manifest:
    """A list of the held-out images, with their truth.

    Attributes:
        path: of the Parquet file.
        scanned: the URI that the scan reads for each image's own URI.
    """

    path: Path
    scanned: dict[str, str]

    @property
    def roots(self) -> list[str]:
        """Stores of these images, which `prepare` has read and a scan of the list must be allowed to read."""
        places = map(Location.of, self.scanned.values())
        return sorted(
            {"/" if p.scheme is None else f"{p.scheme}://{p.authority and p.authority + '/'}" for p in places}
        )


def write_manifest(prepared: Prepared, *, on_cluster: bool) -> Manifest:
    """Write the list of the held-out images, to be read `on_cluster` by nodes that lack this machine's files. Raises
    StoreError where the cache cannot be written."""
    rows = [row for side in HELD_OUT for row in prepared.splits[side].select_columns(["uri", "label"])]
    uris = [row["uri"] for row in rows]
    scanned = dict(zip(uris, uris if on_cluster else local_members(uris), strict=True))
    truth = [str(prepared.labels[row["label"]]) for row in rows]
    path = prepared.folder / ("held-out-cluster.parquet" if on_cluster else "held-out.parquet")
    with in_words(f"cannot write to the cache {path}", errors=(OSError,)):
        pq.write_table(pa.table({"uri": [scanned[uri] for uri in uris], "truth": truth}), path)
    return Manifest(path, scanned)


def read_predictions(
    prepared: Prepared, manifest: Manifest, result: ScanResult, store: Store
) -> dict[str, Predictions]:
    """Return what the scan says of each image, by split. Raises StoreError where the report lacks an image, or was made
    from other bytes."""
    rows = {row["uri"]: row for row in _rows(result, store, "report", _COLUMNS)}
    return {side: _predictions(prepared, side, manifest, rows, result.uri) for side in HELD_OUT}


def _predictions(prepared: Prepared, side: str, manifest: Manifest, rows: dict[str, Row], run: str) -> Predictions:
    facts = prepared.splits[side].select_columns(["uri", "label", "sha256"])[:]
    found: list[Row] = []
    for uri, sha256 in zip(facts["uri"], facts["sha256"], strict=True):
        row = rows.get(manifest.scanned[uri])
        if row is None or row["sha256"] not in (None, sha256):
            why = "it lacks" if row is None else "other bytes were scanned of"
            raise StoreError(
                f"the report in {run} is not about these images: {why} {uri}. Delete that folder, then run the same "
                "command again"
            )
        found.append(row)
    return Predictions(facts["uri"], facts["sha256"], [prepared.labels[number] for number in facts["label"]], found)


def copies_of_false_positives(manifest: Manifest, result: ScanResult, store: Store) -> dict[str, str | None]:
    """Return where the scan saved a copy of each image that its own subset of false positives confirms, by the image's
    URI; None where it saved none."""
    rows = {r["uri"]: r for r in _rows(result, store, "false_positives", None) if r["kind"] == "confirmed"}
    copies = {uri: rows[scanned]["image"] for uri, scanned in manifest.scanned.items() if scanned in rows}
    return {uri: copy and f"{result.uri}/{copy}" for uri, copy in copies.items()}


def _rows(result: ScanResult, store: Store, folder: str, columns: list[str] | None) -> Iterator[Row]:
    run = Store.at(result.uri, store.storage)
    for file in result.record.files_in(folder):
        try:
            yield from from_parquet(run.read(file.path), columns).to_pylist()
        except (FileNotFoundError, pa.ArrowException) as error:
            raise StoreError(
                f"{run.locate(file.path)} is absent or damaged; delete {run.uri} and run the same command again"
            ) from error
