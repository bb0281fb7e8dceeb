"""Look up contents in the reports of a store by their SHA-256: what the newest runs say of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.previous import live_runs
from nsfwscan.storage.store import Store


def contents_of_store(
    store: Store, sha256s: pa.Array | pa.ChunkedArray, columns: Sequence[str], ignored: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """Return the row of one object of each content that a report holds, by SHA-256: the newest run's, and the first by
    URI. Raises StoreError where a report cannot be read.

    Args:
        columns: of the report.
        ignored: runs with a broken record, which are left out.
    """
    wanted = sha256s.combine_chunks() if isinstance(sha256s, pa.ChunkedArray) else sha256s
    found: dict[str, dict[str, Any]] = {}
    for base in live_runs(store, ignored) if len(wanted) else ():
        of_run: dict[str, dict[str, Any]] = {}
        for rows in read_rows(base.run, base.record, list(dict.fromkeys(["sha256", "uri", *columns]))):
            some = rows.filter(pc.is_in(rows["sha256"], wanted, skip_nulls=True))
            for row in some.to_pylist():
                held = of_run.get(row["sha256"])
                if held is None or row["uri"] < held["uri"]:
                    of_run[row["sha256"]] = row
        found = of_run | found
    return found
