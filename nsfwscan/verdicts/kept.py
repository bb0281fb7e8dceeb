"""Keep the verdicts of a store: append-only Parquet files in `verdicts/`, each named by the SHA-256 of its content.

A file is created only if it is not there, and never changed: what takes a verdict back is a further verdict. A file
whose content is not what its name says is a `BrokenRecord`; a store that fails, a `StoreError`.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord, SourceError
from nsfwscan.storage.forgotten import TOMBSTONE, is_known
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.text import plural
from nsfwscan.verdicts.verdict import FORMER, VERDICT_SCHEMA, PersonVerdict, as_table

FOLDER = "verdicts"
_NAME = re.compile(r"([0-9a-f]{64})\.parquet")
_AT_ONCE = 8


@dataclass(frozen=True)
class ImportResult:
    """The outcome of taking in verdicts."""

    new: int
    there: int
    """Those that the store had already."""
    part: str | None
    """SHA-256 of the file that holds the new ones; None where there are none."""


def part_names(store: Store) -> list[str]:
    """Return the SHA-256 of each file of verdicts, sorted."""
    return sorted(found[1] for name in store.names(FOLDER) if (found := _NAME.fullmatch(name)))


def read_part(store: Store, part: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the rows of one file, as `VERDICT_SCHEMA`.

    Args:
        part: its SHA-256.
        columns: only these; unset: all.

    Raises:
        BrokenRecord: it is absent, or its content is another than its name says.
    """
    name = f"{FOLDER}/{part}.parquet"
    try:
        data = store.read(name)
    except FileNotFoundError:
        raise BrokenRecord(store.locate(name), "is absent, and people decided what was in it") from None
    if hashlib.sha256(data).hexdigest() != part and not is_known(store, name, data):
        raise BrokenRecord(store.locate(name), "was changed: its content is not the one that its name says")
    try:
        rows = from_parquet(data, None if columns is None else list(columns))
    except pa.ArrowException as error:
        raise BrokenRecord(store.locate(name), f"is no Parquet: {error}") from None
    return rows.cast(pa.schema([VERDICT_SCHEMA.field(name) for name in rows.column_names]))


def verdict_rows(store: Store, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of all files, one file after the other, as `read_part` returns them. Where two people took the
    same file in at once, a verdict may be there twice, with the same id."""
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        yield from threads.map(lambda part: read_part(store, part, columns), part_names(store))


def check_verdicts(store: Store) -> None:
    """Raise BrokenRecord where a file of verdicts was changed."""
    for _ in verdict_rows(store, ["id"]):
        pass


def all_verdicts(store: Store) -> pa.Table:
    """Return all verdicts of a store, each once, the oldest first, as `VERDICT_SCHEMA`."""
    rows = pa.concat_tables([VERDICT_SCHEMA.empty_table(), *verdict_rows(store)])
    first = rows.append_column("place", pa.array(range(rows.num_rows))).group_by("id").aggregate([("place", "min")])
    return rows.take(first["place_min"]).sort_by([("decided_at", "ascending"), ("id", "ascending")])


def add_verdicts(store: Store, given: Sequence[PersonVerdict]) -> ImportResult:
    """Write the verdicts that a store does not have yet as one more file.

    Raises:
        SourceError: the store has another verdict of the same id; a verdict supersedes one that neither the store nor
            the given ones have, or one on another content; or verdicts supersede each other in a circle. Nothing was
            written.
    """
    verdicts = {verdict.id: verdict for verdict in given}
    named = {verdict.supersedes for verdict in given} - {""}
    known = _known(store, {*verdicts, *named})
    wrong = [*_contradicted(verdicts, known), *_dangling(verdicts, known)]
    if wrong:
        more = f"\n  and {len(wrong) - 5:,} more" if len(wrong) > 5 else ""
        raise SourceError("nothing was taken in:\n  " + "\n  ".join(wrong[:5]) + more)
    new = [verdict for verdict in given if verdict.id not in known]
    if not new:
        return ImportResult(0, len(given), None)
    data = _as_parquet(as_table(new))
    part = hashlib.sha256(data).hexdigest()
    try:
        store.create(f"{FOLDER}/{part}.parquet", data)
    except FileExistsError:  # somebody took the same file in at the same moment
        read_part(store, part)
    return ImportResult(len(new), len(given) - len(new), part)


def _as_parquet(rows: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(rows, sink, compression="zstd")
    return sink.getvalue()


def _known(store: Store, ids: Collection[str]) -> dict[str, dict[str, object]]:
    """Return the store's verdicts with some ids, by id."""
    wanted = pa.array(sorted(ids), pa.string())
    found = [rows.filter(pc.is_in(rows["id"], wanted)) for rows in verdict_rows(store)]
    return {row["id"]: row for rows in found for row in rows.to_pylist()}


def _contradicted(verdicts: dict[str, PersonVerdict], known: dict[str, dict[str, object]]) -> Iterator[str]:
    for verdict in verdicts.values():
        there = known.get(verdict.id)
        if there is None or str(there["reviewer"]).startswith(FORMER) or str(there["uri"]).startswith(TOMBSTONE):
            continue  # of one that was thinned, or forgotten, the store says less
        if there != verdict.as_row():
            yield f"verdict {verdict.id}: the store has one with the same id, and it says something else"


def _dangling(verdicts: dict[str, PersonVerdict], known: dict[str, dict[str, object]]) -> Iterator[str]:
    contents = {id_: str(row["sha256"]) for id_, row in known.items()}
    contents |= {verdict.id: verdict.sha256 for verdict in verdicts.values()}
    for verdict in verdicts.values():
        if verdict.supersedes and verdict.supersedes not in contents:
            yield (
                f"verdict {verdict.id} supersedes {verdict.supersedes}, which neither the store nor these files have: "
                "give the file that has it, too"
            )
        elif verdict.supersedes and contents[verdict.supersedes] != verdict.sha256:
            yield f"verdict {verdict.id} supersedes {verdict.supersedes}, which is on another content"
    try:
        TopologicalSorter({one.id: {one.supersedes} for one in verdicts.values() if one.supersedes}).prepare()
    except CycleError as error:
        yield f"{plural(len(error.args[1]) - 1, 'verdict')} supersede each other in a circle: {error.args[1][0]}, …"
