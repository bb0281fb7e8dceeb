"""Count what models and filters cost, what detectors looked at, and what filters and gates save and miss.

`Costs` takes staged rows, `Cascade` and `Detections` decided rows, all range by range; each is a few numbers. A figure
is None where no sample supports it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.config import DetectorConfig
from nsfwscan.errors import Status
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.signals import signals_array, signals_of_row
from nsfwscan.runs.counts import counts_of
from nsfwscan.schema import DECODING, DECODING_CLOSER, FLAGGED, FULL_BATCH, LOOKED, LOOKED_CLOSER

CONFIDENCE = 0.95
_OF_MEDIA = (DECODING, LOOKED, DECODING_CLOSER, LOOKED_CLOSER)
"""Costs that are no model's."""
GATE_COUNTS = ("let_through", "held_back", "shadow_sample", "misses")


@dataclass
class Costs:
    """Seconds and images of each model."""

    seconds: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)

    def add(self, staged: pa.Table) -> None:
        """Count staged rows of this run by their `cost`."""
        cost = pa.chunked_array([*staged["cost"].chunks], staged["cost"].type).combine_chunks()
        names, values = pc.list_flatten(cost).flatten()
        parts = pa.table({"model": names, "seconds": values})
        parts = parts.filter(pc.invert(pc.is_in(parts["model"], pa.array(_OF_MEDIA))))
        for row in parts.group_by("model").aggregate([("seconds", "sum"), ("seconds", "count")]).to_pylist():
            self.seconds[row["model"]] += row["seconds_sum"]
            self.images[row["model"]] += row["seconds_count"]

    def each(self, model: str) -> float | None:
        """Return a model's seconds per image; None without images."""
        return self.seconds[model] / self.images[model] if self.images[model] else None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types by stage, longest time first."""
        return {
            name: {"images": self.images[name], "seconds": round(seconds, 3), "seconds_each": self.each(name)}
            for name, seconds in self.seconds.most_common()
            if name != FULL_BATCH
        }


@dataclass
class Media:
    """What was looked at in this run, and what decoding it cost, by `media`."""

    counts: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, staged: pa.Table) -> None:
        """Count staged rows of this run by their `media`, `views`, `duration_s` and `cost`."""
        for media in pc.unique(staged["media"].drop_null()).to_pylist():
            rows = staged.filter(pc.equal(staged["media"], media))
            parts = pc.list_flatten(rows["cost"])
            costs = pa.table({"name": pc.struct_field(parts, "name"), "value": pc.struct_field(parts, "value")})
            sums = costs.group_by("name").aggregate([("value", "sum"), ("value", "count")]).to_pylist()
            cost = Counter({row["name"]: row["value_sum"] for row in sums})
            found = {
                "objects": rows.num_rows,
                "views": pc.sum(rows["views"]).as_py() or 0,
                "frames": int(cost[LOOKED]),
                "duration_s": pc.sum(rows["duration_s"]).as_py() or 0.0,
                "decode_s": cost[DECODING],
                "closer": sum(row["value_count"] for row in sums if row["name"] == LOOKED_CLOSER),
                "closer_frames": int(cost[LOOKED_CLOSER]),
                "closer_s": cost[DECODING_CLOSER],
            }
            before = self.counts.get(media, dict.fromkeys(found, 0))
            self.counts[media] = {name: before[name] + n for name, n in found.items()}

    def as_dict(self) -> dict[str, Any]:
        """Return JSON types by media."""
        return {
            media: {name: round(n, 3) for name, n in counts.items()} for media, counts in sorted(self.counts.items())
        }


@dataclass
class Cascade:
    """Contents that the filters settled, and how often the filters were wrong in the audit sample.

    Copies count once: otherwise one missed content would be as many misses as it has copies.
    """

    settled_by: Counter[str] = field(default_factory=Counter)
    """Contents that no model saw, by the filter that settled them."""
    looked_at: int = 0
    """Contents read in this run that no model saw."""
    forwarded: int = 0
    """Contents that the filters passed on to the model."""
    audit_sample: int = 0
    """Contents that a filter settled and that the model scored nevertheless."""
    misses: int = 0
    """Contents of the audit sample that the policy flagged."""

    def add(self, rows: pa.Table) -> None:
        """Count decided rows."""
        alone = pc.and_(pc.is_null(rows["duplicate_of"]), pc.is_null(rows["match_kind"]))
        rows = rows.select(["filtered_by", "nsfw_score", "carried_from", "decision"]).filter(alone)
        filtered, scored = pc.is_valid(rows["filtered_by"]), pc.is_valid(rows["nsfw_score"])
        settled = rows.filter(pc.and_not(filtered, scored))
        self.settled_by.update(counts_of(settled["filtered_by"]))
        self.looked_at += settled["carried_from"].null_count
        self.forwarded += pc.sum(pc.and_not(scored, filtered)).as_py() or 0
        audit_sample = rows.filter(pc.and_(filtered, scored))
        self.audit_sample += audit_sample.num_rows
        self.misses += pc.sum(pc.is_in(audit_sample["decision"], pa.array(sorted(FLAGGED)))).as_py() or 0

    def include(self, other: Cascade) -> None:
        """Count what another one has counted, of other rows."""
        self.settled_by.update(other.settled_by)
        for name in ("looked_at", "forwarded", "audit_sample", "misses"):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self, costs: Costs) -> dict[str, Any]:
        """Return JSON types.

        `miss_rate` is the share of misses among settled contents. Its interval covers the true share at least 19 times
        in 20. `seconds_saved` is the time of the model, in full batches, for the contents that it did not see in this
        run.
        """
        each, settled = costs.each(FULL_BATCH), self.settled_by.total()
        rate, low, high = share_with_interval(self.misses, self.audit_sample)
        return {
            "settled": settled,
            "settled_by": dict(self.settled_by.most_common()),
            "forwarded": self.forwarded,
            "audit_sample": self.audit_sample,
            "misses": self.misses,
            "miss_rate": rate,
            "miss_rate_interval": None if rate is None else [low, high],
            "confidence": CONFIDENCE,
            "missed": None if low is None or high is None else [low * settled, high * settled],
            "seconds_saved": None if each is None else round(each * self.looked_at, 3),
        }


def share_with_interval(hits: int, trials: int) -> tuple[float | None, float | None, float | None]:
    """Return a share and the bounds of its exact interval (Clopper and Pearson 1934).

    The interval covers the true rate with at least the stated confidence, however small the sample is. All three are
    None without trials.
    """
    if not trials:
        return None, None, None
    from scipy.stats import binomtest

    interval = binomtest(hits, trials).proportion_ci(CONFIDENCE, method="exact")
    return hits / trials, float(interval.low), float(interval.high)


@dataclass
class Detections:
    """Rows that each detector looked at, why not at the others, and what its gate held back.

    Args:
        detectors: of the run, by name.
        decider: says what a row would be without a detector's word; None: misses are not counted.
    """

    detectors: Mapping[str, DetectorConfig]
    decider: Decider | None
    rows: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Rows of each detector by `looked_at` or the reason why not."""
    boxes: Counter[str] = field(default_factory=Counter)
    vectors: Counter[str] = field(default_factory=Counter)
    lines: Counter[str] = field(default_factory=Counter)
    gates: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Contents of each gate: `let_through`, `held_back`, `shadow_sample`, `misses`. Copies count once."""

    def add(self, rows: pa.Table) -> None:
        """Count decided rows."""
        if not self.detectors:
            return
        said = _Signals(rows["signals"])
        alone = pc.and_(pc.is_null(rows["duplicate_of"]), pc.is_null(rows["match_kind"])).to_numpy()
        for name in self.detectors:
            vectors, gate = said.values(f"vectors.{name}"), said.values(f"gate.{name}")
            looked_at = said.begin_with(f"{name}.") | (vectors > 0)
            reasons = np.where(gate == 0, "gate", "no_score")
            reasons = np.where(pc.not_equal(rows["status"], str(Status.OK)).to_numpy(), "unreadable", reasons)
            reasons = np.where(rows["match_kind"].is_valid().to_numpy(), "matched", reasons)
            self.rows[name].update(np.where(looked_at, "looked_at", reasons).tolist())
            self.boxes[name] += int(np.nansum(said.values(f"boxes.{name}")))
            self.vectors[name] += int(np.nansum(vectors))
            self.lines[name] += int(np.nansum(said.values(f"lines.{name}")))
            held, shadow = alone & (gate == 0), alone & (gate == 0) & looked_at
            counts = {"let_through": alone & (gate == 1), "held_back": held, "shadow_sample": shadow}
            self.gates[name].update({what: int(mask.sum()) for what, mask in counts.items()})
            self.gates[name]["misses"] += self._misses(name, rows.filter(pa.array(shadow)))

    def _misses(self, name: str, rows: pa.Table) -> int:
        """Return how many rows would be decided otherwise without a detector's word."""
        if not rows.num_rows or self.decider is None:
            return 0
        without = [
            {signal: value for signal, value in signals_of_row(row).items() if not _is_of(name, signal)}
            for row in rows["signals"].to_pylist()
        ]
        place = rows.schema.get_field_index("signals")
        decided = self.decider(rows.set_column(place, rows.schema.field(place), signals_array(without)))
        return int(pc.sum(pc.not_equal(decided["decision"], rows["decision"])).as_py() or 0)

    def as_dict(self, costs: Costs) -> list[dict[str, Any]]:
        """Return JSON types, one for each detector."""
        return [
            {**self.counts(name), "gate": None if config.when is None else self._gate(name, config, costs)}
            for name, config in self.detectors.items()
        ]

    def counts(self, name: str) -> dict[str, Any]:
        """Return what rows say of a detector, as JSON types."""
        return {
            "name": name,
            "looked_at": self.rows[name]["looked_at"],
            "not_looked_at": {why: n for why, n in self.rows[name].most_common() if why != "looked_at"},
            "boxes": self.boxes[name],
            "vectors": self.vectors[name] or None,
            "lines": self.lines[name] or None,
        }

    def gate_counts(self, name: str) -> dict[str, int]:
        """Return what rows say of a detector's gate, and what it missed."""
        return {what: self.gates[name][what] for what in GATE_COUNTS}

    def _gate(self, name: str, config: DetectorConfig, costs: Costs) -> dict[str, Any]:
        counts, each = self.gates[name], costs.each(f"detect-{name}")
        rate, low, high = share_with_interval(counts["misses"], counts["shadow_sample"])
        spared = counts["held_back"] - counts["shadow_sample"]
        return {
            "when": config.when,
            **self.gate_counts(name),
            "miss_rate": rate,
            "miss_rate_interval": None if rate is None else [low, high],
            "confidence": CONFIDENCE,
            "missed": None if low is None or high is None else [low * spared, high * spared],
            "seconds_saved": None if each is None else round(each * spared, 3),
        }


def _is_of(detector: str, signal: str) -> bool:
    return signal.startswith(f"{detector}.") or signal in {
        f"{group}.{detector}" for group in ("boxes", "vectors", "lines")
    }


class _Signals:
    """The signals of many rows, asked by name."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        lists = column.combine_chunks()
        names, values = pc.list_flatten(lists).flatten()
        encoded = names.dictionary_encode()
        self._count, self._names = len(lists), encoded.dictionary.to_pylist()
        self._codes, self._values = encoded.indices.to_numpy(), values.to_numpy()
        self._rows = pc.list_parent_indices(lists).to_numpy()

    def begin_with(self, start: str) -> NDArray[np.bool_]:
        """Return which rows have a signal whose name begins so."""
        found = np.zeros(self._count, np.bool_)
        found[self._rows[self._are([name.startswith(start) for name in self._names])]] = True
        return found

    def values(self, name: str) -> NDArray[np.float64]:
        """Return the signal of each row; NaN where it has none."""
        found, mine = np.full(self._count, np.nan), self._are([one == name for one in self._names])
        found[self._rows[mine]] = self._values[mine]
        return found

    def _are(self, wanted: list[bool]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = np.array([*wanted, False], np.bool_)[self._codes]
        return found
