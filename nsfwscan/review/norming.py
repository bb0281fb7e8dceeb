"""Say how well reviewers agreed on the items of a norming, and write a playbook page of those that they disputed.

The page has covers and the reasons that people gave, for talking about it together; it names people only where two are
compared. Verdicts of a norming decide nothing. A report that cannot be read is a `StoreError`, a place that cannot be
written a `ConfigError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

import pyarrow.compute as pc

from nsfwscan.config import StorageConfig
from nsfwscan.errors import ConfigError
from nsfwscan.reports.html import page_environment
from nsfwscan.review.agreement import Agreement, alpha, kappa
from nsfwscan.review.covers import Artist, Content
from nsfwscan.review.norming_sample import Norming, items_of
from nsfwscan.review.pack import TEMPLATES
from nsfwscan.review.ranking import Item
from nsfwscan.review.words import facts_of, line_of
from nsfwscan.runs.run import Run
from nsfwscan.storage.output import Output
from nsfwscan.storage.store import Store
from nsfwscan.verdicts.kept import all_verdicts
from nsfwscan.verdicts.standing import counting
from nsfwscan.verdicts.verdict import Kind, VerdictWord

PAGE = "norming.html"
_SHOWN_FACTS = ("scores", "signals", "match", "file")

Said = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""By content and reviewer, the verdict."""


@dataclass(frozen=True)
class Pair:
    """Agreement of two people, on verdicts and on categories."""

    one: str
    other: str
    verdict: Agreement
    category: Agreement


@dataclass(frozen=True)
class Disputed:
    """An item on which people disagreed.

    Attributes:
        share: of the pairs of people that gave it other words.
        answers: what was said, each with how many said so and the reasons that they gave.
    """

    uri: str
    line: str
    why: str
    share: float
    answers: tuple[tuple[str, int, tuple[str, ...]], ...]
    facts: tuple[tuple[str, tuple[str, ...]], ...]
    cover: str | None
    no_cover: str | None


@dataclass(frozen=True)
class NormingReport:
    """The outcome of a norming.

    Attributes:
        answered: items that two people at least decided.
        missing: by reviewer, items without an answer.
        confusion: pairs of people by what one said and the other said of the same item; both orders are counted.
    """

    norming: Norming
    answered: int
    missing: dict[str, int]
    verdict: Agreement
    category: Agreement
    pairs: tuple[Pair, ...]
    words: tuple[str, ...]
    confusion: dict[tuple[str, str], int]
    disputed: tuple[Disputed, ...]
    page: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return JSON types."""
        names = ("norming_id", "run_id", "seed", "drawn_at")
        return {
            **{name: getattr(self.norming, name) for name in names},
            "items": self.norming.rows.num_rows,
            "answered": self.answered,
            "missing": self.missing,
            "alpha": {"verdict": asdict(self.verdict), "category": asdict(self.category)},
            "pairs": [asdict(pair) for pair in self.pairs],
            "confusion": [{"one": a, "other": b, "pairs": count} for (a, b), count in self.confusion.items()],
            "disputed": [{"uri": one.uri, "share": one.share} for one in self.disputed],
            "page": self.page,
        }


def write_norming(store: Store, norming_id: str, out: Output, storage: StorageConfig, *, covers: bool) -> NormingReport:
    """Write the page into a folder, and return what it says.

    Args:
        storage: how to reach the originals, for covers.

    Raises:
        ConfigError: there is no such norming; nobody answered an item that another one did; or the page cannot be
            written here.
    """
    norming = Norming.read(store, norming_id)
    said = _said(store, norming)
    people = sorted({name for one in said.values() for name in one} | set(norming.reviewers), key=str.casefold)
    if not any(len(one) > 1 for one in said.values()):
        raise ConfigError(
            f"no two people decided the same item of norming {norming_id} yet: import what they decided first "
            "(`nsfwscan verdicts import`)"
        )
    run = Run(store, norming.run_id)
    items = {item.row["sha256"]: item for item in items_of(run, norming)}
    found = _report(norming, said, people, items)
    drawn = _covers(run, [items[one] for one in _by_dispute(said) if one in items], storage) if covers else {}
    shown = tuple(_disputed(norming, said, items, drawn))
    page = out.child(PAGE)
    found = NormingReport(**{**vars(found), "disputed": shown, "page": str(page)})
    try:
        out.make_folder()
        with page.appearing() as path:
            path.write_text(_page(store, found), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write the page to {out}: {error.strerror or error}") from error
    return found


def _said(store: Store, norming: Norming) -> Said:
    """Return the latest verdict of each reviewer on each item."""
    rows = counting(all_verdicts(store), store)
    of_items = pc.is_in(rows["sha256"], norming.rows["sha256"].combine_chunks())
    rows = rows.filter(pc.and_(pc.equal(rows["kind"], str(Kind.NORMING)), of_items))
    found: dict[str, dict[str, dict[str, Any]]] = {one: {} for one in norming.rows["sha256"].to_pylist()}
    for row in rows.to_pylist():  # the oldest first
        found[row["sha256"]][row["reviewer"]] = row
    return found


def _word(row: Mapping[str, Any] | None) -> str | None:
    return None if row is None else str(row["verdict"])


def _category(row: Mapping[str, Any] | None) -> str | None:
    """Return what a verdict calls an item: the category that it is removed as, else the verdict."""
    if row is None:
        return None
    return row["category"] or "remove" if row["verdict"] == VerdictWord.REMOVE else str(row["verdict"])


def _report(norming: Norming, said: Said, people: Sequence[str], items: Mapping[str, Item]) -> NormingReport:
    rows = [[one.get(name) for name in people] for one in said.values()]
    verdicts, categories = ([[of(one) for one in row] for row in rows] for of in (_word, _category))
    pairs = tuple(
        Pair(people[a], people[b], *(kappa(*(_column(table, i) for i in (a, b))) for table in (verdicts, categories)))
        for a, b in combinations(range(len(people)), 2)
    )
    confusion: Counter[tuple[str, str]] = Counter()
    for row in categories:
        given = [word for word in row if word is not None]
        confusion.update(pair for a, b in combinations(given, 2) for pair in ((a, b), (b, a)))
    return NormingReport(
        norming=norming,
        answered=sum(len(one) > 1 for one in said.values()),
        missing={name: sum(name not in one for one in said.values()) for name in people},
        verdict=alpha(verdicts),
        category=alpha(categories),
        pairs=tuple(pair for pair in pairs if pair.verdict.items),
        words=tuple(sorted({word for pair in confusion for word in pair})),
        confusion=dict(sorted(confusion.items())),
        disputed=(),
    )


def _column(table: Sequence[Sequence[str | None]], place: int) -> list[str | None]:
    return [row[place] for row in table]


def _share(answers: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the share of pairs of people who called an item otherwise than each other."""
    pairs = list(combinations([_category(row) for row in answers.values()], 2))
    return sum(a != b for a, b in pairs) / len(pairs) if pairs else 0.0


def _by_dispute(said: Said) -> list[str]:
    """Return the contents that people called otherwise than each other, the most disputed first."""
    shares = {sha256: _share(answers) for sha256, answers in said.items()}
    return sorted((one for one, share in shares.items() if share), key=lambda one: (-shares[one], one))


def _covers(run: Run, items: Sequence[Item], storage: StorageConfig) -> dict[str, tuple[str | None, str | None]]:
    """Return the cover of each item, or why it has none, by SHA-256."""
    shown = [item for item in items if not item.row["illegal"]]
    contents = [Content(item.row["uri"], item.row["sha256"]) for item in shown]
    drawn = Artist(run.record().config, storage).draw(contents) if contents else iter(())
    return {
        str(content.sha256): (one.views[0].cover if one.views else None, one.problem)
        for content, one in zip(contents, drawn, strict=True)
    }


def _disputed(
    norming: Norming, said: Said, items: Mapping[str, Item], covers: Mapping[str, tuple[str | None, str | None]]
) -> Iterator[Disputed]:
    rows = {row["sha256"]: row for row in norming.rows.to_pylist()}
    for sha256 in _by_dispute(said):
        item, answers = items.get(sha256), said[sha256]
        cover, problem = covers.get(sha256, (None, "covers were not asked for" if item else "it is gone"))
        facts = [] if item is None else [one for one in facts_of(item) if one[0] in _SHOWN_FACTS]
        yield Disputed(
            uri=rows[sha256]["uri"],
            line="" if item is None else line_of(item),
            why=rows[sha256]["why"],
            share=_share(answers),
            answers=tuple(_answers(answers)),
            facts=tuple((name, tuple(values)) for name, values in facts),
            cover=cover,
            no_cover=problem,
        )


def _answers(answers: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, int, tuple[str, ...]]]:
    """Yield what was said of an item, the most frequent first, with the reasons in the order of their words."""
    counts = Counter(str(_category(row)) for row in answers.values())
    for word, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])):
        reasons = {row["reason"] for row in answers.values() if _category(row) == word and row["reason"]}
        yield word, count, tuple(sorted(reasons))


def _page(store: Store, found: NormingReport) -> str:
    template = page_environment(TEMPLATES).get_template("norming.html")
    return template.render(
        store=store.uri,
        made_at=datetime.now(UTC).isoformat(),
        found=found,
        most=max(found.confusion.values(), default=1),
        agreed=found.answered - len(found.disputed),
    )


def describe_norming(found: NormingReport) -> str:
    """Render what a norming came to for the terminal."""
    of = f"{found.answered:,} of {found.norming.rows.num_rows:,} items"
    lines = [
        f"norming {found.norming.norming_id}: {of} have two answers",
        f"Krippendorff's alpha  verdict {agreement(found.verdict)}, category {agreement(found.category)}",
        *(f"  {pair.one} and {pair.other}: kappa {agreement(pair.verdict)}" for pair in found.pairs),
        f"disputed  {len(found.disputed):,}",
    ]
    lines += [f"missing   {name}: {count:,}" for name, count in found.missing.items() if count]
    return "\n".join([*lines, f"page      {found.page}"])


def agreement(found: Agreement) -> str:
    """Render a coefficient: `0.71 (0.52 to 0.86)`."""
    if found.value is None or found.low is None or found.high is None:
        return "not known: all said the same" if found.items else "not known"
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
