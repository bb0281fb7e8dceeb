"""Calibrate a model on a store: from drawn objects and what people said, to probabilities that can be believed.

Half of the drawn contents, by their digests, are fitted; the map is measured on the others. It is kept beside the
store, and the next scan or replay fills `calibrated_score` by it. A store or a draw that cannot be read is a
`StoreError`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import nsfwscan
from nsfwscan.errors import NsfwscanError
from nsfwscan.models.calibration import Floats, Method
from nsfwscan.models.calibration_fit import Sample, choose, fit, folds_of, methods_for
from nsfwscan.models.learned import learned_by
from nsfwscan.models.reliability import improvement, measure
from nsfwscan.review.drawn import DRAWN_SCHEMA, Drawn, drawn_objects, weights_of
from nsfwscan.runs.calibrations import HISTORY, Calibration, Origin
from nsfwscan.runs.parts import read_rows
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import NSFW_CATEGORIES
from nsfwscan.text import plural
from nsfwscan.workflows.finalize import now
from nsfwscan.workflows.pin import somebody

TRUTH = "truth"
LEAST = 25
"""Contents of each answer that are fitted, and as many that are measured on, at least."""
_SCHEMA = pa.schema([*DRAWN_SCHEMA, pa.field("score", pa.float64())])
_SCORED = pa.schema([_SCHEMA.field(name) for name in ("uri", "sha256", "score", "removed")])


@dataclass(frozen=True)
class _Looked:
    """Drawn objects with their scores, and what else there is.

    Attributes:
        rows: `_SCHEMA`, sorted by SHA-256; none of what the model learned from.
        unscored: drawn objects that the run has no score of.
        truths: objects whose truth is known, and not used, since nobody knows why it is known of them.
    """

    rows: pa.Table
    drawn: Drawn
    unscored: int
    truths: int


def calibrate(run: Run, method: Method | None = None, truth_probability: float | None = None) -> Calibration:
    """Fit a map to what people said of drawn objects, and keep it.

    Args:
        run: whose scores are used, and whose model is calibrated.
        method: unset: of those that fit the model, the one with the least loss under cross-validation.
        truth_probability: with which the objects were drawn whose truth is known; unset: truth counts where it is
            known of every scored object.

    Raises:
        NsfwscanError: too few are known; scores do not rise with what people remove; or, on the objects that were not
            fitted, the map is worse than none. Nothing is written then.
    """
    record = run.record()
    if record.is_delta:
        raise NsfwscanError(f"run {run.run_id} is a delta, which has few of the drawn objects: name a whole report")
    looked = _looked_at(run, record, truth_probability)
    sample, held = _sample(looked.rows)
    _check_enough(run, looked)
    fitted, others = sample.only(~held), sample.only(held)
    categories = set(record.model.labels.values())
    method = method or choose(methods_for(len(categories)), fitted)
    found = fit(method, fitted)
    if found is None:
        raise NsfwscanError(
            f"the scores of {record.model.identity} do not rise with what people remove: no map makes them "
            "probabilities. Look at the objects with high scores that people approve"
        )
    after, before = found(others.scores), others.scores
    gain = improvement(before, after, others)
    if gain.high < 0:
        raise NsfwscanError(
            f"on {plural(int(held.sum()), 'object')} that were not fitted the {method} map is worse than the scores "
            f"themselves (log loss {-gain.value:.4f} higher): label more, or name another --method"
        )
    number, previous = HISTORY.next(run.store)
    calibration = Calibration(
        number=number,
        previous=previous,
        made_at=now(),
        made_by=somebody(),
        nsfwscan=nsfwscan.__version__,
        model=record.model.identity,
        model_sha256=record.model.sha256,
        map=found,
        origin=_origin(run, looked),
        held_out=int(held.sum()),
        before=measure(before, others),
        after=measure(after, others),
        gain=gain,
    )
    uri = run.store.uri
    conflict = f"somebody else calibrated {uri} just now: look at it (`nsfwscan calibrate {uri} --show`)"
    return HISTORY.write(run.store, calibration, conflict)


def _looked_at(run: Run, record: RunRecord, truth_probability: float | None) -> _Looked:
    drawn = drawn_objects(run.store)
    wanted, identity = drawn.rows["sha256"].combine_chunks().unique(), record.model.identity
    scores, truths, scored = [_SCORED.empty_table()], [_SCORED.empty_table()], 0
    for rows in read_rows(run, record, ("uri", "sha256", "nsfw_score", "model", "truth")):
        good = pc.and_(pc.is_finite(rows["nsfw_score"]), pc.equal(rows["model"], identity))
        some = rows.filter(pc.and_(good, pc.is_valid(rows["sha256"])))
        scored += some.num_rows
        scores.append(_scored(some.filter(pc.is_in(some["sha256"], wanted))))
        known = some.filter(pc.is_valid(some["truth"]))
        removed = pc.is_in(known["truth"], pa.array(sorted(map(str, NSFW_CATEGORIES))))
        truths.append(_scored(known, removed))
    of_content = pa.concat_tables(scores)
    place = pc.index_in(drawn.rows["sha256"], of_content["sha256"].combine_chunks())
    found = drawn.rows.append_column("score", of_content["score"].take(place.combine_chunks()))
    there, truth = found.filter(pc.is_valid(found["score"])), pa.concat_tables(truths)
    whole = truth.num_rows == scored > 0
    counts = truth_probability is not None or whole
    if counts:  # where all have truth, a drawn object would only be there twice
        drawn_too = there.cast(_SCHEMA).slice(length=0 if whole else None)
        there = pa.concat_tables([drawn_too, _as_draw(truth, truth_probability or 1.0)])
    unscored = found.num_rows - found["score"].drop_null().length()
    learned = learned_by([record.model.uri], run.store.storage)
    rows, contents = learned.without(there.cast(_SCHEMA).sort_by("sha256"))
    drawn = replace(drawn, learned=contents, unknown=learned.unknown)
    return _Looked(rows, drawn, unscored, 0 if counts else truth.num_rows)


def _scored(rows: pa.Table, removed: pa.ChunkedArray | None = None) -> pa.Table:
    """Return `uri`, `sha256`, `score` and `removed` of rows of a report."""
    answers = pa.nulls(rows.num_rows, pa.bool_()) if removed is None else removed
    return pa.table([rows["uri"], rows["sha256"], rows["nsfw_score"].cast(pa.float64()), answers], schema=_SCORED)


def _as_draw(truth: pa.Table, probability: float) -> pa.Table:
    columns = {name: pa.repeat(TRUTH, truth.num_rows) for name in ("sample", "draw")}
    columns |= {"weight": pa.repeat(1 / probability, truth.num_rows)}
    columns |= {name: truth[name] for name in _SCORED.names}
    return pa.table([columns[name] for name in _SCHEMA.names], schema=_SCHEMA)


def _sample(rows: pa.Table) -> tuple[Sample, NDArray[np.bool_]]:
    """Return the objects, and which are held out: every other content of each answer, so that copies stay together."""
    scores: Floats = rows["score"].to_numpy()
    removed: NDArray[np.bool_] = rows["removed"].to_numpy()
    contents = rows.group_by("sha256", use_threads=False).aggregate([("removed", "max")])
    folds = folds_of(contents["removed_max"].to_numpy(), 2)
    held = folds[pc.index_in(rows["sha256"], contents["sha256"].combine_chunks()).to_numpy()] == 1
    return Sample(scores, removed, weights_of(rows)), held


def _check_enough(run: Run, looked: _Looked) -> None:
    """Raise NsfwscanError where too few contents of an answer are known, and say how many are lacking, and which."""
    contents = looked.rows.group_by("sha256").aggregate([("removed", "max")])["removed_max"].to_pylist()
    have = {"removed": sum(contents), "approved": len(contents) - sum(contents)}
    lacking = {word: 2 * LEAST - count for word, count in have.items() if count < 2 * LEAST}
    if not lacking:
        return
    known = f"there are {have['removed']:,} and {have['approved']:,}"
    more = " and ".join(f"{count:,} more that they {word}" for word, count in lacking.items())
    rates = [count * len(contents) / have[word] for word, count in lacking.items() if have[word]]
    about = f", about {round(max(rates)):,} more draws at this rate" if len(rates) == len(lacking) else ""
    said = [
        f"calibrating takes at least {2 * LEAST} drawn contents that people removed and {2 * LEAST} that they "
        f"approved; {known}. Needed are {more}{about}: `nsfwscan label {run.store.uri} --n N` or "
        "`nsfwscan audit draw` draws them, and "
        "what people say of them counts once it is imported (`nsfwscan verdicts import`); what queues showed does not "
        "count"
    ]
    said += looked.drawn.what_does_not_count()
    if looked.truths:
        said.append(
            f"the truth of {plural(looked.truths, 'object')} does not count, since only some have one: if they were "
            "drawn at random, say with which probability (--truth-probability)"
        )
    if looked.unscored:
        said.append(f"{plural(looked.unscored, 'drawn object')} have no score of this model in run {run.run_id}")
    raise NsfwscanError("\n".join(said))


def _origin(run: Run, looked: _Looked) -> Origin:
    rows = looked.rows
    return Origin(
        run_id=run.run_id,
        draws=tuple(sorted(rows["draw"].unique().to_pylist())),
        objects=rows.num_rows,
        removed=pc.sum(rows["removed"]).as_py(),
        undecided=looked.drawn.undecided,
        passed_over=looked.drawn.passed_over,
        learned=looked.drawn.learned,
        unknown=looked.drawn.unknown,
    )
