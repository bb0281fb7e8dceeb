"""What reviewing cost people: how much each opened on a day, and for how long, as the review page counts it.

A verdict says whether its own item was opened; a session also counts what was opened and then skipped, and every second
look. It is a line of a verdict file, cumulative for its page and day: of several with one id, the latest counts. A
store keeps sessions as Parquet in `sessions/`, each file named by the SHA-256 of its content, and never changes one.
A file whose content is not what its name says is a `BrokenRecord`; a line that is no session, a `LineError`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictBool

from nsfwscan.errors import BrokenRecord
from nsfwscan.schema import TIMESTAMP
from nsfwscan.storage.forgotten import is_known
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.verdicts.verdict import Named, Text, Uuid, naive_utc, utc_text

FOLDER = "sessions"
SESSION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("pack", pa.string()),
        pa.field("run_id", pa.string()),
        pa.field("reviewer", pa.string(), nullable=False),
        pa.field("day", pa.date32(), nullable=False),
        pa.field("items", pa.int64()),
        pa.field("decided", pa.int64()),
        pa.field("opens", pa.int64()),
        pa.field("seconds", pa.float64()),
        pa.field("breaks", pa.int64()),
        pa.field("breaks_refused", pa.int64()),
        pa.field("changes", pa.int64()),
        pa.field("at", TIMESTAMP, nullable=False),
    ]
)
"""`day` and `at` (when the page said so) are UTC; `changes` are changes to another queue."""
_NAME = re.compile(r"([0-9a-f]{64})\.parquet")


def _day(text: str) -> str:
    return date.fromisoformat(text).isoformat()


Count = Annotated[int, Field(ge=0, lt=2**31)]
Seconds = Annotated[float, Field(ge=0)]


class BreakAnswer(BaseModel):
    """The answer of a person to whom the page suggested a break."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    at: Annotated[str, AfterValidator(utc_text)]
    opens: Count
    seconds: Seconds
    taken: StrictBool


class Session(BaseModel):
    """One line: what a person did on a page on a day, so far."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    session: Uuid
    pack: Text = ""
    run_id: Text = ""
    reviewer: Named
    day: Annotated[str, AfterValidator(_day)]
    items: Count = 0
    decided: Count = 0
    unopened: Count = 0
    opens: Count
    seconds: Seconds
    breaks: Annotated[tuple[BreakAnswer, ...], Field(strict=False)] = ()
    changes: Annotated[tuple[BreakAnswer, ...], Field(strict=False)] = ()
    at: Annotated[str, AfterValidator(utc_text)]

    def as_row(self) -> dict[str, Any]:
        """Return a row of `SESSION_SCHEMA`."""
        kept = ("pack", "run_id", "reviewer", "items", "decided", "opens", "seconds")
        return {
            "id": self.session,
            **{name: getattr(self, name) for name in kept},
            "day": date.fromisoformat(self.day),
            "breaks": sum(one.taken for one in self.breaks),
            "breaks_refused": sum(not one.taken for one in self.breaks),
            "changes": len(self.changes),
            "at": naive_utc(self.at),
        }


def session_parts(store: Store) -> list[str]:
    """Return the SHA-256 of each file of sessions, sorted."""
    return sorted(found[1] for name in store.names(FOLDER) if (found := _NAME.fullmatch(name)))


def read_session_part(store: Store, part: str) -> pa.Table:
    """Return the rows of one file, as `SESSION_SCHEMA`. Raises BrokenRecord where its content is another than its name
    says."""
    name = f"{FOLDER}/{part}.parquet"
    data = store.read(name)
    if hashlib.sha256(data).hexdigest() != part and not is_known(store, name, data):
        raise BrokenRecord(store.locate(name), "was changed: its content is not the one that its name says")
    try:
        return from_parquet(data).cast(SESSION_SCHEMA)
    except (pa.ArrowException, ValueError) as error:
        raise BrokenRecord(store.locate(name), f"is no file of sessions: {error}") from None


def all_sessions(store: Store) -> pa.Table:
    """Return the sessions of a store, each as it was told last, as `SESSION_SCHEMA`."""
    rows = pa.concat_tables(
        [SESSION_SCHEMA.empty_table(), *(read_session_part(store, part) for part in session_parts(store))]
    )
    latest: dict[str, int] = {}
    for place, (one, at) in enumerate(zip(rows["id"].to_pylist(), rows["at"].to_pylist(), strict=True)):
        if one not in latest or at >= rows["at"][latest[one]].as_py():
            latest[one] = place
    return rows.take(pa.array(sorted(latest.values()), pa.int64()))


def add_sessions(store: Store, given: Sequence[Session]) -> int:
    """Write the sessions that a store does not know yet, or not so far, as one more file; return how many they are."""
    known = set(_told(all_sessions(store)))
    latest = {one.session: one for one in sorted(given, key=lambda one: one.at)}
    rows = [one.as_row() for one in latest.values()]
    new = [row for row in rows if (row["id"], row["at"]) not in known]
    if not new:
        return 0
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(new, schema=SESSION_SCHEMA), sink, compression="zstd")
    with suppress(FileExistsError):  # somebody took the same file in at the same moment
        store.create(f"{FOLDER}/{hashlib.sha256(sink.getvalue()).hexdigest()}.parquet", sink.getvalue())
    return len(new)


def _told(rows: pa.Table) -> Iterator[tuple[str, Any]]:
    return zip(rows["id"].to_pylist(), rows["at"].to_pylist(), strict=True)


def opens_on(sessions: pa.Table, day: date) -> dict[str, int]:
    """Return how many originals each person opened on a day, UTC."""
    rows = sessions.filter(pc.equal(sessions["day"], pa.scalar(day, pa.date32())))
    found = rows.group_by("reviewer").aggregate([("opens", "sum")])
    return dict(zip(found["reviewer"].to_pylist(), found["opens_sum"].to_pylist(), strict=True))
