"""Select false positives from decided report rows: safe images labelled NSFW, confirmed or only suspected.

`confirmed`: the ground truth is neutral and the label is an NSFW category; or people approved what the label calls
NSFW, and no other truth is known. `suspected`: no truth is known, and the row contradicts itself: it is flagged, not by
a hash bank, by people or by what a detector says, although its label is safe. Suspected rows never count as confirmed.
What people said counts in no rate: they saw what queues sent them, not a sample. An illegal match is never selected.
The commit copies the images, on request.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.schema import (
    FLAGGED,
    NSFW_CATEGORIES,
    REPORT_SCHEMA,
    BankKind,
    Category,
    StandingVerdict,
    score_column,
)

_SAFE_LABELS = sorted(set(Category) - NSFW_CATEGORIES)
_KEPT = (
    "uri",
    "object_id",
    "sha256",
    "truth",
    "verdict",
    "label",
    "confidence",
    "nsfw_score",
    "decision",
    "rule",
    "model",
    "format",
    "width",
    "height",
    "carried_from",
)

_SCORES = [score_column(category) for category in Category]
_RANKED = pa.list_(pa.struct([("category", pa.string()), ("score", pa.float32())]))

FALSE_POSITIVE_SCHEMA = pa.schema(
    [
        pa.field("kind", pa.string(), metadata={"doc": "`confirmed` by truth or people, or only `suspected`"}),
        pa.field("reason", pa.string(), metadata={"doc": "why the row is here, for a person"}),
        *(REPORT_SCHEMA.field(name) for name in _KEPT),
        pa.field(
            "ranked",
            _RANKED,
            metadata={"doc": "all categories of the model, most probable first"},
        ),
        pa.field(
            "image",
            pa.string(),
            metadata={"doc": "the copy beside this file, with --save-images; of a carried row in `carried_from`"},
        ),
    ]
)


def is_false_positive(table: pa.Table) -> pa.Array:
    """Return the `false_positive` column: true, false, or null where truth or label is unknown."""
    nsfw = pc.is_in(table["label"], pa.array(sorted(NSFW_CATEGORIES)))
    wrong = pc.and_(pc.equal(table["truth"], str(Category.NEUTRAL)), nsfw)
    known = pc.and_(pc.is_valid(table["truth"]), pc.is_valid(table["label"]))
    result = pc.if_else(known, wrong, pa.scalar(None, pa.bool_()))
    return result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result


def select_false_positives(report: pa.Table, beside: Collection[str] = ()) -> pa.Table:
    """Return the false positives among report rows, confirmed ones first, then by confidence.

    The table has `FALSE_POSITIVE_SCHEMA`; its `image` is null.

    Args:
        beside: names of the rules that ask what others than the model say: a row of theirs is under no suspicion.
    """
    approved = pc.and_(pc.is_null(report["truth"]), pc.equal(report["verdict"], str(StandingVerdict.APPROVE)))
    nsfw = pc.is_in(report["label"], pa.array(sorted(NSFW_CATEGORIES)))
    confirmed = pc.or_(pc.fill_null(report["false_positive"], False), pc.fill_null(pc.and_(approved, nsfw), False))
    flagged = pc.is_in(report["decision"], pa.array(sorted(FLAGGED)))
    contradicts = pc.and_(flagged, pc.is_in(report["label"], pa.array(_SAFE_LABELS)))
    by_model = pc.and_(pc.is_null(report["match_kind"]), pc.is_null(report["verdict"]))
    by_model = pc.and_(by_model, pc.invert(pc.is_in(report["rule"], pa.array(sorted(beside), pa.string()))))
    suspected = pc.and_(pc.and_(pc.is_null(report["truth"]), contradicts), by_model)
    shown = pc.fill_null(pc.not_equal(report["match_kind"], str(BankKind.ILLEGAL)), True)
    wanted = pc.and_(shown, pc.or_(confirmed, suspected))
    rows = report.select([*_KEPT, *_SCORES]).append_column("confirmed", confirmed).filter(wanted)
    rows = rows.sort_by([("confirmed", "descending"), ("confidence", "descending"), ("uri", "ascending")])
    columns = {
        "kind": pa.array(["confirmed" if c else "suspected" for c in rows["confirmed"].to_pylist()], pa.string()),
        "reason": pa.array(
            [_reason(row) for row in rows.select(["confirmed", "truth", "label", "decision"]).to_pylist()], pa.string()
        ),
        "ranked": _ranked(rows),
        "image": pa.nulls(rows.num_rows, pa.string()),
    }
    fields = FALSE_POSITIVE_SCHEMA
    return pa.table([columns.get(f.name, rows[f.name] if f.name in _KEPT else None) for f in fields], schema=fields)


def _reason(row: dict[str, str]) -> str:
    if row["confirmed"] and row["truth"] is None:
        return f"people approved it, the label is {row['label']}"
    if row["confirmed"]:
        return f"truth is neutral, the label {row['label']}"
    return f"decided {row['decision']} although the label is {row['label']}; no truth is known"


def _ranked(rows: pa.Table) -> pa.Array:
    """Return each row's categories with their scores, most probable first, without categories that the model lacks."""
    scores = np.column_stack([rows[name].to_numpy() for name in _SCORES])  # NaN where a row has no score
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN last
    ranked = np.take_along_axis(scores, order, axis=1)
    known = ~np.isnan(ranked)
    entries = pa.StructArray.from_arrays(
        [pa.array(list(map(str, Category))).take(pa.array(order[known])), pa.array(ranked[known])],
        fields=list(_RANKED.value_type),
    )
    ends = known.sum(axis=1).cumsum()
    return pa.ListArray.from_arrays(pa.array(np.append(0, ends), pa.int32()), entries, _RANKED)
