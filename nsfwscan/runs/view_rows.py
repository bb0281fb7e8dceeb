"""Convert views between rows of objects and rows of their own.

While a run is worked on, a row has its views in `each_view`; the files in `views/` have a row for each view, sorted by
URI and frame. An object of one view has none there: its row in the report says all of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.schema import EACH_VIEW, REPORT_SCHEMA, VIEW_SCHEMA, as_schema

FOLDER = "views"


def rows_of_views(rows: pa.Table) -> pa.Table:
    """Return the views of rows as `VIEW_SCHEMA`, sorted by URI and then by frame."""
    several = rows.select(["uri", EACH_VIEW.name]).filter(pc.is_valid(rows[EACH_VIEW.name])).combine_chunks()
    if not several.num_rows:
        return VIEW_SCHEMA.empty_table()
    lists = several[EACH_VIEW.name].combine_chunks()
    columns = [several["uri"].take(pc.list_parent_indices(lists)), *pc.list_flatten(lists).flatten()]
    return pa.table(columns, schema=VIEW_SCHEMA).sort_by([("uri", "ascending"), ("index", "ascending")])


def with_views(rows: pa.Table, views: pa.Table) -> pa.Table:
    """Return report rows with `each_view`.

    Args:
        views: `VIEW_SCHEMA`, those of one URI one after the other.
    """
    views = as_schema(views, VIEW_SCHEMA).combine_chunks()
    runs = pc.run_end_encode(views["uri"].combine_chunks()) if views.num_rows else None
    ends = [] if runs is None else runs.run_ends.to_pylist()
    structs = pa.StructArray.from_arrays(
        [views[field.name].combine_chunks() for field in VIEW_SCHEMA][1:], fields=list(EACH_VIEW.type.value_type)
    )
    lists = pa.ListArray.from_arrays(pa.array([0, *ends], pa.int32()), structs, type=EACH_VIEW.type)
    known = pa.array([], pa.string()) if runs is None else runs.values
    return rows.append_column(EACH_VIEW, lists.take(pc.index_in(rows["uri"], known)))


def miscounted(report: pa.Table, views: pa.Table) -> Iterator[str]:
    """Yield what is wrong between report rows (`uri`, `views`) and rows of views (`uri`, `index`), in words."""
    expected = report.filter(pc.fill_null(pc.greater(report["views"], 1), False))
    counted = views.group_by("uri").aggregate([("index", "count")])
    place = pc.index_in(expected["uri"], counted["uri"])
    found = np.asarray(pc.fill_null(counted["index_count"].take(place), 0))
    wrong = int((found != expected["views"].to_numpy()).sum())
    if wrong:
        yield f"{wrong:,} objects have other numbers of rows in {FOLDER}/ than of views in the report"
    if strangers := counted.num_rows - int(pc.is_valid(place).to_numpy().sum()):
        yield f"{strangers:,} objects in {FOLDER}/ have no row in the report, or one of a single view"


PREVIOUS_SCHEMA = pa.schema([*REPORT_SCHEMA, EACH_VIEW])
"""A row of a previous report, with its views."""
