"""Explain why an object was decided as it was: the rule as bound there, what it looked at, and the object's history.

Only files whose range of URIs may hold the object are read; where `changes/` is complete, its few rows tell whether
anything changed in a run. An object that the store does not know, or not in the named run, is a `StoreError` that names
what is near.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord, PolicyError, StoreError
from nsfwscan.location import Location
from nsfwscan.policy.compare import COMPARED
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import BLOCKED, GUARD, ILLEGAL, JUDGED, OTHERWISE, parse_policy
from nsfwscan.policy.signals import probabilities_of, signals_of_row
from nsfwscan.policy.sql import columns_of, connect
from nsfwscan.reports.reading import shown_rows
from nsfwscan.runs.previous import LISTED, PreviousRun
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import read_records, runs_of
from nsfwscan.schema import REPORT_SCHEMA, SIGNAL_GROUPS, Category, Change, as_schema, in_utc, score_column
from nsfwscan.storage.store import Store
from nsfwscan.text import printable

_PARTS = 100
"""Most parts in which an object of the same name is looked for."""
_BUILT_IN = {
    GUARD: "built in: a row without a score is never allowed",
    ILLEGAL: "built in: in an illegal bank, and no rule escalates it",
    BLOCKED: "built in: in a block bank, and no rule may decide it",
    **{rule: f"built in: people's verdict is {verdict}, and no true rule names it" for verdict, rule in JUDGED.items()},
    OTHERWISE: "no rule is true",
}
_SHOWN = (
    "status",
    "error",
    "label",
    "nsfw_score",
    "calibrated_score",
    *map(score_column, Category),
    "filtered_by",
    "sha256",
    "duplicate_of",
    "verdict",
    "appeals",
)
_ACCOUNTS = ("boxes", "gate", "lines", "vectors")
"""Groups of signals that say what detectors did."""
_MATCH = ("match_bank", "match_kind", "match_id", "match_hash", "match_distance")


@dataclass(frozen=True)
class Why:
    """Explanation of one object's decision in one run; all values are JSON types."""

    uri: str
    run: dict[str, Any]
    """`run_id, kind, committed_at`, and `stands_in`: the run whose report holds the row."""
    outcome: dict[str, Any]
    detectors: dict[str, str]
    """What each detector said, or why it did not look."""
    signals: dict[str, float]
    """What else is known of the file, such as `c2pa.invalid` with its reasons, or `screenshot.chat`."""
    rule: dict[str, Any]
    """`name`; `when`, with numbers for thresholds; `overrides` that apply; `looked_at`, values by column; `not_true`,
    the rules before it that are false; `true_too`, those that are true, but that a bank's kind or the guard overrules;
    and `again`: whether deciding the row again comes to the same; None where it cannot be."""
    policy: dict[str, Any]
    model: dict[str, Any] | None
    match: dict[str, Any] | None
    values: dict[str, Any]
    read: dict[str, Any]
    history: list[dict[str, Any]]
    """One entry for each run in which something changed, the oldest first."""


def explain_object(
    store: Store, uri: str, run_id: str | None = None, tell: Callable[[str], None] = lambda line: None
) -> Why:
    """Explain the decision of an object in a run; unset: in the newest scan or replay that has it.

    Args:
        tell: called with a message for each run whose record is broken.

    Raises:
        StoreError: there is no such run, or no such object in it.
    """
    runs = _runs(store, tell)
    spellings = _spellings(uri)
    asked = [run for run in runs if run.record.run_id == run_id] if run_id else _listed(runs)
    if not asked:
        raise StoreError(f"{store.uri} has no committed run{f' {run_id}' if run_id else ''}")
    by_id = {run.record.run_id: run for run in runs}
    for run in reversed(asked):
        for name in spellings:
            if (found := _standing(run, name, by_id)) is not None:
                return _explained(run, *found, by_id, list(_history(runs, by_id, name)))
            if run_id is None and _changed_in(run, name, Change.DELETED):
                raise StoreError(_gone(run, name))
    raise StoreError(_unknown(store, uri, asked[-1], by_id, run_id))


def _runs(store: Store, tell: Callable[[str], None]) -> list[PreviousRun]:
    """Return the committed runs, the oldest first."""
    found: list[PreviousRun] = []
    for run, record in read_records(runs_of(store)):
        if isinstance(record, BrokenRecord):
            tell(f"run {run.run_id} is passed over: {record}")
        else:
            found.append(PreviousRun(run, record))
    return sorted(found, key=lambda run: run.record.age)


def _listed(runs: Sequence[PreviousRun]) -> list[PreviousRun]:
    return [run for run in runs if run.record.kind in LISTED] or list(runs)


def _spellings(uri: str) -> list[str]:
    """Return how the report may spell a path or URI."""
    place = Location.of(uri)
    found = dict.fromkeys([place.absolute().uri, place.uri, uri])
    return [name for name in found if name.isascii() or not any("\ud800" <= c <= "\udfff" for c in name)]


def _standing(run: PreviousRun, uri: str, by_id: dict[str, PreviousRun]) -> tuple[pa.Table, str] | None:
    """Return an object's row as of a run, and the run whose report holds it."""
    behind = run.record.previous_runs if run.record.is_delta else ()
    for run_id in (run.record.run_id, *behind):
        holder = by_id.get(run_id)
        if holder is None:
            continue
        if (row := _row(holder, "report", uri)) is not None:
            return as_schema(row, REPORT_SCHEMA), run_id
        if _changed_in(holder, uri, Change.DELETED):
            return None
    return None


def _row(run: PreviousRun, folder: str, uri: str) -> pa.Table | None:
    """Return the row of an object in one folder of a run, from the files and row groups that may hold it."""
    for file in run.record.files_in(folder):
        if file.first is not None and file.last is not None and not file.first <= uri <= file.last:
            continue
        parquet = run.parquet(file)
        for group in range(parquet.num_row_groups):
            if not _may_hold(parquet, group, uri):
                continue
            uris = parquet.read_row_group(group, ["uri"], use_threads=False)["uri"]
            place = pc.index(uris, uri).as_py()
            if place >= 0:
                return parquet.read_row_group(group, use_threads=False).slice(place, 1)
    return None


def _may_hold(parquet: pq.ParquetFile, group: int, uri: str) -> bool:
    column = parquet.schema_arrow.names.index("uri")
    for place in range(parquet.metadata.num_columns):
        if parquet.metadata.row_group(group).column(place).path_in_schema == parquet.schema_arrow.names[column]:
            span = parquet.metadata.row_group(group).column(place).statistics
            return span is None or not span.has_min_max or bool(span.min <= uri <= span.max)
    return True


def _changed_in(run: PreviousRun, uri: str, change: Change) -> bool:
    row = _row(run, "changes", uri)
    return row is not None and row["change"][0].as_py() == change


def _detectors(record: RunRecord, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each detector's name and its three highest numbers, or why it did not look."""
    signals = signals_of_row(values["signals"])
    for name, config in record.config.detectors.items():
        said = {signal.removeprefix(f"{name}."): n for signal, n in signals.items() if signal.startswith(f"{name}.")}
        held = signals.get(f"gate.{name}") == 0
        if vectors := signals.get(f"vectors.{name}"):
            yield name, f"{vectors:,.0f} vectors, in embeddings/"
            continue
        if not said:
            why = "a bank knows it" if values["match_kind"] else f"its gate held it back: {config.when}" if held else ""
            yield name, f"did not look{f' ({why})' if why else ''}"
            continue
        sure = probabilities_of({f"{name}.{label}": number for label, number in said.items()})
        highest = sorted(said.items(), key=lambda one: (f"{name}.{one[0]}" not in sure, -one[1]))[:3]
        boxes = signals.get(f"boxes.{name}")
        yield (
            name,
            (
                ", ".join(f"{label} {number:.3g}" for label, number in highest)
                + ("" if boxes is None else f"; {boxes:,.0f} boxes, in detections/")
                + ("; held back by its gate, and looked at as a sample" if held else "")
            ),
        )


def _of_the_file(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield the signals that are no detector's, nor its accounts."""
    for name, number in signals_of_row(values["signals"]).items():
        if (group := name.partition(".")[0]) in SIGNAL_GROUPS and group not in _ACCOUNTS:
            yield name, number


def _explained(
    run: PreviousRun, row: pa.Table, holder: str, by_id: dict[str, PreviousRun], history: list[dict[str, Any]]
) -> Why:
    record, [values] = run.record, shown_rows(row)
    return Why(
        uri=values["uri"],
        run={
            **{name: getattr(record, name) for name in ("run_id", "kind", "committed_at")},
            "stands_in": holder,
        },
        outcome={name: values[name] for name in (*COMPARED, "rule", "decided_by")},
        detectors=dict(_detectors(record, values)),
        signals=dict(_of_the_file(values)),
        rule=_rule(run, row, values),
        policy={"identity": record.policy.identity, "version": record.policy.version},
        model=_model(values["model"], record.run_id, by_id),
        match=_match(values, record.run_id, by_id),
        values={name: values[name] for name in _SHOWN if values[name] is not None},
        read={"scanned_at": in_utc(values["scanned_at"]), "carried_from": values["carried_from"]},
        history=history,
    )


def _rule(run: PreviousRun, row: pa.Table, values: dict[str, Any]) -> dict[str, Any]:
    """Return the rule that decided, bound as it was there."""
    name, recorded = values["rule"], run.record.policy
    written = {rule.name: rule.when for rule in recorded.rules}
    found: dict[str, Any] = {"name": name, "written": written.get(name), "overrides": [], "again": None}
    try:
        policy = parse_policy(recorded.content(), f"the policy of run {run.record.run_id}")
        decider = Decider(policy)
        applying = decider.applying(row)[0]
        plain = policy.under(one for one, applies in zip(policy.overrides, applying, strict=True) if applies)
        again = decider(row).to_pylist()[0]
    except PolicyError as error:
        return {
            **found,
            "when": written.get(name, _BUILT_IN.get(name)),
            "looked_at": {},
            "not_true": [],
            "true_too": [],
            "note": str(error),
        }
    names, bound = [rule.name for rule in plain.rules], {rule.name: rule.when for rule in plain.rules}
    titles = [one.title for one, applies in zip(policy.overrides, applying, strict=True) if applies]
    true = dict(zip(names, decider.matches(row)[0], strict=True))
    before = names[: names.index(name)] if name in names else names
    with connect() as connection:
        columns = columns_of(connection, bound[name]) if name in bound else set[str]()
    return {
        **found,
        "when": " ".join(bound[name].split()) if name in bound else _BUILT_IN.get(name),
        "overrides": titles,
        "looked_at": {column: _plain(values[column]) for column in REPORT_SCHEMA.names if column in columns},
        "not_true": [one for one in before if not true[one]],
        "true_too": [one for one in before if true[one]],
        "again": all(again[column] == values[column] for column in (*COMPARED, "rule")),
    }


def _plain(value: Any) -> Any:
    return value if isinstance(value, int | float | str | list | None) else str(value)


def _model(identity: str | None, run_id: str, by_id: dict[str, PreviousRun]) -> dict[str, Any] | None:
    """Return the model that scored a row, from the record of a run that used it."""
    if identity is None:
        return None
    for run in [by_id[run_id], *reversed(by_id.values())]:
        if run.record.model.identity == identity:
            return {"identity": identity, "uri": run.record.model.uri, "sha256": run.record.model.sha256}
    return {"identity": identity, "uri": None, "sha256": None}


def _match(values: dict[str, Any], run_id: str, by_id: dict[str, PreviousRun]) -> dict[str, Any] | None:
    """Return the match of a row, and the bank with its version: that of the run, else of the newest run that had it."""
    if values["match_bank"] is None:
        return None
    found = {name.removeprefix("match_"): values[name] for name in _MATCH}
    for run in [by_id[run_id], *reversed(by_id.values())]:
        for bank in run.record.banks:
            if bank.name == values["match_bank"]:
                return {**found, "version": bank.version, "uri": bank.uri, "asked_in": run.record.run_id}
    return {**found, "version": None, "uri": None, "asked_in": None}


def _history(runs: Sequence[PreviousRun], by_id: dict[str, PreviousRun], uri: str) -> Iterator[dict[str, Any]]:
    """Yield an entry for each run in which something of an object changed."""
    last: dict[str, Any] | None = None
    for run in runs:
        whole = run.record.changes.is_whole and run.record.previous_runs
        follows = last is not None and all(run_id in by_id for run_id in run.record.previous_runs)
        change = _row(run, "changes", uri)
        if change is not None:
            said = change.to_pylist()[0]
            now = {name: said.get(name) for name in (*COMPARED, "rule", "sha256", "model")}
            gone = said["change"] == Change.DELETED
            yield {**_entry(run), "change": said["change"], "causes": said.get("causes"), **now}
            if run.record.kind in LISTED:  # no run goes on from a match
                last = None if gone else now
        elif not (whole and follows) and (row := _row(run, "report", uri)) is not None:
            values = as_schema(row, REPORT_SCHEMA).to_pylist()[0]
            now = {name: values[name] for name in (*COMPARED, "rule", "sha256", "model")}
            if now != last:
                yield {**_entry(run), "change": "first known" if last is None else "changed", "causes": None, **now}
            if run.record.kind in LISTED:
                last = now


def _entry(run: PreviousRun) -> dict[str, Any]:
    return {"run_id": run.record.run_id, "kind": run.record.kind, "committed_at": run.record.committed_at}


def _gone(run: PreviousRun, uri: str) -> str:
    row = _row(run, "changes", uri)
    assert row is not None, "it was found there"
    [before] = row.to_pylist()
    return (
        f"{printable(uri)} is gone: run {run.record.run_id} did not list it any more. Before that it was "
        f"{before['previous_decision']} in run {before['previous_run']}: --run {before['previous_run']} says why"
    )


def _unknown(store: Store, uri: str, newest: PreviousRun, by_id: dict[str, PreviousRun], run_id: str | None) -> str:
    """Return what is known of a URI that no row has."""
    where = f"run {run_id}" if run_id else f"the newest runs of {store.uri}"
    lines = [
        f"{printable(uri)} is in none of the rows of {where}" if not run_id else f"{printable(uri)} is not in {where}"
    ]
    named = {name for run in by_id.values() for name in run.record.previous_runs}
    if lost := sorted(named - by_id.keys()):
        lines.append(f"rows of these runs are no longer in the store: {', '.join(lost)}")
    sources = newest.record.config.source.uris
    lines.append(f"run {newest.record.run_id} scanned {', '.join(map(printable, sources[:5]))}")
    near = list(_same_name(newest, uri))
    lines.append(f"of the same name there: {', '.join(map(printable, near))}" if near else "nothing there has its name")
    return "\n".join(lines)


def _same_name(run: PreviousRun, uri: str, most: int = 3) -> Iterator[str]:
    """Yield objects with the same name in another place."""
    name = _spellings(uri)[0].rstrip("/").rpartition("/")[2]
    found = 0
    for file in run.record.files_in("report")[:_PARTS]:
        uris = run.parquet(file).read(["uri"], use_threads=False)["uri"]
        for hit in uris.filter(pc.ends_with(uris, f"/{name}")).slice(0, most - found).to_pylist():
            found += 1
            yield hit
        if found >= most:
            return
