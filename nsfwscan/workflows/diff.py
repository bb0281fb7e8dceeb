"""Compare any two committed runs: which objects moved from which decision to which, and why.

Either may be a scan, a replay or a match, of one store or of two. What a run says is all that it listed: a delta is
laid over the runs that it rests on, and a match over the runs that it was matched with. Rows are read range by range,
so that no step holds all of them. A run whose files are absent or damaged is a `StoreError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nsfwscan.errors import ConfigError
from nsfwscan.runs.changes import CHANGES_SCHEMA, EARLIER, FACTS, Behind, Facts, compared, gone_as_changes
from nsfwscan.runs.differences import differences
from nsfwscan.runs.previous import LISTED, PreviousReports
from nsfwscan.runs.record.inputs import DifferenceRecord
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import REPORT_SCHEMA, Change
from nsfwscan.storage.output import Output
from nsfwscan.workflows.replay import listing_of

_SAMPLES = 3
_SOURCE = ("uris", "include", "exclude", "limit")
_BEFORE = list(dict.fromkeys([*EARLIER, *FACTS]))


@dataclass
class Move:
    """Objects with one `change`, and one decision in each run.

    Attributes:
        causes: objects by their causes, such as `content, policy`.
        samples: URIs of the first few.
    """

    objects: int = 0
    causes: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)


@dataclass
class Diff:
    """Differences between two runs.

    Attributes:
        settings: how the second run's settings differ from the first one's.
        objects: number of objects that each run speaks of.
        moves: by `change`, decision then (None: not listed) and decision now (None: not listed any more).
    """

    before: RunRecord
    now: RunRecord
    settings: tuple[DifferenceRecord, ...]
    objects: list[int] = field(default_factory=lambda: [0, 0])
    moves: dict[tuple[str, str | None, str | None], Move] = field(default_factory=dict)

    @property
    def changed(self) -> int:
        """Number of objects that changed."""
        return sum(move.objects for move in self.moves.values())

    def add(self, changes: pa.Table) -> None:
        """Count rows of `CHANGES_SCHEMA`."""
        gone = pc.equal(changes["change"], str(Change.DELETED))
        words = pa.table(
            {
                "change": changes["change"],
                "from": changes["previous_decision"],
                "to": pc.if_else(gone, pa.scalar(None, pa.string()), changes["decision"]),
                "why": pc.binary_join(changes["causes"], ", "),
                "uri": changes["uri"],
            }
        )
        keys = ["change", "from", "to", "why"]
        for row in words.group_by(keys).aggregate([("uri", "count")]).to_pylist():
            move = self.moves.setdefault((row["change"], row["from"], row["to"]), Move())
            move.objects += row["uri_count"]
            move.causes[row["why"]] += row["uri_count"]
            if len(move.samples) < _SAMPLES:
                same = [pc.is_in(words[name], pa.array([row[name]], pa.string())) for name in keys]
                here = words.filter(pc.and_(pc.and_(same[0], same[1]), pc.and_(same[2], same[3])))
                move.samples += here["uri"][: _SAMPLES - len(move.samples)].to_pylist()

    def as_json(self) -> dict[str, Any]:
        """Return all of it as JSON types, the largest move first."""
        sides = {"before": self.before, "now": self.now}
        moves = sorted(self.moves.items(), key=lambda item: (-item[1].objects, str(item[0])))
        changes, causes = Counter[str](), Counter[str]()
        for (change, _, _), move in moves:
            changes[change] += move.objects
            for why, objects in move.causes.items():
                causes.update(dict.fromkeys(why.split(", "), objects))
        return {
            **{
                name: {key: getattr(record, key) for key in ("run_id", "kind", "committed_at", "store")}
                | {"objects": objects, "policy": record.policy.identity, "model": record.model.identity}
                for (name, record), objects in zip(sides.items(), self.objects, strict=True)
            },
            "settings": [one.model_dump(mode="json") for one in self.settings],
            "changed": self.changed,
            "changes": dict(changes),
            "causes": dict(causes),
            "moves": [
                {
                    "change": change,
                    "from": before,
                    "to": now,
                    "objects": move.objects,
                    "causes": [{"causes": why.split(", "), "objects": n} for why, n in move.causes.most_common()],
                    "samples": move.samples,
                }
                for (change, before, now), move in moves
            ],
        }


class _Side:
    """Rows of a run, and of the runs that it rests on."""

    def __init__(self, run: Run) -> None:
        self.record = run.record()
        self._is_delta = self.record.kind in LISTED and self.record.is_delta
        rests = self.record.previous_runs if self._is_delta or self.record.kind not in LISTED else ()
        self.reports = PreviousReports.of(run.store, (run.run_id, *rests), None)
        self._listed = _Listed(listing_of(run, run.plan())) if self._is_delta else None
        runs = self.reports.runs[:1] if self._is_delta else self.reports.runs
        self.behind = {base.run.run_id: Behind.of(base.record) for base in runs}

    def rows(self, after: str | None, upto: str | None) -> pa.Table:
        """Return the rows with `after < uri <= upto`; ranges are asked for in ascending order."""
        pieces = (piece.select(REPORT_SCHEMA.names) for piece in self.reports.rows(after, upto))
        found = pa.concat_tables([REPORT_SCHEMA.empty_table(), *pieces])
        if self._listed is None:
            return found
        found = found.filter(self._listed.mask(found["uri"], upto))
        # What a delta leaves to earlier runs was decided under its settings, too, and came to the same.
        place = found.schema.get_field_index("run_id")
        return found.set_column(place, found.field(place), pa.repeat(self.record.run_id, found.num_rows))


class _Listed:
    """A listing that is looked up in ascending order; it holds one range of it at a time."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables, self._held, self._is_done = tables, pa.array([], pa.string()), False

    def mask(self, uris: pa.ChunkedArray, upto: str | None) -> pa.ChunkedArray:
        """Return which URIs are listed; all lie after the `upto` of the call before."""
        while not self._is_done and (upto is None or not len(self._held) or self._held[-1].as_py() <= upto):
            table = next(self._tables, None)
            if table is None:
                self._is_done = True
            else:
                self._held = pa.concat_arrays([self._held, *table["uri"].chunks])
        mask = pc.is_in(uris, self._held)
        self._held = self._held.filter(pc.greater(self._held, upto)) if upto is not None else self._held[:0]
        return mask


def diff_runs(before: Run, now: Run, out: Output | None = None) -> Diff:
    """Compare two committed runs.

    Args:
        out: a Parquet file to write with a row of `CHANGES_SCHEMA` for each object that changed; unset: none.

    Raises:
        StoreError: a run cannot be read, or one that it rests on; or the file's store fails.
        ConfigError: the file cannot be written.
    """
    sides = _Side(before), _Side(now)
    found = Diff(sides[0].record, sides[1].record, _settings(sides[0].record, sides[1].record))
    if out is None:
        for changes in _changes(*sides, found):
            found.add(changes)
        return found
    try:
        with out.appearing() as path, pq.ParquetWriter(path, CHANGES_SCHEMA) as writer:
            for changes in _changes(*sides, found):
                found.add(changes)
                writer.write_table(changes)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from None
    return found


def _settings(before: RunRecord, now: RunRecord) -> tuple[DifferenceRecord, ...]:
    """Return how the settings differ, with what was listed."""
    source: list[DifferenceRecord] = []
    if before.kind in LISTED and now.kind in LISTED:
        for name in _SOURCE:
            old, new = (getattr(record.config.source, name) for record in (before, now))
            if old != new:
                source.append(DifferenceRecord(what="source", name=name, before=_said(old), now=_said(new)))
    return (*source, *differences(before, now))


def _said(value: Any) -> str | None:
    return (", ".join(value) if isinstance(value, tuple) else str(value)) if value else None


def _changes(before: _Side, now: _Side, found: Diff) -> Iterator[pa.Table]:
    """Yield what changed, as `CHANGES_SCHEMA`, in the order of the URIs, and count the objects."""
    cuts = sorted({*before.reports.ends, *now.reports.ends})
    for low, high in zip([None, *cuts], [*cuts, None], strict=True):
        old, new = before.rows(low, high), now.rows(low, high)
        found.objects[0] += old.num_rows
        found.objects[1] += new.num_rows
        there = pc.is_in(old["uri"], new["uri"])
        parts = [gone_as_changes(old.filter(pc.invert(there)))]
        for run_id, behind in now.behind.items():
            rows = new.filter(pc.equal(new["run_id"], run_id))
            parts.append(_compared(rows, old, Facts(before.behind, behind)))
        yield pa.concat_tables(parts).sort_by("uri")


def _compared(rows: pa.Table, old: pa.Table, runs: Facts) -> pa.Table:
    """Return which rows of one run changed."""
    then = old.select(_BEFORE).take(pc.index_in(rows["uri"], old["uri"]))
    asked = runs.now.decider.columns if runs.now.decider is not None else ()
    return compared(rows, then, runs.causes(rows, then), runs, asked)
