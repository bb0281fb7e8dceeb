"""Decide a committed run again under another policy, from its stored scores, without images and without a model.

`replay` returns what would change. `commit_replay` writes a run that names the first as its parent, with decisions,
false positives and changes as a scan under that policy would have written them. A run that is not committed, or whose
parts are absent or damaged, raises `StoreError`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import EvidenceConfig, ScanConfig
from nsfwscan.errors import ConfigError
from nsfwscan.policy.compare import Comparison
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.lint import Overlaps
from nsfwscan.policy.rules import Policy
from nsfwscan.runs.calibrations import calibration_for, read_calibrated
from nsfwscan.runs.commit import write_report
from nsfwscan.runs.evidence import Evidence
from nsfwscan.runs.known_illegal import known_illegal
from nsfwscan.runs.plan import Plan, ShardReader, carry_all, read_carried
from nsfwscan.runs.previous import LISTED, PreviousReports
from nsfwscan.runs.record.inputs import PinRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.storage.forgotten import TOMBSTONE
from nsfwscan.verdicts.standing import standing
from nsfwscan.workflows.finalize import commit_record, complete, record_of
from nsfwscan.workflows.golden import look_again, write_rows
from nsfwscan.workflows.scan import ScanResult


def replay(run: Run, policy: Policy) -> Comparison:
    """Return the policy's decisions on the rows of a run's report, compared with the recorded ones. The policy knows
    the verdicts that people gave since, and the store's calibration of today.

    Raises:
        PolicyError: a rule cannot be evaluated on a row, or asks for a calibration that there is none of.
        StoreError: the report cannot be read.
    """
    comparison, verdicts = Comparison(Decider(policy)), standing(run.store)
    further = ["sha256"] if verdicts.parts else []
    columns = [*comparison.columns, *further]
    for rows in read_calibrated(run, run.record(), columns, [comparison.decider]):
        comparison.add(verdicts.onto(rows) if verdicts.parts else rows)
    return comparison


def overlaps(run: Run, policy: Policy) -> Overlaps:
    """Return how many rows of a run's report each rule of the policy matches and decides. Raise as `replay` does."""
    found = Overlaps(policy)
    for rows in read_calibrated(run, run.record(), found.columns, [found.decider]):
        found.add(rows)
    return found


def commit_replay(
    parent: Run,
    policy: Policy,
    source: str,
    run_id: str | None,
    pin: PinRecord | None = None,
    evidence: EvidenceConfig = EvidenceConfig(),  # noqa: B008  # frozen
    accept: str | None = None,
) -> ScanResult:
    """Write a run with the parent's rows, decided by the policy.

    Args:
        source: origin of the policy, for the record.
        run_id: id of the new run; unset: the time (UTC). Resumes an unfinished replay with this id, and leaves a
            committed one alone.
        pin: what the store pins, for the record.
        evidence: how the run is signed and anchored.
        accept: why objects of the golden set may be decided otherwise than before.

    Raises:
        Drifted: objects of the golden set would be, and no reason is given.
        ConfigError: the parent's report does not cover a listing: it is a match run.
        NsfwscanError: the store fails, or another run has the run id.
        BalanceError: rows of the parent are missing.
    """
    if parent.record().kind not in LISTED:
        raise ConfigError(f"run {parent.run_id} holds only matches: replay the scan that it was matched over")
    left = Evidence.of(evidence, parent.store, parent.store.storage)
    run = Run.named(parent.store, run_id)
    settings = {"replay_of": parent.run_id, "policy": policy.identity}
    plan = run.load_plan(settings)
    if run.is_committed():
        return ScanResult.before(run, left)
    with run.lease():
        if run.folder.exists("run.json"):  # a commit was cut off before it wrote _SUCCESS
            unproved = complete(run, left)
            return ScanResult.of(run, run.record(), unproved)
        again = look_again(parent, policy)
        golden = None if again is None else again.accepted(accept)
        plan = plan or run.save_plan(_plan(parent, run), settings)
        record = _record(run, parent, plan, policy, source, pin, evidence)
        if again is not None and again.rows is not None:
            record = record.model_copy(update={"golden": golden, "files": (*record.files, write_rows(run, again.rows))})
        committed = commit_record(run, record, left)
    return ScanResult.of(run, *committed)


def _plan(parent: Run, run: Run) -> Plan:
    """Return a plan that carries over all rows of the parent's listing: from the parent alone or, if its report is a
    delta, also from the runs that it continued from."""
    was = parent.plan()
    is_delta = parent.record().config.report.mode == "delta"
    previous_runs = (parent.run_id, *(was.previous_runs if is_delta else ()))
    return carry_all(listing_of(parent, was), was.listed_at, previous_runs, run.folder)


def listing_of(parent: Run, plan: Plan) -> Iterator[pa.Table]:
    """Yield what a run listed, as `LISTING_SCHEMA`, range by range, sorted by URI."""
    read = ShardReader(parent.folder)
    for part in plan.ranges:
        listed = pa.concat_tables([*map(read, part.shards), read_carried(parent.folder, part)])
        yield listed.filter(pc.invert(pc.starts_with(listed["uri"], TOMBSTONE))).sort_by("uri")


def _record(
    run: Run,
    parent: Run,
    plan: Plan,
    policy: Policy,
    source: str,
    pin: PinRecord | None,
    evidence: EvidenceConfig,
) -> RunRecord:
    """Write the report, and return its record."""
    began, was = time.monotonic(), parent.record()
    report = was.config.report.model_copy(update={"save_images": False})
    kept_settings = {name: getattr(was.config, name) for name in ("source", "duplicates", "detectors")}
    config = ScanConfig(**kept_settings, out=run.store.uri, report=report)
    asked = {"policy": source, "shadow_policies": (), "report": report, "evidence": evidence}
    shown = was.config.model_copy(update=asked)
    kept = was.as_json()
    previous = PreviousReports.of(run.store, plan.previous_runs, None)
    known = known_illegal(read_records(runs_of(run.store)))
    decider = Decider(policy)
    calibration = calibration_for(run.store, was.model.identity, was.model.sha256, [decider])
    written = write_report(run, plan, previous, decider, config, known=known, calibration=calibration)
    return record_of(
        run,
        "replay",
        previous.runs[0].reference,
        plan,
        written,
        policy,
        config.report,
        base=previous.runs[0].record,
        config=shown.public(),
        **{name: kept[name] for name in ("model", "auxiliary_models", "banks", "reuse_keys")},
        text=kept.get("text"),
        pin=None if pin is None else pin.model_dump(mode="json"),
        timings={"commit_s": round(time.monotonic() - began, 3), "resumed_shards": 0},
        images_per_s=None,
        machine=None,
        cost=None,
    )
