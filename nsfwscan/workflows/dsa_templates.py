"""Fill the DSA's templates for transparency reports with what a store knows: their parts 6, 7 and 8, as CSV.

The templates are those of Annex I of Commission Implementing Regulation (EU) 2024/2835; `dsa_templates.yaml` has their
rows. A measure is what `statements.py` states: all are taken under the provider's terms, so part 5 (illegal content) is
not written. A cell stays empty where the store does not know its number, also where no measure is known: the provider's
other systems may have taken some. A report that cannot be read is a `StoreError`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from nsfwscan.documents import load_yaml
from nsfwscan.verdicts.verdict import Word
from nsfwscan.workflows.statements import OTHER, VISIBILITIES, Measure, category_of
from nsfwscan.workflows.transparency import Transparency

OWN_INITIATIVE = "6_own_initiative_TC.csv"
COMPLAINTS = "7_appeals_and_recidivism.csv"
AUTOMATED = "8_automated_means.csv"
_FIRST_VISIBILITY = 2
"""Place of the first restriction among the columns of numbers; they follow in the order of `VISIBILITIES`."""
_ABOUT = ("Applicability", "Service", "Reporting period")
_SECTIONED = (*_ABOUT, "Section", "Indicator", "Scope", "Value", "Contextual Information")
_PLATFORMS = "Only for providers of online platforms"
_ACCURACY = [f"Accuracy of the automated means - {figure}" for figure in ("Accuracy", "Precision", "Recall")]
_COUNTED = {
    "measures": [
        "Number of measures solely taken by automated means ",
        "Number of measures not taken by automated means",
    ],
    "notices": [
        "Number of notices solely processed by automated means ",
        "Number of notices not processed by automated means",
    ],
}


@dataclass(frozen=True)
class Part:
    """A file of a report."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def filled(found: Transparency, measures: Iterable[Measure], service: str, visibility: str) -> tuple[Part, ...]:
    """Return the parts that a store can fill.

    Args:
        found: the counts of the period.
        measures: those of the period.
        service: its name, for the column; may be empty.
        visibility: of `VISIBILITIES`, what the platform does with what is blocked or removed.
    """
    last = (found.until - timedelta(microseconds=1)).date()
    about = (service, f"{found.since.date()}/{last}")
    taken = list(measures)
    alone = sum(measure.decided for measure in taken)
    return (
        Part(OWN_INITIATIVE, _own_columns(), list(_own_initiative(taken, about, visibility))),
        Part(COMPLAINTS, _SECTIONED, list(_complaints(found, about))),
        Part(AUTOMATED, _SECTIONED, list(_automated(alone, len(taken) - alone, about))),
    )


@cache
def _template() -> Mapping[str, Any]:
    text = (Path(__file__).parent / "dsa_templates.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = load_yaml(text)
    return found


def _own_columns() -> list[str]:
    numbers = _template()["measures"]
    about = [
        "Category of incompatibility with the provider's terms and conditions",
        'Description of the sub-category "Other"',
    ]
    return [*_ABOUT, *about, *numbers, *(f"Contextual Information on {name}" for name in numbers)]


def _own_initiative(measures: Sequence[Measure], about: Sequence[str], visibility: str) -> Iterator[list[Any]]:
    """Yield the rows of part 6: the total, and each category with its sub-categories."""
    taken: Counter[tuple[str, str, str]] = Counter()
    detected: Counter[tuple[str, str, str]] = Counter()
    for measure in measures:
        key = category_of(measure.category)
        taken[key] += 1
        detected[key] += measure.detected

    def row(category: str, keys: Iterable[tuple[str, str, str]], description: str = "") -> list[Any]:
        known = list(keys)
        count, numbers = sum(taken[key] for key in known), [""] * len(_template()["measures"])
        if count:
            numbers[:2] = [str(count), str(sum(detected[key] for key in known))]
            numbers[_FIRST_VISIBILITY + VISIBILITIES.index(visibility)] = str(count)
        return ["All", *about, category, description, *numbers, *([""] * len(numbers))]

    yield row("TOTAL", taken)
    for category, keywords in _template()["categories"].items():
        inside = sorted(key for key in taken if key[0] == category)
        yield row(category, inside)
        for keyword in keywords:
            yield row(f"KEYWORD_{keyword}", [(category, f"KEYWORD_{keyword}", "")])
        for _, _, description in [key for key in inside if key[1] == OTHER] or [(category, OTHER, "")]:
            yield row(OTHER, [(category, OTHER, description)], description)


def _complaints(found: Transparency, about: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the rows of part 7. Complaints are all about content that was removed or not."""
    hours = f"{median(found.complaint_hours):.2f}" if found.complaint_hours else ""
    values = {
        "Total number": found.complaints.total(),
        "Decisions upheld": found.complaints[Word.REMOVE],
        "Decisions reversed": found.complaints[Word.APPROVE],
        "Median time": hours,
        "Decision omitted": found.complaints[Word.ESCALATE],
    }
    applicability = "All"
    for section, indicators in _template()["complaints"].items():
        for indicator, scopes in indicators.items():
            known = (
                values
                if indicator.startswith(("Number of complaints", "Complaint regarding a decision to remove"))
                else {}
            )
            for scope in scopes:
                context = "in hours, from the removal" if scope == "Median time" and known and hours else ""
                yield [applicability, *about, section, indicator, scope, known.get(scope, ""), context]
                applicability = _PLATFORMS


def _automated(alone: int, by_people: int, about: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the rows of part 8. How accurate the automated means are only an audit tells."""
    for applicability, scope, what in _template()["automated"]:
        values = [alone, by_people] if what == "measures" else ["", ""]
        for indicator, value in zip([*_COUNTED[what], *_ACCURACY], [*values, "", "", ""], strict=True):
            yield [applicability, *about, "Use of automated means for content moderation", indicator, scope, value, ""]
