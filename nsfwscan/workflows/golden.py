"""Score the golden set of a scan before anything is committed, and stop the scan where scores or decisions drifted.

A replay scores nothing: it decides the golden rows of its parent again (`look_again`), and stops likewise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import SourceConfig
from nsfwscan.errors import BrokenRecord, ConfigError, Drifted
from nsfwscan.execution.pipeline import Job
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy
from nsfwscan.runs.calibrations import calibration_for
from nsfwscan.runs.catalogue import catalogue
from nsfwscan.runs.golden import (
    FOLDER,
    MOST_OBJECTS,
    WORDS,
    Drift,
    Found,
    counted,
    decided_again,
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
from nsfwscan.runs.run import Run
from nsfwscan.runs.staging import to_parquet
from nsfwscan.sources.listing import list_sources
from nsfwscan.storage.store import Store
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
        source = SourceConfig(uris=(uri,), truth="none", allow=job.config.source.allow)
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
            again = f"--run-id {run.run_id} --accept-drift REASON goes on, and expects the new scores from then on"
            raise Drifted(_told(found, scored.num_rows, before, again))
        self.record = _recorded(rows, str(config.uri), config.tolerance, before, found, config.accept)
        listing, objects = self.shards[0].listing, sum(shard.rows for shard in self.shards)
        self.files = [write_rows(run, rows), _file(listing, objects, run.folder.read(listing))]
        say(f"golden   {describe_golden(self.record)}")

    def _before(self) -> RunRecord | None:
        config = self.job.config
        return _newest(self.job.run.store, str(config.golden.uri), config.previous.ignore_runs)


@dataclass(frozen=True)
class Again:
    """Golden rows of a run as another policy decides them.

    Attributes:
        rows: `GOLDEN_SCHEMA`, those with an expectation and new ones; None where the run kept too little of them.
        found: those that are not as expected.
        before: the run that says what is expected.
    """

    set: GoldenRecord
    rows: pa.Table | None
    found: list[Found]
    before: RunRecord

    def accepted(self, reason: str | None) -> GoldenRecord | None:
        """Return the section of a run that is decided so; None where the set cannot be decided again.

        Raises:
            Drifted: an object is not as expected, and no reason is given for that.
        """
        if self.rows is None:
            return None
        if self.found and reason is None:
            again = "--accept-drift REASON commits it all the same, and expects the new decisions from then on"
            raise Drifted(_told(self.found, self.rows.num_rows, self.before, again))
        return _recorded(self.rows, self.set.uri, self.set.tolerance, self.before, self.found, reason)

    def describe(self) -> str:
        """Return in words what becomes of the set."""
        if self.rows is None:
            return f"golden set {self.set.uri}: its rows were kept by an earlier version, and cannot be decided again"
        objects = f"golden set {self.set.uri}: {len(self.found):,} of {plural(self.rows.num_rows, 'object')} are not as"
        return "\n".join([f"{objects} in run {self.before.run_id}", *_examples(self.found)])

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        shown = [{"uri": one.uri, "drift": str(one.drift), "said": one.said} for one in self.found[:_EXAMPLES]]
        objects = None if self.rows is None else self.rows.num_rows
        counts = {"objects": objects, "drifted": counted(self.found), "examples": shown}
        return {"uri": self.set.uri, "before": self.before.run_id, **counts}


def look_again(parent: Run, policy: Policy) -> Again | None:
    """Return what a policy makes of the golden set of a committed run; None where the run has none."""
    record, decider = parent.record(), Decider(policy)
    if record.golden is None:
        return None
    before = _newest(parent.store, record.golden.uri) or record
    calibration = calibration_for(parent.store, record.model.identity, record.model.sha256, [decider])
    scored = decided_again(parent, record, decider, calibration)
    if scored is None:
        return Again(record.golden, None, [], before)
    expected = expectations(Run(parent.store, before.run_id), before)
    rows = with_expected(scored, expected.filter(pc.is_in(expected["uri"], scored["uri"].combine_chunks())))
    return Again(record.golden, rows, list(drifts(rows, record.golden.tolerance)), before)


def write_rows(run: Run, rows: pa.Table) -> FileRecord:
    """Write the golden rows of a run, and return the file."""
    data = to_parquet(rows)
    part = f"{FOLDER}/part-00000-{hashlib.sha256(data).hexdigest()}.parquet"
    run.folder.write(part, data)
    return _file(part, rows.num_rows, data)


def _file(path: str, rows: int, data: bytes) -> FileRecord:
    return FileRecord(path=path, rows=rows, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _recorded(
    rows: pa.Table, uri: str, tolerance: float, before: RunRecord | None, found: list[Found], accept: str | None
) -> GoldenRecord:
    return GoldenRecord(
        uri=uri,
        objects=rows.num_rows - rows["status"].null_count,
        tolerance=tolerance,
        before=None if before is None else before.run_id,
        largest=pc.max(pc.abs(pc.subtract(rows["nsfw_score"], rows["expected_nsfw_score"]))).as_py(),
        drifted=counted(found),
        examples=tuple(f"{one.uri}: {one.said}" for one in found[:_EXAMPLES]),
        accepted=accept if found else None,
        accepted_by=somebody() if found else None,
    )


def _newest(store: Store, uri: str, ignored: Collection[str] = ()) -> RunRecord | None:
    """Return the record of the newest committed run that has this set."""
    runs = catalogue(store).select(["run_id", "committed_at", "files"]).to_pylist()
    with_some = [run for run in runs if any(file["folder"] == FOLDER for file in run["files"])]
    for run in sorted(with_some, key=lambda run: run["committed_at"], reverse=True):
        if run["run_id"] not in ignored:
            with suppress(BrokenRecord):  # the catalogue knows a run that is broken now
                record = Run(store, run["run_id"]).record()
                if record.golden is not None and record.golden.uri == uri:
                    return record
    return None


def _examples(found: list[Found]) -> list[str]:
    lines = [f"  {one.uri}: {one.said}" for one in found[:_EXAMPLES]]
    return [*lines, f"  … and {len(found) - _EXAMPLES:,} more"] if len(found) > _EXAMPLES else lines


def _told(found: list[Found], objects: int, before: RunRecord | None, again: str) -> str:
    """Return what drifted, and what to do, in words."""
    causes = "; ".join(f"{count:,}: {WORDS[Drift(drift)]}" for drift, count in counted(found).items())
    since = before.run_id if before is not None else "an earlier run"
    return "\n".join(
        [
            f"the golden set drifted, so nothing was committed: of {plural(objects, 'object')} {len(found):,} are not "
            f"as in run {since} ({causes})",
            *_examples(found),
            f"find out why; if it is meant (another model or policy), the same command with {again}",
        ]
    )
