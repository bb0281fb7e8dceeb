"""Audit the false positives of a run: a page of what the model takes for what, and the rows and images to learn from.

Confirmed ones have a ground truth, suspected ones only contradict themselves: they are counted apart. The page holds no
picture. A file of the run that cannot be read is a `StoreError`, a place that cannot be written a `ConfigError`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.config import ReadConfig, StorageConfig
from nsfwscan.errors import ConfigError, RowError
from nsfwscan.location import Location
from nsfwscan.reports.html import page_environment
from nsfwscan.review.pack import PAGE, TEMPLATES
from nsfwscan.runs.false_positives import FALSE_POSITIVE_SCHEMA
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA
from nsfwscan.storage.objects import fetch
from nsfwscan.storage.output import Output

AUDIT_PAGE, ROWS, CLASSES = "audit.html", "false_positives.parquet", "classes"
CONFIDENT = 0.8
"""Confidence from which a false positive is no borderline case: the model is sure, and wrong."""
_TOP, _GROUPS, _EXAMPLES = 100, 20, 3
_AT_ONCE = 16

Row = dict[str, Any]


@dataclass(frozen=True)
class ConfusedPair:
    """What is taken for what: the truth, or the decision where no truth is known, and the model's label."""

    kind: str
    of: str
    label: str
    count: int
    confident: int
    mean: float


@dataclass(frozen=True)
class Group:
    """False positives that have a cluster, or a source, in common."""

    name: str
    count: int
    confident: int
    pairs: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class FalsePositiveAudit:
    """The page of a run's false positives, and how many there are.

    Attributes:
        rows, confirmed, confident: numbers of false positives.
        copied: images in class folders.
        left: images that are not: gone, or changed since the scan.
    """

    page: str
    rows: int
    confirmed: int
    confident: int
    copied: int = 0
    left: int = 0


def write_audit(run: Run, out: Output, classes: StorageConfig | None = None) -> FalsePositiveAudit:
    """Write the page and the rows into a folder.

    Args:
        classes: how to reach the originals, if they are to be copied into a folder for each true class; None: they are
            not.
    """
    record = run.record()
    table = _with_clusters(run, record)
    rows = table.to_pylist()
    try:
        out.make_folder()
        with out.child(ROWS).appearing() as path:
            pq.write_table(table, path)
        with out.child(AUDIT_PAGE).appearing() as path:
            path.write_text(_page(record, rows), encoding="utf-8")
        copied = list(_copied(rows, out.child(CLASSES), record, classes)) if classes is not None else []
    except OSError as error:
        raise ConfigError(f"cannot write the audit to {out}: {error.strerror or error}") from error
    confirmed = sum(row["kind"] == "confirmed" for row in rows)
    page = str(out.child(AUDIT_PAGE))
    return FalsePositiveAudit(
        page, len(rows), confirmed, sum(map(_is_confident, rows)), sum(copied), len(copied) - sum(copied)
    )


def _with_clusters(run: Run, record: RunRecord) -> pa.Table:
    """Return the false positives, the most confident first, with their `cluster`."""
    files = [file for file in record.files_in("false_positives") if file.path.endswith(".parquet")]
    parts = [run.parquet(file).read() for file in files]
    found = pa.concat_tables(parts) if parts else FALSE_POSITIVE_SCHEMA.empty_table()
    found = found.sort_by([("confidence", "descending"), ("uri", "ascending")])
    clusters: dict[str, str] = {}
    wanted = found["uri"].combine_chunks()
    for rows in read_rows(run, record, ("uri", "cluster")) if len(wanted) else ():
        known = rows.filter(pc.and_(pc.is_valid(rows["cluster"]), pc.is_in(rows["uri"], wanted)))
        clusters |= dict(zip(known["uri"].to_pylist(), known["cluster"].to_pylist(), strict=True))
    column = pa.array([clusters.get(uri) for uri in wanted.to_pylist()], pa.string())
    return found.append_column(REPORT_SCHEMA.field("cluster"), column)


def _is_confident(row: Row) -> bool:
    return (row["confidence"] or 0) >= CONFIDENT


def _page(record: RunRecord, rows: list[Row]) -> str:
    sources = record.config.source.uris
    return (
        page_environment(TEMPLATES)
        .get_template("audit.html")
        .render(
            record=record,
            rows=len(rows),
            confirmed=sum(row["kind"] == "confirmed" for row in rows),
            confident=sum(map(_is_confident, rows)),
            limit=CONFIDENT,
            pairs=_pairs(rows),
            clusters=_groups(rows, lambda row: row["cluster"]),
            sources=_groups(rows, lambda row: _source_of(row["uri"], sources)),
            top=rows[:_TOP],
            decide=PAGE,
            table=ROWS,
        )
    )


def _pairs(rows: list[Row]) -> list[ConfusedPair]:
    """Return the pairs, the most confident errors first."""
    by_pair: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        of = row["truth"] if row["kind"] == "confirmed" else row["decision"]
        by_pair.setdefault((row["kind"], of, row["label"] or "no label"), []).append(row)
    pairs = [
        ConfusedPair(
            *pair, len(found), sum(map(_is_confident, found)), sum(one["confidence"] or 0 for one in found) / len(found)
        )
        for pair, found in by_pair.items()
    ]
    return sorted(pairs, key=lambda pair: (-pair.confident, -pair.count, pair.kind, pair.of, pair.label))


def _groups(rows: list[Row], key: Callable[[Row], str | None]) -> list[Group]:
    """Return the largest groups; a single object is none."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if (name := key(row)) is not None:
            found.setdefault(name, []).append(row)
    groups = [
        Group(
            name,
            len(members),
            sum(map(_is_confident, members)),
            ", ".join(f"{label} {count:,}" for label, count in Counter(row["label"] for row in members).most_common(3)),
            tuple(row["uri"] for row in members[:_EXAMPLES]),
        )
        for name, members in found.items()
        if len(members) > 1
    ]
    return sorted(groups, key=lambda group: (-group.count, group.name))[:_GROUPS]


def _source_of(uri: str, sources: tuple[str, ...]) -> str:
    """Return the source that an object came from, and the folder below it."""
    source = max((one for one in sources if uri.startswith(one)), key=len, default="")
    folder, _, _ = uri[len(source) :].lstrip("/").rpartition("/")
    return f"{source.rstrip('/')}/{folder.partition('/')[0]}".rstrip("/") or "/"


def _copied(rows: list[Row], out: Output, record: RunRecord, storage: StorageConfig) -> Iterator[bool]:
    """Copy the images whose class is known, each content once, and yield whether it could be done."""
    wanted: dict[str, Row] = {}
    for row in rows:
        if row["truth"] and row["sha256"]:
            wanted.setdefault(row["sha256"], row)
    read = record.config.read
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="copy") as threads:
        yield from threads.map(lambda row: _copy(row, out, read, storage), wanted.values())


def _copy(row: Row, out: Output, read: ReadConfig, storage: StorageConfig) -> bool:
    place = Location.of(row["uri"])
    try:
        data = fetch(place, storage, max_bytes=read.max_bytes, timeout_s=read.timeout_s, attempts=read.attempts).data
    except RowError:
        return False
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        return False
    ending = PurePosixPath(place.path).suffix[:10]
    file = out.child(row["truth"]).child(f"{row['sha256']}{ending if ending[1:].isalnum() else ''}")
    file.make_parent()
    with file.appearing() as path:
        path.write_bytes(data)
    return True


def describe_audit(audit: FalsePositiveAudit) -> str:
    """Render an audit for the terminal."""
    known = f"{audit.confirmed:,} confirmed by truth, {audit.confident:,} with confidence {CONFIDENT}"
    lines = [f"audit   {audit.page}", f"rows    {audit.rows:,}, {known} or more"]
    if audit.copied or audit.left:
        gone = f"; {audit.left:,} are gone or have changed" if audit.left else ""
        lines.append(f"images  {audit.copied:,} in {CLASSES}/, by their true class{gone}")
    return "\n".join(lines)
