"""Write what each reviewer is dealt: a file of JSON lines for each person, in the order in which to look at it.

`nsfwscan review --items FILE` makes a page of such a file, or of an audit's drawn items. Every file is whole, and none
appears before all are written. A file that is none raises `SourceError`, a place that cannot be written `ConfigError`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError, SourceError
from nsfwscan.reports.export import json_line
from nsfwscan.review.context import read_context
from nsfwscan.review.dealing import Dealt, Hands, PastDecisions, deal
from nsfwscan.review.queues import file_name, shown_item
from nsfwscan.review.ranking import EARLIER_RUNS, Item, ranked
from nsfwscan.review.roster import Roster
from nsfwscan.review.selection import GOLDEN, golden_and_harmless
from nsfwscan.runs.run import Run
from nsfwscan.schema import Decision
from nsfwscan.storage.output import Output
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.sessions import all_sessions
from nsfwscan.verdicts.verdict import Kind, VerdictWord

_MOST_HARMLESS = 2_000


@dataclass(frozen=True)
class NamedItem:
    """An item as a file names it.

    Attributes:
        place: in the file, from 0.
        probability: that it was drawn; None where it was not.
    """

    place: int
    queue: str
    kind: Kind
    reviewer: str
    probability: float | None


def write_hands(
    run: Run,
    out: Output,
    roster: Roster,
    storage: StorageConfig,
    names: Collection[str] = (),
    context: Iterable[pa.RecordBatch] = (),
    earlier_runs: int = EARLIER_RUNS,
) -> Hands:
    """Deal the items of a run's queues to the people of a roster, and write each one's file. Raises StoreError,
    SourceError, ConfigError.

    Args:
        names, context, earlier_runs: as for `ranked`.
    """
    verdicts = all_verdicts(run.store)
    looked = verdicts.filter(pc.not_equal(verdicts["verdict"], str(VerdictWord.UNDO)))
    past = PastDecisions.of(looked, roster, datetime.now(UTC), all_sessions(run.store))
    golden, harmless = _beside(run, roster, storage)
    with ranked(run, names, context, earlier_runs, across=True) as found:
        hands = deal(found.items, roster, past, golden, harmless)
    try:
        out.make_folder()
        taken: set[str] = set()
        with ExitStack() as files:
            for hand in hands.hands:
                path = files.enter_context(out.child(file_name(hand.reviewer.name, taken)).appearing())
                path.write_text("".join(_lines(hand.reviewer.name, hand.dealt)), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror or error}") from error
    return hands


def _beside(run: Run, roster: Roster, storage: StorageConfig) -> tuple[list[Item], list[Item]]:
    """Return the golden items and the harmless ones."""
    golden = answers(roster.golden, storage) if roster.golden else {}
    allowed = run.record().summary.decision.get(Decision.ALLOW, 0)
    share = min(1 - 1e-9, _MOST_HARMLESS / max(1, allowed))
    with ranked(run, earlier_runs=0, choice=golden_and_harmless(golden, share, roster.seed)) as found:
        items = list(found.items)
    return [one for one in items if one.row["queue"] == GOLDEN], [one for one in items if one.row["queue"] != GOLDEN]


def answers(uri: str, storage: StorageConfig) -> dict[str, str]:
    """Return the known verdicts of golden objects, by URI. Raises SourceError where the table has others."""
    found: dict[str, str] = {}
    for batch in read_context(uri, storage):
        for row in batch.to_pylist():
            verdict = json.loads(row["context"]).get("verdict")
            if verdict not in (VerdictWord.APPROVE, VerdictWord.REMOVE):
                raise SourceError(f"{uri}, row {row['number']}: the verdict of a golden item is approve or remove, "
                                  f"not {verdict!r}")  # fmt: skip
            found[row["uri"]] = verdict
    return found


def _lines(reviewer: str, dealt: list[Dealt]) -> Iterable[str]:
    """Yield the lines of a hand. Golden and harmless items are said to be of the queue that most others are of."""
    queues = Counter(one.item.row["queue"] for one in dealt if one.kind is Kind.REVIEW)
    usual = max(queues, key=lambda queue: queues[queue], default=None)
    for one in dealt:
        queue = one.item.row["queue"] if one.kind is Kind.REVIEW else usual
        yield json_line({**shown_item(one.item), "queue": queue, "kind": str(one.kind), "reviewer": reviewer})


def read_items(uri: str, storage: StorageConfig) -> Mapping[str, NamedItem]:
    """Return the items that a file names, by their URIs, in its order; of an item that is there twice, the first."""
    found: dict[str, NamedItem] = {}
    for batch in read_context(uri, storage):
        for row in batch.to_pylist():
            said = json.loads(row["context"])
            where, probability = f"{uri}, row {row['number']}", said.get("probability")
            if (kind := said.get("kind") or Kind.REVIEW) not in set(Kind):
                raise SourceError(f"{where}: kind is {kind!r}; it may be {', '.join(Kind)}")
            if probability is not None and not (isinstance(probability, int | float) and 0 < probability <= 1):
                raise SourceError(
                    f"{where}: the probability of being drawn is {probability!r}, not above 0 and up to 1"
                )
            named = NamedItem(
                len(found), str(said.get("queue") or ""), Kind(kind), str(said.get("reviewer") or ""), probability
            )
            found.setdefault(row["uri"], named)
    return found


def in_order(items: Iterable[Item], named: Mapping[str, NamedItem]) -> list[Item]:
    """Return items in the order of their file, with its queues. One that was drawn stands for itself alone: what is
    like it was not drawn with its probability."""
    return [_as_named(item, named[item.row["uri"]]) for item in sorted(items, key=lambda i: named[i.row["uri"]].place)]


def _as_named(item: Item, said: NamedItem) -> Item:
    row = {**item.row, "queue": said.queue or "items"}
    if said.kind is Kind.NORMING:  # nobody is to know what others decided
        return item._replace(row={**row, "rule": None, "decision": "open", "severity": None}, near={}, prior=[])
    return item._replace(row=row) if said.probability is None else item._replace(row={**row, "contents": 1}, members=[])
