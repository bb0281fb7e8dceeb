"""The story of one scan: list, plan, run the shards, write the report, commit.

In: a `ScanConfig`. Out: a `ScanResult`, with the exit code. The same run id again resumes an unfinished run and leaves
a committed one alone. A broken set-up is a `SetupError` before anything starts; a report that does not balance is
recorded in `failure.json` and not committed.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import pyarrow as pa

import nsfwscan
from nsfwscan.config import ScanConfig
from nsfwscan.cost import Prices, cost_of, requests_for
from nsfwscan.deadline import Deadline, deadline_of
from nsfwscan.display import redacted_json
from nsfwscan.errors import BalanceError, ConfigError, DeadlineReached, Stalled, StoreError
from nsfwscan.layout import Fleet
from nsfwscan.models.registry import resolve
from nsfwscan.pacing import Pace
from nsfwscan.pipeline import Job, fingerprints
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import load_policy
from nsfwscan.progress import Progress
from nsfwscan.report.commit import Report, write_report
from nsfwscan.report.ledger import Ledger, Yardstick, find_bases
from nsfwscan.report.page import render_summary
from nsfwscan.report.runs import Begun, Run, unfinished
from nsfwscan.report.staging import ShardResult, staged_shards
from nsfwscan.report.terminal import describe_fates
from nsfwscan.schema import Change
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.plan import Known, Plan, Shard, make_plan
from nsfwscan.sources.truth import read_truth
from nsfwscan.storage import absolute_uri
from nsfwscan.store import Store, to_json

Engine = Callable[[Job, Sequence[Shard], Deadline], Iterable[ShardResult]]
"""What runs shards until a deadline: Ray (`engine.run_shards`), or this process (`pipeline.run_inline`)."""

_LIBRARIES = ("ray", "torch", "transformers", "onnxruntime", "pillow", "pi-heif", "pyarrow", "duckdb", "s3fs")
_NO_TRUTH = {"path", "none"}


@dataclass(frozen=True)
class ScanResult:
    """What became of a scan.

    Attributes:
        run_id: the run.
        uri: its folder.
        exit_code: 0 committed; 4 committed, but over the error rate.
        record: the content of `run.json`.
        already_committed: an earlier process committed it; nothing was done.
    """

    run_id: str
    uri: str
    exit_code: int
    record: dict[str, Any]
    already_committed: bool = False

    @property
    def report_files(self) -> list[str]:
        """Full URIs of the committed report parts."""
        return [f"{self.uri}/{f['path']}" for f in self.record["files"] if f["path"].startswith("report/")]


def run_scan(
    config: ScanConfig,
    run_id: str | None,
    engine: Engine,
    progress: Progress,
    *,
    resume: bool = False,
    fleets: Sequence[Fleet] = (),
) -> ScanResult:
    """Runs one scan from listing to commit.

    Args:
        run_id: unset: the time (UTC).
        resume: go on with the newest unfinished run over the same sources, if there is one.
        fleets: where the engine says, when it begins, what it runs on; unset: the run's cost is not known.

    Raises:
        SetupError: the run cannot start or go on; what was staged is kept, and the same run id resumes it.
        BalanceError: the report does not account for every object; nothing was committed.
    """
    deadline, prices = deadline_of(config.engine.deadline), Prices.load(config.cost.prices)
    config = _with_absolute_sources(config)
    store = Store.at(config.out, config.store_options())
    run = _choose_run(store, config.source.uris, run_id, resume, progress)
    if run.is_committed():
        return _committed_before(run)
    policy = load_policy(config.policy) if config.policy else None
    progress.say(f"model    {config.model.uri}")
    spec = resolve(config.model, config.storage)
    job = Job(config, spec, policy or load_policy(spec.policy), run)
    with run.lease(), _resumable(run):
        if run.folder.exists("run.json"):  # a commit that was cut off before its very last write
            _seal(run)
            return _committed_before(run)
        clock = _Clock()
        plan = run.load_plan(_settings(job)) or _plan(job, progress, deadline)
        clock.lap("listing_s")
        worked = _work(job, plan, engine, progress, deadline)
        clock.lap("scan_s")
        ledger = Ledger.of(store, plan.bases, config.source.uris)
        report = _write(job, plan, ledger, progress)
        clock.lap("commit_s")
        effort = _effort(config, plan, clock.laps, worked, fleets[-1] if fleets else None, prices)
        record = _record(job, plan, ledger, report, effort)
        _commit(run, record)
    return ScanResult(run.run_id, run.folder.uri, record["exit_code"], record)


def _with_absolute_sources(config: ScanConfig) -> ScanConfig:
    """The sources as listings write them, so that a run means the same wherever it is gone on with."""
    uris = tuple(absolute_uri(uri) for uri in config.source.uris)
    return config.model_copy(update={"source": config.source.model_copy(update={"uris": uris})})


def _choose_run(store: Store, sources: Sequence[str], run_id: str | None, resume: bool, progress: Progress) -> Run:
    """The run of that id, the one to resume, or a new one; tells of those that nobody finished."""
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
    """Says how to go on with a run that was stopped on purpose."""
    try:
        yield
    except (DeadlineReached, Stalled) as error:
        begun = run.begun()
        if begun is None:
            raise type(error)(f"{error}\nit was still listing: the same command begins anew") from error
        far = f"{begun.done:,} of {begun.total:,} objects are done"
        raise type(error)(f"{error}\n{far}; --run-id {run.run_id} or --resume last goes on from there") from error


def _committed_before(run: Run) -> ScanResult:
    record = run.record()
    return ScanResult(run.run_id, run.folder.uri, record["exit_code"], record, already_committed=True)


def _settings(job: Job) -> dict[str, Any]:
    """What a run must not change while it is unfinished."""
    return {**job.config.deciding(), "model": job.spec.identity, "policy": job.policy.identity}


def _plan(job: Job, progress: Progress, deadline: Deadline) -> Plan:
    config, run = job.config, job.run
    truth = config.source.truth
    judged = [] if truth in _NO_TRUTH else read_truth(truth, config.storage)
    pace = Pace(config.read.max_requests_per_s)
    tables = progress.listing(list_sources(config.source, config.storage, store=run.store.uri, pace=pace))
    bases = [] if config.ledger.ignore else find_bases(run, config)
    known = Ledger(bases, config.source.uris).known(_yardstick(job)) if bases else Known()
    plan = make_plan(_until(tables, deadline), judged, known, run.folder, config.engine.shard_rows)
    if bases:
        progress.say(f"since    run {bases[0].run.run_id}: {describe_fates(plan.fates)}")
    return run.save_plan(plan, _settings(job))


def _yardstick(job: Job) -> Yardstick:
    made_with, limits = fingerprints(job.config, job.spec), job.config
    return Yardstick(made_with["scoring"], made_with["decoding"], limits.read.max_bytes, limits.decode.max_pixels)


def _until(tables: Iterable[pa.Table], deadline: Deadline) -> Iterator[pa.Table]:
    for table in tables:
        deadline.check()
        yield table


def _work(job: Job, plan: Plan, engine: Engine, progress: Progress, deadline: Deadline) -> Sequence[Shard]:
    """Runs the shards that are not staged yet, and returns them."""
    done = staged_shards(job.run.staging)
    todo = [shard for shard in plan.handed_out(job.config.engine.seed) if shard.name not in done]
    total = plan.distinct - plan.carried
    if todo:
        with progress.working(total, total - sum(shard.rows for shard in todo)):
            for result in engine(job, todo, deadline):
                progress.finished(result)
    return todo


def _write(job: Job, plan: Plan, ledger: Ledger, progress: Progress) -> Report:
    progress.say("committing")
    try:
        return write_report(job.run, plan, ledger, Decider(job.policy), job.config)
    except BalanceError as error:
        failure = {"run_id": job.run.run_id, "exit_code": error.exit_code, "reason": str(error), "at": _now()}
        job.run.folder.write("failure.json", to_json(failure))
        raise


def _effort(
    config: ScanConfig,
    plan: Plan,
    laps: dict[str, float],
    worked: Sequence[Shard],
    fleet: Fleet | None,
    prices: Prices,
) -> dict[str, Any]:
    """What this process took for its part of the run: time, rate, machines, cost."""
    scanned, todo = sum(shard.rows for shard in worked), plan.distinct - plan.carried
    found = {
        "timings": {**laps, "resumed_shards": len(plan.shards) - len(worked)},
        "images_per_s": round(scanned / laps["scan_s"], 2) if scanned and laps["scan_s"] else None,
        "machine": None,
        "cost": None,
    }
    if fleet is None:
        return found
    requests = requests_for(config.source.uris, plan.listed, scanned, plan.bytes * scanned // max(1, todo))
    cost = cost_of(fleet.nodes, sum(laps.values()), scanned, requests, prices)
    return {**found, "machine": fleet.as_json(), "cost": cost.as_json()}


def _record(job: Job, plan: Plan, ledger: Ledger, report: Report, effort: dict[str, Any]) -> dict[str, Any]:
    """The content of `run.json`: who, what, when, and what stood behind every row."""
    config, summary = job.config, report.summary
    over = summary.error_rate > config.report.max_error_rate
    share = f"{summary.error_rate:.1%}, over --max-error-rate {config.report.max_error_rate:.1%}"
    reason = f"{summary.unreadable:,} images could not be read: {share}"
    record = {
        "run_id": job.run.run_id,
        "kind": "scan",
        "parent": ledger.bases[0].reference if ledger.bases else None,
        "store": job.run.store.uri,
        "store_endpoint": job.run.store.endpoint_url,
        "exit_code": 4 if over else 0,
        "reason": reason if over else None,
        "committed_at": _now(),
        "nsfwscan": nsfwscan.__version__,
        "python": platform.python_version(),
        "libraries": _versions(),
        "config": config.public(),
        "model": {
            "identity": job.spec.identity,
            "name": job.spec.name,
            "uri": job.spec.uri,
            "sha256": job.spec.digest,
            "labels": dict(zip(job.spec.labels, map(str, job.spec.categories), strict=True)),
        },
        "fingerprints": fingerprints(config, job.spec),
        "policy": {"identity": job.policy.identity, **job.policy.model_dump(mode="json")},
        "plan": plan.counts,
        "ledger": {"bases": list(plan.bases), "changes": {str(c): report.changes[c] for c in Change}},
        "balance": report.balance.as_dict(),
        **effort,
        "summary": summary.as_dict(),
        "files": [*report.files, *plan.files],
    }
    return {**redacted_json(record), "policy": record["policy"]}  # whose predicates must stay what they are


def _commit(run: Run, record: dict[str, Any]) -> None:
    """The last three writes, in the order that readers rely on. A second committer yields to the first."""
    page = _page(record)
    run.folder.write("summary.html", page)
    for name, data in (("summary.html", page), ("plan.json", run.folder.read("plan.json"))):
        sha256 = hashlib.sha256(data).hexdigest()
        record["files"].append({"path": name, "rows": None, "bytes": len(data), "sha256": sha256})
    try:
        run.folder.create("run.json", to_json(record))
    except FileExistsError:
        record.update(run.record())
        run.folder.write("summary.html", _page(record))  # ours lies over the one that it names
    _seal(run)


def _page(record: dict[str, Any]) -> bytes:
    """`summary.html`, the same before and after it is recorded itself: it names the files of rows."""
    return render_summary({**record, "files": [f for f in record["files"] if f["rows"] is not None]}).encode()


def _seal(run: Run) -> None:
    """Opens the report to readers, and clears away what led to it."""
    run.folder.write("_SUCCESS", b"")
    with suppress(StoreError):  # committed all the same
        run.folder.delete("failure.json")  # of an earlier attempt
    with suppress(StoreError):  # `gc` removes what is left
        run.clear_staging()


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now
