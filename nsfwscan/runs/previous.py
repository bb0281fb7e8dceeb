"""Read previous reports: the committed runs of a store that a new run goes on from, never rewritten in place.

The plan learns which earlier rows are reusable (`Known`). The commit reads the earlier rows range by range; the newest
run wins. The parts of a report are sorted by URI, so no step holds all keys. A part that differs from what its run
recorded is a `StoreError`. So is a committed run with a broken record, where the new run depends on it: its rows must
not be forgotten silently.
"""

from __future__ import annotations

import os
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import accumulate
from urllib.parse import quote_from_bytes

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.config import ScanConfig, SourceConfig
from nsfwscan.errors import BrokenRecord, StoreError
from nsfwscan.location import Location
from nsfwscan.runs.beside import ALL as BESIDE
from nsfwscan.runs.parts import with_all
from nsfwscan.runs.plan import KNOWN_SCHEMA, Known
from nsfwscan.runs.record.fields import FileRecord, ParentRecord
from nsfwscan.runs.record.run import RunRecord, recorded_config
from nsfwscan.runs.reuse import ReusePolicy, banks_behind
from nsfwscan.runs.run import Run, read_records, runs_of
from nsfwscan.schema import REPORT_SCHEMA, Change, as_schema
from nsfwscan.sources.manifests import is_manifest
from nsfwscan.storage.forgotten import TOMBSTONE
from nsfwscan.storage.store import Store

_AT_ONCE = 4
"""Parts read at a time; each is whole in memory, about 16 MiB."""
_HELD = 16
"""Parts that are kept, beside one of each run: neighbours of the ranges that the commit works on at a time."""
_SETTLED = timedelta(seconds=2)
"""A modification time this close to the read proves nothing: a file that changes again within the resolution of its
modification time (2 s on FAT, 1 s on NFSv2) looks unchanged."""
_LAST = "\U0010ffff"
_BANK_VERSION = "match_bank_version"
LISTED = ("scan", "replay")
"""Kinds of runs whose reports cover a listing."""


@dataclass(frozen=True)
class Part:
    """One file of a committed report, with its first and its last URI."""

    file: FileRecord
    first: str
    last: str


@dataclass(frozen=True)
class PreviousRun:
    """A committed run that rows may be carried from."""

    run: Run
    record: RunRecord

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """Return the report's parts, with spans from the record, else from the parts' footers."""
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return tuple(threads.map(self._part, self.record.files_in("report")))

    def _part(self, file: FileRecord) -> Part:
        if file.first is not None and file.last is not None:
            return Part(file, file.first, file.last)
        if file.sha256 not in _SPANS:
            _SPANS[file.sha256] = _span(self.parquet(file))
        return Part(file, *_SPANS[file.sha256])

    def parquet(self, file: FileRecord) -> pq.ParquetFile:
        """Return a Parquet file of the run. Raises BrokenRecord where it differs from what the run recorded."""
        try:
            return self.run.parquet(file)
        except BrokenRecord as error:
            name = self.run.run_id
            raise BrokenRecord(
                self.run.folder.locate(file.path),
                f"whose rows are to be carried over, is absent or damaged ({error.reason})",
                "`nsfwscan verify` says more; put it back from a backup, or let a new run do without it: --full reads "
                f"everything again, --ignore-run {name} reads again what only this run knew",
            ) from None

    def check(self) -> None:
        """Raise BrokenRecord where a file of `report/`, beside it or of `changes/` is absent, or differs from the
        record."""
        for folder in ("report", *(one.folder for one in BESIDE), "changes"):
            for file in self.record.files_in(folder):
                self.parquet(file)

    @property
    def reference(self) -> ParentRecord:
        """Return the section by which a later run names this one as its parent."""
        return ParentRecord(run_id=self.run.run_id, sha256=self.run.digest())

    @cached_property
    def gone(self) -> pa.Array:
        """URIs of the objects that this run reported as deleted, sorted."""
        found = [pa.array([], pa.string())]
        for file in self.record.files_in("changes"):
            rows = self.parquet(file).read(["change", "uri"], use_threads=False)
            deleted = rows.filter(pc.equal(rows["change"], str(Change.DELETED)))
            found.append(deleted["uri"].combine_chunks())
        return pa.concat_arrays(found).sort()

    @cached_property
    def _beside(self) -> dict[tuple[str, str], list[FileRecord]]:
        """Files beside the report, by folder and range."""
        found: dict[tuple[str, str], list[FileRecord]] = {}
        for one in BESIDE:
            for file in self.record.files_in(one.folder):
                found.setdefault((one.folder, _number_of(file)), []).append(file)
        return found

    @property
    def banks(self) -> list[str]:
        """`name@version` of the banks that the run's rows were matched with, in their order."""
        return banks_behind(self.record)

    @property
    def is_snapshot(self) -> bool:
        """Return whether the report holds a row for every listed object."""
        return self.record.config.report.mode == "snapshot"

    def read(self, part: Part) -> pa.Table:
        """Return a part's rows, as `PREVIOUS_SCHEMA`. Raises StoreError where a file differs from the record."""
        rows = self.parquet(part.file).read(use_threads=False)
        found = as_schema(rows, REPORT_SCHEMA)
        found = found.filter(pc.invert(pc.starts_with(found["uri"], TOMBSTONE)))
        found = found if _BANK_VERSION in rows.column_names else self._with_bank_versions(found)
        number = _number_of(part.file)
        for one in BESIDE:
            files = self._beside.get((one.folder, number), ())
            there = [as_schema(self.parquet(file).read(use_threads=False), one.schema) for file in files]
            found = one.into(found, pa.concat_tables([one.schema.empty_table(), *there]))
        return found

    def _with_bank_versions(self, rows: pa.Table) -> pa.Table:
        """Return rows of an older nsfwscan with the versions of their banks, which only the record has."""
        names, versions = (
            pa.array([getattr(bank, n) for bank in self.record.banks], pa.string()) for n in ("name", "version")
        )
        versions = pc.utf8_slice_codeunits(versions, 0, 16)
        place = rows.schema.get_field_index(_BANK_VERSION)
        return rows.set_column(place, rows.schema.field(place), versions.take(pc.index_in(rows["match_bank"], names)))


def _number_of(file: FileRecord) -> str:
    """Return the number of the range that a file belongs to, as its name has it: `part-<range>-<sha256>`."""
    return file.path.rpartition("/")[2].split("-")[1]


_SPANS: dict[str, tuple[str, str]] = {}
"""First and last URI of the parts that this process has opened, by SHA-256 of the part."""


def _span(parquet: pq.ParquetFile) -> tuple[str, str]:
    """Return the first and the last URI of a part."""
    footer = parquet.metadata
    column = footer.schema.to_arrow_schema().get_field_index("uri")
    spans = [footer.row_group(i).column(column).statistics for i in range(footer.num_row_groups)]
    if all(span is not None and span.has_min_max for span in spans):
        return min(span.min for span in spans), max(span.max for span in spans)
    span = pc.min_max(parquet.read(["uri"])["uri"])  # Parquet keeps no statistics for values over 4 KiB
    return span["min"].as_py(), span["max"].as_py()


def find_previous(run: Run, config: ScanConfig) -> list[PreviousRun]:
    """Return the previous runs that this one goes on from, newest first.

    These are the committed runs whose sources overlap with this run's, back to the newest snapshot of all its sources.
    A replay counts too: it covers the listing of its scan, with newer decisions.

    Raises:
        BrokenRecord: a run that is, or may be, one of these has a broken record and is not in `previous.ignore_runs`.
    """
    found, broken = _all_previous(run.store, {run.run_id, *config.previous.ignore_runs})
    ours = recorded_config(config).source
    chain: list[PreviousRun] = []
    whole: PreviousRun | None = None
    for base in found:
        theirs = base.record.config.source
        if not (_covers(theirs, ours) or _covers(ours, theirs)):
            continue
        chain.append(base)
        if base.is_snapshot and _covers(theirs, ours) and _unfiltered_like(theirs, ours):
            whole = base
            break
    for lost in broken:
        of_others = lost.source is not None and not (_covers(lost.source, ours) or _covers(ours, lost.source))
        if not of_others and not lost.is_older_than(whole):
            raise lost.error
    return chain


def live_runs(store: Store, ignored: Collection[str] = ()) -> list[PreviousRun]:
    """Return the committed runs that together cover all objects of a store, newest first.

    A run is left out where a later snapshot covers all of its sources. Raises BrokenRecord as `find_previous` does.
    """
    live: list[PreviousRun] = []
    found, broken = _all_previous(store, set(ignored))
    for base in found:
        ours = base.record.config.source
        if not any(_covers_all(newer, ours) for newer in live):
            live.append(base)
    for lost in broken:
        if lost.source is None or not any(lost.is_older_than(b) and _covers_all(b, lost.source) for b in live):
            raise lost.error
    return live


def _covers_all(base: PreviousRun, ours: SourceConfig) -> bool:
    theirs = base.record.config.source
    return base.is_snapshot and _covers(theirs, ours) and _unfiltered_like(theirs, ours)


@dataclass(frozen=True)
class _Broken:
    """A committed run whose record is broken, with its sources and time of listing from its plan."""

    error: BrokenRecord
    source: SourceConfig | None
    """None where the sources are unknown too."""
    listed_at: datetime | None

    def is_older_than(self, base: PreviousRun | None) -> bool:
        """Return whether a later snapshot replaces this run: it read the run before it broke, or did without it."""
        return base is not None and self.listed_at is not None and self.listed_at < base.record.age[0]


def _all_previous(store: Store, ignored: set[str]) -> tuple[Iterator[PreviousRun], list[_Broken]]:
    """Return the runs whose reports cover a listing, newest first, each read again when its turn comes; and the broken
    runs that may be such runs."""
    ages: dict[str, tuple[datetime, datetime]] = {}
    broken: list[_Broken] = []
    for run, record in read_records([run for run in runs_of(store) if run.run_id not in ignored]):
        if not isinstance(record, BrokenRecord):
            if record.kind in LISTED:
                ages[run.run_id] = record.age
        elif (lost := _broken(run, record)) is not None:
            broken.append(lost)
    newest_first = (Run(store, run_id) for run_id in sorted(ages, key=lambda run_id: ages[run_id], reverse=True))
    return (PreviousRun(run, run.record()) for run in newest_first), broken


def _broken(run: Run, error: BrokenRecord) -> _Broken | None:
    """Return what the plan of a broken run tells; None for a match, which no run goes on from."""
    way_out = f"put it back from a backup, or go on without all that this run knew: --ignore-run {run.run_id}"
    said = BrokenRecord(error.where, error.reason, way_out)
    try:
        planned = run.planned()
        if planned is None:
            return _Broken(said, None, None)
        plan, settings = planned
        if "match_of" in settings:
            return None
        listed_at = datetime.fromisoformat(plan.listed_at)
        if "replay_of" in settings:
            parent = Run(run.store, str(settings["replay_of"])).record()
            return _Broken(said, parent.config.source, listed_at)
        given = {name: settings[f"source.{name}"] for name in ("uris", "include", "exclude", "limit")}
        source = SourceConfig.model_validate({**given, "lists": settings.get("source.lists", [])})
    except (BrokenRecord, LookupError, TypeError, ValueError):
        return _Broken(said, None, None)
    return _Broken(said, source, listed_at)


def _covers(whole: SourceConfig, part: SourceConfig) -> bool:
    """Return whether each source of `part` lies within a source of `whole`, whatever their filters."""
    lists = {*whole.lists, *part.lists}
    return all(any(_within(theirs, ours, lists) for theirs in whole.uris) for ours in part.uris)


def _within(whole: str, part: str, lists: Collection[str]) -> bool:
    if is_manifest(part) or is_manifest(whole) or part in lists or whole in lists:
        return _series(whole) == _series(part)
    return part == whole or any(part.startswith(prefix) for prefix in _inside(whole))


def _series(manifest: str) -> str:
    """Return a manifest's name with its digits masked: the manifests of two nights differ only in their dates."""
    return re.sub(r"\d+", "#", manifest)


def series_of(source: str, lists: Collection[str]) -> str:
    """Return what the sources of two nights have in common: a place itself, or the series of a list."""
    return _series(source) if is_manifest(source) or source in lists else source


def _unfiltered_like(theirs: SourceConfig, ours: SourceConfig) -> bool:
    return theirs.limit is None and theirs.include in ((), ours.include) and theirs.exclude in ((), ours.exclude)


def _inside(source: str) -> tuple[str, ...]:
    """Return the prefixes of the URIs of a source's objects, unless the source is an object itself."""
    if not Location.of(source).is_local:
        return (source,)
    folder = os.path.join(source, "")
    return folder, "file://" + quote_from_bytes(os.fsencode(folder))


def belongs_to(uris: pa.ChunkedArray, sources: Sequence[str], lists: Collection[str] = ()) -> pa.ChunkedArray:
    """Return a mask of the URIs that lie within the sources; with a manifest among the sources, all of them do.

    Args:
        lists: sources that are manifests, whatever their names are.
    """
    mask = pc.is_in(uris, pa.array(sources, pa.string()))
    for source in sources:
        if is_manifest(source) or source in lists:
            return pc.is_valid(uris)
        for prefix in _inside(source):
            mask = pc.or_(mask, pc.starts_with(uris, prefix))
    return mask


class _Parts:
    """Parts of one report, to be asked again and again for those that may hold some URIs."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self.all = sorted(parts, key=lambda part: part.first)
        self._firsts = [part.first for part in self.all]
        self._reach = list(accumulate((part.last for part in self.all), max))

    def between(self, after: str | None, upto: str | None) -> list[Part]:
        """Return the parts with URIs in `after < uri <= upto` (None: no bound)."""
        start = 0 if after is None else bisect_right(self._reach, after)
        end = len(self.all) if upto is None else bisect_right(self._firsts, upto)
        return [part for part in self.all[start:end] if after is None or part.last > after]


class PreviousReports:
    """Rows of some committed reports, newest first, limited to parts that some sources concern; None: all parts."""

    def __init__(self, runs: Sequence[PreviousRun], sources: Sequence[str] | None) -> None:
        self.runs = tuple(runs)
        whole = sources is None or any(map(is_manifest, sources))
        self._starts = None if whole else [s for uri in sources or () for s in (uri, *_inside(uri))]
        self._held: dict[tuple[str, str], Future[pa.Table]] = {}
        self._holding = threading.Lock()

    @classmethod
    def of(cls, store: Store, run_ids: Sequence[str], sources: Sequence[str] | None) -> PreviousReports:
        """Return the previous reports of the runs that a plan was made from. Raises StoreError where a run is gone, or
        was pruned."""
        for run_id in run_ids:
            if pruned := Run(store, run_id).pruned():
                raise StoreError(
                    f"run {run_id}, whose rows are to be carried over, was {pruned}; begin anew with a new --run-id"
                )
        return cls([PreviousRun(run, run.record()) for run in (Run(store, run_id) for run_id in run_ids)], sources)

    @cached_property
    def _parts(self) -> list[_Parts]:
        """Parts of each run that the sources concern."""
        return [_Parts(filter(self._concerned, base.parts)) for base in self.runs]

    def _concerned(self, part: Part) -> bool:
        starts = self._starts
        return starts is None or any(s <= part.last and part.first <= s + _LAST for s in starts)

    def known(self, reuse_policy: ReusePolicy) -> Known:
        """Return the objects of the previous reports with their reusability, for the plan."""
        return Known(tuple(base.run.run_id for base in self.runs), self._standing(reuse_policy))

    def _standing(self, reuse_policy: ReusePolicy) -> Iterator[pa.Table]:
        columns = ["uri", "etag", "modified_at", "scanned_at", *reuse_policy.columns]
        for age, base in enumerate(self.runs):
            # An object deleted then hides its older rows, here as in `rows`: if it is listed again, it is new.
            gone = [{"uri": uri, "age": age} for uri in base.gone.to_pylist()]
            yield pa.Table.from_pylist(gone, schema=KNOWN_SCHEMA)
            for part in self._parts[age].all:
                parquet = base.parquet(part.file)
                there = [name for name in columns if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(65536, columns=there, use_threads=False):
                    rows = with_all(pa.Table.from_batches([batch]), columns)
                    values = {
                        "modified_at": _settled(rows),
                        "standing": reuse_policy.standing(rows, base.record),
                        "age": pa.array([age] * rows.num_rows, pa.int32()),
                    }
                    yield pa.table([values.get(n, rows[n] if n in columns else None) for n in KNOWN_SCHEMA.names],
                                   schema=KNOWN_SCHEMA)  # fmt: skip

    @cached_property
    def ends(self) -> list[str]:
        """Last URIs of the parts, sorted, each once."""
        return sorted({part.last for parts in self._parts for part in parts.all})

    def rows(self, after: str | None, upto: str | None) -> Iterator[pa.Table]:
        """Yield report rows with `after < uri <= upto` (None: no bound), for each URI the newest run's.

        Each table is no larger than a few parts.
        """
        start = 0 if after is None else bisect_right(self.ends, after)
        end = len(self.ends) if upto is None else bisect_left(self.ends, upto)
        cuts = self.ends[start:end]
        for low, high in zip([after, *cuts], [*cuts, upto], strict=True):
            piece = self._piece(low, high)
            if piece is not None and piece.num_rows:
                yield piece

    def _piece(self, after: str | None, upto: str | None) -> pa.Table | None:
        found: list[pa.Table] = []
        seen: list[pa.Array] = []
        for base, parts in zip(self.runs, self._parts, strict=True):
            rows = [self._within(base, part, after, upto) for part in parts.between(after, upto)]
            if rows:
                known = pa.concat_tables(rows)
                for newer in seen:
                    known = known.filter(pc.invert(pc.is_in(known["uri"], newer)))
                found.append(known)
                seen.append(known["uri"])
            seen.append(_between(base.gone, after, upto))
        return pa.concat_tables(found) if found else None

    def _within(self, base: PreviousRun, part: Part, after: str | None, upto: str | None) -> pa.Table:
        rows = self._read(base, part)
        if after is not None and part.first <= after:
            rows = rows.filter(pc.greater(rows["uri"], after))
        if upto is not None and part.last > upto:
            rows = rows.filter(pc.less_equal(rows["uri"], upto))
        return rows

    def _read(self, base: PreviousRun, part: Part) -> pa.Table:
        """Return a part's rows; the parts asked for last are kept, since neighbouring ranges share them."""
        name = base.run.run_id, part.file.path
        with self._holding:
            held = self._held.pop(name, None)
            found = self._held[name] = held or Future()
            for oldest in list(self._held)[: -len(self.runs) - _HELD]:
                del self._held[oldest]
        if held is None:
            try:
                found.set_result(base.read(part))
            except BaseException as error:  # noqa: BLE001  # else who waits for the part would wait for ever
                found.set_exception(error)
        return found.result()


def _between(uris: pa.Array, after: str | None, upto: str | None) -> pa.Array:
    """Return those of sorted URIs with `after < uri <= upto` (None: no bound)."""
    start, end = (
        unbounded if bound is None else bisect_right(uris, bound, key=lambda uri: uri.as_py())
        for bound, unbounded in ((after, 0), (upto, len(uris)))
    )
    return uris.slice(start, end - start)


def _settled(rows: pa.Table) -> pa.Array:
    """Return `modified_at`, null where the object may have changed again without a new modification time."""
    latest = pc.subtract(rows["scanned_at"], pa.scalar(_SETTLED, pa.duration("us")))
    return pc.if_else(pc.less(rows["modified_at"], latest), rows["modified_at"], None)
