"""Match new banks against every scanned object, by the hashes in the store's reports, without reading a single object.

The result is a run of kind `match`, whose report holds the matching objects with their new decisions; other runs
neither change nor continue from it. A bank that cannot be read, or a store without reports, raises `NsfwscanError`.

An entry that matches too many objects (a blank image, the template of a meme) would flood a queue and help nobody. It
is quarantined: it matches nothing, and `run.json` and `summary.html` name it. Entries of illegal banks are never
quarantined: their matches stay in the report and in `escalations/`, and their flood is only reported.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.banks.bank import BankSpec
from nsfwscan.banks.matcher import HASH_COLUMNS, MATCH, BankSet, Entry
from nsfwscan.config import BankConfig, EvidenceConfig, ReportConfig, ScanConfig, StorageConfig
from nsfwscan.errors import ConfigError, RunConflict, StoreError
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy, parse_policy
from nsfwscan.runs.calibrations import calibration_for
from nsfwscan.runs.changes import Behind
from nsfwscan.runs.commit import write_report
from nsfwscan.runs.evidence import Evidence
from nsfwscan.runs.golden import newly_matched
from nsfwscan.runs.known_illegal import known_illegal
from nsfwscan.runs.plan import RANGE_ROWS, Plan, carry_all
from nsfwscan.runs.previous import PreviousReports, PreviousRun, live_runs
from nsfwscan.runs.record.inputs import PinRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.schema import LISTING_SCHEMA, REPORT_SCHEMA, BankKind, as_schema
from nsfwscan.storage.store import Store
from nsfwscan.warning import WarningKind
from nsfwscan.workflows.finalize import commit_record, complete, record_of
from nsfwscan.workflows.pin import Pinned
from nsfwscan.workflows.scan import ScanResult

FLOOD = 1000
"""Objects that an entry may match before it is quarantined."""
_FLOOD_SHARE, _LEAST_FLOOD = 0.01, 100
"""An entry floods, too, if it matches more than this share of the objects, and at least this many."""
_EXAMPLES = 3
_FOUND = pa.schema([*LISTING_SCHEMA, *(REPORT_SCHEMA.field(name) for name in HASH_COLUMNS), *MATCH])
"""Columns that are kept of a matching object while the matches of each entry are counted."""


@dataclass
class Looked:
    """Counts of a search through the reports.

    Attributes:
        objects: number of objects searched, each counted once.
        without: number of those that lack a hash that the banks hold, by kind of hash.
        flooding: entries that match too many objects, with their number and a few examples; no examples for illegal
            entries.
    """

    objects: int = 0
    without: Counter[str] = field(default_factory=Counter)
    flooding: dict[Entry, dict[str, Any]] = field(default_factory=dict)

    @property
    def quarantined(self) -> list[Entry]:
        """Entries that match nothing because they flood."""
        return [entry for entry, found in self.flooding.items() if found["kind"] != BankKind.ILLEGAL]

    def as_json(self) -> dict[str, Any]:
        """Return the `matching` section of `run.json`."""
        named = [{"bank": b, "hash": h, "id": i, **found} for (b, h, i), found in self.flooding.items()]
        kept = [entry for entry in named if entry["kind"] == BankKind.ILLEGAL]
        return {
            "objects": self.objects,
            "without": dict(self.without),
            "quarantined": [entry for entry in named if entry not in kept],
            "flooding": kept,
        }


def match_store(
    store: Store,
    banks: tuple[BankConfig, ...],
    storage: StorageConfig,
    *,
    policy: Policy | None = None,
    source: str | None = None,
    run_id: str | None = None,
    flood: int = FLOOD,
    ignored: Sequence[str] = (),
    evidence: EvidenceConfig = EvidenceConfig(),  # noqa: B008  # frozen
) -> ScanResult:
    """Write a run that holds the banks' matches among all objects of a store.

    Args:
        storage: settings for reading the banks.
        banks: none: those that the store pins.
        policy: decides the matches; unset: the policy that the store pins, else that of the newest run.
        source: origin of the policy, for the record.
        run_id: id of the new run; unset: the time (UTC). Starts an unfinished run with this id again, and leaves a
            committed one alone.
        flood: number of objects that an entry may match.
        ignored: runs with a broken record, which are left out.
        evidence: how the run is signed and anchored.

    Raises:
        NsfwscanError: a bank or the store cannot be read, or another run has the run id.
    """
    left = Evidence.of(evidence, store, storage)
    given = {"policy": policy is not None, "banks": bool(banks)}
    pinned = Pinned.of(store, [part for part in given if not given[part]])
    banks = banks or pinned.banks
    if not banks:
        raise ConfigError(f"no bank is given, and {store.uri} pins none: name one with --bank NAME=URI, or in --config")
    if pinned.policy_source is not None:
        policy, source = pinned.load_policy(pinned.policy_source, storage), pinned.policy_source
    previous_runs = live_runs(store, ignored)
    if not previous_runs:
        raise StoreError(f"{store.uri} has no committed scan: there is nothing to match")
    decider = Decider(policy or _policy_of(previous_runs[0].record))
    specs = pinned.resolve_banks(banks, storage)
    run = Run.named(store, run_id)
    if run.is_committed():
        return ScanResult.before(run, left)
    settings = _settings(previous_runs, specs, decider, flood, ignored)
    with run.lease():
        if run.folder.exists("run.json"):  # a commit was cut off before it wrote _SUCCESS
            unproved = complete(run, left)
            return ScanResult.of(run, run.record(), unproved)
        for base in previous_runs:  # they were looked up before this run could be seen
            if pruned := base.run.pruned():
                raise RunConflict(f"run {base.run.run_id} was {pruned}: the same command begins anew, without it")
        began = run.load_plan(settings)
        pin = pinned.record(decider.policy, specs)
        asked = {"banks": tuple(spec.config for spec in specs), "policy": source, "evidence": evidence}
        record = _record(run, previous_runs, specs, storage, decider, asked, settings, began, flood, ignored, pin)
        committed = commit_record(run, record, left)
    return ScanResult.of(run, *committed)


def _settings(
    previous_runs: Sequence[PreviousRun],
    specs: Sequence[BankSpec],
    decider: Decider,
    flood: int,
    ignored: Sequence[str],
) -> dict[str, Any]:
    """Return the settings that must not change while a match is unfinished."""
    return {
        "match_of": [base.run.run_id for base in previous_runs],
        "banks": [spec.identity for spec in specs],
        "policy": decider.policy.identity,
        "flood": flood,
        **({"ignored_runs": list(ignored)} if ignored else {}),
    }


def _policy_of(record: RunRecord) -> Policy:
    return parse_policy(record.policy.content(), f"the policy of run {record.run_id}")


def _record(
    run: Run,
    previous_runs: list[PreviousRun],
    specs: tuple[BankSpec, ...],
    storage: StorageConfig,
    decider: Decider,
    asked: dict[str, Any],
    settings: dict[str, Any],
    began: Plan | None,
    flood: int,
    ignored: Sequence[str],
    pin: PinRecord | None,
) -> RunRecord:
    """Match, write the report, and return its record.

    Args:
        asked: settings of this run, which the record has in place of those of the newest run.
    """
    started = time.monotonic()
    # Without their banks, all rows are matched again, so that the report holds exactly the search's matches.
    previous = PreviousReports(
        [replace(base, record=base.record.model_copy(update={"banks": ()})) for base in previous_runs], None
    )
    with tempfile.TemporaryDirectory(prefix="nsfwscan-match-") as folder:
        looked, banks, found = _search(previous, BankSet(specs, storage), Path(folder), flood)
        newest = previous_runs[0].record
        ids = tuple(base.run.run_id for base in previous_runs)
        plan = began or run.save_plan(carry_all(found, newest.plan.listed_at, ids, run.folder), settings)
    for golden in newly_matched(previous_runs[0].run, newest, banks):
        plan.warnings.add(WarningKind.GOLDEN_MATCHED, golden)
    config = ScanConfig.of({"source": {"uris": []}, "out": run.store.uri})  # no source: no object counts as deleted
    known = known_illegal(read_records(runs_of(run.store)), ignored).asked_of(BankSet(specs, storage))
    behind = replace(Behind.of(newest), policy=decider.policy.identity, banks=tuple(spec.identity for spec in specs))
    calibration = calibration_for(run.store, newest.model.identity, newest.model.sha256, [decider])
    report = write_report(
        run, plan, previous, decider, config, banks=banks, known=known, behind=behind, calibration=calibration
    )
    shown = newest.config.model_copy(update={"source": config.source, "report": config.report, **asked})
    kept = newest.as_json()
    return record_of(
        run,
        "match",
        previous_runs[0].reference,
        plan,
        report,
        decider.policy,
        ReportConfig(max_error_rate=1, max_unsupported_rate=1),
        config=shown.public(),
        **{name: kept[name] for name in ("model", "auxiliary_models", "reuse_keys")},
        banks=[spec.as_json() for spec in specs],
        matching=looked.as_json(),
        text=kept.get("text"),
        pin=None if pin is None else pin.model_dump(mode="json"),
        ignored_runs=list(ignored),
        timings={"match_s": round(time.monotonic() - started, 3), "resumed_shards": 0},
        images_per_s=None,
        machine=None,
        cost=None,
    )


def _search(
    previous: PreviousReports, banks: BankSet, folder: Path, flood: int
) -> tuple[Looked, BankSet, Iterator[pa.Table]]:
    """Return the search's counts; the banks without the entries that flood; and the objects that match these banks,
    range by range as `LISTING_SCHEMA`, sorted by URI."""
    looked, path = Looked(), folder / "all.parquet"
    counts = _spool(_matching(previous, banks, looked), path)
    most = min(flood, max(_LEAST_FLOOD - 1, int(looked.objects * _FLOOD_SHARE)))
    while new := [key for key, n in counts.items() if n > most and key[0] not in looked.flooding]:
        for entry, kind in new:
            named = [] if kind == BankKind.ILLEGAL else _examples(path, entry)
            looked.flooding[entry] = {"kind": kind, "objects": counts[entry, kind], "examples": named}
        banks = banks.leaving_out(looked.quarantined)
        before, path = path, folder / f"{len(looked.flooding)}.parquet"
        counts = _spool((_matched(rows, banks) for rows in _spooled(before)), path)  # other entries may match them
    return looked, banks, _ranges(path)


def _matching(previous: PreviousReports, banks: BankSet, looked: Looked) -> Iterator[pa.Table]:
    """Yield all matching objects in the order of their URIs, and count the objects searched."""
    for rows in previous.rows(None, None):
        looked.objects += rows.num_rows
        looked.without.update({kind: n for kind in banks.kinds if (n := _lacking(rows, kind))})
        yield _matched(rows.sort_by("uri"), banks)


def _lacking(rows: pa.Table, kind: str) -> int:
    """Return how many objects lack a hash of this kind: not read, not decoded, or scanned by a run that made none."""
    return int(rows[kind].null_count)


def _matched(rows: pa.Table, banks: BankSet) -> pa.Table:
    """Return the rows that match, as `_FOUND`."""
    found = banks.match(rows)
    columns = {**{name: rows[name] for name in rows.column_names}, **{name: found[name] for name in MATCH.names}}
    table = as_schema(pa.table(columns), _FOUND)
    return table.filter(pc.is_valid(table["match_kind"]))


def _spool(tables: Iterable[pa.Table], path: Path) -> Counter[tuple[Entry, str]]:
    """Write matches to disk, and return their counts by entry and kind of bank."""
    counts: Counter[tuple[Entry, str]] = Counter()
    with pq.ParquetWriter(path, _FOUND) as writer:
        for table in tables:
            writer.write_table(table)
            named = table.select(["match_bank", "match_hash", "match_id", "match_kind"]).to_pylist()
            counts.update(((r["match_bank"], r["match_hash"], r["match_id"]), r["match_kind"]) for r in named)
    return counts


def _spooled(path: Path) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as parquet:
        for batch in parquet.iter_batches(65_536):
            yield pa.Table.from_batches([batch])


def _examples(path: Path, entry: Entry) -> list[str]:
    """Return the URIs of a few objects that an entry matches."""
    found: list[str] = []
    for rows in _spooled(path):
        same = [
            pc.equal(rows[f"match_{name}"], value) for name, value in zip(("bank", "hash", "id"), entry, strict=True)
        ]
        found += rows.filter(reduce(pc.and_, same))["uri"].to_pylist()[: _EXAMPLES - len(found)]
        if len(found) == _EXAMPLES:
            break
    return found


def _ranges(path: Path) -> Iterator[pa.Table]:
    """Yield the objects of a file as `LISTING_SCHEMA`, one table per range."""
    held: list[pa.Table] = []
    for rows in _spooled(path):
        held.append(as_schema(rows, LISTING_SCHEMA))
        if sum(table.num_rows for table in held) >= RANGE_ROWS:
            yield pa.concat_tables(held)
            held = []
    if any(table.num_rows for table in held):
        yield pa.concat_tables(held)
