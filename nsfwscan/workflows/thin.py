"""Take the names of reviewers out of what they decided longer ago than a team keeps them.

In files of verdicts and sessions, the name of a reviewer is replaced by one that says nothing, `former:…`: the same for
all verdicts of that person on one content, since each person has one voice, and another for each other content, so that
nobody can put together again what one person did. What was decided, how long it took and whether it was opened stay, as
figures of the team. A session loses its name, and its page.

Each file is replaced whole, after the record (`forgotten/`) names its new digest, as where an object is forgotten.
"""

from __future__ import annotations

import hashlib
import io
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.runs.run import Run
from nsfwscan.storage.forgotten import begun, write_forgotten
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import FOLDER as VERDICTS
from nsfwscan.verdicts.kept import part_names, read_part
from nsfwscan.verdicts.sessions import FOLDER as SESSIONS
from nsfwscan.verdicts.sessions import read_session_part, session_parts
from nsfwscan.verdicts.verdict import FORMER
from nsfwscan.workflows.finalize import now
from nsfwscan.workflows.forget import LEASE, replace_file


@dataclass(frozen=True)
class ThinResult:
    """The outcome of taking out names."""

    verdicts: int
    sessions: int
    files: int


def thin(store: Store, keep: timedelta, by: str, *, dry_run: bool = False) -> ThinResult:
    """Take out the names of reviewers of verdicts and sessions that are older than `keep`.

    Raises:
        RunConflict: another command is at work.
        BrokenRecord: a file is not what was recorded; what was done until then stands.
    """
    before, salt = datetime.now(UTC).replace(tzinfo=None) - keep, secrets.token_hex(16)
    with Run(store, LEASE).lease():
        plan = list(_named_before(store, before, salt))
        if plan and not dry_run:
            record = begun([], now(), by, f"names of reviewers, older than {keep.days} days")
            for path, rows, _ in plan:
                record = replace_file(store, path, _as_parquet(rows), record)
            write_forgotten(store, record.model_copy(update={"done": True}))
        verdicts, sessions = (
            sum(n for path, _, n in plan if path.startswith(f"{one}/")) for one in (VERDICTS, SESSIONS)
        )
        return ThinResult(verdicts, sessions, len(plan))


def _named_before(store: Store, before: datetime, salt: str) -> Iterator[tuple[str, pa.Table, int]]:
    """Yield each file that names a reviewer of so long ago, with its new rows, and how many are others."""
    for part in part_names(store):
        rows = read_part(store, part)
        old = _old(rows, "decided_at", before)
        if count := pc.sum(old).as_py():
            pairs = zip(rows["reviewer"].to_pylist(), rows["sha256"].to_pylist(), strict=True)
            names = pa.array([_nobody(f"{salt}:{who}:{content}") for who, content in pairs], pa.string())
            yield f"{VERDICTS}/{part}.parquet", _replaced(rows, old, {"reviewer": names}), count
    for part in session_parts(store):
        rows = read_session_part(store, part)
        old = _old(rows, "at", before)
        if count := pc.sum(old).as_py():
            names = pa.array([_nobody(f"{salt}:{one}") for one in rows["id"].to_pylist()], pa.string())
            blank = pa.array([""] * rows.num_rows, pa.string())
            yield f"{SESSIONS}/{part}.parquet", _replaced(rows, old, {"reviewer": names, "pack": blank}), count


def _old(rows: pa.Table, column: str, before: datetime) -> pa.ChunkedArray:
    named = pc.invert(pc.starts_with(rows["reviewer"], FORMER))
    return pc.and_(pc.less(rows[column], pa.scalar(before, pa.timestamp("us"))), named)


def _nobody(text: str) -> str:
    return f"{FORMER}{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _replaced(rows: pa.Table, here: pa.ChunkedArray, values: dict[str, pa.Array]) -> pa.Table:
    for name, value in values.items():
        place = rows.schema.get_field_index(name)
        rows = rows.set_column(place, rows.schema.field(place), pc.if_else(here, value, rows[name]))
    return rows


def _as_parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()
