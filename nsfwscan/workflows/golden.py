"""Score the golden set of a scan before anything is committed, and stop the scan where scores or decisions drifted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import SourceConfig
from nsfwscan.errors import ConfigError, Drifted
from nsfwscan.execution.pipeline import Job
from nsfwscan.policy.decide import Decider
from nsfwscan.runs.golden import (
    FOLDER,
    MOST_OBJECTS,
    WORDS,
    Drift,
    Found,
    counted,
    describe_golden,
    drifts,
    expectations,
    listed_once,
    read_scored,
    with_expected,
    write_shards,
)
from nsfwscan.runs.plan import Shard
from nsfwscan.runs.record.fields import FileRecord
from nsfwscan.runs.record.figures import GoldenRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.runs.staging import to_parquet
from nsfwscan.sources.listing import list_sources
from nsfwscan.text import plural
from nsfwscan.workflows.pin import somebody

_EXAMPLES = 5


@dataclass
class Golden:
    """Golden set of a run.

    Attributes:
        shards: what to run before all else; empty where there is no set.
        record: how it was scored, once it was checked.
        files: its files, once it was checked.
    """

    job: Job
    shards: list[Shard] = field(default_factory=list)
    record: GoldenRecord | None = None
    files: list[FileRecord] = field(default_factory=list)

    @classmethod
    def of(cls, job: Job) -> Golden:
        """List the set. Raises ConfigError where it is empty or too large, SourceError where it cannot be listed."""
        uri = job.config.golden.uri
        if uri is None:
            return cls(job)
        source = SourceConfig(uris=(uri,), truth="none")
        listed = listed_once(list(list_sources(source, job.config.storage, store=job.run.store.uri)))
        if not 0 < listed.num_rows <= MOST_OBJECTS:
            raise ConfigError(
                f"the golden set {uri} has {plural(listed.num_rows, 'object')}, not 1 to {MOST_OBJECTS:,}"
            )
        return cls(job, write_shards(job.run, listed))

    def holds(self, shard: str) -> bool:
        """Return whether the shard of this name is one of the set."""
        return any(shard == one.name for one in self.shards)

    def check(self, staged: Collection[str], say: Callable[[str], None]) -> None:
        """Compare the set with what is expected of it, once all of its shards are staged.

        Args:
            staged: names of staged shards.
            say: called with the result in words.

        Raises:
            ConfigError: an object that is new in the set cannot be scored.
            Drifted: an object is not as expected, and nobody accepted that.
        """
        if self.record is not None or not self.shards or not {shard.name for shard in self.shards} <= set(staged):
            return
        run, config = self.job.run, self.job.config.golden
        before = self._before()
        scored = read_scored(run, self.shards, Decider(self.job.policy), self.job.calibration)
        rows = with_expected(scored, expectations(Run(run.store, before.run_id), before)) if before else scored
        for row in rows.filter(pc.and_(pc.is_null(rows["expected_by"]), pc.is_valid(rows["error"]))).to_pylist():
            raise ConfigError(
                f"{row['uri']} is new in the golden set and cannot be scored ({row['error']}): replace it"
            )
        found = list(drifts(rows, config.tolerance))
        if found and config.accept is None:
            raise Drifted(_told(found, scored.num_rows, before, run))
        self.record, self.files = self._recorded(rows, before, found), self._written(rows)
        say(f"golden   {describe_golden(self.record)}")

    def _recorded(self, rows: pa.Table, before: RunRecord | None, found: list[Found]) -> GoldenRecord:
        config = self.job.config.golden
        return GoldenRecord(
            uri=str(config.uri),
            objects=sum(shard.rows for shard in self.shards),
            tolerance=config.tolerance,
            before=None if before is None else before.run_id,
            largest=pc.max(pc.abs(pc.subtract(rows["nsfw_score"], rows["expected_nsfw_score"]))).as_py(),
            drifted=counted(found),
            examples=tuple(f"{one.uri}: {one.said}" for one in found[:_EXAMPLES]),
            accepted=config.accept if found else None,
            accepted_by=somebody() if found else None,
        )

    def _written(self, rows: pa.Table) -> list[FileRecord]:
        """Write the rows, and return the files of the set."""
        folder, listing = self.job.run.folder, self.shards[0].listing
        data = to_parquet(rows)
        part = f"{FOLDER}/part-00000-{hashlib.sha256(data).hexdigest()}.parquet"
        folder.write(part, data)
        of_listing = (listing, sum(shard.rows for shard in self.shards), folder.read(listing))
        return [
            FileRecord(path=path, rows=count, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            for path, count, content in ((part, rows.num_rows, data), of_listing)
        ]

    def _before(self) -> RunRecord | None:
        """Return the record of the newest committed run that scored the same set."""
        uri, ignored = str(self.job.config.golden.uri), self.job.config.previous.ignore_runs
        runs = [run for run in runs_of(self.job.run.store) if run.run_id not in ignored]
        records = [record for _, record in read_records(runs) if isinstance(record, RunRecord)]
        scored = [record for record in records if record.golden is not None and record.golden.uri == uri]
        return max(scored, key=lambda record: datetime.fromisoformat(record.committed_at), default=None)


def _told(found: list[Found], objects: int, before: RunRecord | None, run: Run) -> str:
    """Return what drifted, and what to do, in words."""
    causes = "; ".join(f"{count:,}: {WORDS[Drift(drift)]}" for drift, count in counted(found).items())
    lines = [f"  {one.uri}: {one.said}" for one in found[:_EXAMPLES]]
    lines += [f"  … and {len(found) - _EXAMPLES:,} more"] if len(found) > _EXAMPLES else []
    since = before.run_id if before is not None else "an earlier run"
    return "\n".join(
        [
            f"the golden set drifted, so nothing was committed: of {plural(objects, 'object')} {len(found):,} are not "
            f"as in run {since} ({causes})",
            *lines,
            "find out why; if it is meant (another model or policy), the same command with "
            f"--run-id {run.run_id} --accept-drift REASON goes on, and expects the new scores from then on",
        ]
    )
