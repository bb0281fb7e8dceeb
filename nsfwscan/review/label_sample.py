"""Draw what people should label next: the objects of a run whose verdicts tell the most, each with its probability.

The *priority* of an object, 0 to 1, is high where the policy would decide it otherwise if its scores moved a little
(uncertainty sampling: Lewis and Gale 1994, SIGIR), and where a detector says otherwise than the model (query by
committee: Seung et al. 1992, COLT). What is like a decided content has a fourth of it, what is decided none, and the
places of one asset share theirs, so that no cluster is looked at again and again. Where the run has embeddings, what
lies in a region of them in which nobody decided anything has some priority, whatever the model says.

Priorities of four levels, with what the policy flags apart, make the strata. A share of the draws goes to all objects
alike, whatever their priority: what nobody suspects is looked at, too. Within a stratum all are as probable, so the
sample estimates as an audit's does. A report that cannot be read is a `StoreError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.models.labels import category_of
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import parse_policy
from nsfwscan.review.audit_sample import LABEL, POPULATION, Draw, counts_of, drawn_from, not_drawn
from nsfwscan.review.regions import fill_regions
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import (
    CALIBRATED,
    FLAGGED,
    MODEL_COLUMNS,
    NSFW_CATEGORIES,
    RANGES,
    SIGNALS,
    BankKind,
    Category,
    score_column,
)
from nsfwscan.storage.duckdb_temp import spilling
from nsfwscan.verdicts.standing import is_decided, standing, unjudged

SPREAD = 0.2
"""Share of the draws that goes to all objects alike."""
_STEPS = ((0.2, 0.25), (0.1, 0.5), (0.05, 0.75), (0.02, 1.0))
"""How far scores are moved, and the uncertainty of what is then decided otherwise; the nearest counts."""
_DIFFERS = 0.25
"""Difference between two models below which they do not disagree."""
_LIKE_DECIDED, _UNSEEN = 0.25, 0.0625
"""Priority of what is like a decided content, of what it would have; the least one of what lies in an unseen region."""
_SCORES = [
    one.name for one in (*MODEL_COLUMNS, CALIBRATED) if RANGES.get(one.name) == (0, 1) and one.name != "confidence"
]
_COLUMNS = ("uri", "sha256", "cluster", "decision", "nsfw_score", "signals", "match_kind")
_RAW = """
    CREATE TABLE raw (
        uri VARCHAR, sha256 VARCHAR, asset VARCHAR, flagged BOOLEAN, priority DOUBLE, decided BOOLEAN
    )
"""
_RAW_ROWS = f"""
    INSERT INTO raw SELECT uri, sha256, coalesce('c' || cluster, 's' || sha256), flagged, priority, decided
    FROM part WHERE sha256 IS NOT NULL AND match_kind IS DISTINCT FROM '{BankKind.ILLEGAL}'
"""
LEVELS = {"high": 1.0, "middle": 0.25, "low": 0.0625, "none": 0.0}
_POPULATION = f"""
    INSERT INTO population
    WITH assets AS (
        SELECT asset, count(*) AS places, bool_or(decided) AS is_known FROM raw GROUP BY asset
    ), seen AS (
        SELECT region, bool_or(decided) AS is_seen FROM raw JOIN regions USING (uri) GROUP BY region
    ), weighed AS (
        SELECT uri, sha256, flagged, CASE WHEN decided THEN 0 ELSE greatest(
                   priority * CASE WHEN is_known THEN {_LIKE_DECIDED} ELSE 1 END,
                   CASE WHEN is_seen IS FALSE THEN {_UNSEEN} ELSE 0 END) / places END AS priority
        FROM raw JOIN assets USING (asset) LEFT JOIN (FROM regions JOIN seen USING (region)) USING (uri)
    ), levelled AS (
        SELECT *, CASE WHEN priority >= 0.5 THEN 'high' WHEN priority >= 0.125 THEN 'middle'
                       WHEN priority >= 0.03125 THEN 'low' ELSE 'none' END AS level
        FROM weighed
    )
    SELECT uri, sha256, concat(CASE WHEN flagged THEN 'flagged ' ELSE 'passed ' END, level), flagged,
           CASE level {" ".join(f"WHEN '{name}' THEN {value}" for name, value in LEVELS.items())} END
    FROM levelled
"""


def draw_labels(run: Run, n: int, seed: int, floor: int) -> Draw:
    """Draw objects of a run to be labelled, and keep the draw in the store; the same verdicts, number, floor and seed
    make the same draw.

    Raises:
        ConfigError: there is nothing to draw, or fewer objects are asked for than there are strata.
    """
    with spilling("label", threads=2) as (tables, _):
        total = _fill(tables, run, run.record())
        return drawn_from(tables, run, n, seed, floor, _weights, total, LABEL)


def _fill(tables: duckdb.DuckDBPyConnection, run: Run, record: RunRecord) -> dict[str, int]:
    """Fill the table `population`, and return the counts of all."""
    verdicts, decider = standing(run.store), Decider(parse_policy(record.policy.content(), f"of run {run.run_id}"))
    left_out: Counter[str] = Counter()
    tables.execute(_RAW)
    for rows in read_rows(run, record, list(dict.fromkeys([*_COLUMNS, *decider.columns]))):
        left_out.update(not_drawn(rows))
        flagged = pc.is_in(rows["decision"].cast(pa.string()), pa.array(sorted(map(str, FLAGGED))))
        told = rows.select(["uri", "sha256", "cluster", "match_kind"]).append_column("flagged", flagged)
        told = told.append_column("priority", pa.array(priorities(rows, decider)))
        told = told.append_column("decided", is_decided(verdicts.onto(rows)))
        tables.register("part", told)
        tables.execute(_RAW_ROWS)
    fill_regions(tables, run, record)
    tables.execute(POPULATION)
    tables.execute(_POPULATION)
    return counts_of(tables, left_out)


def priorities(rows: pa.Table, decider: Decider) -> npt.NDArray[np.float64]:
    """Return what a verdict on each row would tell, 0 to 1, whatever people said of it.

    Args:
        rows: with `nsfw_score`, `signals`, and the decider's columns.
    """
    unsure, disputed = uncertainty(unjudged(rows), decider), _disagreement(rows)
    return np.asarray(1 - (1 - unsure) * (1 - disputed))


def uncertainty(rows: pa.Table, decider: Decider) -> npt.NDArray[np.float64]:
    """Return how near each row is to being decided otherwise, 0 to 1.

    Args:
        rows: with the decider's columns, and without what people said.
    """
    found = np.zeros(rows.num_rows)
    decided = decider(rows)["decision"]
    for step, value in _STEPS:
        for by in (-step, step):
            otherwise = pc.not_equal(decider(_moved(rows, by))["decision"], decided)
            found[otherwise.to_numpy()] = value
    return found


def _moved(rows: pa.Table, by: float) -> pa.Table:
    """Return rows whose scores say more (or less) of NSFW, and as much less (or more) of what is safe."""
    safe = {score_column(one) for one in Category if one not in NSFW_CATEGORIES}
    for name in _SCORES:
        place = rows.schema.get_field_index(name)
        if place >= 0:
            moved = pc.add(rows[name].cast(pa.float64()), -by if name in safe else by)
            bounded = pc.min_element_wise(pc.max_element_wise(moved, 0.0, skip_nulls=False), 1.0, skip_nulls=False)
            rows = rows.set_column(place, name, bounded.cast(rows.schema.field(place).type))
    return rows


def _disagreement(rows: pa.Table) -> npt.NDArray[np.float64]:
    """Return the largest difference between `nsfw_score` and what a detector with NSFW labels says of it."""
    column = rows["signals"].cast(SIGNALS).combine_chunks()
    names, values = pc.list_flatten(column).flatten()
    parents, encoded = pc.list_parent_indices(column).to_numpy(), names.dictionary_encode()
    known = encoded.dictionary.to_pylist()
    scores = pc.fill_null(rows["nsfw_score"].cast(pa.float64()), float("nan")).to_numpy()
    found = np.zeros(rows.num_rows)
    for detector in sorted({name.partition(".")[0] for name in known}):
        here = np.isin(encoded.indices.to_numpy(), _nsfw_signals(known, detector))
        if here.any():
            said = np.bincount(parents[here], values.to_numpy(zero_copy_only=False)[here], rows.num_rows)
            asked = np.bincount(parents[here], minlength=rows.num_rows) > 0
            differs = np.where(asked & np.isfinite(scores), np.abs(np.minimum(said, 1.0) - np.nan_to_num(scores)), 0.0)
            found = np.maximum(found, np.where(differs < _DIFFERS, 0.0, np.minimum(differs, 1.0)))
    return found


def _nsfw_signals(names: Sequence[str], detector: str) -> list[int]:
    """Return the places of a detector's signals that mean an NSFW category."""
    return [
        place
        for place, name in enumerate(names)
        if name.startswith(f"{detector}.") and category_of(name.partition(".")[2]) in NSFW_CATEGORIES
    ]


def _weights(strata: pa.Table) -> npt.NDArray[np.float64]:
    """Return the weight of an object of each stratum: its priority, and the same for all."""
    sizes, levels = strata["size"].to_numpy(), strata["value"].to_numpy()
    even, priority = np.full(len(sizes), 1 / sizes.sum()), float((sizes * levels).sum())
    return np.asarray(SPREAD * even + (1 - SPREAD) * levels / priority if priority else even)
