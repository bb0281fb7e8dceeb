"""Deal items to people: by skill and severity, under each one's daily budget of opens, and in a bearable order.

An item costs what it is expected to be opened: the share of items that people opened so far (a roster's `open_rate`, as
long as few verdicts are known), more for an uncertain item than for a sure one, nothing for what cannot be opened. The
most urgent item goes first, to the person with the largest part of the budget left among those who may have it. A share
goes to a second person. Nobody gets two heavy items back to back: a lighter one stands between, or a harmless one.

What a person is not told: which items are golden, harmless, or also another's.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from nsfwscan.policy.signals import signals_of_row
from nsfwscan.review.attention import concerns_of
from nsfwscan.review.ranking import Item
from nsfwscan.review.roster import LEAD, Reviewer, Roster
from nsfwscan.schema import StandingVerdict
from nsfwscan.text import plural
from nsfwscan.verdicts.sessions import opens_on
from nsfwscan.verdicts.verdict import Kind

_PRIOR_ITEMS = 50
"""Verdicts that the roster's `open_rate` weighs as much as."""
HEAVY = 3.0
"""Intensity from which an item is heavy: that of a severity of 3, or of certain gore."""
_GORE = ("gore", "violence", "blood")


@dataclass(frozen=True)
class Dealt:
    """An item in a person's hand."""

    item: Item
    kind: Kind
    opens: float
    """The expected opens."""


@dataclass
class Hand:
    """The items that a person is dealt, in order.

    Attributes:
        left: opens that the budget still allows.
    """

    reviewer: Reviewer
    left: float
    dealt: list[Dealt] = field(default_factory=list)

    @property
    def opens(self) -> float:
        """The expected opens of all of it."""
        return sum(one.opens for one in self.dealt)


@dataclass(frozen=True)
class Hands:
    """All hands, and why other items are in none."""

    hands: tuple[Hand, ...]
    left: Mapping[str, int]
    second: int
    """Items that two people have."""


@dataclass(frozen=True)
class PastDecisions:
    """The decisions of people so far.

    Attributes:
        open_rate: share of the items that are opened.
        opened_today: originals that each person opened since midnight, UTC.
        decided_by: people by the SHA-256 of what they decided.
    """

    open_rate: float
    opened_today: Mapping[str, int]
    decided_by: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, verdicts: pa.Table, roster: Roster, now: datetime, sessions: pa.Table | None = None) -> PastDecisions:
        """Return the past that verdicts (`VERDICT_SCHEMA`) tell; those that were taken back were opened, too.

        Args:
            sessions: `SESSION_SCHEMA`; they also know what was opened and then skipped.
        """
        asked = verdicts.select(["sha256", "reviewer", "opened", "decided_at"])
        opened = pc.sum(asked["opened"].cast(pa.int64())).as_py() or 0
        rate = (opened + roster.open_rate * _PRIOR_ITEMS) / (asked.num_rows + _PRIOR_ITEMS)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
        today = asked.filter(pc.and_(asked["opened"], pc.greater_equal(asked["decided_at"], pa.scalar(midnight))))
        by: dict[str, set[str]] = {}
        for sha256, name in zip(asked["sha256"].to_pylist(), asked["reviewer"].to_pylist(), strict=True):
            by.setdefault(sha256, set()).add(name)
        decided_by = {sha256: frozenset(names) for sha256, names in by.items()}
        opened_today = Counter(today["reviewer"].to_pylist())
        for name, opens in opens_on(sessions, now.date()).items() if sessions is not None else ():
            opened_today[name] = max(opened_today[name], opens)
        return cls(rate, opened_today, decided_by)


def intensity(item: Item) -> float:
    """Return how hard an item is to look at, 0 to 4: its severity, or a detector of gore, whichever is more."""
    said = concerns_of(signals_of_row(item.row["signals"]))
    gore = max((value for name, value in said.items() if any(word in name for word in _GORE)), default=0.0)
    return max(float(item.row["severity"] or 0), 4 * gore)


def expected_opens(item: Item, open_rate: float) -> float:
    """Return the probability that an item is opened."""
    if item.row["illegal"]:
        return 0.0
    return min(1.0, open_rate * (0.5 + (item.row["uncertainty"] or 0)))


def deal(
    items: Iterable[Item], roster: Roster, past: PastDecisions, golden: Sequence[Item], harmless: Sequence[Item]
) -> Hands:
    """Deal items, which come the most urgent first.

    Args:
        golden, harmless: to be mixed among them; of each person's, none twice.
    """
    hands = [Hand(one, one.opens - past.opened_today.get(one.name, 0)) for one in roster.reviewers]
    left: Counter[str] = Counter()
    second = 0
    for item in items:
        found = _given(item, hands, past, set())
        if isinstance(found, str):
            left[found] += 1
            continue
        if _drawn(roster, item):
            second += not isinstance(_given(item, hands, past, {found.reviewer.name}), str)
    for hand in hands:
        held_back = _arrange(hand, roster, golden, harmless, past.open_rate)
        left["too heavy, with nothing light to put between"] += held_back
    return Hands(tuple(hands), {why: count for why, count in left.items() if count}, second)


def _given(item: Item, hands: Sequence[Hand], past: PastDecisions, others: set[str]) -> Hand | str:
    """Put an item into a hand and return it, or say why nobody may have it."""
    row, opens = item.row, expected_opens(item, past.open_rate)
    skills = {row["skill"]} - {None} | ({LEAD} if row["verdict"] == StandingVerdict.DISPUTED else set())
    able = [hand for hand in hands if skills <= set(hand.reviewer.skills)]
    if not able:
        return f"nobody has the skill {' and '.join(sorted(skills))}"
    able = [hand for hand in able if intensity(item) <= hand.reviewer.severity]
    if not able:
        return "more severe than anybody is given"
    decided = past.decided_by.get(row["sha256"], frozenset()) | others
    able = [hand for hand in able if hand.reviewer.name not in decided]
    if not able:
        return "decided already by all who may"
    able = [hand for hand in able if hand.left >= opens]
    if not able:
        return "over everybody's budget of opens"
    hand = max(able, key=lambda one: one.left / max(1.0, one.reviewer.opens))
    hand.left -= opens
    hand.dealt.append(Dealt(item, Kind.REVIEW, opens))
    return hand


def _drawn(roster: Roster, item: Item) -> bool:
    """Return whether an item goes to a second person: the same items whoever asks again."""
    digest = hashlib.sha256(f"{roster.seed}:second:{item.row['uri']}".encode()).digest()
    return int.from_bytes(digest[:8]) < roster.second_review * 2**64


def _arrange(hand: Hand, roster: Roster, golden: Sequence[Item], harmless: Sequence[Item], open_rate: float) -> int:
    """Mix golden and harmless items into a hand, and part its heavy ones. Return the number of items held back."""
    chance = random.Random(f"{roster.seed}:{hand.reviewer.name}")
    fillers = deque(chance.sample(harmless, len(harmless)))
    heavy = deque(one for one in hand.dealt if intensity(one.item) >= HEAVY)
    light = deque(one for one in hand.dealt if intensity(one.item) < HEAVY)
    order: list[Dealt] = []
    ranks = {id(one): place for place, one in enumerate(hand.dealt)}
    while heavy or light:
        after_heavy = bool(order) and intensity(order[-1].item) >= HEAVY
        wants_heavy = bool(heavy) and (not light or ranks[id(heavy[0])] < ranks[id(light[0])])
        if wants_heavy and not after_heavy:
            order.append(heavy.popleft())
        elif light:
            order.append(light.popleft())
        elif fillers:
            order.append(_harmless(fillers.popleft()))
        else:
            break
    hand.left += sum(one.opens for one in heavy)
    for _ in range(min(len(fillers), round(roster.harmless_share * len(order)))):
        order.insert(chance.randint(0, len(order)), _harmless(fillers.popleft()))
    asked = {sha256 for one in order for sha256 in _contents(one.item)}
    fresh = [item for item in golden if asked.isdisjoint(_contents(item))]
    known = chance.sample(fresh, min(len(fresh), round(roster.golden_share * len(order))))
    hand.dealt = _with_golden(order, known, chance, open_rate)
    return len(heavy)


def _contents(item: Item) -> set[str]:
    """Return what is decided with an item: nobody is asked twice."""
    return {item.row["sha256"], *(member["sha256"] for member in item.members)}


def _harmless(item: Item) -> Dealt:
    return Dealt(item, Kind.NORMING, 0.0)


def _with_golden(order: list[Dealt], golden: Sequence[Item], chance: random.Random, open_rate: float) -> list[Dealt]:
    """Return the order with golden items in it, none of which makes two heavy ones neighbours."""
    for item in golden:
        places = [
            place
            for place in range(len(order) + 1)
            if intensity(item) < HEAVY
            or all(intensity(one.item) < HEAVY for one in order[max(0, place - 1) : place + 1])
        ]
        if places:
            order.insert(chance.choice(places), Dealt(item, Kind.GOLDEN, expected_opens(item, open_rate)))
    return order


def describe_hands(hands: Hands) -> str:
    """Render the hands for the terminal: in the order of the roster, since nobody is ranked."""
    names = ["reviewer", *(hand.reviewer.name for hand in hands.hands)]
    width = max(map(len, names))
    lines = [f"{'reviewer':{width}}  {'items':>7}  {'opens':>7}  {'budget':>7}"]
    for hand in hands.hands:
        shown = f"{len(hand.dealt):7,}  {hand.opens:7.1f}  {hand.reviewer.opens:7g}"
        lines.append(f"{hand.reviewer.name:{width}}  {shown}")
    lines += [f"{plural(hands.second, 'item goes', 'items go')} to two people"] * bool(hands.second)
    lines += [f"{plural(count, 'item is', 'items are')} in no hand: {why}" for why, count in hands.left.items()]
    return "\n".join(lines)
