"""Say how well a team's verdicts agree, with each other and with known answers: for coaching, and for nothing else.

The figures are of a team; of a person only where asked, and then in the order of names: nobody is ranked, and speed is
not shown. Verdicts that are older than asked for are left out. A store that cannot be read is a `StoreError`, a place
that cannot be written a `ConfigError`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

from nsfwscan.errors import ConfigError
from nsfwscan.models.reliability import share_of
from nsfwscan.reports.html import page_environment
from nsfwscan.review.pack import TEMPLATES
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.text import printable
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.standing import counting
from nsfwscan.verdicts.verdict import FORMER, Kind, VerdictWord

COACHING_PAGE = "coaching.html"
DAYS, RECENT_DAYS = 90, 28
"""Days of verdicts that are used, and of those the last ones that drift is seen in."""
_ANSWERS = (str(VerdictWord.APPROVE), str(VerdictWord.REMOVE))

Row = dict[str, Any]
Opinion = tuple[str, datetime, bool]
"""Of which content something was said, when, and whether it agreed."""


@dataclass(frozen=True)
class Rate:
    """A share, and its 95 % interval; None without trials."""

    hits: int
    trials: int
    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, said: Iterable[tuple[str, bool]]) -> Rate:
        """Return the share of what is true. What is said of one content is alike, so the interval is of contents: it is
        that of as many opinions, each for itself, as have its linearised variance.

        Args:
            said: content, and whether it agrees.
        """
        contents: dict[str, list[bool]] = defaultdict(list)
        for content, agrees in said:
            contents[content].append(agrees)
        trials, hits, count = sum(map(len, contents.values())), sum(map(sum, contents.values())), len(contents)
        if not trials:
            return cls(0, 0, None, None, None)
        value, alike = hits / trials, float(count)
        off = sum((sum(agree) - value * len(agree)) ** 2 for agree in contents.values())
        if off and count > 1:
            alike = min(trials, value * (1 - value) * trials**2 * (count - 1) / (count * off))
        interval = share_of(value, alike)
        return cls(hits, trials, value, interval.low, interval.high)

    def differs_from(self, other: Rate) -> bool:
        """Return whether the intervals of two rates do not touch."""
        if None in (self.low, self.high, other.low, other.high):
            return False
        return bool(self.low > other.high or self.high < other.low)  # type: ignore[operator]


@dataclass(frozen=True)
class Figures:
    """Agreement of a team or a person.

    Attributes:
        agreement: with others who decided the same contents, not knowing of it.
        golden: with known answers.
        before, recent: the agreement of both kinds, before the last weeks and in them.
    """

    name: str
    agreement: Rate
    golden: Rate
    before: Rate
    recent: Rate

    @property
    def drifts(self) -> bool:
        """True if the last weeks differ from those before by more than chance."""
        return self.recent.differs_from(self.before)


@dataclass(frozen=True)
class CoachingReport:
    """The page of a coaching report, and its figures."""

    page: str
    team: Figures
    people: tuple[Figures, ...]


def write_coaching(
    store: Store, out: Output, golden: Mapping[str, str], *, days: int = DAYS, people: bool = False
) -> CoachingReport:
    """Write the page into a folder.

    Args:
        golden: known verdicts, by URI.
        days: of verdicts that are used.
        people: also show figures of each person.
    """
    now = datetime.now(UTC).replace(tzinfo=None)
    rows = [
        row for row in counting(all_verdicts(store), store).to_pylist() if row["decided_at"] >= now - timedelta(days)
    ]
    rows = [row for row in rows if row["verdict"] in _ANSWERS]
    names = sorted({row["reviewer"] for row in rows if not row["reviewer"].startswith(FORMER)}, key=str.casefold)
    pairs, known = _pairs(rows), _known(rows, golden)
    recent = now - timedelta(RECENT_DAYS)
    team = _figures("the team", [said for _, said in pairs[::2]], [said for _, said in known], recent)
    each = tuple(
        _figures(
            name,
            [said for who, said in pairs if who == name],
            [said for who, said in known if who == name],
            recent,
        )
        for name in (names if people else ())
    )
    try:
        out.make_folder()
        with out.child(COACHING_PAGE).appearing() as path:
            template = page_environment(TEMPLATES).get_template("coaching.html")
            page = template.render(
                store=store.uri, made_at=datetime.now(UTC).isoformat(), team=team, people=each, reviewers=len(names),
                days=days, recent=RECENT_DAYS,
            )  # fmt: skip
            path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the page to {out}: {error.strerror or error}") from error
    return CoachingReport(str(out.child(COACHING_PAGE)), team, each)


def _pairs(rows: Sequence[Row]) -> list[tuple[str, Opinion]]:
    """Return each two people's verdicts on one content as two opinions, with who gave them, one after the other."""
    latest: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["kind"] in (Kind.REVIEW, Kind.AUDIT):
            latest.setdefault(row["sha256"], {})[row["reviewer"]] = row
    found = []
    for said in latest.values():
        for one, other in combinations(said.values(), 2):
            same = one["verdict"] == other["verdict"]
            found += [(row["reviewer"], (row["sha256"], row["decided_at"], same)) for row in (one, other)]
    return found


def _known(rows: Sequence[Row], golden: Mapping[str, str]) -> list[tuple[str, Opinion]]:
    """Return whether each golden verdict is the known one, with who gave it."""
    return [
        (row["reviewer"], (row["sha256"], row["decided_at"], row["verdict"] == golden[row["uri"]]))
        for row in rows
        if row["kind"] == Kind.GOLDEN and row["uri"] in golden
    ]


def _figures(name: str, pairs: Sequence[Opinion], known: Sequence[Opinion], recent: datetime) -> Figures:
    both = [*pairs, *known]
    return Figures(
        name,
        Rate.of((content, same) for content, _, same in pairs),
        Rate.of((content, same) for content, _, same in known),
        Rate.of((content, same) for content, at, same in both if at < recent),
        Rate.of((content, same) for content, at, same in both if at >= recent),
    )


def describe_coaching(coaching: CoachingReport) -> str:
    """Render the figures for the terminal."""
    lines = [f"page       {coaching.page}"]
    for figures in (coaching.team, *coaching.people):
        drift = "; the last weeks differ" if figures.drifts else ""
        lines.append(
            f"{printable(figures.name)}: agreement {rate(figures.agreement)}, golden {rate(figures.golden)}{drift}"
        )
    return "\n".join(lines)


def rate(found: Rate) -> str:
    """Render a rate: `90.0 % of 40 (76.3 to 97.2)`; `not known` without trials."""
    if found.value is None or found.low is None or found.high is None:
        return "not known"
    return f"{found.value:.1%} of {found.trials:,} ({found.low:.1%} to {found.high:.1%})"
