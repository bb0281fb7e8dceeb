"""Check that a committed run is still what was committed.

`verify` yields a `Finding` for each thing that is wrong, and nothing for a sound run. It reads everything back:
SHA-256, size and row count of every recorded file, the report against the listing, the counts against `run.json`, the
decisions of all rows against the recorded policy, and the records of the parent and of the runs committed before. It
changes nothing. A broken record is a finding; a store that does not answer is a `StoreError`.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Generator, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import BrokenRecord, ForeignRecord
from nsfwscan.runs.balance import Balance
from nsfwscan.runs.beside import ALL as BESIDE
from nsfwscan.runs.beside import miscounted
from nsfwscan.runs.chain import Link, links_of, problem_with
from nsfwscan.runs.effects import GATE_COUNTS, Detections
from nsfwscan.runs.finding import Finding, Kind, damaged, note, tampered
from nsfwscan.runs.plan import Plan, Range, ShardReader, read_carried
from nsfwscan.runs.record.beside import STAYS, PrunedRecord
from nsfwscan.runs.record.fields import FileRecord, checked_path
from nsfwscan.runs.record.reading import read_plan
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.redecide import Redecision
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA, Accounted, BankKind, as_schema
from nsfwscan.storage.forgotten import TOMBSTONE, is_known_in
from nsfwscan.storage.store import from_parquet

_FOLDERS = (
    "report",
    *(one.folder for one in BESIDE),
    "false_positives",
    "escalations",
    "changes",
    "known_illegal",
    "drift",
)
_COUNTED = ("status", "decision", "label", "rule", "queue", "format")
"""Columns that the summary counts, and that `verify` counts again in a snapshot."""


def verify(run: Run) -> Iterator[Finding]:
    """Yield what is wrong with a run, in words."""
    try:
        record, pruned, is_committed = run.record(), run.pruned(), run.is_committed()
    except ForeignRecord as error:
        yield tampered(f"run.json {error.reason}")
        return
    except BrokenRecord as error:
        yield damaged(f"run.json {error.reason}")
        return
    if record.forgotten is not None and run.digest() == record.forgotten.sha256:
        was = f"anchors and signatures are for what was committed, with the SHA-256 {record.forgotten.sha256}"
        yield note(f"run.json: written anew since, to forget objects; {was}")
    if pruned is not None:
        yield from _pruned(run, pruned)
        yield from _earlier(run, record)
        return
    if not is_committed:
        yield damaged("_SUCCESS is absent: the commit was cut off at its very end; the same command again completes it")
    wrong = yield from _files(run, record)
    yield from _strangers(run, record)
    yield from _images(run, record, wrong)
    yield from _earlier(run, record)
    if not wrong:
        try:
            yield from _spans(run, record)
            plan = Plan.from_record(read_plan(run.folder.read("plan.json"), run.folder.locate("plan.json")).plan)
            yield from _planned(run, record, plan)
            yield from _balance(run, record, plan)
        except (LookupError, TypeError, ValueError, FileNotFoundError, BrokenRecord) as error:
            yield tampered(f"a file that run.json names is not what a commit writes: {type(error).__name__}: {error}")


def _pruned(run: Run, pruned: PrunedRecord) -> Iterator[Finding]:
    yield note(f"{pruned}: of the run only run.json is left to be checked")
    if run.digest() != pruned.sha256:
        yield tampered("run.json is another one than when the run was pruned")
    if left := set(run.folder.names("")) - STAYS:
        yield note(f"the prune was cut off, and left {', '.join(sorted(left))}; prune again to finish it")


def _files(run: Run, record: RunRecord) -> Generator[Finding, None, set[str]]:
    """Yield a finding for each file that differs from its record; return the paths of these files."""
    wrong: set[str] = set()
    for file in record.files:
        problem = _problem(run, file)
        if problem is not None and problem.kind is not Kind.NOTE:
            wrong.add(file.path)
        if problem is not None:
            yield problem
    return wrong


def _problem(run: Run, file: FileRecord) -> Finding | None:
    try:
        data = run.folder.read(file.path)
    except FileNotFoundError:
        return damaged(f"{file.path}: absent")
    except BrokenRecord as error:
        return tampered(f"{file.path}: {error.reason}")
    problem = _difference(data, file)
    if problem is not None and is_known_in(run.folder, file.path, data):
        return note(f"{file.path}: written anew since, to forget objects")
    return None if problem is None else tampered(f"{file.path}: {problem}")


def _difference(data: bytes, file: FileRecord) -> str | None:
    sha256 = hashlib.sha256(data).hexdigest()
    if (len(data), sha256) != (file.bytes, file.sha256):
        return f"{len(data):,} bytes with SHA-256 {sha256}, not {file.bytes:,} with {file.sha256}"
    if not file.path.endswith(".parquet"):
        return None
    try:
        rows = pq.read_metadata(io.BytesIO(data)).num_rows
    except pa.ArrowException:
        return "no Parquet file, although its SHA-256 is as recorded"
    return None if rows == file.rows else f"{rows:,} rows, not {file.rows:,}"


def _spans(run: Run, record: RunRecord) -> Iterator[Finding]:
    """Check the first and last URI of each part: a later scan opens parts by them."""
    for file in record.files:
        if file.first is not None:
            uris = from_parquet(run.read(file), ["uri"])["uri"]
            if pc.any(pc.starts_with(uris, TOMBSTONE)).as_py():
                continue  # a later scan passes over tombstones
            span = pc.min_max(uris).as_py()
            if (span["min"], span["max"]) != (file.first, file.last):
                yield tampered(f"{file.path}: its first and last URI are others than run.json says")


def _strangers(run: Run, record: RunRecord) -> Iterator[Finding]:
    """Name the Parquet files that no record names: a reader that globs would take them for parts of the report."""
    known = {file.path for file in record.files}
    for folder in _FOLDERS:
        for name in run.folder.names(folder):
            if name.endswith(".parquet") and f"{folder}/{name}" not in known:
                left = "named by no record, left by an attempt that was cut off; readers pass over it"
                yield damaged(f"{folder}/{name}: {left}")


def _images(run: Run, record: RunRecord, wrong: set[str]) -> Iterator[Finding]:
    """Check the copies of false positives against the SHA-256 of the scored images."""
    for file in record.files_in("false_positives"):
        if file.path in wrong:
            continue
        rows = from_parquet(run.folder.read(file.path), ["image", "sha256"])
        for row in rows.filter(pc.is_valid(rows["image"])).to_pylist():
            try:
                sha256 = hashlib.sha256(run.folder.read(checked_path(row["image"]))).hexdigest()
            except FileNotFoundError:
                yield damaged(f"{row['image']}: absent")
                continue
            except (BrokenRecord, ValueError) as error:
                yield tampered(f"false_positives: a copy is not looked at: {error}")
                continue
            if sha256 != row["sha256"]:
                yield tampered(f"{row['image']}: not the image that was scored")


def _planned(run: Run, record: RunRecord, plan: Plan) -> Iterator[Finding]:
    """Check the record against the plan, and the count of changes against their files."""
    if plan.counts != (said := record.plan.model_dump(mode="json")):
        yield tampered(f"the plan is {plan.counts}, but run.json says {said}")
    said = record.changes.model_dump()
    by_cause, causes = said.pop("causes", None), Counter[str]()
    changes = Counter[str](dict.fromkeys(said, 0))
    for file in record.files_in("changes"):
        rows = from_parquet(run.folder.read(file.path), ["change", *(["causes"] if by_cause is not None else [])])
        changes.update(rows["change"].to_pylist())
        if by_cause is not None:
            causes.update(pc.list_flatten(rows["causes"]).to_pylist())
    if (dict(changes), dict(causes)) != (said, by_cause or {}):
        yield tampered(
            f"the changes are {dict(changes)}, by cause {dict(causes)}, but run.json says {said}, {by_cause}"
        )
    if plan.previous_runs != record.previous_runs:
        yield tampered(
            f"the previous runs are {list(plan.previous_runs)}, but run.json says {list(record.previous_runs)}"
        )
    parent = record.parent and record.parent.run_id
    newest = plan.previous_runs[0] if plan.previous_runs else None
    if parent != newest:
        yield tampered(f"the plan goes on from run {newest}, but run.json says {parent}")


def _earlier(run: Run, record: RunRecord) -> Iterator[Finding]:
    """Check the records of the parent, and of the runs that were committed before this one."""
    named = {one.run_id for one in (record.parent, *record.chain.after) if one is not None}
    there = {run_id: Link.of(Run(run.store, run_id)) for run_id in named}
    parent, wrong = record.parent, None
    if parent is not None:
        wrong = problem_with(parent, there[parent.run_id], "which this one goes on from")
    if wrong is not None:
        yield wrong
    told = {parent} if wrong is not None else set()
    after = tuple(one for one in record.chain.after if one not in told)
    yield from links_of(record.chain.model_copy(update={"after": after}), there)


def _balance(run: Run, record: RunRecord, plan: Plan) -> Iterator[Finding]:
    """Check the report against the listing, range by range, and the sums against the record."""
    is_delta = record.config.report.mode == "delta"
    balance, counted = Balance(), {name: Counter[str]() for name in _COUNTED}
    again = Redecision(record)
    looked, forgotten = Detections(record.config.detectors, again.decider), 0
    if again.problem is not None:
        yield again.problem
    of_ranges = {path for part in plan.ranges for path in _parts(record, part)}
    for path in sorted({file.path for file in record.files_in("report")} - of_ranges):
        yield tampered(f"{path}: named in run.json, but the part of no range of the listing")
    for part in plan.ranges:
        listed, carried = _listed(run, part)
        rows = _reported(run, record, part, again.columns)
        found = Counter(rows["uri"].to_pylist())
        absent, extra = listed - found, found - listed
        left = absent & carried if is_delta else Counter[str]()
        absent -= left
        for what, uris in (("listed objects have no row", absent), ("rows have no listed object", extra)):
            if uris:
                yield tampered(f"range {part.number}: {uris.total():,} {what}, e.g. {next(iter(uris))!r}")
        balance.leave(left.total())
        balance.listed += found.total()
        balance.accounted += Counter(rows["accounted_as"].to_pylist())
        yield from _escalations(run, record, part, rows)
        known = rows.filter(pc.invert(pc.starts_with(rows["uri"], TOMBSTONE)))
        looked.add(known)
        forgotten += rows.num_rows - known.num_rows
        yield from again.findings(known, f"range {part.number}")
        for wrong in miscounted(rows, {one.folder: _uris(run, record, part, one.folder) for one in BESIDE}):
            yield tampered(f"range {part.number}: {wrong}")
        for name in _COUNTED:
            counted[name].update(value for value in rows[name].to_pylist() if value is not None)
    if balance.as_dict() != (said := record.balance.model_dump()):
        yield tampered(f"the balance is {balance}, but run.json says {said}")
    unknown = set(balance.accounted) - set(Accounted)
    if unknown:
        yield tampered(f"rows are accounted as {', '.join(sorted(map(str, unknown)))}, which is no place in a balance")
    if not is_delta and not forgotten:  # a delta counts all listed objects; what is forgotten has no signals
        yield from _detectors(record, looked)
    for name in _COUNTED if not is_delta else ():  # the summary of a delta counts all listed objects
        if counted[name] != (of_summary := getattr(record.summary, name)):
            yield tampered(f"by {name} there are {dict(counted[name])}, but run.json says {of_summary}")


def _detectors(record: RunRecord, looked: Detections) -> Iterator[Finding]:
    """Check what the record says of detectors against the rows, and against the files of boxes and text."""
    if record.detectors is None:  # of an older version
        return
    names = [one.name for one in record.detectors]
    if record.kind == "scan" and names != list(record.config.detectors):
        yield tampered(f"run.json counts for the detectors {names}, but the run had {list(record.config.detectors)}")
    for one in record.detectors:
        if one.name not in looked.detectors:
            yield tampered(f"run.json counts for a detector {one.name!r}, which the run did not have")
            continue
        said = one.model_dump(mode="json", include={"name", "looked_at", "not_looked_at", "boxes", "vectors", "lines"})
        if {"vectors": None, "lines": None, **said} != (found := looked.counts(one.name)):
            yield tampered(f"of the detector {one.name} the rows say {found}, but run.json says {said}")
        counts = looked.gate_counts(one.name)
        if one.gate is not None and counts != (gate := one.gate.model_dump(include=set(GATE_COUNTS))):
            yield tampered(f"of the gate of {one.name} the rows say {counts}, but run.json says {gate}")
    sums = {
        "detections": sum(one.boxes for one in record.detectors),
        "embeddings": sum(one.vectors or 0 for one in record.detectors),
        "text": sum(one.lines or 0 for one in record.detectors),
    }
    for folder, total in sums.items():
        if names and (rows := record.rows_in(folder)) != total:
            yield tampered(f"{folder}/ has {rows:,} rows, but run.json counts {total:,} for its detectors")


def _escalations(run: Run, record: RunRecord, part: Range, rows: pa.Table) -> Iterator[Finding]:
    """Check the illegal matches of a range against the specialist's file."""
    illegal = Counter(rows.filter(pc.equal(rows["match_kind"], str(BankKind.ILLEGAL)))["uri"].to_pylist())
    found = Counter[str]()
    for path in _paths(record, f"escalations/part-{part.number:05d}-"):
        found.update(from_parquet(run.folder.read(path), ["uri"])["uri"].to_pylist())
    if found != illegal:
        yield tampered(f"range {part.number}: {found.total():,} escalations for {illegal.total():,} illegal matches")


def _uris(run: Run, record: RunRecord, part: Range, folder: str) -> pa.Table:
    """Return the `uri` of each row of a range's files beside the report."""
    schema = pa.schema([REPORT_SCHEMA.field("uri")])
    paths = _paths(record, f"{folder}/part-{part.number:05d}-")
    found = (from_parquet(run.folder.read(path), ["uri"]) for path in paths)
    return pa.concat_tables([schema.empty_table(), *(as_schema(rows, schema) for rows in found)])


def _listed(run: Run, part: Range) -> tuple[Counter[str], Counter[str]]:
    read = ShardReader(run.folder)
    carried = Counter(read_carried(run.folder, part)["uri"].to_pylist())
    return carried + Counter(uri for shard in part.shards for uri in read(shard)["uri"].to_pylist()), carried


def _reported(run: Run, record: RunRecord, part: Range, further: Sequence[str]) -> pa.Table:
    """Return the columns of a range's report that `_balance` counts, and further ones."""
    names = dict.fromkeys(
        ["uri", "accounted_as", "match_kind", "duplicate_of", "views", "signals", *_COUNTED, *further]
    )
    schema = pa.schema([REPORT_SCHEMA.field(name) for name in names])
    found = [from_parquet(run.folder.read(path), schema.names) for path in _parts(record, part)]
    return pa.concat_tables([schema.empty_table(), *(as_schema(rows, schema) for rows in found)])


def _parts(record: RunRecord, part: Range) -> list[str]:
    return _paths(record, f"report/part-{part.number:05d}-")


def _paths(record: RunRecord, start: str) -> list[str]:
    return [file.path for file in record.files if file.path.startswith(start)]
