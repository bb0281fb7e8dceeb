"""Write what is to be hidden, deleted or kept, as a plan that another program or a person carries out.

A manifest is JSON lines, one object a line: where it is, which version, its hashes, how it was decided, why and by whom
it is named, and the run that says so. It holds no pixels, and nothing here touches an object. A report that cannot be
read is a `StoreError`; a condition that cannot be evaluated, or a file that cannot be written here, a `ConfigError`.
"""

from __future__ import annotations

from typing import Literal

from nsfwscan.errors import ConfigError
from nsfwscan.reports.export import json_line
from nsfwscan.reports.reading import query_report
from nsfwscan.runs.run import Run
from nsfwscan.schema import in_utc
from nsfwscan.storage.forgotten import TOMBSTONE
from nsfwscan.storage.output import Output
from nsfwscan.workflows.finalize import now

Action = Literal["quarantine", "hold"]
_NAMED = (
    "uri, object_id, size, etag, modified_at, sha256, md5, decision, rule, queue, severity, match_bank, match_kind, "
    "verdict"
)


def write_manifest(run: Run, where: str, action: Action, reason: str, by: str | None, out: Output) -> int:
    """Write the objects of a run for which a condition is true, by URI, and return their number.

    Args:
        where: SQL (DuckDB's) over the columns of the report.
        action: what the manifest is for.
        reason, by: why, and who says so; a hold has both.
    """
    there = f"NOT starts_with(uri, '{TOMBSTONE}')"  # what was forgotten has no place any more
    rows = query_report(run, f"SELECT {_NAMED} FROM report WHERE (\n{where}\n) AND {there} ORDER BY uri")
    about = {"reason": reason, "by": by, "run_id": run.run_id, "run_sha256": run.digest(), "at": now()}
    try:
        with out.appearing() as path, path.open("w", encoding="utf-8") as file:
            for batch in rows.to_batches(4096):
                for row in batch.to_pylist():
                    version = {"etag": row.pop("etag"), "modified_at": in_utc(row.pop("modified_at"))}
                    line = {"action": action, "uri": row.pop("uri"), "version": version, **row, **about}
                    file.write(json_line(line))
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error
    return len(rows)
