"""Compare what a night found, by source, with the nights before it.

Counted are the rows that the run looked at (carried ones say nothing new), by score, decision, format, size and error.
`drift/part-….parquet` has the counts; the next nights compare themselves with those of the newest 30 scans that have
them. What is usual comes from these nights: the distance of each to all others. A night stands out where its distance
is larger than that of every other, and by more than 3.5 in the modified z-score (Iglewicz and Hoaglin, 1993: 0.6745
times the distance from the median, divided by the median absolute deviation).

Rows are counted by Arrow in the threads of the commit, which have them in memory; distances are of some thirty nights
by some twenty values, which numpy computes in less time than DuckDB binds a statement. Over SQL the counts are the
table `drift` of `nsfwscan sql`; `tests/runs/test_drift.py` computes both distances there, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.errors import BrokenRecord
from nsfwscan.runs.catalogue import catalogue
from nsfwscan.runs.record.figures import DriftRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA, as_schema
from nsfwscan.storage.store import Store, from_parquet
from nsfwscan.text import plural

FOLDER = "drift"
DRIFT_SCHEMA = pa.schema(
    [("source", pa.string()), ("measure", pa.string()), ("bin", pa.string()), ("rows", pa.int64())]
)
"""Rows that a run looked at, by source, measure and value; `bin` of a score or a size is its lower end."""
NIGHTS = 30
"""Newest scans that a night is compared with."""
LEAST_NIGHTS = 7
"""Nights from which is known what is usual."""
LEAST_ROWS = 100
"""Rows of a source from which a night counts: the shares of fewer are mostly chance."""
_SCORE_BINS = 20
_OUTLIER = 3.5
_LEAST_DEVIATION = 1e-3
"""Least median absolute deviation, in bits: nights that are all alike would make any other stand out."""
_SMOOTHING = 0.5
"""Added to each count, so that a value that is new has a finite index."""
_AT_ONCE = 8
MEASURES = {"score": "nsfw_score", "decision": "decision", "format": "format", "size": "size", "error": "error_code"}
"""Columns of the report by measure."""

_COUNTED = pa.schema([REPORT_SCHEMA.field(name) for name in ("uri", *MEASURES.values())])

Counts = dict[tuple[str, str], Counter[str]]
"""Rows by source and measure, and then by value."""


@dataclass
class Night:
    """Counts of the rows that a run looked at.

    Args:
        sources: URIs of the run's sources; a row belongs to the longest that its URI begins with, and to the first
            where it begins with none, as the objects of a list do.
    """

    sources: Sequence[str] = ("",)
    counts: Counts = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Count rows of a report (`REPORT_SCHEMA`)."""
        looked_at = as_schema(rows.filter(pc.is_null(rows["carried_from"])), _COUNTED)
        if not looked_at.num_rows:
            return
        belongs = pa.repeat(self.sources[0], looked_at.num_rows)
        for source in sorted(self.sources, key=len):
            belongs = pc.if_else(pc.starts_with(looked_at["uri"], source), source, belongs)
        columns = {measure: _binned(measure, looked_at[name]) for measure, name in MEASURES.items()}
        for measure, column in columns.items():
            counted = (
                pa.table({"source": belongs, "bin": column}).group_by(["source", "bin"]).aggregate([([], "count_all")])
            )
            for row in counted.to_pylist():
                self.counts.setdefault((row["source"], measure), Counter())[row["bin"]] += row["count_all"]

    def include(self, other: Night) -> None:
        """Count what another one has counted, of other rows."""
        for key, found in other.counts.items():
            self.counts.setdefault(key, Counter()).update(found)

    def as_table(self) -> pa.Table:
        """Return the counts as `DRIFT_SCHEMA`."""
        rows = [(*key, value, n) for key, found in sorted(self.counts.items()) for value, n in sorted(found.items())]
        return pa.table([list(column) for column in zip(*rows, strict=True)] or [[]] * 4, schema=DRIFT_SCHEMA)


def _binned(measure: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values of a column as words; `none` where there is none."""
    if measure == "score":
        low = pc.divide(pc.min_element_wise(pc.floor(pc.multiply(column, _SCORE_BINS)), _SCORE_BINS - 1), _SCORE_BINS)
        column = pc.if_else(pc.is_valid(column), low, None)
    elif measure == "size":
        column = pc.power(2.0, pc.floor(pc.log2(pc.max_element_wise(column, 1)))).cast(pa.int64())
    return pc.fill_null(column.cast(pa.string()), "none")


def earlier_nights(store: Store) -> list[Counts]:
    """Return the counts of the newest scans of a store that have some; a damaged file is `verify`'s business."""
    runs = catalogue(store).select(["run_id", "kind", "listed_at", "committed_at", "files"]).to_pylist()
    counted = [run for run in runs if run["kind"] == "scan" and any(file["folder"] == FOLDER for file in run["files"])]
    newest = sorted(counted, key=lambda run: (run["listed_at"], run["committed_at"]), reverse=True)[:NIGHTS]
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return list(threads.map(_counts_of, [Run(store, run["run_id"]) for run in newest]))


def _counts_of(run: Run) -> Counts:
    counts: Counts = {}
    with suppress(BrokenRecord):
        for file in run.record().files_in(FOLDER):
            for row in from_parquet(run.read(file)).to_pylist():
                counts.setdefault((row["source"], row["measure"]), Counter())[row["bin"]] += row["rows"]
    return counts


def compare(tonight: Counts, earlier: Iterable[Counts]) -> Iterator[DriftRecord]:
    """Yield how far each measure of each source is from the nights before it."""
    before = list(earlier)
    for (source, measure), found in sorted(tonight.items()):
        nights = [counts[source, measure] for counts in before if _is_night(counts.get((source, measure)))]
        if not _is_night(found) or not nights:
            yield DriftRecord(source=source, measure=measure, rows=found.total(), nights=len(nights))
            continue
        values = sorted({value for night in (found, *nights) for value in night})
        matrix = np.array([[night[value] for value in values] for night in (found, *nights)], np.float64)
        others = matrix.sum(0) - matrix
        known = len(nights) >= LEAST_NIGHTS
        distances = [jensen_shannon(one, rest) for one, rest in zip(matrix, others, strict=True)]
        now, usual = distances[0], distances[1:]
        yield DriftRecord(
            source=source,
            measure=measure,
            rows=found.total(),
            nights=len(nights),
            psi=stability_index(matrix[0], others[0]),
            distance=now,
            usual=max(usual) if known else None,
            stands_out=known and now > max(usual) and _z(now, usual) > _OUTLIER,
            most_changed=values[int(np.abs(_shares(matrix[0]) - _shares(others[0])).argmax())],
        )


def _is_night(found: Counter[str] | None) -> bool:
    return found is not None and found.total() >= LEAST_ROWS


def _z(now: float, usual: Sequence[float]) -> float:
    middle = median(usual)
    return 0.6745 * (now - middle) / max(_LEAST_DEVIATION, median(abs(one - middle) for one in usual))


def _shares(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def jensen_shannon(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon divergence of two counts of the same values, in bits: 0 to 1 (Lin, 1991)."""
    shares = np.array([_shares(one), _shares(other)])
    ratio = np.divide(shares, shares.mean(0), out=np.ones_like(shares), where=shares > 0)
    return float((shares * np.log2(ratio)).sum() / 2)


def stability_index(now: NDArray[np.float64], before: NDArray[np.float64]) -> float:
    """Return the population stability index of two counts of the same values: the symmetric Kullback-Leibler
    divergence of their shares, in nats; half an object is added to each count."""
    one, other = _shares(now + _SMOOTHING), _shares(before + _SMOOTHING)
    return float(((one - other) * np.log(one / other)).sum())


def describe_drift(found: Iterable[DriftRecord]) -> Iterator[str]:
    """Yield in words what stands out."""
    for one in found:
        if one.stands_out:
            yield (
                f"{one.measure} of {one.source}: {one.distance:.4f} bits from {plural(one.nights, 'earlier night')}, "
                f"{one.usual:.4f} at most among them; the share of {one.most_changed} changed most"
            )
