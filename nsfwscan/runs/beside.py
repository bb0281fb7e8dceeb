"""Convert between lists in rows of objects and rows of their own, in files beside the report.

While a run is worked on, a row has what belongs to it as a list of structs (`each_view`, `each_detection`,
`each_embedding`, `each_line`); the files in `views/`, `detections/`, `embeddings/` and `text/` have a row for each,
sorted by URI.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.schema import (
    DETECTION_SCHEMA,
    EACH_DETECTION,
    EACH_EMBEDDING,
    EACH_LINE,
    EACH_VIEW,
    EMBEDDING_SCHEMA,
    LINE_SCHEMA,
    REPORT_SCHEMA,
    VIEW_SCHEMA,
    as_schema,
)
from nsfwscan.storage.forgotten import TOMBSTONE


@dataclass(frozen=True)
class SideTable:
    """A table of a run beside its report, one row or more for an object.

    Attributes:
        folder: in a run.
        field: the list in a row of an object.
        schema: of the files: `uri`, and the fields of the list's structs.
        order: columns that the files are sorted by after `uri`.
    """

    folder: str
    field: pa.Field
    schema: pa.Schema
    order: tuple[str, ...]

    def rows_of(self, objects: pa.Table) -> pa.Table:
        """Return rows of their own from the lists of objects, as `schema`, sorted."""
        named = objects.select(["uri", self.field.name])
        there = named.filter(pc.is_valid(named[self.field.name])).combine_chunks()
        if not there.num_rows:
            return self.schema.empty_table()
        lists = there[self.field.name].combine_chunks()
        columns = [there["uri"].take(pc.list_parent_indices(lists)), *pc.list_flatten(lists).flatten()]
        order = [(name, "ascending") for name in ("uri", *self.order)]
        return pa.table(columns, schema=self.schema).sort_by(order)

    def into(self, objects: pa.Table, rows: pa.Table) -> pa.Table:
        """Return objects with their lists.

        Args:
            rows: of `schema`, those of one URI one after the other.
        """
        rows = as_schema(rows, self.schema).combine_chunks()
        runs = pc.run_end_encode(rows["uri"].combine_chunks()) if rows.num_rows else None
        ends = [] if runs is None else runs.run_ends.to_pylist()
        structs = pa.StructArray.from_arrays(
            [rows[field.name].combine_chunks() for field in self.schema][1:], fields=list(self.field.type.value_type)
        )
        lists = pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), structs, type=self.field.type)
        known = pa.array([], pa.string()) if runs is None else runs.values
        return objects.append_column(self.field, lists.take(pc.index_in(objects["uri"], known)))


VIEWS = SideTable("views", EACH_VIEW, VIEW_SCHEMA, ("index",))
"""An object of one view has none there: its row in the report says all of it."""
DETECTIONS = SideTable("detections", EACH_DETECTION, DETECTION_SCHEMA, ("detector", "view"))
EMBEDDINGS = SideTable("embeddings", EACH_EMBEDDING, EMBEDDING_SCHEMA, ("detector", "view"))
TEXT = SideTable("text", EACH_LINE, LINE_SCHEMA, ("detector", "view", "line"))
"""It may be personal data: on local disk its files are readable by their owner alone."""
ALL = (VIEWS, DETECTIONS, EMBEDDINGS, TEXT)
_COUNTS = {DETECTIONS.folder: "boxes", EMBEDDINGS.folder: "vectors", TEXT.folder: "lines"}
"""Groups of the signals that count the rows of a folder, such as `boxes.<detector>`."""
PREVIOUS_SCHEMA = pa.schema([*REPORT_SCHEMA, *(one.field for one in ALL)])
"""A row of a previous report, with what lies beside it."""


def miscounted(report: pa.Table, found: dict[str, pa.Table]) -> Iterator[str]:
    """Yield what is wrong between report rows (`uri`, `views`, `signals`) and what lies beside them, in words.

    Args:
        found: the `uri` of each row, by the folder.
    """
    views = pc.fill_null(report["views"], 0)
    expected = {VIEWS.folder: pc.if_else(pc.greater(views, 1), views, 0).to_numpy()}
    expected |= {folder: _counted(report, group) for folder, group in _COUNTS.items()}
    forgotten = pc.starts_with(report["uri"], TOMBSTONE).to_numpy()  # whose signals, those that count too, are erased
    for folder, numbers in expected.items():
        counted = pc.value_counts(found[folder]["uri"].combine_chunks()).flatten()
        place = pc.index_in(report["uri"], counted[0])
        there = np.asarray(pc.fill_null(counted[1].take(place.combine_chunks()), 0))
        if wrong := int(((there != numbers) & ~(forgotten & (folder in _COUNTS))).sum()):
            yield f"{wrong:,} objects have other numbers of rows in {folder}/ than the report says"
        if strangers := pc.index_in(counted[0], report["uri"].combine_chunks()).null_count:
            yield f"{strangers:,} objects in {folder}/ have no row in the report"


def _counted(report: pa.Table, group: str) -> NDArray[np.int64]:
    """Return what the signals of a group come to in each row."""
    signals = report["signals"].combine_chunks()
    names, values = pc.list_flatten(signals).flatten()
    counts = pc.starts_with(names, f"{group}.")
    rows = pc.list_parent_indices(signals).filter(counts).to_numpy()
    return np.bincount(rows, values.filter(counts).to_numpy(), minlength=len(signals)).astype(np.int64)
