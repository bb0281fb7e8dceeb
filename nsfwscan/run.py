"""The story of one scan: list, plan, run the shards, write the report, commit.

In: a `ScanConfig`. Out: a `ScanResult`, with the exit code. The same run id again resumes an unfinished run and leaves
a committed one alone. A broken set-up is a `SetupError` before anything starts; a report that does not balance is
recorded in `failure.json` and not committed.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import nsfwscan
from nsfwscan.config import ScanConfig
from nsfwscan.errors import BalanceError, StoreError
from nsfwscan.models.registry import resolve
from nsfwscan.pipeline import Job
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import load_policy
from nsfwscan.progress import Progress
from nsfwscan.report.commit import ImageCopies, Report, write_report
from nsfwscan.report.page import render_summary
from nsfwscan.report.runs import Run
from nsfwscan.report.staging import ShardResult, staged_shards
from nsfwscan.sources.listing import list_sources
from nsfwscan.sources.plan import Plan, Shard, make_plan
from nsfwscan.sources.truth import read_truth
from nsfwscan.store import Store, to_json

Engine = Callable[[Job, Sequence[Shard]], Iterable[ShardResult]]
"""What runs shards: Ray (`engine.run_shards`), or this process (`pipeline.run_inline`)."""

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


def run_scan(config: ScanConfig, run_id: str | None, engine: Engine, progress: Progress) -> ScanResult:
    """Runs one scan from listing to commit.

    Raises:
        SetupError: the run cannot start or go on; what was staged is kept, and the same run id resumes it.
        BalanceError: the report does not account for every object; nothing was committed.
    """
    run = Run.named(Store.at(config.out, config.store_options()), run_id)
    if run.is_committed():
        return _committed_before(run)
    policy = load_policy(config.policy) if config.policy else None
    progress.say(f"model    {config.model.uri}")
    spec = resolve(config.model, config.storage)
    policy = policy or load_policy(spec.policy)
    settings = {"configuration": config.fingerprint(), "model": spec.identity, "policy": policy.identity}
    with run.lease():
        clock = _Clock()
        job = Job(config, spec, policy, run)
        plan = run.load_plan(settings) or _plan(config, run, settings, progress)
        clock.lap("listing_s")
        worked = _work(job, plan, engine, progress)
        clock.lap("scan_s")
        report = _write(job, plan, progress)
        clock.lap("commit_s")
        record = _record(job, plan, report, clock.laps, worked)
        _commit(run, record)
    return ScanResult(run.run_id, run.folder.uri, record["exit_code"], record)


def _committed_before(run: Run) -> ScanResult:
    record = run.record()
    return ScanResult(run.run_id, run.folder.uri, record["exit_code"], record, already_committed=True)


def _plan(config: ScanConfig, run: Run, settings: dict[str, str], progress: Progress) -> Plan:
    truth = config.source.truth
    judged = [] if truth in _NO_TRUTH else read_truth(truth, config.storage)
    tables = progress.listing(list_sources(config.source, config.storage, store=run.store.uri))
    plan = make_plan(tables, judged, run.folder, config.engine.shard_rows)
    run.save_plan(plan, settings)
    return plan


def _work(job: Job, plan: Plan, engine: Engine, progress: Progress) -> Sequence[Shard]:
    """Runs the shards that are not staged yet, and returns them."""
    done = staged_shards(job.run.staging)
    todo = [shard for shard in plan.handed_out(job.config.engine.seed) if shard.name not in done]
    resumed = sum(shard.rows for shard in plan.shards) - sum(shard.rows for shard in todo)
    if todo:
        with progress.working(plan.distinct, resumed):
            for result in engine(job, todo):
                progress.finished(result)
    return todo


def _write(job: Job, plan: Plan, progress: Progress) -> Report:
    config = job.config
    copies = ImageCopies(config.storage, config.read) if config.report.save_images else None
    progress.say("committing")
    try:
        return write_report(job.run, plan, Decider(job.policy), copies)
    except BalanceError as error:
        failure = {"run_id": job.run.run_id, "exit_code": error.exit_code, "reason": str(error), "at": _now()}
        job.run.folder.write("failure.json", to_json(failure))
        raise


def _record(job: Job, plan: Plan, report: Report, laps: dict[str, float], worked: Sequence[Shard]) -> dict[str, Any]:
    """The content of `run.json`: who, what, when, and what stood behind every row."""
    config, summary = job.config, report.summary
    scanned = sum(shard.rows for shard in worked)
    over = summary.error_rate > config.report.max_error_rate
    share = f"{summary.error_rate:.1%}, over --max-error-rate {config.report.max_error_rate:.1%}"
    reason = f"{summary.unreadable:,} images could not be read: {share}"
    return {
        "run_id": job.run.run_id,
        "kind": "scan",
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
        "policy": {"identity": job.policy.identity, **job.policy.model_dump(mode="json")},
        "plan": {
            "listed": plan.listed,
            "distinct": plan.distinct,
            "repeated": plan.repeated,
            "shards": len(plan.shards),
        },
        "balance": report.balance.as_dict(),
        "timings": {**laps, "resumed_shards": len(plan.shards) - len(worked)},
        "images_per_s": round(scanned / laps["scan_s"], 2) if scanned and laps["scan_s"] else None,
        "summary": summary.as_dict(),
        "files": report.files,
    }


def _commit(run: Run, record: dict[str, Any]) -> None:
    """The last three writes, in the order that readers rely on. A second committer yields to the first."""
    run.folder.write("summary.html", render_summary(record).encode())
    try:
        run.folder.create("run.json", to_json(record))
    except FileExistsError:
        record.update(run.record())
    run.folder.write("_SUCCESS", b"")
    try:
        run.folder.delete("failure.json")  # of an earlier attempt
        for name in run.staging.names(""):
            if name != "alive.json":
                run.staging.delete(name)
    except StoreError:  # committed all the same; `gc` removes what is left
        return


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Clock:
    """Seconds between laps."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now
