"""Remember a store's illegal contents by their bytes, permanently, whatever happens to the objects that held them.

`known_illegal` returns one row of `KNOWN_SCHEMA` for each content (SHA-256) that any committed run of the store found
in an illegal bank, with its hashes and its match at that time. Each run writes all known contents into
`known_illegal/`, and names the runs that they come from. So the newest run is enough; of runs that went on side by
side, all are needed. Of a run whose record is broken, the files themselves are read, since their names hold their
digests: better to know too much than too little.

Touching an object, renaming it, or scanning with `--full` or without the bank releases nothing. Only a scan with a bank
of the same name that no longer has the entry releases the content, and that run records it. A file that differs from
what its run recorded is a `BrokenRecord`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet
from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.escalations import is_illegal
from nsfwscan.runs.parts import with_all
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.reuse import banks_behind
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA, as_schema
from nsfwscan.storage.store import from_parquet

FOLDER = "known_illegal"
KNOWN_SCHEMA = pa.schema([*(REPORT_SCHEMA.field(name) for name in HASH_COLUMNS), *MATCH])
"""A content in an illegal bank; a row takes about 0.3 KiB of memory in the driver and in every worker."""
_NAMED = re.compile(r"part-[0-9]{5}-([0-9a-f]{64})\.parquet")


@dataclass(frozen=True)
class KnownIllegal:
    """Illegal contents that are known before a run begins.

    Attributes:
        contents: table of `KNOWN_SCHEMA`, each SHA-256 once.
        runs: ids of the runs that the contents come from.
        released: number of contents that were known, and that this run's banks of the same names no longer hold.
        asked: identities of the banks that matched all contents last; None where that is unknown.
    """

    contents: pa.Table = field(default_factory=KNOWN_SCHEMA.empty_table)
    runs: tuple[str, ...] = ()
    released: int = 0
    asked: tuple[str, ...] | None = None

    def asked_of(self, banks: BankSet) -> KnownIllegal:
        """Match the contents again: this run's banks decide for the banks of the same names. Return what remains."""
        if not self.contents.num_rows or self.asked == tuple(banks.identities):
            return self
        found = banks.matched_again(self.contents)
        kept = is_illegal(found)
        hashes = {name: self.contents[name] for name in HASH_COLUMNS}
        today = as_schema(pa.table({**hashes, **{name: found[name] for name in MATCH.names}}), KNOWN_SCHEMA)
        return KnownIllegal(today.filter(kept), self.runs, self.released + pc.sum(pc.invert(kept)).as_py())

    def as_json(self, contents: int) -> dict[str, Any]:
        """Return the section of `run.json`.

        Args:
            contents: how many contents the run knows at its end.
        """
        return {"runs": list(self.runs), "contents": contents, "released": self.released}


@dataclass(frozen=True)
class _Recorded:
    """Part of a run's record that is needed: its files of known contents, and its banks."""

    run: Run
    files: tuple[FileRecord, ...]
    banks: tuple[str, ...]

    def contents(self) -> Iterator[pa.Table]:
        for file in self.files:
            yield contents_of(self.run.parquet(file).read(use_threads=False))


def known_illegal(
    records: Iterable[tuple[Run, RunRecord | BrokenRecord]], ignored: Collection[str] = ()
) -> KnownIllegal:
    """Return the illegal contents that the committed runs of a store know together.

    Args:
        records: all committed runs with their records, from `read_records`.
        ignored: ids of runs whose records are treated as broken.

    Raises:
        BrokenRecord: a file differs from what its run recorded.
    """
    whole: list[_Recorded] = []
    untrusted: list[Run] = []
    behind: set[str] = set()
    for run, record in records:
        if isinstance(record, BrokenRecord) or run.run_id in ignored:
            untrusted.append(run)
        else:
            whole.append(_Recorded(run, tuple(record.files_in(FOLDER)), tuple(banks_behind(record))))
            behind.update(record.known_illegal.runs)
    newest = [one for one in whole if one.run.run_id not in behind]
    broken = [run for run in untrusted if run.run_id not in behind]
    tables = [*(t for one in newest for t in one.contents()), *(t for run in broken for t in _found(run))]
    runs = sorted([*(one.run.run_id for one in newest), *behind, *(run.run_id for run in broken)])
    asked = {one.banks for one in newest}
    return KnownIllegal(once(tables), tuple(runs), asked=asked.pop() if len(asked) == 1 and not broken else None)


def once(tables: Sequence[pa.Table]) -> pa.Table:
    """Return each content once, sorted by SHA-256, with the row of the first table that has it."""
    rows = pa.concat_tables([KNOWN_SCHEMA.empty_table(), *tables]).combine_chunks()
    places = rows.append_column("place", pa.array(np.arange(rows.num_rows)))
    first = places.group_by("sha256").aggregate([("place", "min")])["place_min"]
    return rows.take(first).sort_by("sha256")


def contents_of(rows: pa.Table) -> pa.Table:
    """Return the illegal contents among report rows, as `KNOWN_SCHEMA`."""
    illegal = rows.filter(pc.and_(is_illegal(rows), pc.is_valid(rows["sha256"])))
    return as_schema(with_all(illegal, KNOWN_SCHEMA.names), KNOWN_SCHEMA)


def _found(run: Run) -> Iterator[pa.Table]:
    """Yield the illegal contents of a run without its record: from files whose bytes match the digest in their name."""
    for folder in (FOLDER, "escalations"):
        for name in run.folder.names(folder):
            if named := _NAMED.fullmatch(name):
                data = run.folder.read(f"{folder}/{name}")
                if hashlib.sha256(data).hexdigest() == named[1]:
                    yield contents_of(from_parquet(data))
