"""Choose a policy's threshold by what people said of drawn objects, and say what it costs in views.

The scores are those of a committed run; no image is read. What people said of an object is taken out of its row before
the policy decides it: the policy must find the next one like it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from nsfwscan.errors import NsfwscanError
from nsfwscan.models.learned import learned_by
from nsfwscan.policy.decide import Decider
from nsfwscan.policy.rules import Policy
from nsfwscan.policy.solve import (
    LOWEST,
    Drawn,
    Solution,
    at,
    highest_within,
    lowest_within,
    miss_bound,
    moved,
    named,
    needed,
    times_needed,
)
from nsfwscan.review.drawn import Drawn as DrawnObjects
from nsfwscan.review.drawn import drawn_objects, weights_of
from nsfwscan.runs.calibrations import read_calibrated
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.runs.run import Run
from nsfwscan.schema import Decision
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.standing import counting, unjudged
from nsfwscan.verdicts.verdict import DECIDING

_FOR_PEOPLE = (str(Decision.REVIEW), str(Decision.ESCALATE))


@dataclass(frozen=True)
class Effort:
    """The time and the opens that decisions took, as their verdicts say.

    Attributes:
        opened: share of the items whose original was opened; 1 where nobody decided yet.
        seconds: mean time for an item; None where not known.
        items: items that this rests on.
    """

    opened: float
    seconds: float | None
    items: int


@dataclass(frozen=True)
class Solved:
    """A policy with its threshold chosen, and what can be expected of it.

    Attributes:
        within_budget: whether the budget of views decided, since the bound alone asks for more.
        drawn, positives: objects drawn and looked at; those that were removed.
        looked_at: objects that the run looked at: a night.
        views, views_before: of these, those that wait for a person; the same by the policy as it was given.
        learned: drawn contents that are left out, since a model of the run learned from them.
        unknown: models of which nothing says what they learned from.
    """

    policy: Policy
    threshold: str
    solution: Solution
    within_budget: bool
    drawn: int
    positives: int
    looked_at: int
    views: int
    views_before: int
    effort: Effort
    learned: int
    unknown: tuple[str, ...]


def solve(
    run: Run,
    policy: Policy,
    threshold: str | None,
    *,
    miss: float,
    confidence: float,
    opens: float | None = None,
    hours: float | None = None,
) -> Solved:
    """Return a policy that misses at most a share of what people would remove, and asks as little of them as it can.

    Args:
        run: whose scores are used.
        threshold: which one to choose; unset: the lowest.
        opens: originals that people can open a night; unset: as many as it takes.
        hours: that people have a night.

    Raises:
        NsfwscanError: too few drawn objects were removed by people; or no threshold keeps within what was asked for.
        PolicyError: the policy has no such threshold.
    """
    policy, name = named(policy, threshold)
    record = run.record()
    verdicts = counting(all_verdicts(run.store), run.store)
    if record.is_delta:
        raise NsfwscanError(f"run {run.run_id} is a delta, which has few of the drawn objects: name a whole report")
    looked = _looked_at(run, record, Decider(policy))
    rows, drawn = looked.rows, looked.drawn
    least = needed(miss, confidence)
    if drawn.positives < least:
        raise NsfwscanError(_too_few(run, looked, least, miss, confidence))

    def missed_at(value: float) -> NDArray[np.bool_]:
        decided = Decider(moved(policy, name, value))(rows)["decision"]
        allowed: NDArray[np.bool_] = pc.equal(decided, str(Decision.ALLOW)).to_numpy()
        return drawn.removed & allowed

    found, effort = highest_within(drawn, missed_at, miss, confidence), _effort(verdicts)
    most = _most_views(effort, opens, hours)
    night = _Night(run, record)
    over = most is not None and (found is None or night.views(moved(policy, name, found.threshold)) > most)
    if over and most is not None:
        lowest = lowest_within(lambda value: night.views(moved(policy, name, value)), most)
        if lowest is None:
            raise NsfwscanError(f"no value of ${name} leaves only {most:,.0f} views a night: other rules send more")
        found = at(lowest, drawn, missed_at, miss, confidence)
    if found is None:
        raise NsfwscanError(_never_holds(name, looked, missed_at(LOWEST), miss, confidence))
    chosen = moved(policy, name, found.threshold)
    before = night.views(policy)
    counts = (len(drawn.removed), drawn.positives, night.rows, night.views(chosen), before)
    return Solved(chosen, name, found, over, *counts, effort, looked.of.learned, looked.of.unknown)


@dataclass(frozen=True)
class _Looked:
    """Drawn objects of a run that people decided.

    Attributes:
        rows: of the report, one for each, without what people said.
        drawn: what people said.
        of: all drawn objects of the store that no model of the run learned from, those that the run lacks, too.
    """

    rows: pa.Table
    drawn: Drawn
    of: DrawnObjects


def _looked_at(run: Run, record: RunRecord, decider: Decider) -> _Looked:
    found = drawn_objects(run.store).without(learned_by(record.models, run.store.storage))
    wanted = found.rows["sha256"].combine_chunks().unique()
    names = list(dict.fromkeys(["sha256", *decider.columns]))
    parts = [part.filter(pc.is_in(part["sha256"], wanted)) for part in read_calibrated(run, record, names, [decider])]
    rows = pa.concat_tables(parts).combine_chunks()
    place = pc.index_in(found.rows["sha256"], rows["sha256"].combine_chunks()).combine_chunks()
    there = found.rows.filter(pc.is_valid(place))
    removed: NDArray[np.bool_] = there["removed"].to_numpy()
    return _Looked(unjudged(rows.take(place.drop_null())), Drawn(weights_of(there), removed), found)


class _Night:
    """The objects that a run looked at, as they lie in its report."""

    def __init__(self, run: Run, record: RunRecord) -> None:
        self._run, self._record = run, record
        self.rows = record.summary.rows - record.balance.carried

    def views(self, policy: Policy) -> int:
        """Return how many of the objects looked at a policy sends to people."""
        decider, views = Decider(policy), 0
        columns = list(dict.fromkeys(["carried_from", *decider.columns]))
        for rows in read_calibrated(self._run, self._record, columns, [decider]):
            fresh = unjudged(rows.filter(pc.is_null(rows["carried_from"])))
            found = decider(fresh)["decision"] if fresh.num_rows else pa.array([], pa.string())
            views += pc.sum(pc.is_in(found, pa.array(_FOR_PEOPLE))).as_py() or 0
        return views


def _effort(verdicts: pa.Table) -> Effort:
    """Return what items took that people decided, norming and golden ones left out."""
    asked = verdicts.filter(pc.is_in(verdicts["kind"], pa.array(list(map(str, DECIDING)))))
    opened = pc.mean(asked["opened"].cast(pa.int8())).as_py()
    return Effort(1.0 if opened is None else opened, pc.mean(asked["seconds"]).as_py(), asked.num_rows)


def _most_views(effort: Effort, opens: float | None, hours: float | None) -> float | None:
    """Return how many views a night fit into the budgets; None: any number."""
    if hours is not None and not effort.seconds:
        raise NsfwscanError("--hours needs to know how long an item takes, and no verdict says: give --opens-per-day")
    bounds = [opens / effort.opened] if opens is not None and effort.opened else []
    bounds += [hours * 3600 / effort.seconds] if hours is not None and effort.seconds else []
    return min(bounds, default=None)


def _too_few(run: Run, looked: _Looked, least: int, miss: float, confidence: float) -> str:
    """Return what is lacking, and what to label."""
    have, draws = looked.drawn.positives, len(looked.drawn.removed)
    said = (
        f"a miss rate of {miss:.1%} with a confidence of {confidence:.0%} takes at least {least:,} drawn objects that "
        f"people removed, none of them missed; there are {have:,} among {draws:,} drawn ones"
    )
    more = least - have
    rate = max(have, 1) / max(draws, 1)
    about = f", about {round(more / rate):,} more draws at this rate" if have else ""
    needs = (
        f"{said}. {more:,} more are needed{about}: `nsfwscan audit draw {run.store.uri} --n N` draws them, and what "
        "people say of them counts once it is imported (`nsfwscan verdicts import`)"
    )
    return "\n".join([needs, *looked.of.what_does_not_count()])


def _never_holds(name: str, looked: _Looked, missed: NDArray[np.bool_], miss: float, confidence: float) -> str:
    """Return why no threshold keeps to the bound, and what would help.

    Args:
        missed: drawn objects, removed, that the policy allows with the lowest threshold.
    """
    drawn = looked.drawn
    times = times_needed(drawn, missed, miss, confidence)
    draws = len(drawn.removed)
    more = (
        "so many are missed that no number of draws is enough: let other rules find them"
        if times is None
        else f"about {round((times - 1) * draws):,} more draws like these {draws:,} would do, if they are missed as "
        "seldom (`nsfwscan audit draw`, `nsfwscan label`), or other rules that find them"
    )
    said = (
        f"no value of ${name} misses at most {miss:.1%} with a confidence of {confidence:.0%}: at {LOWEST:f} the "
        f"policy allows {int(missed.sum()):,} of {drawn.positives:,} removed objects, so it may miss "
        f"{miss_bound(drawn, missed, confidence):.1%}; {more}"
    )
    return "\n".join([said, *looked.of.what_does_not_count()])
