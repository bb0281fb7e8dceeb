"""What the specialist gets of an illegal match: where it is and by which hash it was found, and never a pixel.

In: decided report rows. Out: a table of `ESCALATION_SCHEMA`, one row for each illegal match. Nothing goes wrong.
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
"""An object in an illegal bank: what it is, which entry it matches, who is to look at it."""


def is_illegal(rows: pa.Table) -> pa.ChunkedArray:
    """Which rows are in an illegal bank; never null."""
    return pc.fill_null(pc.equal(rows["match_kind"], str(BankKind.ILLEGAL)), False)


def select_escalations(report: pa.Table) -> pa.Table:
    """The illegal matches among report rows, sorted by URI."""
    return report.filter(is_illegal(report)).select(ESCALATION_SCHEMA.names).cast(ESCALATION_SCHEMA).sort_by("uri")
