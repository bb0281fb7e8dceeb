"""Changes since the previous runs: objects deleted, newly flagged, or no longer flagged.

The functions compare the rows of one range, as decided now, with the previous reports' rows over the same URIs, and
return tables of `CHANGES_SCHEMA`. A new object that is flagged counts as newly flagged. A deleted object is reported
only if it belongs to the listed sources, and only if the listing was complete (no `--limit`, no filters).
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import SourceConfig
from nsfwscan.runs.previous import belongs_to
from nsfwscan.schema import FLAGGED, REPORT_SCHEMA, Change, Decision

_FLAGGED = pa.array(sorted(FLAGGED))
_KEPT = ("uri", "object_id", "sha256", "label", "nsfw_score", "decision", "rule")

CHANGES_SCHEMA = pa.schema(
    [
        pa.field(
            "change", pa.string(), metadata={"doc": "what happened since: " + ", ".join(f"`{c}`" for c in Change)}
        ),
        *(REPORT_SCHEMA.field(name) for name in _KEPT),
        pa.field(
            "previous_decision",
            pa.string(),
            metadata={"doc": ", ".join(f"`{d}`" for d in Decision) + "; null for an object that was not known"},
        ),
        pa.field("previous_run", pa.string(), metadata={"doc": "the run that said so"}),
    ]
)
"""One row per change; the row of a deleted object holds what was last known of it."""


def is_flagged(decisions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a mask of the decisions that send an object to a reviewer, or block it; never null."""
    return pc.is_in(decisions, _FLAGGED)


def deleted_among(earlier: pa.Table, listed: pa.Array, source: SourceConfig) -> pa.Table:
    """Return, as `CHANGES_SCHEMA`, the earlier rows whose objects are not listed any more although their source is."""
    if source.limit is not None or source.include or source.exclude:
        return CHANGES_SCHEMA.empty_table()
    absent = pc.invert(pc.is_in(earlier["uri"], listed))
    gone = earlier.filter(pc.and_(absent, belongs_to(earlier["uri"], source.uris, source.lists)))
    return _changes(Change.DELETED, gone, gone["decision"], gone["run_id"])


def flags_changed(rows: pa.Table, previous: pa.Table) -> pa.Table:
    """Return, as `CHANGES_SCHEMA`, the rows that became flagged, and those that are no longer flagged.

    Args:
        rows: report rows, as decided now.
        previous: `uri, decision, run_id` of the same objects in previous reports, each object once; a new object has
            no row here.
    """
    before = previous.select(["uri", "decision", "run_id"]).rename_columns(["uri", "previous", "previous_run"])
    both = rows.select(list(_KEPT)).join(before, "uri", join_type="left outer")
    now, then = is_flagged(both["decision"]), is_flagged(both["previous"])
    raised, cleared = both.filter(pc.and_not(now, then)), both.filter(pc.and_not(then, now))
    return pa.concat_tables(
        [
            _changes(Change.NEWLY_FLAGGED, raised, raised["previous"], raised["previous_run"]),
            _changes(Change.CLEARED, cleared, cleared["previous"], cleared["previous_run"]),
        ]
    )


def _changes(change: Change, rows: pa.Table, decision: pa.ChunkedArray, run_id: pa.ChunkedArray) -> pa.Table:
    columns = {
        **{name: rows[name] for name in _KEPT},
        "change": pa.array([str(change)] * rows.num_rows, pa.string()),
        "previous_decision": decision,
        "previous_run": run_id,
    }
    table = pa.table([columns[f.name] for f in CHANGES_SCHEMA], schema=CHANGES_SCHEMA)
    return table.sort_by("uri")
