"""Take people's verdicts into a store, count them, and export them.

`import_verdicts` takes files in, all or nothing; `count_verdicts` says what is there; `export_verdicts` writes them for
a lake, for other services, or as labels to train on. A store that fails is a `StoreError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, StoreError
from nsfwscan.reports.export import json_line
from nsfwscan.runs.contents import contents_of_store
from nsfwscan.runs.run import runs_of
from nsfwscan.schema import StandingVerdict
from nsfwscan.storage.forgotten import names_forgotten
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.exchange import as_coop, as_descriptors, label_of
from nsfwscan.verdicts.kept import ImportResult, add_verdicts, all_verdicts, read_part
from nsfwscan.verdicts.reading import read_files
from nsfwscan.verdicts.sessions import add_sessions
from nsfwscan.verdicts.standing import counting, standing
from nsfwscan.verdicts.verdict import FORMER, as_line

_BATCH = 4096


@dataclass(frozen=True)
class Imported:
    """Outcome of an import."""

    added: ImportResult
    strange_runs: int
    """Verdicts that name runs which the store does not know."""
    sessions: int
    """Sessions that the store did not know yet, or not so far."""
    forgotten: tuple[str, ...]
    """Objects that were forgotten, and that new verdicts name again."""


def import_verdicts(store: Store, files: Sequence[str], storage: StorageConfig) -> Imported:
    """Take verdict files into a store. Twice taken in, a verdict is there once.

    Raises:
        StoreError: it is no report store, or it fails.
        SourceError: a file is not a valid verdict file, or contradicts the store; nothing was taken in.
    """
    known = {run.run_id for run in runs_of(store)}
    if not known:
        raise StoreError(f"{store.uri} has no runs: verdicts belong to the store whose objects people looked at")
    given = read_files(files, storage)
    strange = sum(bool(verdict.run_id) and verdict.run_id not in known for verdict in given.verdicts)
    added = add_verdicts(store, given.verdicts)
    new = set() if added.part is None else set(read_part(store, added.part, ["uri"])["uri"].to_pylist())
    named = names_forgotten(store, new)
    return Imported(added, strange, add_sessions(store, given.sessions), tuple(sorted(named)))


@dataclass
class Counts:
    """Counts of a store."""

    verdicts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Verdicts by kind and word."""
    standing: Counter[str] = field(default_factory=Counter)
    """Contents by what stands."""
    appealed: int = 0
    """Contents with an appeal."""
    reviewers: int = 0
    files: int = 0
    first: datetime | None = None
    last: datetime | None = None


def count_verdicts(store: Store) -> Counts:
    """Count the verdicts of a store."""
    rows, stands = all_verdicts(store), standing(store)
    said = zip(rows["kind"].to_pylist(), rows["verdict"].to_pylist(), strict=True)
    span = pc.min_max(rows["decided_at"]).as_py()
    return Counts(
        Counter(said),
        Counter(stands.contents["verdict"].to_pylist()),
        int(pc.sum(pc.greater(stands.contents["appeals"], 0)).as_py() or 0),
        len(pc.unique(rows["reviewer"].filter(pc.invert(pc.starts_with(rows["reviewer"], FORMER))))),
        len(stands.parts),
        span["min"],
        span["max"],
    )


def export_verdicts(store: Store, kind: str, out: Output) -> int:
    """Write the verdicts of a store as one file, and return its number of rows.

    Args:
        kind: one of `EXPORTS`.

    Raises:
        ConfigError: the file cannot be written here, or Parquet was asked for on a terminal.
    """
    if kind == "parquet" and out.is_stdout:
        raise ConfigError("Parquet is no text: name a file with --out")
    try:
        with out.appearing() as path:
            if kind == "parquet":
                rows = all_verdicts(store)
                pq.write_table(rows, path, compression="zstd")
                return len(rows)
            written = 0
            with path.open("w", encoding="utf-8") as file:
                for line in EXPORTS[kind](store):
                    file.write(json_line(line))
                    written += 1
            return written
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error


def _lines(store: Store) -> Iterator[dict[str, Any]]:
    return map(as_line, _rows_of(all_verdicts(store)))


def _coop(store: Store) -> Iterator[dict[str, Any]]:
    return map(as_coop, _rows_of(counting(all_verdicts(store), store)))


def _threatexchange(store: Store) -> Iterator[dict[str, Any]]:
    contents = standing(store).contents
    known = contents_of_store(store, contents["sha256"], ("md5", "pdq", "pdq_quality"))
    for row in _rows_of(contents):
        yield from as_descriptors(row, known.get(row["sha256"], {}))


def _labels(store: Store) -> Iterator[dict[str, Any]]:
    """Yield labels for `nsfwscan-train`, the hardest first: those that the model was the most wrong about."""
    contents = standing(store).contents
    wanted = contents.filter(
        pc.is_in(contents["verdict"], pa.array([str(StandingVerdict.APPROVE), str(StandingVerdict.REMOVE)]))
    )
    known = contents_of_store(store, wanted["sha256"], ("uri", "nsfw_score", "match_kind"))
    found = []
    for row in _rows_of(wanted):
        label, seen = label_of(row["verdict"], row["category"]), known.get(row["sha256"])
        if label is None or seen is None or seen["match_kind"] == "illegal":
            continue
        score = seen["nsfw_score"]
        wrong = None if score is None else score if row["verdict"] == StandingVerdict.APPROVE else 1 - score
        about = {"uri": seen["uri"], "verdict": str(label), "sha256": row["sha256"], "hardness": wrong}
        found.append({**about, "reviewed_at": row["verdict_at"].isoformat() + "Z", "people": row["people"]})
    yield from sorted(found, key=lambda row: (-(row["hardness"] or 0), row["uri"]))


def _rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(_BATCH):
        yield from batch.to_pylist()


EXPORTS: dict[str, Callable[[Store], Iterable[dict[str, Any]]]] = {
    "jsonl": _lines,
    "coop": _coop,
    "threatexchange": _threatexchange,
    "labels": _labels,
}
FORMATS = ("parquet", *EXPORTS)
