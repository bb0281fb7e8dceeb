"""Finished shards on their way to the report: one Parquet part each, named after its shard.

In: a shard's table of `STAGED_SCHEMA`. Out: `staging/<run_id>/<shard>.parquet`, written whole or not at all, so a
retried shard overwrites its own part and never makes a second row. A part with another number of rows than its shard
is a defect of the pipeline and stops the run.
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from nsfwscan.errors import NsfwscanError, Status
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.plan import Shard
from nsfwscan.schema import STAGED_SCHEMA, as_schema
from nsfwscan.storage.store import Store, from_parquet

_SUFFIX = ".parquet"


@dataclass(frozen=True)
class ShardResult:
    """What the driver learns of a finished shard."""

    shard: str
    rows: int
    errors: int
    """Rows with another status than `ok` or `unsupported`."""
    flagged: int


def stage_part(staging: Store, shard: Shard, table: pa.Table, decider: Decider) -> ShardResult:
    """Writes a shard's rows. Raises NsfwscanError where they are not the shard's."""
    if table.num_rows != shard.rows or table.schema != STAGED_SCHEMA:
        raise NsfwscanError(
            f"defect: shard {shard.name} came back with {table.num_rows} rows of {shard.rows}; please report it"
        )
    staging.write(shard.name + _SUFFIX, to_parquet(table))
    return describe_part(shard, table, decider)


def describe_part(shard: Shard, table: pa.Table, decider: Decider) -> ShardResult:
    """What the driver learns of a part."""
    statuses = Counter(table["status"].to_pylist())
    fine = statuses[Status.OK] + statuses[Status.UNSUPPORTED]
    return ShardResult(shard.name, shard.rows, shard.rows - fine, int(decider.flagged(decider.choose(table)).sum()))


def staged_shards(staging: Store) -> set[str]:
    """Names of the shards that are done."""
    return {name.removesuffix(_SUFFIX) for name in staging.names("") if name.endswith(_SUFFIX)}


def read_part(staging: Store, shard: Shard) -> pa.Table:
    """A staged shard. Raises FileNotFoundError where it was never finished."""
    return as_schema(from_parquet(staging.read(shard.name + _SUFFIX)), STAGED_SCHEMA)


def to_parquet(table: pa.Table) -> bytes:
    """A table as one Parquet file, zstd."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=65536)
    return buffer.getvalue()
