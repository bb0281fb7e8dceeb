"""Page over all nights of a store: volumes, prevalence, thresholds, models, cost, and what reaches people.

Made from the records and from what drawn samples say, by `nsfwscan history STORE --out PAGE`; like `summary.html` it is
one file without scripts, requests or pixels of scanned images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from nsfwscan.reports.html import page_environment, percent
from nsfwscan.runs.differences import describe_difference
from nsfwscan.runs.drift import describe_drift
from nsfwscan.runs.record.run import RunRecord
from nsfwscan.schema import Decision
from nsfwscan.text import money

_FOR_PEOPLE = (Decision.REVIEW, Decision.ESCALATE)


@dataclass(frozen=True)
class Chart:
    """A column for each night: its height from 0 to 1, and what it says."""

    title: str
    about: str
    columns: tuple[tuple[float, str], ...]
    highest: str


@dataclass(frozen=True)
class Series:
    """Nights over the same sources, the oldest first."""

    sources: tuple[str, ...]
    nights: tuple[RunRecord, ...]
    charts: tuple[Chart, ...]
    moved: tuple[tuple[RunRecord, tuple[str, ...]], ...]
    """Nights whose settings were others than before, that stood out, or that a golden set was accepted for."""


@dataclass(frozen=True)
class Sample:
    """The figures that a drawn sample gives of its run, each with its interval, in words."""

    audit_id: str
    run_id: str
    looked_at: int
    undecided: int
    prevalence: str
    recall: str
    false_positive_rate: str


def render_history(store: str, records: Iterable[RunRecord], samples: Sequence[Sample] = ()) -> str:
    """Return the page (HTML) over the scans among some records.

    Args:
        store: the store's URI.
        samples: of the store, those of which something is decided.
    """
    template = page_environment().get_template("history.html")
    counted = {"looked_at": looked_at, "for_people": for_people, "opens": opens}
    return template.render(store=store, series=_series(records), samples=samples, **counted)


def looked_at(record: RunRecord) -> int:
    """Return the rows that a run did not carry over."""
    return record.summary.rows - record.balance.carried


def for_people(record: RunRecord) -> int:
    """Return the rows that wait for a person."""
    return sum(record.summary.decision.get(decision, 0) for decision in _FOR_PEOPLE)


def opens(record: RunRecord) -> float | None:
    """Return how many originals people are expected to open, if they open as many as their verdicts say; None where
    nobody gave any, or the record does not count items."""
    verdicts, items = record.verdicts, record.summary.items
    if verdicts is None or not verdicts.given or items is None:
        return None
    return items * (verdicts.opened or 0) / verdicts.given


def _series(records: Iterable[RunRecord]) -> list[Series]:
    by_sources: dict[tuple[str, ...], list[RunRecord]] = {}
    for record in sorted(records, key=lambda record: datetime.fromisoformat(record.committed_at)):
        if record.kind == "scan":
            by_sources.setdefault(record.config.source.uris, []).append(record)
    return [
        Series(
            sources,
            tuple(nights),
            tuple(_charts(nights)),
            tuple((night, said) for night in nights if (said := tuple(_moved(night)))),
        )
        for sources, nights in by_sources.items()
    ]


def _charts(nights: list[RunRecord]) -> Iterator[Chart]:
    seen = [float(looked_at(one)) for one in nights]
    yield _chart("Objects looked at", "new, changed, and tried again", nights, seen, "{:,.0f}".format)
    shares = [one.summary.flagged / max(1, one.summary.rows) for one in nights]
    yield _chart("Share that is flagged", "of all objects listed that night", nights, shares, percent)
    waiting = [float(for_people(one)) for one in nights]
    yield _chart("Objects for people", "decided review or escalate", nights, waiting, "{:,.0f}".format)
    if any(opens(one) is not None for one in nights):
        expected = [opens(one) or 0.0 for one in nights]
        yield _chart("Originals opened", "expected, by the verdicts until then", nights, expected, "{:,.0f}".format)
    if currencies := {one.cost.currency for one in nights if one.cost is not None}:
        cost = [(one.cost.amount or 0.0) if one.cost is not None else 0.0 for one in nights]
        shown = partial(money, currency=min(currencies))
        yield _chart("Cost", "by the price table of each night", nights, cost, shown)


def _chart(title: str, about: str, nights: list[RunRecord], values: list[float], said: Callable[[float], str]) -> Chart:
    highest = max(values, default=0)
    columns = tuple(
        (value / highest if highest else 0.0, f"{night.run_id}: {said(value)}")
        for night, value in zip(nights, values, strict=True)
    )
    return Chart(title, about, columns, said(highest))


def _moved(night: RunRecord) -> Iterator[str]:
    for difference in night.differences or ():
        yield describe_difference(difference)
    if night.golden is not None and night.golden.accepted:
        yield f"golden set: drift accepted by {night.golden.accepted_by}: {night.golden.accepted}"
    yield from describe_drift(night.drift)
