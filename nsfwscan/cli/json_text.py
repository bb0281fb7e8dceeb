"""Objects that `--json` prints, one a command, on one line of standard output.

[The README](README.md#--json) lists their keys. They are for programs: URIs stand as the report has them, and all text
is redacted. Keys are only ever added.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.overview import Overview
from nsfwscan.runs.pins import Pin
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.text import redacted_json

if TYPE_CHECKING:
    from nsfwscan.workflows.scan import ScanResult
    from nsfwscan.workflows.verify import Verified


def print_json(value: Mapping[str, Any]) -> None:
    """Print an object on one line of standard output, in ASCII, with its secrets blanked."""
    click.echo(json.dumps(redacted_json(dict(value)), ensure_ascii=True, allow_nan=False))


def scan_json(result: ScanResult) -> dict[str, Any]:
    """Return what became of a scan, a match or a committed replay."""
    record = result.record
    return {
        **_committed(record),
        "exit_code": result.exit_code,
        "uri": result.uri,
        "sha256": result.sha256,
        "unproved": result.unproved,
        "already_committed": result.already_committed,
        "report_files": result.report_files,
        "balance": record.balance.model_dump(mode="json"),
        "decisions": record.summary.decision,
        "queues": record.summary.queue,
        "labels": record.summary.label,
        "statuses": record.summary.status,
        "matches": record.summary.match_bank,
        "errors": [error.model_dump(mode="json") for error in record.summary.errors],
        "warnings": [warning.model_dump(mode="json") for warning in record.warnings],
        "changes": record.changes.model_dump(mode="json") if record.previous_runs else None,
        "escalations": record.rows_in("escalations"),
        "seconds": round(record.timings.total_s, 3),
        "images_per_s": record.images_per_s,
        "cost": None if record.cost is None else record.cost.model_dump(mode="json"),
    }


def runs_json(store: str, found: Sequence[Overview]) -> dict[str, Any]:
    """Return the runs of a store, the newest last."""
    return {"store": store, "runs": [_run(one) for one in found]}


def _run(one: Overview) -> dict[str, Any]:
    at = None if one.at is None else one.at.isoformat()
    head = {"run_id": one.run.run_id, "uri": one.run.folder.uri, "state": one.state, "at": at}
    if one.record is not None:
        pruned = {} if one.pruned is None else {"pruned": one.pruned.model_dump(mode="json")}
        return {**_committed(one.record), **head, **pruned}
    done = {} if one.begun is None else {"done": one.begun.done, "total": one.begun.total}
    return head | done | ({} if one.problem is None else {"problem": one.problem})


def _committed(record: RunRecord) -> dict[str, Any]:
    """Return what is said of every committed run."""
    summary = record.summary
    return {
        "run_id": record.run_id,
        "kind": record.kind,
        "state": "committed",
        "exit_code": record.exit_code,
        "reason": record.reason,
        "committed_at": record.committed_at,
        "parent": None if record.parent is None else record.parent.run_id,
        "objects": summary.rows,
        "flagged": summary.flagged,
        "unreadable": summary.unreadable,
        "model": record.model.identity,
        "policy": record.policy.identity,
        "banks": [bank.identity for bank in record.banks],
        "pin": None if record.pin is None else record.pin.model_dump(mode="json"),
    }


def pins_json(store: str, history: Sequence[Pin | BrokenRecord]) -> dict[str, Any]:
    """Return what a store pins, whole, and all its pins, the oldest first."""
    pins = [_pin(one) for one in history]
    last = pins[-1] if pins else None
    return {"exit_code": 1 if last and "error" in last else 0, "store": store, "pin": last, "history": pins}


def _pin(one: Pin | BrokenRecord) -> dict[str, Any]:
    if isinstance(one, BrokenRecord):
        return {"error": str(one)}
    return {**one.model_dump(mode="json"), "sha256": one.sha256, "parts": list(one.parts)}


def verify_json(checked: Sequence[Verified], exit_code: int) -> dict[str, Any]:
    """Return the findings in each run."""
    return {"exit_code": exit_code, "runs": [_verified(one) for one in checked]}


def _verified(one: Verified) -> dict[str, Any]:
    findings = [{"kind": str(finding.kind), "text": finding.text} for finding in one.findings]
    return {
        "run_id": one.name,
        "sound": one.is_sound,
        "findings": findings,
        "is_head": one.is_head,
        "sha256": one.sha256,
    }
