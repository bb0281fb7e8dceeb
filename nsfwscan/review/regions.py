"""Divide the objects of a run into regions of what looks alike, by the embeddings that a detector gave of them.

Each of some random planes through the middle of the vectors has an object on one side or the other; those on the same
side of all planes are a region (Charikar 2002, Similarity estimation techniques from rounding algorithms). Nothing is
learned, so the same vectors make the same regions, and one batch is in memory at a time.
"""

from __future__ import annotations

import math

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.runs.beside import EMBEDDINGS
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run

_EACH = 20
"""Objects of a region, about."""
_MOST_PLANES = 8
_BATCH = 8_192
_COLUMNS = ["uri", "view", "detector", "vector"]


def fill_regions(tables: duckdb.DuckDBPyConnection, run: Run, record: RunRecord) -> None:
    """Make the table `regions` (`uri`, `region`), of the first detector that gave embeddings; empty where none did.
    Raises BrokenRecord where a file differs from its record."""
    tables.execute("CREATE TABLE regions (uri VARCHAR, region INTEGER)")
    files = record.files_in(EMBEDDINGS.folder)
    objects = sum(file.rows or 0 for file in files)
    count = min(_MOST_PLANES, max(1, round(math.log2(max(2, objects / _EACH)))))
    name: str | None = None
    middle, planes = np.zeros(0, np.float32), np.zeros((0, count), np.float32)
    for file in files:
        batches = run.parquet(file).iter_batches(_BATCH, columns=_COLUMNS, use_threads=False)
        for found in map(pa.Table.from_batches, ([batch] for batch in batches)):
            name = name or min(filter(None, found["detector"].to_pylist()), default=None)
            first = pc.equal(pc.fill_null(found["view"], 0), 0)
            rows = found.filter(pc.and_(pc.equal(found["detector"], name or ""), first))
            if not rows.num_rows:
                continue
            vectors = np.array(rows["vector"].to_pylist(), np.float32)
            if not len(middle):
                middle = vectors.mean(axis=0)
                planes = np.random.default_rng(0).normal(size=(vectors.shape[1], count)).astype(np.float32)
            sides = (vectors - middle) @ planes > 0
            tables.register("placed", pa.table({"uri": rows["uri"], "region": sides @ (1 << np.arange(count))}))
            tables.execute("INSERT INTO regions SELECT DISTINCT uri, region FROM placed")
