"""Find what changed since the previous runs: each object that is new, gone, has other bytes, or has another outcome.

An outcome is decision, queue, skill, shield and severity. `compared` takes the rows of one range, as decided now, and
the previous reports' rows of the same objects, and returns a table of `CHANGES_SCHEMA`; `deleted_among` returns the
objects that are gone. An object is gone only if it belongs to the listed sources, and only if the listing was complete
(no `--limit`, no filters).

The causes are facts, not guesses: what of an object, or of the settings behind its row, is another now than then.
`policy` is checked: the policy of then decides the row of now otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import SourceConfig, ViewsConfig
from nsfwscan.errors import PolicyError
from nsfwscan.policy.compare import COMPARED
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.runs.previous import belongs_to
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.reuse import banks_behind
from nsfwscan.schema import CALIBRATED, DUPLICATE_COLUMNS, FLAGGED, REPORT_SCHEMA, Cause, Change

Mask = npt.NDArray[np.bool_]

_KEPT = ("uri", "object_id", "sha256", "label", "nsfw_score", "model", "match_bank", "verdict", "rule", *COMPARED)
_THEN = ("sha256", "nsfw_score", "model", "match_bank", "verdict", "rule", *COMPARED)
"""Columns of the previous row that a change repeats, as `previous_…`."""
_COPIES = [field.name for field in DUPLICATE_COLUMNS]
EARLIER = ["run_id", *_THEN, *_COPIES, "appeals", CALIBRATED.name]
"""Columns of an object's previous row that `compared` needs."""
_MATCH = ("match_bank", "match_id", "match_kind")
_VERDICT = ("verdict", "appeals")
FACTS = ["run_id", "sha256", "etag", "size", "status", "filtered_by", "model", "views", *_MATCH, *_VERDICT]
"""Columns of both rows of an object that `Facts` needs."""
_WORDS = {
    Change.DELETED: "not listed any more",
    Change.NEWLY_FLAGGED: "flagged now; new, or not flagged then",
    Change.CLEARED: "flagged then, and not now",
    Change.NEW: "not known then, and not flagged",
    Change.DECIDED: "another decision",
    Change.ROUTED: "the same decision with another queue, skill, shield or severity",
    Change.CONTENT: "other bytes, and the same outcome",
}
CAUSES = {
    Cause.LISTING: "the object is new, or gone",
    Cause.CONTENT: "other bytes than then",
    Cause.READ: "it can be read and decoded now and could not then, or the other way round",
    Cause.BANK: "it matches another entry of a hash bank, or none any more",
    Cause.FILTER: "another filter settled it, or none any more",
    Cause.MODEL: "another model, preprocessing or precision scored it",
    Cause.CALIBRATION: "its score is calibrated otherwise, and the policy asks for that",
    Cause.COPIES: "its copies or near-duplicates are others, and the policy asks for them",
    Cause.VERDICT: "people have decided these bytes since, or otherwise than then, or there was an appeal",
    Cause.POLICY: "the policy of then would decide the row of now otherwise",
    Cause.OTHER: "none of these: such as a rule on `modified_at`, or another version of nsfwscan",
}
_ALL_CAUSES = tuple(Cause)
_BITS = {cause: np.int16(1 << place) for place, cause in enumerate(_ALL_CAUSES)}
Bits = npt.NDArray[np.int16]
"""One number for each row, with a bit for each cause."""


def _said(words: Mapping[Change, str] | Mapping[Cause, str]) -> str:
    return "; ".join(f"`{word}`: {meaning}" for word, meaning in words.items())


def _documented(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return pa.field(name, kind, metadata={"doc": doc})


def _previous(name: str) -> pa.Field:
    return _documented(
        f"previous_{name}", REPORT_SCHEMA.field(name).type, f"`{name}` then; null for an object that was not known"
    )


CHANGES_SCHEMA = pa.schema(
    [
        _documented("change", pa.string(), f"what happened since, the first that is true: {_said(_WORDS)}"),
        _documented("causes", pa.list_(pa.string()), f"why, all that are true: {_said(CAUSES)}"),
        *(REPORT_SCHEMA.field(name) for name in _KEPT),
        *map(_previous, _THEN),
        _documented("previous_run", pa.string(), "the run that said so; null for an object that was not known"),
    ]
)
"""One row per changed object; the row of a deleted object holds what was last known of it."""


def is_flagged(decisions: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a mask of the decisions that send an object to a reviewer, or block it; never null."""
    return pc.is_in(decisions, pa.array(sorted(FLAGGED)))


def deleted_among(earlier: pa.Table, listed: pa.Array, source: SourceConfig) -> pa.Table:
    """Return, as `CHANGES_SCHEMA`, the earlier rows whose objects are not listed any more although their source is."""
    if source.limit is not None or source.include or source.exclude:
        return CHANGES_SCHEMA.empty_table()
    absent = pc.invert(pc.is_in(earlier["uri"], listed))
    gone = earlier.filter(pc.and_(absent, belongs_to(earlier["uri"], source.uris, source.lists)))
    return gone_as_changes(gone)


def gone_as_changes(gone: pa.Table) -> pa.Table:
    """Return the last known rows of objects that are gone as `CHANGES_SCHEMA`, sorted by URI."""
    listing = np.full(gone.num_rows, _BITS[Cause.LISTING])
    return _changes(pa.repeat(str(Change.DELETED), gone.num_rows), listing, gone, gone)


@dataclass(frozen=True)
class Behind:
    """Settings behind a run's rows, as far as they are a cause.

    Attributes:
        banks: `name@version` of the banks that its rows were matched with.
        scoring, filtering: digests of model and filters; see `record.ReuseKeys`.
        views: what was looked at of files with several views, and of which files.
        record: the run's record; None for a run that is not committed yet.
    """

    policy: str
    banks: tuple[str, ...]
    scoring: str
    filtering: str
    views: ViewsConfig = field(default_factory=ViewsConfig)
    record: RunRecord | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, record: RunRecord) -> Behind:
        """Return the settings behind a committed run."""
        keys = record.reuse_keys
        views = record.config.views
        return cls(record.policy.identity, tuple(banks_behind(record)), keys.scoring, keys.filtering, views, record)

    @cached_property
    def decider(self) -> Decider | None:
        """Return the run's policy; None where this version of nsfwscan does not take it any more."""
        if self.record is None:
            return None
        try:
            return Decider(parse_policy(self.record.policy.content(), f"the policy of run {self.record.run_id}"))
        except PolicyError:
            return None


class Facts:
    """Causes that follow from two rows of an object and from the settings behind them.

    Args:
        earlier: settings behind the previous rows, by run id.
        now: settings of the run whose rows are compared.
    """

    def __init__(self, earlier: Mapping[str, Behind], now: Behind) -> None:
        self.earlier, self.now = dict(earlier), now

    def causes(self, rows: pa.Table, before: pa.Table) -> Bits:
        """Return the causes of each row, but `calibration`, `copies`, `policy` and `other`, whether its outcome changed
        or not.

        Args:
            rows: `FACTS` of the objects now, undecided.
            before: `FACTS` of the same objects then, in the same order; null for an object that was not known.
        """
        new = _mask(pc.is_null(before["run_id"]))
        content = _content_differs(rows, before) & ~new
        read = ~content & ~new & (_differs(rows, before, "status") | _mask(_one_is_null(rows, before, "sha256")))
        same_bytes = ~content & ~read & ~new
        matched = reduce(np.logical_or, (_differs(rows, before, name) for name in _MATCH))
        bank = matched & ~new & (same_bytes | self._other(before, lambda behind: behind.banks))
        filtered = _differs(rows, before, "filtered_by")
        by_filter = filtered & ~new & ((same_bytes & ~bank) | self._other(before, lambda behind: behind.filtering))
        scored = _mask(pc.and_(pc.is_valid(rows["model"]), pc.is_valid(before["model"])))
        other_model = _differs(rows, before, "model") | self._other(before, lambda behind: behind.scoring)
        several = _mask(pc.greater(pc.max_element_wise(rows["views"], before["views"]), 1))
        other_model |= several & self._other(before, lambda behind: behind.views)
        found = {
            Cause.LISTING: new,
            Cause.CONTENT: content,
            Cause.READ: read,
            Cause.BANK: bank,
            Cause.FILTER: by_filter,
            Cause.MODEL: scored & other_model,
            Cause.VERDICT: reduce(np.logical_or, (_differs(rows, before, name) for name in _VERDICT)) & ~new & ~content,
        }
        return reduce(np.bitwise_or, (mask * _BITS[cause] for cause, mask in found.items()))

    def _other(self, before: pa.Table, part: Callable[[Behind], object]) -> Mask:
        """Return where a part of the settings was another then."""
        others = [run_id for run_id, behind in self.earlier.items() if part(behind) != part(self.now)]
        return _mask(pc.is_in(before["run_id"], pa.array(others, pa.string())))


def compared(rows: pa.Table, before: pa.Table, facts: Bits, runs: Facts, asked: Sequence[str]) -> pa.Table:
    """Return the rows that changed, as `CHANGES_SCHEMA`, sorted by URI.

    Args:
        rows: report rows, as decided now.
        before: `EARLIER` of the same objects in previous reports, in the same order; null for a new object.
        facts: what `Facts.causes` returned for these rows.
        runs: the settings behind both.
        asked: the columns that the policy of now looks at.
    """
    moved = outcome_differs(rows, before)
    changed = moved | _has(facts, Cause.LISTING) | _has(facts, Cause.CONTENT)
    if not changed.any():
        return CHANGES_SCHEMA.empty_table()
    some = pa.array(changed)
    rows, before, found, moved = rows.filter(some), before.filter(some), facts[changed], moved[changed]
    named = [_differs(rows, before, name) for name in _COPIES if name in asked]
    if named:
        found |= (reduce(np.logical_or, named) & ~_has(found, Cause.LISTING)) * _BITS[Cause.COPIES]
    if CALIBRATED.name in asked:
        by_model = _has(found, Cause.LISTING) | _has(found, Cause.CONTENT) | _has(found, Cause.MODEL)
        found |= (_differs(rows, before, CALIBRATED.name) & ~by_model) * _BITS[Cause.CALIBRATION]
    found |= (_by_policy(rows, before, runs) & moved & ~_has(found, Cause.LISTING)) * _BITS[Cause.POLICY]
    found |= (found == 0) * _BITS[Cause.OTHER]
    return _changes(_change(rows, before, moved), found, rows, before)


def outcome_differs(rows: pa.Table, before: pa.Table) -> Mask:
    """Return where an object has another outcome than before."""
    return reduce(np.logical_or, (_differs(rows, before, name) for name in COMPARED))


def _by_policy(rows: pa.Table, before: pa.Table, runs: Facts) -> Mask:
    """Return where the policy of then would decide the row of now otherwise than it was decided."""
    found = np.zeros(rows.num_rows, bool)
    for run_id, behind in runs.earlier.items():
        if behind.policy == runs.now.policy:
            continue
        here = _mask(pc.equal(before["run_id"], run_id))
        if here.any():
            some = rows.filter(pa.array(here))
            found[here] = True if behind.decider is None else _otherwise(some, behind.decider)
    return found


def _otherwise(rows: pa.Table, decider: Decider) -> Mask:
    try:
        return outcome_differs(rows, decider(rows))
    except PolicyError:  # the policy of then fails on a row of now, as the policy of now does not
        return np.ones(rows.num_rows, bool)


def _change(rows: pa.Table, before: pa.Table, moved: Mask) -> pa.Array:
    """Return the `Change` of each changed row."""
    now, then, new = is_flagged(rows["decision"]), is_flagged(before["decision"]), pc.is_null(before["run_id"])
    decided = pa.array(_differs(rows, before, "decision"))
    words = [Change.NEWLY_FLAGGED, Change.CLEARED, Change.NEW, Change.DECIDED, Change.ROUTED]
    masks = [pc.and_not(now, then), pc.and_not(then, now), new, decided, pa.array(moved)]
    cases = pa.StructArray.from_arrays([_flat(mask) for mask in masks], names=[str(word) for word in words])
    return pc.case_when(cases, *map(str, words), str(Change.CONTENT))


def _changes(change: pa.Array, causes: Bits, rows: pa.Table, before: pa.Table) -> pa.Table:
    columns = {
        **{name: rows[name] for name in _KEPT},
        **{f"previous_{name}": before[name] for name in _THEN},
        "change": change,
        "causes": _names().take(pa.array(causes)),
        "previous_run": before["run_id"],
    }
    table = pa.table([columns[f.name] for f in CHANGES_SCHEMA], schema=CHANGES_SCHEMA)
    return table.sort_by("uri")


@cache
def _names() -> pa.Array:
    """Return the names of the causes, by `Bits`."""
    every = range(1 << len(_ALL_CAUSES))
    return pa.array([[str(c) for c in _ALL_CAUSES if bits & _BITS[c]] for bits in every], pa.list_(pa.string()))


def _has(bits: Bits, cause: Cause) -> Mask:
    return np.asarray(bits & _BITS[cause], bool)


def _content_differs(rows: pa.Table, before: pa.Table) -> Mask:
    """Return where the bytes are others than then: by their digest; where it is not known, by etag or size."""
    known = pc.and_(pc.is_valid(rows["sha256"]), pc.is_valid(before["sha256"]))
    listed = pc.or_(_known_to_differ(rows, before, "etag"), _known_to_differ(rows, before, "size"))
    return _mask(pc.if_else(known, _known_to_differ(rows, before, "sha256"), listed))


def _known_to_differ(rows: pa.Table, before: pa.Table, name: str) -> pa.ChunkedArray:
    return pc.fill_null(pc.not_equal(rows[name], before[name]), False)


def _one_is_null(rows: pa.Table, before: pa.Table, name: str) -> pa.ChunkedArray:
    return pc.xor(pc.is_null(rows[name]), pc.is_null(before[name]))


def _differs(rows: pa.Table, before: pa.Table, name: str) -> Mask:
    """Return where a column has another value, or has one where it had none."""
    return _mask(pc.or_(_known_to_differ(rows, before, name), _one_is_null(rows, before, name)))


def _mask(column: pa.Array | pa.ChunkedArray) -> Mask:
    return np.asarray(pa.chunked_array([_flat(pc.fill_null(column, False))], pa.bool_()).to_numpy(), bool)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
