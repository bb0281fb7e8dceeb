"""Find the objects that were drawn with a known probability, what people said of them, and how many each stands for.

What queues showed, and nobody drew, is left out: it says nothing of what they did not show. So is what a model of the
run learned from: it says nothing of other objects. A drawn object that nobody decided is taken to be like the others of
its stratum. A draw or a verdict that was changed is a `BrokenRecord`.

One rule for several draws, whatever is estimated:

- Draws by the same seed are one *sample* that grows. They take objects in the same order, so that the smaller one is
  in the larger one (permanent random numbers: Brewer, Early and Joyce 1972, Australian Journal of Statistics 14: 231):
  an object is in either with the larger of its two probabilities. It counts once, by the draw that was likelier to
  take it.
- Draws by other seeds are other samples of the same objects, independent of each other. Each has a part in what is
  estimated as large as its part in the objects that were looked at (`weights` are scaled), and an object of two of them
  counts in both, as it would if it were drawn twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.models.learned import Learned
from nsfwscan.models.learned import in_words as learned_in_words
from nsfwscan.review.audit_sample import FOLDER, Draw, forgotten_among
from nsfwscan.schema import StandingVerdict
from nsfwscan.storage.store import Store
from nsfwscan.text import plural
from nsfwscan.verdicts.kept import verdict_rows
from nsfwscan.verdicts.standing import StandingVerdicts, counting, is_decided, standing
from nsfwscan.verdicts.verdict import DECIDING, VERDICT_SCHEMA

VERDICTS = "verdicts"
"""Name of the draw of those whose verdict alone says that they were drawn."""
DRAWN_SCHEMA = pa.schema(
    [
        pa.field("sample", pa.string()),
        pa.field("draw", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("weight", pa.float64()),
        pa.field("removed", pa.bool_()),
    ]
)
"""A drawn object that people decided: the sample and the draw that it counts in, how many objects of its population it
stands for, and what they said."""


@dataclass(frozen=True)
class Drawn:
    """Drawn objects of a store.

    Attributes:
        rows: `DRAWN_SCHEMA`; an object of two samples is there twice.
        undecided: objects that nobody decided.
        passed_over: draws that say nothing yet, each with the reason.
        learned: contents that are not in `rows`, since a model learned from them.
        unknown: models of which nothing says what they learned from.
    """

    rows: pa.Table
    undecided: int
    passed_over: dict[str, str]
    learned: int = 0
    unknown: tuple[str, ...] = ()

    def without(self, learned: Learned) -> Drawn:
        """Return those that no model learned from."""
        rows, contents = learned.without(self.rows)
        return replace(self, rows=rows, learned=contents, unknown=learned.unknown)

    def what_does_not_count(self) -> Iterator[str]:
        """Yield in words what does not count, and what may not."""
        yield from learned_in_words(self.learned, self.unknown)
        if self.undecided:
            yield f"{plural(self.undecided, 'drawn object')} are not decided yet"
        for draw, why in self.passed_over.items():
            yield f"draw {draw} does not count yet: {why}"


def drawn_objects(store: Store) -> Drawn:
    """Return the drawn objects of a store that people decided."""
    stands = standing(store)
    found, undecided, passed_over = [DRAWN_SCHEMA.empty_table()], 0, dict[str, str]()
    known = [pa.array([], pa.string())]
    for audit_id in sorted(name.removesuffix(".parquet") for name in store.names(FOLDER)):
        draw = Draw.read(store, audit_id)
        drawn = draw.rows
        known.append(drawn["sha256"].combine_chunks())
        rows = stands.onto(drawn)
        decided = rows.filter(is_decided(rows))
        if missing := _undecided_stratum(drawn, decided):
            passed_over[audit_id] = f"of the stratum {missing!r} nothing is decided"
            continue
        undecided += drawn.num_rows - decided.num_rows - forgotten_among(drawn)
        found.append(_weighed(draw, decided))
    found.append(_by_verdicts(store, stands, pa.concat_arrays(known)))
    return Drawn(_once(pa.concat_tables(found)), undecided, passed_over)


def weights_of(rows: pa.Table) -> NDArray[np.float64]:
    """Return the weights of drawn objects, with a mean of 1 in each sample: float64 [objects].

    Args:
        rows: with `sample` and `weight`.
    """
    weights: NDArray[np.float64] = rows["weight"].to_numpy()
    samples = rows["sample"].combine_chunks().dictionary_encode().indices.to_numpy()
    return weights * (np.bincount(samples) / np.bincount(samples, weights))[samples] if len(samples) else weights


def _once(rows: pa.Table) -> pa.Table:
    """Return the objects of each sample once, by the draw that was likeliest to take them."""
    key = ["sample", "uri", "sha256"]
    rows = rows.sort_by([*((name, "ascending") for name in (*key, "weight", "draw"))])
    return (
        rows.group_by(key, use_threads=False)
        .aggregate([(name, "first") for name in DRAWN_SCHEMA.names if name not in key])
        .rename_columns([*key, *(name for name in DRAWN_SCHEMA.names if name not in key)])
        .select(DRAWN_SCHEMA.names)
    )


def _undecided_stratum(drawn: pa.Table, decided: pa.Table) -> str | None:
    return min(set(drawn["stratum"].to_pylist()) - set(decided["stratum"].to_pylist()), default=None)


def _weighed(draw: Draw, decided: pa.Table) -> pa.Table:
    """Return the decided objects of a draw: each stands for its share of its stratum."""
    counts = decided.group_by("stratum").aggregate([([], "count_all")])
    place = pc.index_in(decided["stratum"], counts["stratum"].combine_chunks())
    weight = pc.divide(decided["size"].cast(pa.float64()), counts["count_all"].take(place).cast(pa.float64()))
    return _rows(f"seed {draw.seed}", draw.audit_id, decided, weight)


def _by_verdicts(store: Store, stands: StandingVerdicts, known: pa.Array) -> pa.Table:
    """Return the contents whose verdict says with which probability they were drawn, and that no draw has."""
    rows = counting(pa.concat_tables([VERDICT_SCHEMA.empty_table(), *verdict_rows(store)]), store)
    drawn = pc.and_(pc.is_in(rows["kind"], pa.array(list(map(str, DECIDING)))), pc.is_valid(rows["probability"]))
    rows = rows.filter(pc.and_(drawn, pc.invert(pc.is_in(rows["sha256"], known)))).sort_by("decided_at")
    likeliest = rows.group_by("sha256", use_threads=False).aggregate([("uri", "first"), ("probability", "max")])
    rows = stands.onto(likeliest.rename_columns(["sha256", "uri", "probability"]))
    rows = rows.filter(is_decided(rows))
    return _rows(VERDICTS, VERDICTS, rows, pc.divide(1.0, rows["probability"]))


def _rows(sample: str, draw: str, rows: pa.Table, weight: pa.ChunkedArray) -> pa.Table:
    removed = pc.equal(rows["verdict"], str(StandingVerdict.REMOVE))
    named = [pa.repeat(name, rows.num_rows) for name in (sample, draw)]
    return pa.table([*named, rows["uri"], rows["sha256"], weight, removed], schema=DRAWN_SCHEMA)
