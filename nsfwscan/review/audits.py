"""Write a drawn sample as items for reviewers, and estimate from what people said of it.

A content's standing verdict counts, whoever gave it and why: that an object is in the sample was decided by chance
alone. Escalated and disputed contents are not decided. What a model of the run learned from does not count: others of
its stratum stand for it. A draw or a verdict that was changed is a `BrokenRecord`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.errors import ConfigError
from nsfwscan.models.learned import learned_by
from nsfwscan.reports.export import json_line
from nsfwscan.review.audit_sample import Draw, forgotten_among, items_of, views_of
from nsfwscan.review.estimates import Estimates, Stratum, ViewEstimates, estimate, estimate_views
from nsfwscan.review.queues import shown_item
from nsfwscan.review.ranking import SHOWN, Item
from nsfwscan.runs.run import Run
from nsfwscan.schema import StandingVerdict
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import plural
from nsfwscan.verdicts.standing import is_decided, standing
from nsfwscan.verdicts.verdict import Kind


@dataclass(frozen=True)
class Audited:
    """An audit and what it says."""

    draw: Draw
    decided: int
    undecided: int
    estimates: Estimates
    learned: int
    """Decided contents that are left out, since a model of the run learned from them."""
    unknown: tuple[str, ...]
    """Models of which nothing says what they learned from."""
    by_views: ViewEstimates | None = None

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        names = ("audit_id", "run_id", "seed", "objects", "illegal", "unread")
        about = {name: getattr(self.draw, name) for name in names}
        counts = {"drawn": self.draw.rows.num_rows, "decided": self.decided, "undecided": self.undecided}
        learned = {"learned": self.learned, "unknown": self.unknown}
        by_views = None if self.by_views is None else asdict(self.by_views)
        return {**about, **counts, **learned, **asdict(self.estimates), "by_views": by_views}


def write_items(run: Run, draw: Draw, out: Output) -> int:
    """Write the drawn objects that nobody decided yet as JSON lines, and return how many they are. Raises ConfigError
    where the file cannot be written here."""
    written = 0
    try:
        with out.appearing() as path, path.open("w", encoding="utf-8") as file:
            for row in items_of(run, draw, SHOWN):
                written += 1
                file.write(json_line(_item(row, written, draw)))
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror or error}") from error
    return written


def _item(row: dict[str, Any], rank: int, draw: Draw) -> dict[str, Any]:
    """Return the item of an object: that of a queue, without its copies, since each object was drawn for itself."""
    probability = row.pop("probability")
    row |= {"queue": draw.design, "rank": rank, "reach": 1, "objects": 1, "uncertainty": None}
    item = shown_item(Item(row, [], 0, [], None, {}, []))
    return {**item, "kind": str(Kind.AUDIT), "probability": probability, "audit": draw.audit_id}


def estimate_audit(
    store: Store, audit_id: str, *, so_far: bool = False, context: Iterable[pa.RecordBatch] | None = None
) -> Audited:
    """Return what a drawn sample says.

    Args:
        context: of objects, with their `views`: estimate by views, too.
        so_far: also where objects are not decided yet: as if these were like the others of their stratum.

    Raises:
        ConfigError: there is no such audit; objects are not decided yet, forgotten ones apart, which nobody can decide;
            or of a stratum none is.
    """
    draw = Draw.read(store, audit_id)
    rows = standing(store).onto(draw.rows)
    decided = rows.filter(is_decided(rows))
    undecided = rows.num_rows - decided.num_rows - forgotten_among(rows)
    if undecided and not so_far:
        raise ConfigError(
            f"{undecided:,} of {rows.num_rows:,} drawn objects are not decided yet; --so-far estimates without them, "
            "as if they were like the others of their strata"
        )
    learned = learned_by(_models_of(store, draw), store.storage)
    decided, contents = learned.without(decided)
    strata = _strata(draw, decided, learned=contents)
    by_views = None
    if context is not None:
        of_strata, of_drawn = views_of(Run(store, draw.run_id), draw, context)
        strata = {name: _viewed(one, name, of_strata, of_drawn, decided) for name, one in strata.items()}
        by_views = estimate_views(list(strata.values()))
    estimates = estimate(list(strata.values()))
    return Audited(draw, decided.num_rows, undecided, estimates, contents, learned.unknown, by_views)


def _models_of(store: Store, draw: Draw) -> list[str]:
    """Return the models of the run that was drawn from; none where its record is gone."""
    run = Run(store, draw.run_id)
    return run.record().models if run.is_committed() or run.pruned() else []


def _viewed(
    one: Stratum, name: str, of_strata: Mapping[str, float], of_drawn: Mapping[str, float], decided: pa.Table
) -> Stratum:
    """Return a stratum with its views."""
    rows = decided.filter(pc.equal(decided["stratum"], name)).select(["uri", "verdict"]).to_pylist()
    views = tuple((of_drawn[row["uri"]], row["verdict"] == StandingVerdict.REMOVE) for row in rows)
    return replace(one, all_views=of_strata.get(name, 0.0), views=views)


def _strata(draw: Draw, decided: pa.Table, *, learned: int) -> dict[str, Stratum]:
    looked_at = Counter(decided["stratum"].to_pylist())
    removed = decided.filter(pc.equal(decided["verdict"], str(StandingVerdict.REMOVE)))
    harmful = Counter(removed["stratum"].to_pylist())
    sizes = {row["stratum"]: row for row in draw.rows.select(["stratum", "size", "flagged"]).to_pylist()}
    if blank := sorted(sizes.keys() - looked_at.keys()):
        but = f", but for what a model learned from ({plural(learned, 'content')})" if learned else ""
        raise ConfigError(
            f"of the stratum {blank[0]!r} no object is decided yet{but}: nothing can be estimated without it"
        )
    return {name: Stratum(row["size"], looked_at[name], harmful[name], row["flagged"]) for name, row in sizes.items()}
