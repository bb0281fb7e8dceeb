"""Select the illegal matches for the specialist.

A row of `ESCALATION_SCHEMA` says where an object is and which hash matched. It never holds a pixel.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.schema import MATCH_COLUMNS, REPORT_SCHEMA, BankKind

_OBJECT = ("uri", "object_id", "size", "etag", "modified_at", "sha256", "md5", "pdq", "pdq_quality")
_DECIDED = ("queue", "skill", "run_id", "carried_from", "scanned_at")

ESCALATION_SCHEMA = pa.schema(
    [REPORT_SCHEMA.field(name) for name in (*_OBJECT, *(field.name for field in MATCH_COLUMNS), *_DECIDED)]
)
"""An object that matches an illegal bank: its identity and hashes, the entry that it matches, its queue and skill."""


def is_illegal(rows: pa.Table) -> pa.ChunkedArray:
    """Return a mask of the rows that match an illegal bank; never null."""
    return pc.fill_null(pc.equal(rows["match_kind"], str(BankKind.ILLEGAL)), False)


def select_escalations(report: pa.Table) -> pa.Table:
    """Return the illegal matches among report rows as `ESCALATION_SCHEMA`, sorted by URI."""
    return report.filter(is_illegal(report)).select(ESCALATION_SCHEMA.names).cast(ESCALATION_SCHEMA).sort_by("uri")
