"""Count a report for the terminal, for `run.json` and for `summary.html`.

A `Summary` takes decided report tables, range by range. It holds plain numbers and strings, and stays small whatever
the size of the run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import Status
from nsfwscan.runs.counts import counts_of
from nsfwscan.schema import FLAGGED, NSFW_CATEGORIES, BankKind, Category, Decision

HISTOGRAM_BINS = 20
SHOWN = 20
"""Most severe objects that are named."""
_OF_ERRORS = ["error_code", "status", "error", "uri"]
_OF_SEVERE = ["uri", "decision", "rule", "queue", "severity", "nsfw_score"]
_WORST_FIRST = [("severity", "descending"), ("nsfw_score", "descending"), ("uri", "ascending")]
_NUMBERS = ("rows", "bytes", "scored", "settled", "neutral", "suspected", "_settled_no_image")
_COUNTED = ("status", "decision", "label", "rule", "queue", "format", "match_bank")


@dataclass
class Summary:
    """Counts of a report's rows."""

    rows: int = 0
    bytes: int = 0
    scored: int = 0
    """Rows with a score, carried ones included."""
    settled: int = 0
    """Rows without a score that need none: a hash bank or a filter settled their content."""
    status: Counter[str] = field(default_factory=Counter)
    decision: Counter[str] = field(default_factory=Counter)
    label: Counter[str] = field(default_factory=Counter)
    rule: Counter[str] = field(default_factory=Counter)
    queue: Counter[str] = field(default_factory=Counter)
    format: Counter[str] = field(default_factory=Counter)
    match_bank: Counter[str] = field(default_factory=Counter)
    histogram: list[int] = field(default_factory=lambda: [0] * HISTOGRAM_BINS)
    """Rows by `nsfw_score`, in equal bins from 0 to 1."""
    errors: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By `ErrorCode`."""
    neutral: int = 0
    """Rows that have a label and whose truth is neutral."""
    false_positives_by_label: Counter[str] = field(default_factory=Counter)
    neutral_by_decision: Counter[str] = field(default_factory=Counter)
    suspected: int = 0
    truths: Counter[str] = field(default_factory=Counter)
    most_severe: pa.Table | None = None
    """Flagged rows, the worst first; without matches of illegal banks, which are the specialist's alone."""
    _settled_no_image: int = 0
    _assets: list[npt.NDArray[np.uint64]] = field(default_factory=list)
    """Of each range, digests of the assets in each queue."""

    def add(self, report: pa.Table, false_positives: pa.Table) -> None:
        """Count one range of the report, and its false positives (`FALSE_POSITIVE_SCHEMA`)."""
        self.rows += report.num_rows
        self.bytes += pc.sum(report["size"]).as_py() or 0
        self.scored += report.num_rows - report["nsfw_score"].null_count
        settled = _is_settled(report)
        self.settled += pc.sum(settled).as_py() or 0
        self._settled_no_image += pc.sum(pc.and_(settled, pc.equal(report["status"], Status.UNSUPPORTED))).as_py() or 0
        for name in _COUNTED:
            getattr(self, name).update(counts_of(report[name]))
        scores = report["nsfw_score"].drop_null().to_numpy()
        bins, _ = np.histogram(scores, HISTOGRAM_BINS, (0.0, 1.0))
        self.histogram = [old + int(new) for old, new in zip(self.histogram, bins, strict=True)]
        self._assets.append(_assets_of(report))
        self._add_errors(report)
        self._add_truth(report)
        self._add_severe(report)
        self.suspected += pc.sum(pc.equal(false_positives["kind"], "suspected")).as_py() or 0

    def include(self, other: Summary) -> None:
        """Count what another summary has counted, of rows that come later."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in (*_COUNTED, "false_positives_by_label", "neutral_by_decision", "truths"):
            getattr(self, name).update(getattr(other, name))
        self.histogram = [sum(both) for both in zip(self.histogram, other.histogram, strict=True)]
        self._assets += other._assets
        for code, entry in other.errors.items():
            self.errors.setdefault(code, {**entry, "count": 0})["count"] += entry["count"]
        self._keep_severe(other.most_severe)

    def _add_errors(self, report: pa.Table) -> None:
        failed = report.select(_OF_ERRORS).filter(pc.and_not(pc.is_valid(report["error"]), _is_settled(report)))
        by_code = failed.group_by("error_code", use_threads=False)  # in one thread, since the first is wanted
        firsts = [(name, "first") for name in _OF_ERRORS[1:]]
        for one in by_code.aggregate([([], "count_all"), *firsts]).to_pylist():
            code, status, message, uri = (
                one[name] for name in ("error_code", "status_first", "error_first", "uri_first")
            )
            entry = {"status": status, "code": code, "count": 0, "example": uri, "message": message}
            self.errors.setdefault(code, entry)["count"] += one["count_all"]

    def _add_severe(self, report: pa.Table) -> None:
        legal = pc.not_equal(pc.fill_null(report["match_kind"], ""), str(BankKind.ILLEGAL))
        flagged = pc.is_in(report["decision"], pa.array(sorted(map(str, FLAGGED))))
        self._keep_severe(report.select(_OF_SEVERE).filter(pc.and_(flagged, legal)))

    def _keep_severe(self, found: pa.Table | None) -> None:
        both = [rows for rows in (self.most_severe, found) if rows is not None]
        if both:
            rows = pa.concat_tables(both)
            self.most_severe = rows.take(pc.select_k_unstable(rows, SHOWN, _WORST_FIRST))

    def _add_truth(self, report: pa.Table) -> None:
        self.truths.update(counts_of(report["truth"]))
        judged = report.filter(pc.and_(pc.equal(report["truth"], str(Category.NEUTRAL)), pc.is_valid(report["label"])))
        self.neutral += judged.num_rows
        labels = counts_of(judged["label"])
        self.false_positives_by_label.update({label: n for label, n in labels.items() if label in NSFW_CATEGORIES})
        self.neutral_by_decision.update(counts_of(judged["decision"]))

    @property
    def flagged(self) -> int:
        """Rows that go to a reviewer, or are blocked."""
        return sum(self.decision[d] for d in FLAGGED)

    @property
    def items(self) -> int:
        """Items of all queues that can be opened; see `SummaryRecord`."""
        return len(np.unique(np.concatenate(self._assets))) if self._assets else 0

    @property
    def unreadable(self) -> int:
        """Objects that should have been images and could not be scored, without settled and `unsupported` ones."""
        return self.rows - self.scored - self.settled - self.unsupported

    @property
    def unsupported(self) -> int:
        """Objects that are not images, without those settled by a bank or a filter."""
        return self.status[Status.UNSUPPORTED] - self._settled_no_image

    @property
    def unsupported_rate(self) -> float:
        """`unsupported` divided by the number of all objects."""
        return self.unsupported / self.rows if self.rows else 0.0

    @property
    def error_rate(self) -> float:
        """`unreadable` divided by the number of objects whose status is not `unsupported`."""
        images = self.rows - self.status[Status.UNSUPPORTED]
        return self.unreadable / images if images else 0.0

    def most_frequent_errors(self) -> list[dict[str, Any]]:
        """Return `status, code, count, example, message` of each code, most frequent first."""
        return sorted(self.errors.values(), key=lambda entry: -entry["count"])

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types, most frequent first; false positive rates are null where no truth is known."""
        false_positives = sum(self.false_positives_by_label.values())
        flagged = {d: self.neutral_by_decision[d] for d in (Decision.REVIEW, Decision.BLOCK, Decision.ESCALATE)}
        return {
            "rows": self.rows,
            "bytes": self.bytes,
            "flagged": self.flagged,
            "items": self.items,
            "unreadable": self.unreadable,
            "error_rate": self.error_rate,
            "unsupported": self.unsupported,
            "unsupported_rate": self.unsupported_rate,
            **{n: dict(getattr(self, n).most_common()) for n in _COUNTED},
            "nsfw_score_histogram": self.histogram,
            "errors": self.most_frequent_errors(),
            "most_severe": [] if self.most_severe is None else self.most_severe.to_pylist(),
            "truth": {
                "by_category": dict(self.truths.most_common()),
                "neutral": self.neutral,
                "false_positives": false_positives,
                "false_positive_rate": false_positives / self.neutral if self.neutral else None,
                "by_label": {n: _rate(c, self.neutral) for n, c in self.false_positives_by_label.most_common()},
                "by_decision": {str(d): _rate(c, self.neutral) for d, c in flagged.items()} if self.neutral else {},
                "suspected": self.suspected,
            },
        }


def _assets_of(report: pa.Table) -> npt.NDArray[np.uint64]:
    """Return a digest of queue and asset for each queued row but illegal matches, each once; 8 bytes an asset."""
    legal = pc.not_equal(pc.fill_null(report["match_kind"], ""), str(BankKind.ILLEGAL))
    queued = report.filter(pc.and_(pc.is_valid(report["queue"]), legal))
    assets = pc.coalesce(queued["cluster"], queued["sha256"], queued["uri"])
    names = pc.binary_join_element_wise(queued["queue"], assets, "\0").unique().cast(pa.binary())
    return np.frombuffer(b"".join(blake2b(name, digest_size=8).digest() for name in names.to_pylist()), np.uint64)


def _is_settled(report: pa.Table) -> pa.ChunkedArray:
    """Return a mask of the rows that a bank or a filter settled, without a score."""
    known = pc.or_(pc.is_valid(report["match_kind"]), pc.is_valid(report["filtered_by"]))
    return pc.and_(pc.is_null(report["nsfw_score"]), known)


def _rate(count: int, total: int) -> dict[str, float]:
    return {"count": count, "rate": count / total}
