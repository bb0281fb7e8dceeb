"""Staged shards to a committed report.

In: a run whose shards are all staged. Out: `report/`, `false_positives/`, `summary.html`, then `run.json` (created only
if it is not there), then `_SUCCESS`. A map over ranges of shards: nothing holds all rows at once. A shard without a
part, or a part that does not hold exactly its listed objects, is a `BalanceError`, and nothing is committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from nsfwscan.config import ReadConfig, StorageConfig
from nsfwscan.errors import BalanceError, RowError
from nsfwscan.policy.decide import Decider
from nsfwscan.report.balance import Balance, check_uris
from nsfwscan.report.runs import Run
from nsfwscan.report.staging import read_part, to_parquet
from nsfwscan.report.summary import Summary
from nsfwscan.review.false_positives import is_false_positive, select_false_positives
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.sources.plan import Plan, Shard, ShardReader
from nsfwscan.storage import fetch
from nsfwscan.store import Store

_RANGE_ROWS = 400_000
"""Rows of a report part: about 128 MiB with names of ordinary length."""
_PARTS_AT_ONCE = 16


@dataclass(frozen=True)
class ImageCopies:
    """How to copy the images of false positives; they are read again from the source."""

    storage: StorageConfig
    read: ReadConfig


@dataclass
class Report:
    """What was written, and what it adds up to."""

    balance: Balance = field(default_factory=Balance)
    summary: Summary = field(default_factory=Summary)
    files: list[dict[str, Any]] = field(default_factory=list)
    """`path` within the run's folder, `rows`, `bytes`, `sha256`; report parts first in the order of their URIs."""

    def paths(self, folder: str) -> list[str]:
        """The files under one folder."""
        return [file["path"] for file in self.files if file["path"].startswith(folder + "/")]


def write_report(run: Run, plan: Plan, decider: Decider, copies: ImageCopies | None) -> Report:
    """Writes report and false positives range by range, and recounts both from the files.

    Raises:
        BalanceError: a listed object lacks its row, or has two.
        StoreError: the store fails.
    """
    report = Report()
    report.balance.repeated = plan.repeated
    read_listing = ShardReader(run.folder)
    with ThreadPoolExecutor(_PARTS_AT_ONCE) as threads:
        for number, shards in enumerate(_ranges(plan.shards)):
            listing = pa.concat_tables([read_listing(shard) for shard in shards])
            staged = pa.concat_tables(threads.map(lambda shard: _staged(run, shard), shards))
            check_uris(listing["uri"], staged["uri"])
            table = decided(staged, decider, run.run_id)
            false_positives = select_false_positives(table)
            _write_part(run.folder, "report", number, table, report, listing)
            if false_positives.num_rows:
                if copies is not None:
                    false_positives = _with_images(false_positives, run.folder, copies, threads)
                _write_part(run.folder, "false_positives", number, false_positives, report)
            report.summary.add(table, false_positives)
    report.balance.settle()
    return report


def decided(staged: pa.Table, decider: Decider, run_id: str) -> pa.Table:
    """Report rows from staged ones, sorted by decision, then URI."""
    decisions = decider(staged)
    columns = {
        **{name: staged[name] for name in staged.column_names},
        **{name: decisions[name] for name in decisions.column_names},
        "false_positive": is_false_positive(staged),
        "run_id": pa.array([run_id] * staged.num_rows, pa.string()),
    }
    table = pa.table([columns[f.name] for f in REPORT_SCHEMA], schema=REPORT_SCHEMA)
    return table.sort_by([("decision", "ascending"), ("uri", "ascending")])


def _ranges(shards: Sequence[Shard]) -> Iterator[list[Shard]]:
    """Consecutive shards, so that ranges are sorted by URI among themselves."""
    held: list[Shard] = []
    for shard in shards:
        if held and sum(s.rows for s in held) + shard.rows > _RANGE_ROWS:
            yield held
            held = []
        held.append(shard)
    if held:
        yield held


def _staged(run: Run, shard: Shard) -> pa.Table:
    try:
        return read_part(run.staging, shard)
    except FileNotFoundError:
        raise BalanceError(
            f"shard {shard.name} ({shard.rows} objects) was never finished; run the same command again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise BalanceError(
            f"the staged part of shard {shard.name} is damaged: delete it from {run.staging.uri}, then run the same "
            "command again"
        ) from error


def _write_part(
    folder: Store, kind: str, number: int, table: pa.Table, report: Report, listing: pa.Table | None = None
) -> None:
    """Writes one file under its content's SHA-256, reads it back, and records it."""
    data = to_parquet(table)
    sha256 = hashlib.sha256(data).hexdigest()
    name = f"{kind}/part-{number:05d}-{sha256}.parquet"
    folder.write(name, data)
    if listing is not None:
        report.balance.add(listing, folder.read(name), sha256)
    report.files.append({"path": name, "rows": table.num_rows, "bytes": len(data), "sha256": sha256})


def _with_images(rows: pa.Table, folder: Store, copies: ImageCopies, threads: ThreadPoolExecutor) -> pa.Table:
    """The rows with the names of their copies; null where the object is gone or has changed since it was scored."""

    def copy(row: dict[str, Any]) -> str | None:
        limits = copies.read
        try:
            found = fetch(
                row["uri"],
                copies.storage,
                max_bytes=limits.max_bytes,
                timeout_s=limits.timeout_s,
                attempts=limits.attempts,
            )
        except RowError:
            return None
        if hashlib.sha256(found.data).hexdigest() != row["sha256"]:
            return None
        # The object's id, not its name: a key may hold `../`, NUL or a thousand characters.
        name = str(PurePosixPath("false_positives", "images", f"{row['object_id']}.{row['format'].lower()}"))
        folder.write(name, found.data)
        return name

    images = list(threads.map(copy, rows.select(["uri", "sha256", "object_id", "format"]).to_pylist()))
    return rows.set_column(rows.schema.get_field_index("image"), "image", pa.array(images, pa.string()))
