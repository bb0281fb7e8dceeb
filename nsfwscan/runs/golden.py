"""Compare the scores and decisions of a fixed set of objects with those that they had before.

The set (`golden.uri`) is listed and scored first in every run, whatever is unchanged, by the same stages and workers as
all other objects. What an object had when it was first seen, or when somebody last accepted a drift, is expected of it
from then on: comparing only with the night before would let scores creep. `golden/part-….parquet` of each run has both,
and all that a policy may ask for, so that a replay decides them again. Golden objects are no rows of the report, unless
a source lists them, too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import BankSet
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.calibrations import Calibration, calibrated
from nsfwscan.runs.gathering import ROW_SCHEMA
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.figures import GoldenRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import read_part, to_parquet
from nsfwscan.schema import LISTING_SCHEMA, REPORT_SCHEMA, as_schema
from nsfwscan.storage.forgotten import TOMBSTONE
from nsfwscan.storage.store import from_parquet
from nsfwscan.text import plural

FOLDER = "golden"
MOST_OBJECTS = 10_000
"""Objects of a set: each is read and scored every night."""
_SHARD_ROWS = 32
_FIRST_FILE = 10**6
"""Numbers of listing files from here on are golden sets: a plan's own begin at 0, and hold 16,000 objects each."""

_HAD = ("sha256", "nsfw_score", "decision")
_SHOWN = ("uri", "status", "error", "label", *_HAD)


def _column(name: str) -> pa.Field:
    return REPORT_SCHEMA.field(name).with_nullable(True).remove_metadata()


GOLDEN_SCHEMA = pa.schema(
    [
        *(_column(name) for name in _SHOWN),
        *(_column(name).with_name(f"expected_{name}") for name in _HAD),
        pa.field("expected_by", pa.string()),
        *(field.with_nullable(True).remove_metadata() for field in ROW_SCHEMA if field.name not in _SHOWN),
    ]
)
"""A golden object with what is expected of it, the run that this comes from (null: the object is new), and the other
columns of its row. An object that is not listed any more has no `status`."""


class Drift(StrEnum):
    """A way in which a golden object is not as expected."""

    MOVED = "moved"
    FLIPPED = "flipped"
    UNREADABLE = "unreadable"
    CHANGED = "changed"
    GONE = "gone"


WORDS = {
    Drift.MOVED: "its score moved",
    Drift.FLIPPED: "it is decided otherwise",
    Drift.UNREADABLE: "it had a score and has none",
    Drift.CHANGED: "its bytes are others",
    Drift.GONE: "it is not listed any more",
}


@dataclass(frozen=True)
class Found:
    """A golden object that is not as expected."""

    uri: str
    drift: Drift
    said: str
    """What was and what is, in words."""


def write_shards(run: Run, listed: pa.Table) -> list[Shard]:
    """Write the listing of a golden set into the run's folder, and return its shards.

    Args:
        listed: table of `LISTING_SCHEMA`, sorted, each object once.
    """
    data = to_parquet(listed, row_group_size=_SHARD_ROWS)
    sha256 = hashlib.sha256(data).hexdigest()
    path = f"{FOLDER}/listing-{sha256}.parquet"
    run.folder.write(path, data)
    number = _FIRST_FILE + int(sha256[:8], 16)  # another set has other shards, also where a run is resumed
    sizes = [min(_SHARD_ROWS, listed.num_rows - start) for start in range(0, listed.num_rows, _SHARD_ROWS)]
    return [Shard(number, group, rows, path) for group, rows in enumerate(sizes)]


def listed_once(tables: Sequence[pa.Table]) -> pa.Table:
    """Return a listing in the order of URIs, each object once."""
    rows = pa.concat_tables([LISTING_SCHEMA.empty_table(), *tables]).sort_by("uri")
    first = pc.index_in(pc.unique(rows["uri"]), rows["uri"])
    return as_schema(rows.take(first), LISTING_SCHEMA)


def read_scored(
    run: Run, shards: Sequence[Shard], decider: Decider, calibration: Calibration | None = None
) -> pa.Table:
    """Return what the staged rows of a golden set say of it, without what is expected: `GOLDEN_SCHEMA`."""
    return _decided(pa.concat_tables([read_part(run.staging, shard) for shard in shards]), decider, calibration)


def decided_again(run: Run, record: RunRecord, decider: Decider, calibration: Calibration | None) -> pa.Table | None:
    """Return the golden rows of a committed run as a policy decides them today, without what is expected:
    `GOLDEN_SCHEMA`. None where the run has kept too little of them for that: it is of an earlier version."""
    parts = [from_parquet(run.read(file)) for file in parts_of(record)]
    if any(set(ROW_SCHEMA.names) - set(part.column_names) for part in parts):
        return None
    rows = _remembered(pa.concat_tables([GOLDEN_SCHEMA.empty_table(), *parts]))
    return _decided(rows.filter(pc.is_valid(rows["status"])).select(ROW_SCHEMA.names), decider, calibration)


def newly_matched(run: Run, record: RunRecord, banks: BankSet) -> list[str]:
    """Return the golden objects of a committed run that match a bank and did not then, each with bank and entry."""
    parts = [as_schema(from_parquet(run.read(file)), GOLDEN_SCHEMA) for file in parts_of(record)]
    rows = pa.concat_tables([GOLDEN_SCHEMA.empty_table(), *parts])
    rows = rows.filter(pc.and_(pc.is_null(rows["match_bank"]), pc.is_valid(rows["sha256"])))
    found = banks.match(rows)
    named = zip(rows["uri"].to_pylist(), found["match_bank"].to_pylist(), found["match_id"].to_pylist(), strict=True)
    return [f"{uri}: {bank} {entry}" for uri, bank, entry in named if bank is not None]


def _remembered(rows: pa.Table) -> pa.Table:
    """Return golden rows without those of objects that were forgotten since: nothing is expected of them."""
    return rows.filter(pc.invert(pc.starts_with(rows["uri"], TOMBSTONE)))


def _decided(rows: pa.Table, decider: Decider, calibration: Calibration | None) -> pa.Table:
    known = calibrated(as_schema(rows, ROW_SCHEMA), calibration)
    return as_schema(known.append_column("decision", decider(known)["decision"]), GOLDEN_SCHEMA)


def expectations(before: Run, record: RunRecord) -> pa.Table:
    """Return the expected columns (and `uri`) that a committed run leaves to the next one."""
    parts = (as_schema(from_parquet(before.read(file)), GOLDEN_SCHEMA) for file in parts_of(record))
    rows = _remembered(pa.concat_tables([GOLDEN_SCHEMA.empty_table(), *parts]))
    accepted = record.golden is not None and record.golden.accepted is not None
    taken = pc.or_(pc.is_null(rows["expected_by"]), accepted)
    columns = {f"expected_{name}": pc.if_else(taken, rows[name], rows[f"expected_{name}"]) for name in _HAD}
    by = pc.if_else(taken, before.run_id, rows["expected_by"])
    return pa.table({"uri": rows["uri"], **columns, "expected_by": by}).filter(pc.is_valid(rows["status"]))


def parts_of(record: RunRecord) -> list[FileRecord]:
    """Return the files of a run that hold its golden rows."""
    return [file for file in record.files_in(FOLDER) if file.path.startswith(f"{FOLDER}/part-")]


def with_expected(scored: pa.Table, expected: pa.Table) -> pa.Table:
    """Return golden rows with what is expected of them; and one for each object that is not listed any more."""
    names = [name for name in GOLDEN_SCHEMA.names if name.startswith("expected_")]
    found = expected.take(pc.index_in(scored["uri"], expected["uri"]))
    columns = {n: found[n] if n in names else scored[n] for n in GOLDEN_SCHEMA.names}
    gone = expected.filter(pc.invert(pc.is_in(expected["uri"], scored["uri"].combine_chunks())))
    return pa.concat_tables([as_schema(pa.table(columns), GOLDEN_SCHEMA), as_schema(gone, GOLDEN_SCHEMA)]).sort_by(
        "uri"
    )


def drifts(rows: pa.Table, tolerance: float) -> Iterator[Found]:
    """Yield each golden object that is not as expected, with the first reason that is true.

    Args:
        rows: `GOLDEN_SCHEMA`.
        tolerance: by how much a score may move.
    """
    for row in rows.filter(pc.is_valid(rows["expected_by"])).to_pylist():
        was, now = row["expected_nsfw_score"], row["nsfw_score"]
        flipped = row["expected_decision"] != row["decision"]
        decided = f"{row['expected_decision']}, now {row['decision']}" if flipped else f"still {row['decision']}"
        if row["status"] is None:
            yield Found(row["uri"], Drift.GONE, "no longer listed")
        elif row["sha256"] is not None and row["sha256"] != row["expected_sha256"]:
            yield Found(row["uri"], Drift.CHANGED, f"SHA-256 {row['expected_sha256']}, now {row['sha256']}")
        elif (was is None) != (now is None):
            yield Found(row["uri"], Drift.UNREADABLE, f"{was}, now {now}: {row['error'] or row['status']}")
        elif was is not None and abs(was - now) > tolerance:
            yield Found(row["uri"], Drift.MOVED, f"score {was:.4f}, now {now:.4f}; {decided}")
        elif flipped:
            yield Found(row["uri"], Drift.FLIPPED, decided)


def counted(found: Sequence[Found]) -> dict[str, int]:
    """Return how many objects drifted, by `Drift`."""
    return dict(Counter(str(one.drift) for one in found))


def describe_golden(found: GoldenRecord) -> str:
    """Return in words how a golden set was scored."""
    objects = plural(found.objects, "object")
    if found.before is None:
        return f"{objects}, scored for the first time: this is expected from now on"
    if found.drifted:
        return f"{objects}, {sum(found.drifted.values()):,} not as in run {found.before}; accepted: {found.accepted}"
    moved = "" if found.largest is None else f"; the largest move of a score is {found.largest:.4f}"
    return f"{objects}, all as expected{moved}"
