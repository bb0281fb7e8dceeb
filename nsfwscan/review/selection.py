"""Choose the rows of a report that become items where no queue does: by an SQL condition, or as false positives.

The condition may use every column of the report, decisions too; it reaches no file and no network. One that cannot be
evaluated is a `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Collection

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import ConfigError
from nsfwscan.policy.sql import condition, connect, in_sample
from nsfwscan.reports.reading import with_signal_maps
from nsfwscan.review.ranking import Choice
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA

WHERE, FALSE_POSITIVES, GOLDEN, HARMLESS = "where", "false positives", "golden", "harmless"
"""Names of the queues that these choices make."""
_HARMLESS = "decision = 'allow' AND status = 'ok' AND nsfw_score < 0.1 AND media = 'image' AND match_kind IS NULL"


def rows_where(when: str) -> Choice:
    """Return the choice of rows for which an SQL condition is true. Raises ConfigError, also when it is used."""
    connection = connect()

    def choose(rows: pa.Table) -> pa.Table:
        plain = rows.cast(pa.schema([REPORT_SCHEMA.field(name) for name in rows.column_names]))
        try:
            found = connection.from_arrow(with_signal_maps(plain)).select(condition(when)).to_arrow_table()
        except duckdb.Error as error:
            raise ConfigError(f"--where {when!r}: {str(error).splitlines()[0]}") from None
        mask = found.column(0).combine_chunks()
        if not pa.types.is_boolean(mask.type) or len(mask) != plain.num_rows:
            raise ConfigError(f"--where {when!r} is not true or false for each row")
        return _queued(plain.filter(mask), WHERE)

    choose(REPORT_SCHEMA.empty_table())
    return choose


def false_positives(run: Run, record: RunRecord) -> Choice:
    """Return the choice of the run's false positives, confirmed and suspected. Raises StoreError."""
    files = record.files_in("false_positives")
    uris = [run.parquet(file).read(columns=["uri"])["uri"] for file in files if file.path.endswith(".parquet")]
    known = pa.chunked_array([chunk for column in uris for chunk in column.chunks], pa.string()).combine_chunks()

    def choose(rows: pa.Table) -> pa.Table:
        return _queued(rows.filter(pc.is_in(rows["uri"], known)), FALSE_POSITIVES)

    return choose


def rows_named(uris: Collection[str]) -> Choice:
    """Return the choice of objects by their URIs; each is an item of its own, in a queue named by its URI."""
    known = pa.array(sorted(uris), pa.string())

    def choose(rows: pa.Table) -> pa.Table:
        found = rows.filter(pc.is_in(rows["uri"], known))
        return found.set_column(found.schema.get_field_index("queue"), "queue", found["uri"])

    return choose


def golden_and_harmless(golden: Collection[str], share: float, seed: int) -> Choice:
    """Return the choice of what is mixed among items: those named, and a sample of clearly harmless images.

    Args:
        share: of the harmless images, below 1.
    """
    known, connection = pa.array(sorted(golden), pa.string()), connect()
    sample = condition(_HARMLESS) & in_sample(share, seed, HARMLESS)

    def choose(rows: pa.Table) -> pa.Table:
        plain = rows.cast(pa.schema([REPORT_SCHEMA.field(name) for name in rows.column_names]))
        is_golden = pc.is_in(plain["uri"], known)
        drawn = connection.from_arrow(with_signal_maps(plain)).select(sample).to_arrow_table().column(0)
        is_harmless = pc.and_(drawn, pc.invert(is_golden))
        return pa.concat_tables(
            [_queued(plain.filter(is_golden), GOLDEN), _queued(plain.filter(is_harmless), HARMLESS)]
        )

    return choose


def _queued(rows: pa.Table, queue: str) -> pa.Table:
    place = rows.schema.get_field_index("queue")
    return rows.set_column(place, "queue", pa.array([queue] * rows.num_rows, pa.string()))
