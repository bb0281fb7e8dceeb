"""Run one scan: list, plan, run the shards, write the report, commit.

The same run id resumes an unfinished run and leaves a committed one alone. A broken set-up raises `NsfwscanError`
before anything starts. A report that does not balance is recorded in `failure.json` and not committed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import nsfwscan
from nsfwscan.banks.bank import BankSpec
from nsfwscan.banks.matcher import BankSet
from nsfwscan.config import NotifyConfig, ScanConfig, SourceConfig, StorageConfig
from nsfwscan.errors import BalanceError, BrokenRecord, ConfigError, DeadlineReached, NsfwscanError, Stalled, StoreError
from nsfwscan.execution.deadline import Deadline, deadline_of
from nsfwscan.execution.gpu_decoding import refuse_undecodable
from nsfwscan.execution.layout import Fleet
from nsfwscan.execution.pipeline import Job, reuse_keys
from nsfwscan.images.provenance.trust import with_trust
from nsfwscan.location import Location
from nsfwscan.models.registry import resolve_auxiliary
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy, load_policy
from nsfwscan.reports.progress import Progress
from nsfwscan.reports.reading import query_report, read_report, with_signal_maps
from nsfwscan.runs.calibrations import calibration_for
from nsfwscan.runs.changes import Behind
from nsfwscan.runs.commit import Report, write_report
from nsfwscan.runs.differences import Settings, describe_difference, differences
from nsfwscan.runs.ending import UNPROVED
from nsfwscan.runs.evidence import Evidence
from nsfwscan.runs.known_illegal import KnownIllegal, known_illegal
from nsfwscan.runs.losses import check_losses
from nsfwscan.runs.pins import describe_pin_use
from nsfwscan.runs.plan import Known, Plan, Shard, describe_actions, make_plan
from nsfwscan.runs.previous import PreviousReports, PreviousRun, find_previous
from nsfwscan.runs.record.inputs import (
    AuxiliaryModelRecord,
    BankRecord,
    ModelRecord,
    PinRecord,
    PolicyRecord,
    ReuseKeys,
)
from nsfwscan.runs.record.run import RunRecord, recorded_config
from nsfwscan.runs.reuse import ReusePolicy
from nsfwscan.runs.run import Begun, Run, read_records, runs_of, unfinished
from nsfwscan.runs.staging import ShardResult, clear_parts, staged_shards
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.manifests import is_manifest, list_shape
from nsfwscan.sources.truth import read_truth
from nsfwscan.sources.truth_join import TruthBound
from nsfwscan.storage.failures import STORE_ERRORS
from nsfwscan.storage.rate_limit import Pace
from nsfwscan.storage.store import Store, to_json
from nsfwscan.text import plural
from nsfwscan.texts.alphabet import unread_notes
from nsfwscan.verdicts.kept import check_verdicts
from nsfwscan.warning import WarningKind, Warnings
from nsfwscan.workflows.cost import Prices
from nsfwscan.workflows.effort import Effort
from nsfwscan.workflows.finalize import commit_record, complete, now, record_of
from nsfwscan.workflows.golden import Golden
from nsfwscan.workflows.notices import Notices, noticed
from nsfwscan.workflows.pin import Pinned
from nsfwscan.workflows.start_notes import start_notes

if TYPE_CHECKING:
    import pandas as pd

Engine = Callable[[Job, Sequence[Shard], Deadline], Iterable[ShardResult]]
"""A function that runs shards until a deadline: on Ray (`ray_data.run_shards`) or here (`inline.run_inline`)."""

_NO_TRUTH = {"path", "none"}
_CLOCKS_DIFFER = timedelta(seconds=90)
"""By so much the clocks of two machines may differ."""


@dataclass(frozen=True, repr=False)
class ScanResult:
    """Result of a scan, a match or a committed replay.

    Attributes:
        run_id: id of the run.
        uri: folder of the run.
        exit_code: 0 committed; 4 committed, but over the error rate; 5 committed, but nothing was scored, or too
            many of the objects are no images; 9 committed, but not signed or anchored as asked.
        record: content of `run.json`.
        already_committed: True if an earlier process committed the run, and this one did nothing.
        sha256: of `run.json`; `nsfwscan verify STORE --expect` takes it.
        storage: how the report store is reached.
        unproved: why the run could not be signed or anchored; None where it was, or where that was not asked for.
    """

    run_id: str
    uri: str
    exit_code: int
    record: RunRecord
    already_committed: bool = False
    sha256: str = ""
    storage: StorageConfig = StorageConfig()  # noqa: RUF009  # frozen
    unproved: str | None = None

    @property
    def report_files(self) -> list[str]:
        """Full URIs of the committed report parts."""
        return [f"{self.uri}/{file.path}" for file in self.record.files_in("report")]

    def __repr__(self) -> str:
        rows, code = self.record.summary.rows, f", exit code {self.exit_code}" if self.exit_code else ""
        decided = ", ".join(f"{count:,} {name}" for name, count in self.record.summary.decision.items())
        return f"<{self.record.kind} {self.run_id}: {plural(rows, 'object')} ({decided or 'none'}){code}; {self.uri}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the counts, and where the run lies."""
        cells = "".join(f"<tr><th>{name}</th><td>{n:,}</td></tr>" for name, n in self.record.summary.decision.items())
        return f"<p>{escape(repr(self))}</p><table>{cells}</table>"

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the report as an Arrow table, with all of its rows in memory.

        For a big report, name the columns that you need, or use `sql`: a row with all columns takes about a kilobyte.
        The report of a delta holds only its own rows.

        Args:
            columns: names of the report's columns; unset: all.

        Raises:
            ConfigError: a report has no such column.
            StoreError: a file of the report is absent or was changed.
        """
        return read_report(self._run, columns)

    def to_pandas(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """Return the report as a pandas DataFrame, with all of its rows in memory; signals are dictionaries.

        Args and errors are those of `to_arrow`; without pandas it is a ConfigError that says what to install.
        """
        try:
            import pandas as _  # noqa: F401
        except ImportError:
            raise ConfigError(
                "to_pandas needs the package pandas: pip install pandas; to_arrow() and sql() do without"
            ) from None
        return with_signal_maps(self.to_arrow(columns)).to_pandas(maps_as_pydicts="strict")

    def sql(self, statement: str) -> pa.Table:
        """Return the result of an SQL statement (DuckDB's) over the table `report`, as an Arrow table.

            result.sql("SELECT decision, count(*) AS objects FROM report GROUP BY ALL")

        Only the result is held in memory. Signals are a map: `signals['exif.camera_absent']`.

        Raises:
            ConfigError: the statement cannot be run.
            StoreError: a file of the report is absent or was changed.
        """
        return query_report(self._run, statement)

    @property
    def _run(self) -> Run:
        return Run(Store.at(self.uri.removesuffix(f"/runs/{self.run_id}"), self.storage), self.run_id)

    @classmethod
    def of(
        cls, run: Run, record: RunRecord, unproved: str | None = None, *, already_committed: bool = False
    ) -> ScanResult:
        """Return the result of a committed run."""
        exit_code = record.exit_code if unproved is None else UNPROVED
        storage, uri = run.store.storage, run.folder.uri
        return cls(run.run_id, uri, exit_code, record, already_committed, run.digest(), storage, unproved)

    @classmethod
    def before(cls, run: Run, evidence: Evidence) -> ScanResult:
        """Return the result of a run that was committed before; evidence that it lacks is left now."""
        unproved = evidence.leave(run, run.folder.read("run.json"))
        return cls.of(run, run.record(), unproved, already_committed=True)


def run_scan(
    config: ScanConfig,
    run_id: str | None,
    engine: Engine,
    progress: Progress,
    *,
    resume: bool = False,
    fleets: Sequence[Fleet] = (),
) -> ScanResult:
    """Run one scan from listing to commit.

    Args:
        run_id: id of the run; unset: the time (UTC).
        resume: resume the newest unfinished run over the same sources, if there is one.
        fleets: list to which the engine appends its machines when it begins; empty: the run's cost is unknown.

    Raises:
        NsfwscanError: the run cannot start or go on; what was staged is kept, and the same run id resumes it.
        BalanceError: the report does not account for every object; nothing was committed.
    """
    with noticed(config.notify, "scan", Location.of(config.out).absolute().uri, progress.say) as notices:
        config = config.model_copy(update={"notify": NotifyConfig()})  # workers must not know the webhook
        return _run_scan(config, run_id, engine, progress, resume, fleets, notices)


def _run_scan(
    config: ScanConfig,
    run_id: str | None,
    engine: Engine,
    progress: Progress,
    resume: bool,
    fleets: Sequence[Fleet],
    notices: Notices,
) -> ScanResult:
    deadline, prices = deadline_of(config.engine.deadline), Prices.load(config.cost.prices, config.storage)
    config = _with_absolute_sources(config)
    config = config.model_copy(update={"decode": with_trust(config.decode, config.storage)})
    store = Store.at(config.out, config.store_options())
    evidence = Evidence.of(config.evidence, store, config.storage)
    run = _choose_run(store, config.source.uris, run_id, resume, progress)
    if run.is_committed():
        return ScanResult.before(run, evidence)
    pinned, config = Pinned.for_scan(store, config)
    shadows = [load_policy(name, config.storage) for name in config.shadow_policies]
    job, pin = _job(config, pinned, run, shadows, progress)
    deciders = [Decider(policy) for policy in (job.policy, *shadows)]
    calibration = calibration_for(store, job.spec.identity, job.spec.digest, deciders)
    job = replace(job, calibration=calibration)
    if calibration is not None:
        progress.say(f"model    calibration {calibration.number} of the store: {calibration.map}")
    with run.lease(progress.say) as check_held, _resumable(run):
        if run.folder.exists("run.json"):  # a commit was cut off before it wrote _SUCCESS
            unproved = complete(run, evidence)
            return notices.committed(ScanResult.of(run, run.record(), unproved, already_committed=True))
        notices.started(run)
        effort = Effort(run.staging, fleets)
        known = _known(job)
        check_verdicts(store)
        job = replace(job, known=known.contents)
        golden = Golden.of(job)
        begun = run.load_plan(_settings(job))
        if begun is not None and begun.previous_runs:
            _tell_differences(job, Run(store, begun.previous_runs[0]).record(), progress)
        plan = begun or _plan(job, progress, deadline)
        with effort.noted():
            effort.begin("scan_s")
            worked = _work(job, plan, golden, engine, progress, deadline, effort, check_held)
            check_held()
            effort.begin("commit_s")
            previous = PreviousReports.of(store, plan.previous_runs, _within(config))
            report = _write(job, plan, previous, shadows, known, progress)
            report.files += golden.files
            took = effort.as_record(config.source.uris, plan, len(plan.shards) - len(worked), prices)
            took["golden"] = golden.record and golden.record.model_dump(mode="json")
            committed = commit_record(run, _record(job, plan, previous, report, pin, took), evidence)
    return notices.committed(ScanResult.of(run, *committed))


def _job(
    config: ScanConfig, pinned: Pinned, run: Run, shadows: Sequence[Policy], progress: Progress
) -> tuple[Job, PinRecord | None]:
    """Read policy, model and banks, say what is odd in them, and return them with what the store pins."""
    policy = pinned.load_policy(config.policy, config.storage) if config.policy else None
    progress.say(f"model    {config.model.uri}")
    spec = pinned.resolve_model(config.model, config.storage)
    if spec.temperature is not None:
        progress.say(f"model    its scores are calibrated, by the temperature {spec.temperature:.3f} that came with it")
    banks = _banks(config, pinned, progress)
    job = Job(config, spec, policy or load_policy(spec.policy), run, banks, resolve_auxiliary(config))
    refuse_undecodable(config, spec, job.auxiliary_models)
    for subject, note in start_notes(config, job.policy, shadows, spec, job.auxiliary_models):
        progress.say(f"{subject:<8} {note}")
    pin = pinned.record(job.policy, banks, spec)
    for line in describe_pin_use(pin):
        progress.say(f"pin      {line}")
    return job, pin


def _banks(config: ScanConfig, pinned: Pinned, progress: Progress) -> tuple[BankSpec, ...]:
    """Read the banks. Raise ConfigError if a bank holds hashes that the scan would not make."""
    found = pinned.resolve_banks(config.banks, config.storage)
    for spec in found:
        if spec.entries["pdq"] and config.decode.pdq == "off":
            raise ConfigError(f"bank {spec.name} holds PDQ hashes, and decode.pdq is off: let it be exact or reduced")
        progress.say(f"bank     {spec.describe()}")
    return found


def _with_absolute_sources(config: ScanConfig) -> ScanConfig:
    """Return the configuration with sources as listings write them, so that a run can be resumed from anywhere."""
    uris = tuple(Location.of(uri).absolute().uri for uri in config.source.uris)
    lists = tuple(uri for uri in uris if not is_manifest(uri) and _is_list(uri, config))
    return config.model_copy(update={"source": config.source.model_copy(update={"uris": uris, "lists": lists})})


def _within(config: ScanConfig) -> tuple[str, ...] | None:
    """Return the places that contain all objects; None if a list may name objects anywhere."""
    return None if config.source.lists else config.source.uris


def _is_list(uri: str, config: ScanConfig) -> bool:
    """Return whether a source is a list, by its content; False if it cannot be read now, since listing will say why."""
    try:
        return list_shape(Location.of(uri), config.storage) is not None
    except (NsfwscanError, *STORE_ERRORS):
        return False


def _choose_run(store: Store, sources: Sequence[str], run_id: str | None, resume: bool, progress: Progress) -> Run:
    """Return the run with that id, the run to resume, or a new one; report the other unfinished runs."""
    if resume and run_id:
        raise ConfigError("--run-id and --resume last name two runs: give one of them")
    begun = unfinished(store, sources)
    if resume and begun:
        progress.say(f"resuming run {begun[0].run.run_id}")
        return begun[0].run
    run = Run.named(store, run_id)
    for other in begun:
        if other.run.run_id != run.run_id:
            progress.say(_tell_of(other))
    return run


def _tell_of(begun: Begun) -> str:
    name, state = begun.run.run_id, begun.run.state()
    how = "" if state == "running" else f"; --run-id {name} (the newest: --resume last) goes on with it"
    return f"run {name} over the same sources is {state}: {begun.done:,} of {begun.total:,} objects done{how}"


@contextmanager
def _resumable(run: Run) -> Iterator[None]:
    """Add to the error of a run that a deadline, the watchdog or its own store stopped how to resume the run."""
    try:
        yield
    except BrokenRecord:  # which says itself what to do
        raise
    except (DeadlineReached, Stalled, StoreError) as error:
        begun = _begun(run)
        if begun is None and isinstance(error, StoreError):
            raise
        if begun is None:
            raise type(error)(f"{error}\nit was still listing: the same command begins anew") from error
        far = f"{begun.done:,} of {begun.total:,} objects are done"
        raise type(error)(f"{error}\n{far}; --run-id {run.run_id} or --resume last goes on from there") from error


@contextmanager
def _while_held(check_held: Callable[[], None]) -> Iterator[None]:
    """Say of a failure of the store that the run is not held any more, where that is why."""
    try:
        yield
    except StoreError:
        check_held()
        raise


def _begun(run: Run) -> Begun | None:
    try:
        return run.begun()
    except StoreError:
        return None


def _settings(job: Job) -> dict[str, Any]:
    """Return the settings that must not change while a run is unfinished."""
    settings = {**job.config.deciding(), "model": job.spec.identity, "policy": job.policy.identity}
    return {**settings, "banks": [spec.identity for spec in job.banks]} if job.banks else settings


def _known(job: Job) -> KnownIllegal:
    """Return the contents that the store knows to be illegal, unless today's banks say otherwise."""
    ignored = job.config.previous.ignore_runs
    found = known_illegal(read_records(runs_of(job.run.store)), ignored)
    return found.asked_of(BankSet(job.banks, job.config.storage))


def _plan(job: Job, progress: Progress, deadline: Deadline) -> Plan:
    config, run, warnings = job.config, job.run, Warnings()
    clear_parts(run.staging)  # which are of a plan that is gone
    truth = config.source.truth
    judged = [] if truth in _NO_TRUTH else read_truth(Location.of(truth), config.storage, warnings)
    pace = Pace(config.read.max_requests_per_s)
    listed = list_sources(config.source, config.storage, store=run.store.uri, pace=pace, warnings=warnings)
    tables = progress.listing(listed)
    previous_runs = _whole_previous(run, config, progress)
    if previous_runs:
        _tell_differences(job, previous_runs[0].record, progress)
        _tell_clock(previous_runs, warnings)
    known = PreviousReports(previous_runs, _within(config)).known(_reuse_policy(job)) if previous_runs else Known()
    check = partial(check_losses, config=config, base=previous_runs[0]) if previous_runs else None
    bound, shard_rows = _bound(config.source), config.engine.shard_rows
    for note in unread_notes(job.auxiliary_models.lists):
        warnings.add(WarningKind.UNREAD_LETTERS, note)
    plan = make_plan(_until(tables, deadline), judged, known, run.folder, shard_rows, warnings, check, bound)
    if previous_runs:
        progress.say(f"since    run {previous_runs[0].run.run_id}: {describe_actions(plan.actions)}")
    return run.save_plan(plan, _settings(job))


def _tell_differences(job: Job, before: RunRecord, progress: Progress) -> None:
    """Say which settings are others than in the newest previous run."""
    lines = [describe_difference(one) for one in differences(before, _sections(job))]
    if lines:
        progress.say(f"differs  from run {before.run_id}, whose rows and decisions were made with other settings:")
    for line in lines:
        progress.say(f"differs  {line}")


def _tell_clock(previous: Sequence[PreviousRun], warnings: Warnings) -> None:
    """Count the previous runs that were committed later than it is now."""
    now = datetime.now(UTC) + _CLOCKS_DIFFER
    for run in previous:
        at = datetime.fromisoformat(run.record.committed_at)
        if at > now:
            warnings.add(WarningKind.CLOCK_BEHIND, run.run.run_id, detail=f"at {at.isoformat(timespec='seconds')}")


def _sections(job: Job) -> Settings:
    keys = reuse_keys(job.config, job.spec, job.auxiliary_models)
    return Settings(
        PolicyRecord.model_validate_json(to_json(PolicyRecord.of(job.policy))),
        ModelRecord(**ModelRecord.of(job.spec)),
        None if job.calibration is None else job.calibration.as_record(),
        tuple(AuxiliaryModelRecord(**one) for one in _auxiliary(job)),
        ReuseKeys(**keys),
        tuple(BankRecord.model_validate_json(to_json(bank.as_json())) for bank in job.banks),
        recorded_config(job.config),
        nsfwscan.__version__,
    )


def _auxiliary(job: Job) -> list[dict[str, Any]]:
    return [{"name": one.name, "uri": one.uri, "sha256": one.digest} for one in job.auxiliary_models.all]


def _whole_previous(run: Run, config: ScanConfig, progress: Progress) -> list[PreviousRun]:
    """Return the runs that this one continues from. If all objects are read again, leave out runs with damaged files,
    and report them: that is how a damaged store is repaired."""
    found = find_previous(run, config)
    if config.previous.reuse:
        return found
    whole = []
    for base in found:
        try:
            base.check()
        except BrokenRecord as error:
            progress.say(f"since    not run {base.run.run_id}, whose files are damaged ({error.reason})")
        else:
            whole.append(base)
    return whole


def _bound(source: SourceConfig) -> TruthBound:
    """Return how much of the truth may be missing from the listing: all of it if a limit or filters omit objects."""
    if source.limit is not None or source.include or source.exclude:
        return TruthBound()
    folders = [uri.rstrip("/") + "/" if Location.of(uri).is_local else uri for uri in source.uris]
    listed = any(uri in source.lists or is_manifest(uri) for uri in source.uris)
    return TruthBound(source.max_unmatched_truth, () if listed else tuple(folders))


def _reuse_policy(job: Job) -> ReusePolicy:
    decode = job.config.decode
    return ReusePolicy(
        **reuse_keys(job.config, job.spec, job.auxiliary_models),
        max_bytes=job.config.read.max_bytes,
        max_video_bytes=job.config.read.max_video_bytes,
        max_pixels=decode.max_pixels,
        timeout_s=decode.timeout_s,
        max_memory_bytes=decode.max_memory_bytes,
        most_failures=decode.most_failures,
        views=job.config.views,
        banks=BankSet(job.banks, job.config.storage),
        reuse=job.config.previous.reuse,
    )


def _until(tables: Iterable[pa.Table], deadline: Deadline) -> Iterator[pa.Table]:
    for table in tables:
        deadline.check()
        yield table


def _work(
    job: Job,
    plan: Plan,
    golden: Golden,
    engine: Engine,
    progress: Progress,
    deadline: Deadline,
    effort: Effort,
    check_held: Callable[[], None],
) -> Sequence[Shard]:
    """Run the shards that are not staged yet, those of the golden set first, and return those of the plan."""
    done = staged_shards(job.run.staging)
    golden.check(done, progress.say)
    first = [shard for shard in golden.shards if shard.name not in done]
    todo = [shard for shard in plan.handed_out(job.config.engine.seed) if shard.name not in done]
    total = plan.distinct - plan.carried
    if first or todo:
        with progress.working(total, total - sum(shard.rows for shard in todo)), _while_held(check_held):
            for result in engine(job, [*first, *todo], deadline):
                check_held()
                effort.scanned(result.rows)
                done.add(result.shard)
                if golden.holds(result.shard):
                    golden.check(done, progress.say)
                else:
                    progress.finished(result)
    return todo


def _write(
    job: Job, plan: Plan, previous: PreviousReports, shadows: Sequence[Policy], known: KnownIllegal, progress: Progress
) -> Report:
    progress.say("committing")
    try:
        banks = BankSet(job.banks, job.config.storage)
        keys = reuse_keys(job.config, job.spec, job.auxiliary_models)
        made_with = keys["scoring"], keys["filtering"], job.config.views
        behind = Behind(job.policy.identity, tuple(banks.identities), *made_with)
        decider, calibration = Decider(job.policy), job.calibration
        return write_report(job.run, plan, previous, decider, job.config, shadows, banks, known, behind, calibration)
    except BalanceError as error:
        failure = {"run_id": job.run.run_id, "exit_code": error.exit_code, "reason": str(error), "at": now()}
        job.run.folder.write("failure.json", to_json(failure))
        raise


def _record(
    job: Job,
    plan: Plan,
    previous: PreviousReports,
    report: Report,
    pin: PinRecord | None,
    effort: dict[str, Any],
) -> RunRecord:
    config, spec = job.config, job.spec
    return record_of(
        job.run,
        "scan",
        previous.runs[0].reference if previous.runs else None,
        plan,
        report,
        job.policy,
        config.report,
        previous.runs[0].record if previous.runs else None,
        config=config.public(),
        model=ModelRecord.of(spec),
        auxiliary_models=_auxiliary(job),
        text=job.auxiliary_models.text and job.auxiliary_models.text.as_json(),
        reuse_keys=reuse_keys(config, spec, job.auxiliary_models),
        banks=[bank.as_json() for bank in job.banks],
        pin=None if pin is None else pin.model_dump(mode="json"),
        **effort,
    )
