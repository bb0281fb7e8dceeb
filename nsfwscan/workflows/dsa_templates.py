"""Fill the DSA's templates for transparency reports with what a store knows: their parts 5 to 8, as CSV.

The templates are those of Annex I of Commission Implementing Regulation (EU) 2024/2835; `dsa_templates.yaml` has their
rows. A measure is what `statements.py` states, under the provider's terms: part 6. What a person removed that matches
an illegal bank is in the total of part 5 alone, since a bank does not say which law its entries are against. A cell
stays empty where the store does not know its number, also where no measure is known: the provider's other systems may
have taken some. A report that cannot be read is a `StoreError`.
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
from nsfwscan.verdicts.verdict import VerdictWord
from nsfwscan.workflows.statements import OTHER, VISIBILITIES, Measure, category_of
from nsfwscan.workflows.transparency import Transparency

ILLEGAL = "5_own_initiative_illegal.csv"
OWN_INITIATIVE = "6_own_initiative_TC.csv"
COMPLAINTS = "7_appeals_and_recidivism.csv"
AUTOMATED = "8_automated_means.csv"
_FIRST_VISIBILITY = 2
"""Place of the first restriction among the columns of numbers; they follow in the order of `VISIBILITIES`."""
_ABOUT = ("Applicability", "Service", "Reporting period")
_SECTIONED = (*_ABOUT, "Section", "Indicator", "Scope", "Value", "Contextual Information")
_PLATFORMS = "Only for providers of online platforms"
_VERY_LARGE = "Only for VLOPs"
_UNDER_TERMS_ALONE = "STATEMENT_CATEGORY_OTHER_VIOLATION_TC"
_AUTOMATED_MEANS = "Use of automated means for content moderation"
_INCOMPATIBLE = "Category of incompatibility with the provider's terms and conditions"
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


def filled(
    found: Transparency, measures: Iterable[Measure], service: str, visibility: str, *, languages: bool = False
) -> tuple[Part, ...]:
    """Return the parts that a store can fill.

    Args:
        found: the counts of the period.
        measures: those of the period.
        service: its name, for the column; may be empty.
        visibility: of `VISIBILITIES`, what the platform does with what is blocked or removed.
        languages: whether part 8 has the rows by language, which very large platforms owe.
    """
    last = (found.until - timedelta(microseconds=1)).date()
    about = (service, f"{found.since.date()}/{last}")
    taken = list(measures)
    illegal = [measure for measure in taken if measure.illegal]
    others = [measure for measure in taken if not measure.illegal]
    by_language = list(_by_language(taken, about)) if languages else []
    return (
        Part(ILLEGAL, _own_columns("Category of illegal content"), list(_illegal(illegal, about, visibility))),
        Part(OWN_INITIATIVE, _own_columns(_INCOMPATIBLE), list(_own_initiative(others, about, visibility))),
        Part(COMPLAINTS, _SECTIONED, list(_complaints(found, about))),
        Part(AUTOMATED, _SECTIONED, [*_automated(taken, about), *by_language]),
    )


@cache
def _template() -> Mapping[str, Any]:
    text = (Path(__file__).parent / "dsa_templates.yaml").read_text(encoding="utf-8")
    found: Mapping[str, Any] = load_yaml(text)
    return found


def _own_columns(category: str) -> list[str]:
    numbers = _template()["measures"]
    return [
        *_ABOUT,
        category,
        'Description of the sub-category "Other"',
        *numbers,
        *(f"Contextual Information on {name}" for name in numbers),
    ]


def _numbers(count: int, detected: int, visibility: str) -> list[str]:
    """Return the cells of numbers of a row of part 5 or 6, and those of contextual information."""
    numbers = [""] * len(_template()["measures"])
    if count:
        numbers[:2] = [str(count), str(detected)]
        numbers[_FIRST_VISIBILITY + VISIBILITIES.index(visibility)] = str(count)
    return [*numbers, *([""] * len(numbers))]


def _illegal(measures: Sequence[Measure], about: Sequence[str], visibility: str) -> Iterator[list[Any]]:
    """Yield the rows of part 5: the total, and each category, for the provider to fill."""
    detected = sum(measure.detected for measure in measures)
    yield ["All", *about, "TOTAL", "", *_numbers(len(measures), detected, visibility)]
    for category, keywords in _template()["categories"].items():
        if category != _UNDER_TERMS_ALONE:
            for code in (category, *(f"KEYWORD_{keyword}" for keyword in keywords), OTHER):
                yield ["All", *about, code, "", *_numbers(0, 0, visibility)]


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
        count, by_machine = (sum(counts[key] for key in known) for counts in (taken, detected))
        return ["All", *about, category, description, *_numbers(count, by_machine, visibility)]

    yield row("TOTAL", taken)
    for category, keywords in _template()["categories"].items():
        inside = sorted(key for key in taken if key[0] == category)
        yield row(category, inside)
        for keyword in keywords:
            yield row(f"KEYWORD_{keyword}", [(category, f"KEYWORD_{keyword}", "")])
        for _, _, description in [key for key in inside if key[1] == OTHER] or [(category, OTHER, "")]:
            yield row(OTHER, [(category, OTHER, description)], description)


def _complaints(found: Transparency, about: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the rows of part 7. Complaints are all about content that was removed or not. The template asks for the
    time that a decision on a complaint took (Article 15(1)(d)); a store knows no time at which a complaint came."""
    since = f"{median(found.complaint_hours):.2f} hours from the removal" if found.complaint_hours else ""
    values = {
        "Total number": found.complaints.total(),
        "Decisions upheld": found.complaints[VerdictWord.REMOVE],
        "Decisions reversed": found.complaints[VerdictWord.APPROVE],
        "Decision omitted": found.complaints[VerdictWord.ESCALATE],
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
                context = since if scope == "Median time" and known else ""
                yield [applicability, *about, section, indicator, scope, known.get(scope, ""), context]
                applicability = _PLATFORMS


def _automated(measures: Sequence[Measure], about: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the rows of part 8. How accurate the automated means are only an audit tells."""
    alone = sum(measure.decided for measure in measures)
    for applicability, scope, what in _template()["automated"]:
        values = [alone, len(measures) - alone] if what == "measures" else ["", ""]
        for indicator, value in zip([*_COUNTED[what], *_ACCURACY], [*values, "", "", ""], strict=True):
            yield [applicability, *about, _AUTOMATED_MEANS, indicator, scope, value, ""]


def _by_language(measures: Sequence[Measure], about: Sequence[str]) -> Iterator[list[Any]]:
    """Yield the rows of part 8 by language: that of the text in a picture, where a detector read it."""
    taken = Counter((measure.said.get("text_language"), measure.decided) for measure in measures)
    for indicator in (*_COUNTED["measures"], *_ACCURACY):
        for language in _template()["languages"]:
            count = taken[language, indicator == _COUNTED["measures"][0]] if indicator in _COUNTED["measures"] else 0
            context = "by the language of the text in pictures" if count else ""
            yield [_VERY_LARGE, *about, _AUTOMATED_MEANS, indicator, language, count or "", context]
