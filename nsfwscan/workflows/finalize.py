"""Build `run.json`, and make the last writes of a commit: `summary.html`, `run.json`, its evidence, `_SUCCESS`.

Readers rely on this order. `run.json` is created only if it does not exist, so a second committer of the same run
yields to the first. A commit that was cut off before `_SUCCESS` is completed only if its record and every file that it
names are intact. A store that fails raises `StoreError`.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from typing import Any

import nsfwscan
from nsfwscan.config import ReportConfig
from nsfwscan.errors import BrokenRecord, StoreError
from nsfwscan.images.sandbox.confinement import LAYERS
from nsfwscan.policy.lint import bank_notes, model_notes
from nsfwscan.policy.rules import Policy
from nsfwscan.reports.html import render_summary
from nsfwscan.runs.catalogue import write_catalogue
from nsfwscan.runs.chain import read_chain
from nsfwscan.runs.commit import Report
from nsfwscan.runs.differences import differences
from nsfwscan.runs.ending import ending_of
from nsfwscan.runs.evidence import Evidence
from nsfwscan.runs.plan import Plan
from nsfwscan.runs.record.fields import FileRecord, ParentRecord
from nsfwscan.runs.record.figures import WarningRecord
from nsfwscan.runs.record.inputs import PolicyRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.runs.verdict_parts import verdicts_record
from nsfwscan.schema import Cause, Change
from nsfwscan.storage.store import to_json
from nsfwscan.warning import WarningKind, Warnings
from nsfwscan.workflows.lacking import Given, run_notes

_SUMMARY = "summary.html"
_LIBRARIES = (
    "ray", "torch", "transformers", "onnxruntime", "pillow", "pi-heif", "pyarrow", "duckdb", "s3fs", "rapidocr",
)  # fmt: skip


def record_of(
    run: Run,
    kind: str,
    parent: ParentRecord | None,
    plan: Plan,
    report: Report,
    policy: Policy,
    limits: ReportConfig,
    base: RunRecord | None = None,
    **further: Any,
) -> RunRecord:
    """Return the content of `run.json`: when and with what software the run was made, how it ended, and what decided
    its rows.

    Args:
        kind: `scan`, `replay` or `match`.
        parent: the run that this one continues from.
        limits: highest rates at which the exit code is 0.
        base: the newest previous run, whose settings this run's are compared with; unset: they are not.
        **further: the other sections, as JSON values.
    """
    content = {
        "run_id": run.run_id,
        "kind": kind,
        "parent": parent and parent.model_dump(),
        "chain": read_chain(run.store).as_record(),
        "store": run.store.uri,
        "store_endpoint": run.store.endpoint_url,
        **ending_of(report.summary, limits).as_dict(),
        "committed_at": now(),
        "nsfwscan": nsfwscan.__version__,
        "python": platform.python_version(),
        "libraries": _versions(),
        "calibration": report.calibration and report.calibration.as_record().model_dump(mode="json"),
        "policy": PolicyRecord.of(policy),
        "plan": plan.counts,
        "previous_runs": plan.previous_runs,
        "changes": {**_counted(report.changes, Change), "causes": _counted(report.causes, Cause, some=True)},
        "drift": [one.model_dump(mode="json") for one in report.drift],
        "known_illegal": report.known,
        "verdicts": verdicts_record(run.store, report.verdicts),
        "balance": report.balance.as_dict(),
        "duplicates": report.duplicates,
        "model_times": report.costs.as_dict(),
        "media": report.media.as_dict(),
        "cascade": report.cascade.as_dict(report.costs),
        "detectors": report.detections and report.detections.as_dict(report.costs),
        "summary": report.summary.as_dict(),
        "sandbox": report.sandbox,
        "warnings": (),
        "shadow_policies": [shadow.as_dict() for shadow in report.shadows],
        "files": [file.model_dump() for file in (*report.files, *plan.files)],
    }
    record = RunRecord.made_of({**content, **further})
    warnings = _warnings(plan, report, policy, record).as_json()
    record = record.model_copy(update={"warnings": tuple(WarningRecord.model_validate(one) for one in warnings)})
    return record if base is None else record.model_copy(update={"differences": differences(base, record)})


def _counted(counts: Counter[str], words: Iterable[str], *, some: bool = False) -> dict[str, Any]:
    """Return the count of each word; of `some`, only of those that occur."""
    return {str(word): counts[word] for word in words if counts[word] or not some}


def _warnings(plan: Plan, report: Report, policy: Policy, record: RunRecord) -> Warnings:
    """Return the warnings of the listing, what is to be noted of the policy, and that of an unconfined decoder."""
    warnings = Warnings.from_json(plan.warnings.as_json())
    shadows = [one.decider.policy for one in report.shadows]
    models = {**{one.name: one.sha256 for one in record.auxiliary_models}, "model": record.model.sha256}
    notes = {
        WarningKind.BANK_OVERRULED: bank_notes(policy, [(bank.name, bank.kind) for bank in record.banks]),
        WarningKind.OTHER_WEIGHTS: model_notes(policy, models),
        WarningKind.LACKING: run_notes(policy, shadows, Given.of_record(record)),
    }
    for kind, said in notes.items():
        for note in said:
            warnings.add(kind, note)
    for held, files in report.sandbox.items():
        if held != ", ".join(LAYERS):
            warnings.add(WarningKind.UNCONFINED, f"only {held}" if held != "none" else "no layer of it", count=files)
    return warnings


def commit_record(run: Run, record: RunRecord, evidence: Evidence) -> tuple[RunRecord, str | None]:
    """Make the last writes, in the order that readers rely on. A second committer yields to the first.

    Returns:
        the record in the store, the first committer's, which also names the page and the plan; and which evidence
        could not be left, in words.
    """
    page = _page(record)
    run.folder.write(_SUMMARY, page)
    last = [_file(_SUMMARY, page), _file("plan.json", run.folder.read("plan.json"))]
    record = record.model_copy(update={"files": (*record.files, *last)})
    data = to_json(record.as_json())
    try:
        run.folder.create("run.json", data)
    except FileExistsError:
        record, data = run.record(), run.folder.read("run.json")
        run.folder.write(_SUMMARY, _page(record))  # our page replaced the one that the record names
    unproved = evidence.leave(run, data)
    _seal(run)
    return record, unproved


def _file(name: str, data: bytes) -> FileRecord:
    return FileRecord(path=name, rows=None, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def complete(run: Run, evidence: Evidence) -> str | None:
    """Complete a commit that was cut off before it wrote `_SUCCESS`; return which evidence could not be left.

    Raises:
        BrokenRecord: the record, or a file that it names, is not what was written; nothing was changed.
    """
    try:
        record = run.record()
        for file in record.files:
            if file.path != _SUMMARY:
                run.read(file)
    except BrokenRecord as error:
        where = run.folder.locate("run.json")
        way_out = f"the commit was cut off there: delete {where}, then the same command writes the report anew"
        raise BrokenRecord(error.where, error.reason, way_out) from None
    run.folder.write(_SUMMARY, _page(record))  # a second committer's page may have replaced the one that it names
    unproved = evidence.leave(run, run.folder.read("run.json"))
    _seal(run)
    return unproved


def _page(record: RunRecord) -> bytes:
    """Return `summary.html`. It names only files with rows, so recording the page itself does not change it."""
    files = tuple(file for file in record.files if file.rows is not None)
    return render_summary(record.model_copy(update={"files": files})).encode()


def _seal(run: Run) -> None:
    """Open the report to readers, delete staging and the failure of an earlier attempt, and list the run."""
    run.folder.write("_SUCCESS", b"")
    with suppress(StoreError):  # the run is committed all the same
        run.folder.delete("failure.json")  # of an earlier attempt
    with suppress(StoreError):  # `gc` removes the rest
        run.clear_staging()
    with suppress(StoreError):  # the next commit adds what it lacks
        write_catalogue(run.store)


@cache
def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the current time (UTC) in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
