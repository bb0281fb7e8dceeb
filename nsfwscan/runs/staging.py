"""Stage finished shards for the commit: each is one part, `staging/<run_id>/<shard>.arrow`.

A part is written whole or not at all, and a retried shard overwrites its own part, so no object gets a second row. A
part whose row count differs from its shard's is a defect of the pipeline, and stops the run. Parts are Arrow IPC files
(Feather V2), since nobody else reads them: as small as Parquet, and a third of its time to write and to read.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from nsfwscan.errors import NsfwscanError, Status
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.calibrations import Calibration, calibrated
from nsfwscan.runs.plan import PART_SUFFIX, Shard
from nsfwscan.schema import EACH_LINE, STAGED_SCHEMA, as_schema
from nsfwscan.storage.store import Store

_COMPRESSED = ipc.IpcWriteOptions(compression="zstd", use_threads=False)
_IN_THIS_THREAD = ipc.IpcReadOptions(use_threads=False)


@dataclass(frozen=True)
class ShardResult:
    """Counts of a finished shard, for the driver."""

    shard: str
    rows: int
    errors: int
    """Rows whose status is neither `ok` nor `unsupported`."""
    flagged: int


def stage_part(
    staging: Store, shard: Shard, table: pa.Table, decider: Decider, calibration: Calibration | None = None
) -> ShardResult:
    """Write a shard's rows, a table of `STAGED_SCHEMA`. Raises NsfwscanError where their number or schema is wrong."""
    if table.num_rows != shard.rows or table.schema != STAGED_SCHEMA:
        raise NsfwscanError(
            f"defect: shard {shard.name} came back with {table.num_rows} rows of {shard.rows}; please report it"
        )
    holds_text = table[EACH_LINE.name].null_count < table.num_rows
    staging.write(shard.part, to_arrow(table), private=holds_text)
    return describe_part(shard, table, decider, calibration)


def describe_part(
    shard: Shard, table: pa.Table, decider: Decider, calibration: Calibration | None = None
) -> ShardResult:
    """Return the counts of a shard's rows."""
    table = calibrated(table, calibration)
    statuses = Counter(table["status"].to_pylist())
    fine = statuses[Status.OK] + statuses[Status.UNSUPPORTED]
    return ShardResult(shard.name, shard.rows, shard.rows - fine, int(decider.flagged(decider.choose(table)).sum()))


def staged_shards(staging: Store) -> set[str]:
    """Return the names of the finished shards."""
    return {name.removesuffix(PART_SUFFIX) for name in staging.names("") if name.endswith(PART_SUFFIX)}


def clear_parts(staging: Store) -> None:
    """Remove the rows of all finished shards. Raises StoreError where the store fails."""
    if parts := [f"{shard}{PART_SUFFIX}" for shard in sorted(staged_shards(staging))]:
        staging.delete_files(parts)


def read_part(staging: Store, shard: Shard) -> pa.Table:
    """Return the rows of a staged shard. Raises FileNotFoundError where the shard is not finished; and
    pyarrow.ArrowException, OSError or UnicodeDecodeError where its part is damaged."""
    found = ipc.open_file(staging.read(shard.part), options=_IN_THIS_THREAD).read_all()
    found.validate(full=True)  # Arrow trusts offsets within a file, and would crash
    return as_schema(found, STAGED_SCHEMA)


def to_arrow(table: pa.Table) -> bytes:
    """Return a table as the bytes of one Arrow IPC file, compressed with zstd."""
    buffer = io.BytesIO()
    with ipc.new_file(buffer, table.schema, options=_COMPRESSED) as file:
        file.write_table(table)
    return buffer.getvalue()


def to_parquet(table: pa.Table, row_group_size: int = 65536) -> bytes:
    """Return a table as the bytes of one Parquet file, compressed with zstd."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group_size)
    return buffer.getvalue()
