"""The images that a model has not learned from, laid out for a scan, and what the scan says of each.

In: the validation and test splits. Out: their encoded bytes as `held-out/<data>/<split>/<label>/<sha256>` in a store,
to be scanned with truth from the class folders; and for each image its row of the scan's report. A scan cannot read
what lies in an archive, and the originals may have changed since they were divided: these are the very bytes. A store
that is full or refuses is a `StoreError`; so is a report that is not about these images.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nsfwscan.errors import StoreError
from nsfwscan.schema import Category, score_column
from nsfwscan.storage.store import Store, from_parquet
from training.data.dataset import Prepared
from training.progress import Progress

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult

HELD_OUT = ("validation", "test")
_WRITES_AT_ONCE = 16
_BATCH = 64
"""Images that are in memory at once."""
_COLUMNS = [
    *("uri", "sha256", "status", "error", "label", "confidence", "nsfw_score", *map(score_column, Category)),
    *("decision", "format", "width", "height"),
]


@dataclass(frozen=True)
class Predictions:
    """What a model says of the images of one split, in the split's order.

    Attributes:
        uris: where they come from.
        sha256: of their content, hex.
        truth: what a person called them.
        rows: of the scan's report; images of the same content share one.
    """

    uris: list[str]
    sha256: list[str]
    truth: list[Category]
    rows: list[dict[str, Any]]

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which images have a score: bool [images]."""
        return np.array([row["nsfw_score"] is not None for row in self.rows], bool)

    def column(self, name: str) -> NDArray[np.float64]:
        """A column of scores: float64 [images], NaN where there is none."""
        return np.array([np.nan if row[name] is None else row[name] for row in self.rows], np.float64)


def held_out_folder(prepared: Prepared) -> str:
    """Where these images lie within the store."""
    return f"held-out/{prepared.fingerprint[:32]}"


def lay_out(prepared: Prepared, store: Store, progress: Progress) -> None:
    """Writes the images that are not there yet. Raises StoreError."""
    total, done = sum(len(prepared.splits[side]) for side in HELD_OUT), 0
    with ThreadPoolExecutor(_WRITES_AT_ONCE, thread_name_prefix="lay out") as threads:
        for side in HELD_OUT:
            there = {
                f"{label}/{name}"
                for label in prepared.labels
                for name in store.names(f"{held_out_folder(prepared)}/{side}/{label}")
            }
            for batch in prepared.splits[side].iter(batch_size=_BATCH):
                progress("laid out", done, total)
                places = [
                    f"{prepared.labels[n]}/{sha256}" for n, sha256 in zip(batch["label"], batch["sha256"], strict=True)
                ]
                wanted = {p: data for p, data in zip(places, batch["bytes"], strict=True) if p not in there}
                names = [f"{held_out_folder(prepared)}/{side}/{place}" for place in wanted]
                list(threads.map(store.write, names, wanted.values()))
                there.update(wanted)
                done += len(places)
    progress("laid out", total, total)


def clear_away(prepared: Prepared, store: Store) -> None:
    """Deletes the images: such material should not lie about twice. Raises StoreError."""
    store.delete(held_out_folder(prepared))
    if not store.names("held-out"):  # on local disk an empty folder would stay
        store.delete("held-out")


def read_answers(prepared: Prepared, result: ScanResult, store: Store) -> dict[str, Predictions]:
    """What the scan says of each image, by split.

    Raises:
        StoreError: the report lacks an image, or was made from other bytes.
    """
    rows = {_place(row["uri"]): row for row in _report_rows(result, store)}
    return {side: _answers(prepared.splits[side], side, prepared, rows, result.uri) for side in HELD_OUT}


def _answers(
    split: datasets.Dataset, side: str, prepared: Prepared, rows: dict[tuple[str, str, str], dict[str, Any]], run: str
) -> Predictions:
    facts = split.select_columns(["uri", "label", "sha256"])[:]
    truth = [prepared.labels[number] for number in facts["label"]]
    found: list[dict[str, Any]] = []
    for label, sha256 in zip(truth, facts["sha256"], strict=True):
        row = rows.get((side, str(label), sha256))
        if row is None or row["sha256"] not in (None, sha256):
            raise StoreError(
                f"the report in {run} is not about these images: it lacks {side}/{label}/{sha256}; delete that folder "
                "and OUT/held-out, then run the same command again"
            )
        found.append(row)
    return Predictions(facts["uri"], facts["sha256"], truth, found)


def _place(uri: str) -> tuple[str, str, str]:
    side, label, sha256 = uri.rsplit("/", 3)[1:]
    return side, label, sha256


def _report_rows(result: ScanResult, store: Store) -> Iterator[dict[str, Any]]:
    for table in _tables(result, store, "report/", _COLUMNS):
        yield from table.to_pylist()


def false_positives(result: ScanResult, store: Store) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The rows of the scan's own false-positive subset that truth confirms, by split, label and SHA-256; `image` is the
    full URI of the saved copy, None where there is none."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for table in _tables(result, store, "false_positives/", None):
        for row in table.to_pylist():
            if row["kind"] == "confirmed":
                image = row["image"] and f"{result.uri}/{row['image']}"
                found[_place(row["uri"])] = {**row, "image": image}
    return found


def _tables(result: ScanResult, store: Store, folder: str, columns: list[str] | None) -> Iterator[pa.Table]:
    run = Store(result.uri, store.storage)
    for file in result.record["files"]:
        if file["path"].startswith(folder):
            try:
                yield from_parquet(run.read(file["path"]), columns)
            except (FileNotFoundError, pa.ArrowException) as error:
                raise StoreError(
                    f"{run.locate(file['path'])} is absent or damaged; delete {run.uri} and run the same command again"
                ) from error
