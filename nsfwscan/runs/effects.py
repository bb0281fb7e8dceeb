"""What models and filters cost, and what filters save and miss.

In: rows as they were staged, and as they are decided, range by range. Out: `Costs` and `Cascade`, a few numbers.
Nothing goes wrong. What cannot be known, since there is no sample, is None.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.schema import FLAGGED, FULL_BATCH

CONFIDENCE = 0.95


@dataclass
class Costs:
    """Seconds that each model took, and for how many images."""

    seconds: Counter[str] = field(default_factory=Counter)
    images: Counter[str] = field(default_factory=Counter)

    def add(self, staged: pa.Table) -> None:
        """Counts rows of this run, with their `cost`."""
        cost = pa.chunked_array([*staged["cost"].chunks], staged["cost"].type).combine_chunks()
        names, values = pc.list_flatten(cost).flatten()
        parts = pa.table({"model": names, "seconds": values})
        for row in parts.group_by("model").aggregate([("seconds", "sum"), ("seconds", "count")]).to_pylist():
            self.seconds[row["model"]] += row["seconds_sum"]
            self.images[row["model"]] += row["seconds_count"]

    def each(self, model: str) -> float | None:
        """Seconds of one image."""
        return self.seconds[model] / self.images[model] if self.images[model] else None

    def as_dict(self) -> dict[str, Any]:
        """JSON types, by the stage, what took longest first."""
        return {
            name: {"images": self.images[name], "seconds": round(seconds, 3), "seconds_each": self.each(name)}
            for name, seconds in self.seconds.most_common()
            if name != FULL_BATCH
        }


@dataclass
class Cascade:
    """What the filters settled, and how often they were wrong where the model looked all the same.

    Copies count once: they would be as many misses of one content.
    """

    settled_by: Counter[str] = field(default_factory=Counter)
    """Contents that no model saw, by what settled them."""
    looked_at: int = 0
    """Contents in this run that no model saw."""
    forwarded: int = 0
    """Contents that the filters left to the model."""
    audit_sample: int = 0
    """Contents that were settled, and that the model saw all the same."""
    misses: int = 0
    """Those of them that the policy then flagged."""

    def add(self, rows: pa.Table) -> None:
        """Counts decided rows."""
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
        """JSON types; `miss_rate` is of what was settled, with the interval that covers the truth at least 19 times of
        20, and `seconds_saved` what the model would have taken, in full batches, for what it did not see in this
        run."""
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
    """A share with its exact interval (Clopper and Pearson 1934), which covers the truth at least as often as it says,
    however few there are; Nones where nothing was looked at."""
    if not audit_sample:
        return None, None, None
    from scipy.stats import binomtest

    interval = binomtest(misses, audit_sample).proportion_ci(CONFIDENCE, method="exact")
    return misses / audit_sample, float(interval.low), float(interval.high)
