"""Count what models and filters cost, and what filters save and miss.

`Costs` takes staged rows, `Cascade` decided rows, both range by range; each is a few numbers. A figure is None where no
sample supports it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.schema import DECODING, FLAGGED, FULL_BATCH, LOOKED

CONFIDENCE = 0.95


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
        parts = parts.filter(pc.invert(pc.is_in(parts["model"], pa.array([DECODING, LOOKED]))))
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
        for row in staged.select(["media", "views", "duration_s", "cost"]).to_pylist():
            if row["media"] is None:
                continue
            cost = {one["name"]: one["value"] for one in row["cost"] or ()}
            found = {
                "objects": 1,
                "views": row["views"] or 0,
                "frames": int(cost.get(LOOKED, 0)),
                "duration_s": row["duration_s"] or 0.0,
                "decode_s": cost.get(DECODING, 0.0),
            }
            before = self.counts.get(row["media"], dict.fromkeys(found, 0))
            self.counts[row["media"]] = {name: before[name] + n for name, n in found.items()}

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
        self.settled_by.update(settled["filtered_by"].to_pylist())
        self.looked_at += settled["carried_from"].null_count
        self.forwarded += pc.sum(pc.and_not(scored, filtered)).as_py() or 0
        audit_sample = rows.filter(pc.and_(filtered, scored))
        self.audit_sample += audit_sample.num_rows
        self.misses += pc.sum(pc.is_in(audit_sample["decision"], pa.array(sorted(FLAGGED)))).as_py() or 0

    def as_dict(self, costs: Costs) -> dict[str, Any]:
        """Return JSON types.

        `miss_rate` is the share of misses among settled contents. Its interval covers the true share at least 19 times
        in 20. `seconds_saved` is the time of the model, in full batches, for the contents that it did not see in this
        run.
        """
        each, settled = costs.each(FULL_BATCH), self.settled_by.total()
        rate, low, high = miss_rate(self.misses, self.audit_sample)
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


def miss_rate(misses: int, audit_sample: int) -> tuple[float | None, float | None, float | None]:
    """Return the miss rate and the bounds of its exact interval (Clopper and Pearson 1934).

    The interval covers the true rate with at least the stated confidence, however small the sample is. All three are
    None without a sample.
    """
    if not audit_sample:
        return None, None, None
    from scipy.stats import binomtest

    interval = binomtest(misses, audit_sample).proportion_ci(CONFIDENCE, method="exact")
    return misses / audit_sample, float(interval.low), float(interval.high)
