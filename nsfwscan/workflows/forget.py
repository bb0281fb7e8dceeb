"""Erase objects from the reports and verdicts of a store, where the law asks for it.

In every Parquet file of every run the row of a forgotten object stays, so that all counts still balance, but names
nothing any more: its URI is a tombstone, and every column that describes the object or its content is null; how it was
counted and decided stays. Verdicts on it keep their kind and word, for the counts, and lose the object and the words
of the reviewer. Copies of its image are deleted. Where `run.json` names the object, as an example or as the first or
last of a file, it is written anew, with a note that has the SHA-256 which it was committed with: by that other runs,
anchors and signatures still know it (`digest_of`).

One rule covers all: every Parquet file of the store with a column `uri`, whatever its folder, and of such rows every
column that is not known to say nothing of the object (`_STAYS`). So what a later version writes is covered, too.

A match of an illegal bank is not forgotten here: the law asks to keep it. A run that is not finished is in the way.
Each file is replaced whole, after the record (`runs/forgotten.py`) names its new digest; a command that was cut off is
finished by the same command again.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.banks.confirmed import FOLDER as BANKS
from nsfwscan.errors import BrokenRecord, ConfigError, RunConflict
from nsfwscan.location import Location
from nsfwscan.review.audit_sample import FOLDER as AUDITS
from nsfwscan.runs.beside import TEXT
from nsfwscan.runs.record.reading import read_plan, read_record
from nsfwscan.runs.run import Run, runs_of
from nsfwscan.schema import BankKind
from nsfwscan.storage.forgotten import TOMBSTONE, ForgottenRecord, begun, digest_of, forgotten, write_forgotten
from nsfwscan.storage.store import Store, to_json
from nsfwscan.verdicts.kept import FOLDER as VERDICTS
from nsfwscan.workflows.finalize import now

LEASE = ".forget"
"""Id under which a command holds the store against another one; no run can have it."""
_IMAGES = "false_positives/images"
_STAYS = frozenset(
    {
        *(
            "status",
            "error_code",
            "accounted_as",
            "filtered_by",
            "format",
            "media",
            "label",
            "views",
            "frames",
            "model",
        ),
        *("decision", "rule", "queue", "skill", "shield", "severity", "decided_by", "policy"),
        *("verdict", "verdict_at", "appeals", "run_id", "carried_from", "scanned_at"),
        *("change", "causes", "previous_run", "previous_rule", "previous_verdict"),
        *(f"previous_{name}" for name in ("decision", "queue", "skill", "shield", "severity")),
        *("index", "weight", "kind", "why", "stratum", "flagged", "drawn", "probability"),
        *("id", "decided_at", "supersedes", "category", "reviewer", "opened", "zoomed", "seconds"),
    }
)
"""Columns of a forgotten row that stay: how it was counted and decided. `size` of an audit is that of a stratum."""
_REFERENCES = ("uri", "duplicate_of")


@dataclass(frozen=True)
class ForgetResult:
    """The outcome of forgetting objects."""

    forget_id: str
    objects: int
    files: int
    rows: int
    left: tuple[str, ...]
    """Files that still name an object, and cannot be written without it."""
    banks: tuple[str, ...]
    """Hash banks of the store that have the SHA-256 of an object, and go on matching it."""
    sharing: tuple[str, ...]
    """Other URIs that the store knows, whose bytes are those of an object; they were not forgotten."""


def forget(store: Store, by: str, reason: str, uri: str | None = None, sha256: str | None = None) -> ForgetResult:
    """Erase the object at a URI, or all objects with some bytes.

    Raises:
        ConfigError: the store does not know it, or it matches an illegal bank.
        RunConflict: a run is not finished, or another command is at work.
        StoreError: the store fails; or what a dead process left in it cannot be removed, and nothing is forgotten.
        BrokenRecord: a file is not what was recorded; what was done until then stands.
    """
    with Run(store, LEASE).lease():
        _check_finished(store)
        _clear_leftovers(store)
        paths = _parquet_files(store)
        uris, contents = _objects(store, paths, uri, sha256)
        record = _record(store, uris, by, reason)
        rows, sharing = 0, set[str]()
        for path in paths:
            data, changed = _without(store, path, record, uris)
            sharing |= _sharing(data, contents)
            if changed:
                rows += changed
                record = replace_file(store, path, data, record)
        stones = {one: record.tombstones[record.key(one)] for one in uris}
        for path in _pages(store):
            blank = _without_names(store.read(path), stones)
            if blank is not None:
                record = replace_file(store, path, blank, record)
        for run in runs_of(store):
            record = _rewrite_records(store, run, stones, record)
        _delete_images(store, uris)
        record = record.model_copy(update={"done": True})
        write_forgotten(store, record)
        left, banks = tuple(_still_naming(store, uris)), tuple(_banks_with(store, contents))
        return ForgetResult(record.forget_id, len(uris), len(record.files), rows, left, banks, tuple(sorted(sharing)))


def _check_finished(store: Store) -> None:
    for run in (*runs_of(store), *runs_of(store, "staging")):
        if not run.is_committed_or_broken() and run.pruned() is None:
            raise RunConflict(f"run {run.run_id} is not finished: finish it, or remove it (`nsfwscan gc`), then forget")


def _clear_leftovers(store: Store) -> None:
    """Remove the rows of committed runs that are still staged, and files that were never whole: a process that was
    killed, or may not delete, left them, and they may name an object. Raises StoreError where one cannot be removed."""
    for run in runs_of(store, "staging"):
        store.delete(f"staging/{run.run_id}")
    store.delete_files(list(store.leftovers("")))


def _parquet_files(store: Store) -> list[str]:
    """Return the paths of all Parquet files that may name an object: those of all folders but `staging/`, where no
    run has anything left."""
    return sorted(path for path in store.sizes("") if path.endswith(".parquet") and not path.startswith("staging/"))


def _pages(store: Store) -> Iterator[str]:
    for run in runs_of(store):
        if run.is_committed() and run.folder.exists("summary.html"):
            yield f"runs/{run.run_id}/summary.html"


def _objects(
    store: Store, paths: Sequence[str], uri: str | None, sha256: str | None
) -> tuple[list[str], frozenset[str]]:
    """Return the URIs to forget, as the reports spell them, and the SHA-256 of their contents."""
    spelled = [] if uri is None else list(dict.fromkeys([Location.of(uri).absolute().uri, Location.of(uri).uri, uri]))
    name, values = ("uri", spelled) if sha256 is None else ("sha256", [sha256.lower()])
    found: set[str] = set()
    contents = {sha256.lower()} if sha256 is not None else set[str]()
    for path in paths:
        parquet = pq.ParquetFile(io.BytesIO(store.read(path)))
        columns = [one for one in ("uri", "sha256", "match_kind") if one in parquet.schema_arrow.names]
        if "uri" not in columns or name not in columns:
            continue
        rows = parquet.read(columns, use_threads=False)
        rows = rows.filter(pc.is_in(rows[name], pa.array(values, pa.string())))
        if "match_kind" in columns and str(BankKind.ILLEGAL) in rows["match_kind"].to_pylist():
            raise ConfigError(
                "it matches an illegal bank, and the law asks to keep what is known of it: write it down with "
                "`nsfwscan quarantine --hold`, and ask a lawyer"
            )
        found.update(rows["uri"].to_pylist())
        contents.update(filter(None, rows["sha256"].to_pylist() if "sha256" in columns else ()))
    found.update(one for one in spelled if any(_still_naming(store, [one])))
    cut_off = [record for record in forgotten(store) if not record.done]
    found |= {one for one in spelled if any(record.key(one) in record.tombstones for record in cut_off)}
    named = {one for one in found if not one.startswith(TOMBSTONE)}
    if not named:
        raise ConfigError(f"nothing in {store.uri} names {uri or sha256}: there is nothing to forget")
    return sorted(named), frozenset(contents)


def _record(store: Store, uris: list[str], by: str, reason: str) -> ForgottenRecord:
    """Return the record of an act that was cut off, or of a new one."""
    for record in forgotten(store):
        if not record.done and all(record.key(uri) in record.tombstones for uri in uris):
            return record
    record = begun(uris, now(), by, reason)
    write_forgotten(store, record)
    return record


def replace_file(store: Store, path: str, data: bytes, record: ForgottenRecord) -> ForgottenRecord:
    """Write a file anew, after the record names its digest."""
    record = record.model_copy(update={"files": {**record.files, path: hashlib.sha256(data).hexdigest()}})
    write_forgotten(store, record)
    store.write(path, data, private=f"/{TEXT.folder}/" in path)
    return record


def _without(store: Store, path: str, record: ForgottenRecord, uris: Sequence[str]) -> tuple[bytes, int]:
    """Return a Parquet file without what its rows say of the objects, in the same row groups; and how many rows."""
    data = store.read(path)
    parquet, sink, changed = pq.ParquetFile(io.BytesIO(data)), io.BytesIO(), 0
    if "uri" not in parquet.schema_arrow.names:
        return data, 0
    with pq.ParquetWriter(sink, parquet.schema_arrow, compression="zstd") as writer:
        for group in range(parquet.num_row_groups):
            rows, count = _blanked(parquet.read_row_group(group, use_threads=False), path, record, uris)
            changed += count
            writer.write_table(rows, row_group_size=max(1, rows.num_rows))
    return (sink.getvalue(), changed) if changed else (data, 0)


def _sharing(data: bytes, contents: Collection[str]) -> set[str]:
    """Return the URIs of a Parquet file that have one of some contents, and are no tombstones."""
    parquet = pq.ParquetFile(io.BytesIO(data))
    if not {"uri", "sha256"} <= set(parquet.schema_arrow.names):
        return set()
    rows = parquet.read(["uri", "sha256"], use_threads=False)
    named = rows["uri"].filter(pc.is_in(rows["sha256"], pa.array(sorted(contents), pa.string())))
    return {uri for uri in named.to_pylist() if not uri.startswith(TOMBSTONE)}


def _blanked(rows: pa.Table, path: str, record: ForgottenRecord, uris: Sequence[str]) -> tuple[pa.Table, int]:
    """Return rows that say nothing of the objects any more, and how many these are."""
    names = pa.array(list(uris), pa.string())
    stones = pa.array([record.tombstones[record.key(uri)] for uri in uris], pa.string())
    at = pc.index_in(rows["uri"], names).combine_chunks()
    here = pc.is_valid(at)
    kept = pc.if_else(here, pa.scalar(None, pa.int64()), pa.array(range(rows.num_rows), pa.int64()))
    stays = _STAYS | ({"size"} if path.startswith(AUDITS) else set())
    count = int(pc.sum(here).as_py() or 0)
    for i, column in enumerate(rows.schema):
        if column.name in _REFERENCES:
            place = pc.index_in(rows[column.name], names, skip_nulls=True).combine_chunks()
            rows = rows.set_column(i, column, pc.coalesce(stones.take(place), rows[column.name].combine_chunks()))
            count += int(pc.sum(pc.and_(pc.is_valid(place), pc.invert(here))).as_py() or 0)
        elif column.name == "sha256" and path.startswith(VERDICTS):
            blank = pa.array([hashlib.sha256(stone.encode()).hexdigest() for stone in stones.to_pylist()], pa.string())
            rows = rows.set_column(i, column, pc.coalesce(blank.take(at), rows[column.name].combine_chunks()))
        elif column.name not in stays:
            rows = rows.set_column(i, column, rows[column.name].take(kept))
    return rows, count


def _without_names(text: bytes, stones: Mapping[str, str]) -> bytes | None:
    """Return a page without the names of objects; None where it has none of them."""
    blank = text.decode("utf-8", "surrogatepass")
    for uri, stone in stones.items():
        for spelling in dict.fromkeys((escape(uri), uri)):
            blank = _alone(spelling).sub(stone, blank)
    found = blank.encode("utf-8", "surrogatepass")
    return None if found == text else found


def _alone(name: str) -> re.Pattern[str]:
    """Return the pattern of a name that is not part of a longer one."""
    return re.compile(rf"(?<![\w/.%-]){re.escape(name)}(?![\w/%-]|\.\w)")


def _rewrite_records(store: Store, run: Run, stones: Mapping[str, str], record: ForgottenRecord) -> ForgottenRecord:
    """Write the records of a run anew that name an object; one that would not be sound without it is left."""
    for name in ("run.json", "plan.json"):
        if not run.folder.exists(name):
            continue
        data = run.folder.read(name)
        content = json.loads(data)
        blank = _blank(content, stones)
        if blank == content:
            continue
        if name == "run.json":
            ids = [*(content.get("forgotten") or {"forget_ids": []})["forget_ids"], record.forget_id]
            blank["forgotten"] = {"sha256": digest_of(run.folder, data), "forget_ids": list(dict.fromkeys(ids))}
        new = to_json(blank)
        try:
            read = read_record(new, name, run.run_id) if name == "run.json" else read_plan(new, name)
        except BrokenRecord:
            continue  # the caller is told that it still names the object
        del read
        record = replace_file(store, f"runs/{run.run_id}/{name}", new, record)
    return record


def _blank(value: Any, stones: Mapping[str, str]) -> Any:
    """Return JSON values without the names of objects; the first and last URI of a file are left out, so that readers
    look into the file for them."""
    if isinstance(value, dict):
        of_file = {"path", "sha256", "first", "last"} <= value.keys()
        if of_file and not {value["first"], value["last"]}.isdisjoint(stones):
            value = {name: one for name, one in value.items() if name not in ("first", "last")}
        return {_blank(name, stones): _blank(one, stones) for name, one in value.items()}
    if isinstance(value, list):
        return [_blank(one, stones) for one in value]
    if isinstance(value, str):
        for uri, stone in stones.items():
            if uri in value:
                value = _alone(uri).sub(stone, value)
    return value


def _delete_images(store: Store, uris: Sequence[str]) -> None:
    """Delete the copies of images that runs keep for the audit of false positives."""
    ids = {hashlib.sha256(uri.encode("utf-8", "surrogatepass")).hexdigest()[:32] for uri in uris}
    for run in runs_of(store):
        for name in run.folder.names(_IMAGES):
            if name.partition(".")[0] in ids:
                run.folder.delete(f"{_IMAGES}/{name}")


def _banks_with(store: Store, contents: Collection[str]) -> Iterator[str]:
    """Yield the banks of people's verdicts in which a content stands."""
    for name in store.names(BANKS):
        text = store.read(f"{BANKS}/{name}")
        if any(content.encode() in text for content in contents):
            yield f"{BANKS}/{name}"


def _still_naming(store: Store, uris: Sequence[str]) -> Iterator[str]:
    """Yield the JSON files that name an object."""
    for run in runs_of(store):
        for name in ("run.json", "plan.json"):
            if run.folder.exists(name):
                text = run.folder.read(name)
                if any(json.dumps(uri, ensure_ascii=False).encode("utf-8", "surrogatepass") in text for uri in uris):
                    yield f"runs/{run.run_id}/{name}"
