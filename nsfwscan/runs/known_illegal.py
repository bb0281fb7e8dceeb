"""What a store knows of illegal contents, by their bytes: for good, whatever becomes of the objects that held them.

`known_illegal` gives one row of `KNOWN_SCHEMA` for each content (SHA-256) that any committed run of the store found in
an illegal bank, with the hashes and the match of then. Each run writes what it knows into `known_illegal/`, and names
the runs that it has it from; so the newest are enough, of several that went on side by side all of them. Of a run whose
record is broken what can be told from the files themselves is taken, whose names are their digests: too much is known
then rather than too little.

Touching an object, renaming it, scanning with `--full` or without the bank changes nothing of it. What does is a scan
with a bank of the same name that has no such entry any more: the content is released, which that run records.
A file that is not what its run recorded is a `BrokenRecord`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet
from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.escalations import is_illegal
from nsfwscan.runs.parts import with_all
from nsfwscan.runs.previous import banks_behind
from nsfwscan.runs.record import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA, as_schema
from nsfwscan.storage.store import from_parquet

FOLDER = "known_illegal"
KNOWN_SCHEMA = pa.schema([*(REPORT_SCHEMA.field(name) for name in HASH_COLUMNS), *MATCH])
"""A content in an illegal bank; about 0.3 KiB each in memory, in the driver and every worker."""
_NAMED = re.compile(r"part-[0-9]{5}-([0-9a-f]{64})\.parquet")


@dataclass(frozen=True)
class KnownIllegal:
    """What is known before a run begins.

    Attributes:
        contents: `KNOWN_SCHEMA`, each SHA-256 once.
        runs: where that is from.
        released: contents that were known, and that today's banks of the same names do not hold any more.
        asked: the banks that all of it was looked up in last; None where that is not known.
    """

    contents: pa.Table = field(default_factory=KNOWN_SCHEMA.empty_table)
    runs: tuple[str, ...] = ()
    released: int = 0
    asked: tuple[str, ...] | None = None

    def asked_of(self, banks: BankSet) -> KnownIllegal:
        """What is left of it where banks are given that it was found in: their word of today counts."""
        if not self.contents.num_rows or self.asked == tuple(banks.identities):
            return self
        found = banks.matched_again(self.contents)
        kept = is_illegal(found)
        hashes = {name: self.contents[name] for name in HASH_COLUMNS}
        today = as_schema(pa.table({**hashes, **{name: found[name] for name in MATCH.names}}), KNOWN_SCHEMA)
        return KnownIllegal(today.filter(kept), self.runs, self.released + pc.sum(pc.invert(kept)).as_py())

    def as_json(self, contents: int) -> dict[str, Any]:
        """As it stands in `run.json`, of a run that knows so many contents at its end."""
        return {"runs": list(self.runs), "contents": contents, "released": self.released}


def known_illegal(
    records: Sequence[tuple[Run, RunRecord | BrokenRecord]], ignored: Collection[str] = ()
) -> KnownIllegal:
    """What the committed runs of a store know together.

    Args:
        records: of all of them, as `read_records` gives them.
        ignored: runs whose records are taken for broken.

    Raises:
        BrokenRecord: a file that a record names is not what it was.
    """
    whole = [(run, r) for run, r in records if not isinstance(r, BrokenRecord) and run.run_id not in ignored]
    behind = {run_id for _, record in whole for run_id in record.known_illegal.runs}
    newest = [(run, record) for run, record in whole if run.run_id not in behind]
    trusted = {run.run_id for run, _ in whole}
    broken = [run for run, _ in records if run.run_id not in trusted and run.run_id not in behind]
    tables = [
        *(t for run, record in newest for t in _recorded(run, record)),
        *(t for run in broken for t in _found(run)),
    ]
    runs = sorted([*(run.run_id for run, _ in newest), *behind, *(run.run_id for run in broken)])
    asked = {tuple(banks_behind(record)) for _, record in newest}
    return KnownIllegal(once(tables), tuple(runs), asked=asked.pop() if len(asked) == 1 and not broken else None)


def once(tables: Sequence[pa.Table]) -> pa.Table:
    """Each content once, as the first table that has it says."""
    rows = pa.concat_tables([KNOWN_SCHEMA.empty_table(), *tables]).combine_chunks()
    places = rows.append_column("place", pa.array(range(rows.num_rows), pa.int64()))
    first = places.group_by("sha256").aggregate([("place", "min")])["place_min"]
    return rows.take(first).sort_by("sha256")


def contents_of(rows: pa.Table) -> pa.Table:
    """The illegal contents among report rows, as `KNOWN_SCHEMA`."""
    illegal = rows.filter(pc.and_(is_illegal(rows), pc.is_valid(rows["sha256"])))
    return as_schema(with_all(illegal, KNOWN_SCHEMA.names), KNOWN_SCHEMA)


def _recorded(run: Run, record: RunRecord) -> Iterator[pa.Table]:
    for file in record.files_in(FOLDER):
        yield contents_of(run.parquet(file).read(use_threads=False))


def _found(run: Run) -> Iterator[pa.Table]:
    """What can be told of a run without its record."""
    for folder in (FOLDER, "escalations"):
        for name in run.folder.names(folder):
            if named := _NAMED.fullmatch(name):
                data = run.folder.read(f"{folder}/{name}")
                if hashlib.sha256(data).hexdigest() == named[1]:
                    yield contents_of(from_parquet(data))
