"""Count what was decided in a store over a period, in the sections of the DSA's transparency templates.

The sections are those of Annex I of Commission Implementing Regulation (EU) 2024/2835: 1.4 measures on the provider's
own initiative, 1.5 complaints, 1.6 automated means. A measure is an object that became `block` in a run that was
committed in the period, or a content that a person removed in it, whatever an appeal made of that. Who removes what is
removed already, as on an appeal that upholds it, takes no new measure. Orders, notices,
recipients and staff (1.2, 1.3, 1.7, 1.8) are known to other systems; nothing here says anything of them. A report that
cannot be read is a `StoreError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import BrokenRecord
from nsfwscan.policy.rules import JUDGED
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.schema import Change, Decision
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.standing import counting
from nsfwscan.verdicts.verdict import DECIDING, Kind, VerdictWord

NO_CATEGORY = "not said"
_BY_PEOPLE = sorted(JUDGED.values())
_ASKED = ["uri", "decision", "rule", "label"]


@dataclass
class Transparency:
    """Counts of a period, from `since` on and before `until` (UTC)."""

    since: datetime
    until: datetime
    runs: int = 0
    """Scans, matches and replays that were committed in it."""
    not_counted: tuple[str, ...] = ()
    """Those that were pruned or have a broken record: their decisions are not counted."""
    automated: Counter[str] = field(default_factory=Counter)
    """Objects that were blocked without a person, by the model's label, or by the rule where it gave none."""
    by_rule: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    """Contents that a person removed, by category; also those that an appeal gave back."""
    reasons: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    """Contents that people decided about, by verdict, each as it was decided last in the period."""
    complaints: Counter[str] = field(default_factory=Counter)
    """Verdicts on appeals, by verdict: `approve` reversed the decision."""
    complaint_hours: tuple[float, ...] = ()
    """Hours from the removal to the verdict on the appeal, where the removal is known."""
    overturned: int = 0
    """Verdicts of the period in whose place, or against which, somebody else decided otherwise later."""
    audited: int = 0
    """Contents of audits that a person decided."""

    def as_json(self) -> dict[str, Any]:
        """Return the sections."""
        automated, removed = self.automated.total(), self.removed.total()
        appeals = self.complaints.total()
        return {
            "period": {"since": _day(self.since), "until": _day(self.until)},
            "runs": self.runs,
            "not_counted": list(self.not_counted),
            "1.4_own_initiative": {
                "measures": automated + removed,
                "detected_and_decided_by_automated_means_alone": automated,
                "decided_by_a_person": removed,
                "by_category_automated": _sorted(self.automated),
                "by_category_person": _sorted(self.removed),
                "by_rule": _sorted(self.by_rule),
                "by_reason": _sorted(self.reasons),
            },
            "1.5_complaints": {
                "decided": appeals,
                "upheld": self.complaints[VerdictWord.REMOVE],
                "reversed": self.complaints[VerdictWord.APPROVE],
                "left_open": self.complaints[VerdictWord.ESCALATE],
                "median_hours": round(median(self.complaint_hours), 2) if self.complaint_hours else None,
            },
            "1.6_automated_means": {
                "measures_by_automated_means_alone": automated,
                "share_of_measures": automated / (automated + removed) if automated + removed else None,
                "decided_by_people": _sorted(self.decided),
                "audited": self.audited,
            },
            "overturned": self.overturned,
        }

    def lines(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield the same as rows of a table: section, indicator, of what, value."""
        for section, found in self.as_json().items():
            for indicator, value in found.items() if isinstance(found, dict) else [("", found)]:
                if isinstance(value, dict):
                    yield from ((section, indicator, of, str(count)) for of, count in value.items())
                else:
                    yield (
                        section,
                        indicator,
                        "",
                        "" if value is None else ", ".join(value) if isinstance(value, list) else str(value),
                    )


def transparency(store: Store, since: datetime, until: datetime) -> Transparency:
    """Count the decisions of a period, from `since` on and before `until`, both in UTC."""
    found = Transparency(since, until)
    _add_runs(found, store)
    rows = all_verdicts(store)
    start, end = (pa.scalar(at.replace(tzinfo=None), pa.timestamp("us")) for at in (since, until))
    _add_verdicts(found, rows, _counting(rows, store), start, end)
    return found


def _add_runs(found: Transparency, store: Store) -> None:
    lost: list[str] = []
    runs = runs_of(store)
    for run in runs:
        pruned = run.pruned()
        if pruned is not None and _within(run.record().committed_at, found):
            lost.append(run.run_id)
    for run, record in read_records(runs):
        if isinstance(record, BrokenRecord):
            lost.append(run.run_id)
        elif _within(record.committed_at, found):
            found.runs += 1
            for rows in newly_blocked(run, record):
                found.automated.update(label or rule for label, rule in _pairs(rows, "label", "rule"))
                found.by_rule.update(rows["rule"].to_pylist())
    found.not_counted = tuple(sorted(lost))


def committed_within(store: Store, since: datetime, until: datetime) -> list[tuple[Run, RunRecord]]:
    """Return the runs that were committed from `since` on and before `until`, the oldest first."""
    found = [
        (run, record)
        for run, record in read_records(runs_of(store))
        if not isinstance(record, BrokenRecord) and since <= datetime.fromisoformat(record.committed_at) < until
    ]
    return sorted(found, key=lambda pair: pair[1].committed_at)


def removed_within(store: Store, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return the verdict by which each content was removed that a person removed in a period (`VERDICT_SCHEMA`)."""
    live = _counting(all_verdicts(store), store)
    start, end = (pa.scalar(at.replace(tzinfo=None), pa.timestamp("us")) for at in (since, until))
    return _removals(live, start, end)


def _counting(rows: pa.Table, store: Store) -> pa.Table:
    """Return the verdicts that count; also those that an appeal supersedes: they were decisions until then."""
    appeals = pc.and_(pc.equal(rows["kind"], str(Kind.APPEAL)), pc.not_equal(rows["verdict"], str(VerdictWord.UNDO)))
    place = rows.schema.get_field_index("supersedes")
    kept = pc.if_else(appeals, "", rows["supersedes"])
    return counting(rows.set_column(place, rows.schema.field(place), kept), store)


def newly_blocked(run: Run, record: RunRecord) -> Iterator[pa.Table]:
    """Yield `uri`, `label` and `rule` of the objects that a run blocks, not by a person's word, and that were not
    blocked before."""
    for rows in _changed(run, record) if record.previous_runs else read_rows(run, record, _ASKED):
        blocked = pc.equal(rows["decision"].cast(pa.string()), str(Decision.BLOCK))
        by_machine = pc.invert(pc.is_in(rows["rule"], pa.array(_BY_PEOPLE)))
        yield rows.filter(pc.and_(blocked, by_machine)).select(["uri", "label", "rule"])


def _changed(run: Run, record: RunRecord) -> Iterator[pa.Table]:
    """Yield the objects that are there and were not blocked in the run before."""
    for file in record.files_in("changes"):
        rows = run.parquet(file).read(use_threads=False)
        new = pc.fill_null(pc.not_equal(rows["previous_decision"], str(Decision.BLOCK)), True)
        yield rows.filter(pc.and_(new, pc.not_equal(rows["change"], str(Change.DELETED))))


def _add_verdicts(found: Transparency, rows: pa.Table, live: pa.Table, start: pa.Scalar, end: pa.Scalar) -> None:
    """Count the verdicts of the period; what was taken back is no decision, but may be an overturned one."""
    decided = _decided(live, start, end)
    last = {row["sha256"]: row for row in decided}
    found.decided.update(row["verdict"] for row in last.values())
    for row in _removals(live, start, end):
        found.removed[row["category"] or NO_CATEGORY] += 1
        found.reasons[row["reason"] or NO_CATEGORY] += 1
    appeals = [row for row in decided if row["kind"] == Kind.APPEAL]
    found.complaints.update(row["verdict"] for row in appeals)
    found.complaint_hours = tuple(_hours(appeals, rows))
    found.audited = len({row["sha256"] for row in decided if row["kind"] == Kind.AUDIT})
    found.overturned = _overturned(rows, start, end)


def _removals(live: pa.Table, start: pa.Scalar, end: pa.Scalar) -> list[dict[str, Any]]:
    """Return the removal by which each content was removed in a period, in the end or until an appeal: what an appeal
    reverses was a measure, what another reviewer sees otherwise was none yet. An appeal against what a machine blocked
    removes nothing new either."""
    found: dict[str, dict[str, Any]] = {}
    before: dict[str, str] = {}
    for row in _decided(live, None, end):
        content, word, appeal = row["sha256"], row["verdict"], row["kind"] == Kind.APPEAL
        stood = before.get(content, VerdictWord.REMOVE if appeal else None)
        if word == VerdictWord.REMOVE and stood != VerdictWord.REMOVE:
            found[content] = row
        elif word != VerdictWord.REMOVE and not appeal:
            found.pop(content, None)
        if not (appeal and word == VerdictWord.ESCALATE):  # which leaves it as it is
            before[content] = word
    return [row for row in found.values() if row["decided_at"] >= start.as_py()]


def _decided(live: pa.Table, start: pa.Scalar | None, end: pa.Scalar) -> list[dict[str, Any]]:
    """Return the verdicts that decide, from `start` on and before `end`, in the order of time."""
    inside = pc.less(live["decided_at"], end)
    if start is not None:
        inside = pc.and_(inside, pc.greater_equal(live["decided_at"], start))
    deciding = pc.is_in(live["kind"], pa.array([str(kind) for kind in DECIDING]))
    found: list[dict[str, Any]] = live.filter(pc.and_(inside, deciding)).to_pylist()
    return found


def _hours(appeals: Sequence[dict[str, Any]], rows: pa.Table) -> Iterator[float]:
    """Yield the hours between each verdict on an appeal and the last removal of the content before it."""
    contents = pa.array([row["sha256"] for row in appeals], pa.string())
    removed = rows.filter(
        pc.and_(pc.is_in(rows["sha256"], contents), pc.equal(rows["verdict"], str(VerdictWord.REMOVE)))
    )
    times: dict[str, list[datetime]] = {}
    for sha256, at in _pairs(removed, "sha256", "decided_at"):
        times.setdefault(sha256, []).append(at)
    for row in appeals:
        before = [at for at in times.get(row["sha256"], []) if at < row["decided_at"]]
        if before:
            yield (row["decided_at"] - max(before)).total_seconds() / 3600


def _overturned(rows: pa.Table, start: pa.Scalar, end: pa.Scalar) -> int:
    """Return how many verdicts of the period somebody else contradicted later, by name or on appeal."""
    by_id = {row["id"]: row for row in rows.select(["id", "sha256", "verdict", "reviewer", "decided_at"]).to_pylist()}
    first, last = start.as_py(), end.as_py()
    overturned: set[str] = set()
    for later in rows.filter(pc.not_equal(rows["verdict"], str(VerdictWord.ESCALATE))).to_pylist():
        named = by_id.get(later["supersedes"])
        if named is not None and named["reviewer"] != later["reviewer"] and named["verdict"] != later["verdict"]:
            overturned.add(named["id"])
    decisions = (str(VerdictWord.APPROVE), str(VerdictWord.REMOVE))
    appeals = rows.filter(pc.equal(rows["kind"], str(Kind.APPEAL))).to_pylist()
    words = {row["sha256"]: row for row in appeals if row["verdict"] in decisions}
    for row in by_id.values():
        appeal = words.get(row["sha256"])
        if appeal is None or row["decided_at"] >= appeal["decided_at"] or row["verdict"] not in decisions:
            continue
        if row["verdict"] != appeal["verdict"]:
            overturned.add(row["id"])
    return sum(first <= by_id[one]["decided_at"] < last for one in overturned)


def _within(committed_at: str, found: Transparency) -> bool:
    return found.since <= datetime.fromisoformat(committed_at) < found.until


def _pairs(rows: pa.Table, one: str, other: str) -> Iterator[tuple[Any, Any]]:
    return zip(rows[one].to_pylist(), rows[other].to_pylist(), strict=True)


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))


def _day(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
