"""Find the objects that were drawn with a known probability, what people said of them, and how many each stands for.

What queues showed, and nobody drew, is left out: it says nothing of what they did not show. A drawn object that nobody
decided is taken to be like the others of its stratum. A draw or a verdict that was changed is a `BrokenRecord`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.review.audit_sample import FOLDER, Draw
from nsfwscan.schema import StandingVerdict
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import verdict_rows
from nsfwscan.verdicts.standing import Standing, counting, is_decided, standing
from nsfwscan.verdicts.verdict import DECIDING, VERDICT_SCHEMA

VERDICTS = "verdicts"
"""Name of the draw of those whose verdict alone says that they were drawn."""
DRAWN_SCHEMA = pa.schema(
    [
        pa.field("draw", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("weight", pa.float64()),
        pa.field("removed", pa.bool_()),
    ]
)
"""A drawn object that people decided: how many objects of its population it stands for, and what they said."""


@dataclass(frozen=True)
class Drawn:
    """Drawn objects of a store.

    Attributes:
        rows: `DRAWN_SCHEMA`; an object of two draws is there twice.
        undecided: objects that nobody decided.
        passed_over: draws that say nothing yet, each with the reason.
    """

    rows: pa.Table
    undecided: int
    passed_over: dict[str, str]


def drawn_objects(store: Store) -> Drawn:
    """Return the drawn objects of a store that people decided."""
    stands = standing(store)
    found, undecided, passed_over = [DRAWN_SCHEMA.empty_table()], 0, dict[str, str]()
    known = [pa.array([], pa.string())]
    for audit_id in sorted(name.removesuffix(".parquet") for name in store.names(FOLDER)):
        drawn = Draw.read(store, audit_id).rows
        known.append(drawn["sha256"].combine_chunks())
        rows = stands.onto(drawn)
        decided = rows.filter(is_decided(rows))
        if missing := _undecided_stratum(drawn, decided):
            passed_over[audit_id] = f"of the stratum {missing!r} nothing is decided"
            continue
        undecided += drawn.num_rows - decided.num_rows
        found.append(_weighed(audit_id, decided))
    found.append(_by_verdicts(store, stands, pa.concat_arrays(known)))
    return Drawn(pa.concat_tables(found), undecided, passed_over)


def _undecided_stratum(drawn: pa.Table, decided: pa.Table) -> str | None:
    return min(set(drawn["stratum"].to_pylist()) - set(decided["stratum"].to_pylist()), default=None)


def _weighed(draw: str, decided: pa.Table) -> pa.Table:
    """Return the decided objects of a draw: each stands for its share of its stratum."""
    counts = decided.group_by("stratum").aggregate([([], "count_all")])
    place = pc.index_in(decided["stratum"], counts["stratum"].combine_chunks())
    weight = pc.divide(decided["size"].cast(pa.float64()), counts["count_all"].take(place).cast(pa.float64()))
    return _rows(draw, decided["sha256"], weight, decided["verdict"])


def _by_verdicts(store: Store, stands: Standing, known: pa.Array) -> pa.Table:
    """Return the contents whose verdict says with which probability they were drawn, and that no draw has."""
    rows = counting(pa.concat_tables([VERDICT_SCHEMA.empty_table(), *verdict_rows(store)]), store)
    drawn = pc.and_(pc.is_in(rows["kind"], pa.array(list(map(str, DECIDING)))), pc.is_valid(rows["probability"]))
    rows = rows.filter(pc.and_(drawn, pc.invert(pc.is_in(rows["sha256"], known)))).sort_by("decided_at")
    latest = rows.group_by("sha256", use_threads=False).aggregate([("probability", "last")])
    rows = stands.onto(latest)
    rows = rows.filter(is_decided(rows))
    return _rows(VERDICTS, rows["sha256"], pc.divide(1.0, rows["probability_last"]), rows["verdict"])


def _rows(draw: str, sha256: pa.ChunkedArray, weight: pa.ChunkedArray, verdict: pa.ChunkedArray) -> pa.Table:
    removed = pc.equal(verdict, str(StandingVerdict.REMOVE))
    return pa.table([pa.repeat(draw, len(sha256)), sha256, weight, removed], schema=DRAWN_SCHEMA)
