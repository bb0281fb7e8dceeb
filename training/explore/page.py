"""Page of `nsfwscan-train explore`: one HTML document that loads nothing and runs no script.

Names of files are hostile strings: whatever the template prints goes through `visible`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nsfwscan.reports.html import Step, page_environment, percent
from nsfwscan.text import plural

_TEMPLATES = Path(__file__).parents[1] / "templates"
_LOPSIDED = 10
"""Largest class in images, as a multiple of the smallest, that is not lopsided."""
_FEW = 100
"""With fewer different images of a class a figure on its test split says little: 10 images, ± 20 points."""
_WEAK_JUDGE = 0.7
_PRESSING = ("bad", "warn", "info")


def render(context: dict[str, Any]) -> str:
    """Return the page."""
    ordered = sorted(steps(context), key=lambda step: _PRESSING.index(step.tone))
    return page_environment(_TEMPLATES).get_template("explore.html").render(steps=ordered, **context)


def steps(context: dict[str, Any]) -> Iterator[Step]:
    """Yield what to do next."""
    yield from _about_classes(context)
    yield from _about_labels(context)
    duplicates = context["duplicates"]
    if duplicates["extra"]:
        yield Step(
            "info",
            f"{plural(duplicates['extra'], 'image')} more than there are different ones",
            "Nothing to do: similar images are kept on one side of the splits. Very many of one kind weigh more than "
            "they should: thin them out.",
        )
    if context["unreadable_count"]:
        yield Step(
            "warn",
            f"{plural(context['unreadable_count'], 'file')} cannot be learned from",
            "They are left out of the splits and listed. Replace what is damaged, if there are many.",
        )
    if context["flawed"]:
        yield Step(
            "info",
            f"{plural(context['flawed'], 'image')} of poor quality",
            "Keep them where the media to be scanned look the same; a flaw that only one class has is a shortcut.",
        )


def _about_classes(context: dict[str, Any]) -> Iterator[Step]:
    classes = context["classes"]
    if len(classes) < 2:
        yield Step("bad", "Only one class", "A classifier needs two at least.")
    elif context["missing"]:
        yield Step("bad", "A scan could not use this set of classes", f"{context['missing']}.")
    counts = [c["different"] for c in classes]
    if min(counts) < _FEW:
        few = [c["name"] for c in classes if c["different"] < _FEW]
        yield Step(
            "warn",
            f"Fewer than {_FEW} different images of {', '.join(few)}",
            "A tenth of them is for test: figures on so few say little. Collect more.",
        )
    if len(classes) > 1 and max(counts) > _LOPSIDED * max(1, min(counts)):
        yield Step(
            "warn",
            "The classes are lopsided",
            f"The largest has more than {_LOPSIDED} times as many different images as the smallest. Class weights make "
            "up for some of it; more images of the small ones are better.",
        )
    if context["shortcut"]:
        found = context["shortcut"]
        yield Step(
            "warn",
            f"Format and size alone tell the class of {percent(found['accuracy'])} of the images",
            f"Always naming the largest class would be right for {percent(found['chance'])}. A model may learn where "
            "the images come from instead of what they show: mix the sources of each class.",
        )


def _about_labels(context: dict[str, Any]) -> Iterator[Step]:
    exact = context["conflicts"]["exact"] + len(context["contradicted"])
    if exact:
        yield Step(
            "bad",
            f"{plural(exact, 'content')} under several labels",
            "Kept out of the splits until a person decides: one of the labels is wrong.",
        )
    if context["conflicts"]["similar"]:
        yield Step(
            "warn",
            f"{plural(context['conflicts']['similar'], 'group')} of similar images under several labels",
            "Right where the versions differ in what matters, such as a covered and an uncovered one; else a label is "
            "wrong. Kept, on one side of the splits.",
        )
    if context["suspect_count"]:
        judge = "" if context["accuracy"] >= _WEAK_JUDGE else " The judge is weak here, so take it as a hint."
        yield Step(
            "warn",
            f"{plural(context['suspect_count'], 'likely label error')}",
            f"Look through them, the most confident first, and correct the labels that are wrong.{judge}",
        )
    if context["disagreements"]:
        yield Step(
            "info",
            f"Reviewers disagree on {plural(len(context['disagreements']), 'image')}",
            "The latest verdict counts. Where they often disagree, the guideline is not clear.",
        )
