"""Map a checkpoint's labels to categories, by name and never by position: public checkpoints disagree on the order.

Several labels may have one category where the user says so. An unknown label raises `ModelError`, which names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from nsfwscan.errors import ModelError
from nsfwscan.schema import NSFW_CATEGORIES, Category

ALIASES: dict[str, Category] = {
    **{str(c): c for c in Category},
    "drawing": Category.DRAWINGS,
    "normal": Category.NEUTRAL,
    "safe": Category.NEUTRAL,
    "sfw": Category.NEUTRAL,
    "normal or safe": Category.NEUTRAL,
    "anime picture": Category.DRAWINGS,
    "pornography": Category.PORN,
    "explicit": Category.PORN,
    "sexual": Category.SEXY,
    "enticing or sensual": Category.SEXY,
    "unsafe": Category.NSFW,
    "not safe": Category.NSFW,
}
"""Spellings seen in public checkpoints and class folders, as `plain` returns them."""


def plain(label: str) -> str:
    """Return a label in lower case, without underscores, hyphens and doubled spaces."""
    return re.sub(r"[\s_\-]+", " ", label).strip().lower()


def category_of(label: str, extra: Mapping[str, str] | None = None) -> Category | None:
    """Return the category that a label means; None where neither `extra` nor the alias table knows it."""
    for known, category in (extra or {}).items():
        if plain(known) == plain(label):
            return Category(category) if category in set(Category) else None
    return ALIASES.get(plain(label))


def renamed(labels: Sequence[str], names: Mapping[str, str], model: str) -> tuple[str, ...]:
    """Return the labels under their given names, in the checkpoint's order. Several labels may be given one name, which
    then stands for any of them. Raises ModelError where a name is given for an unknown label, or is that of a label
    that keeps its own."""
    given = {plain(label): name for label, name in names.items()}
    if unmatched := given.keys() - {plain(label) for label in labels}:
        there = ", ".join(labels)
        raise ModelError(f"{model}: a name is given for {sorted(unmatched)[0]!r}, but its labels are {there}")
    found = tuple(given.get(plain(label), label) for label in labels)
    kept = [label for label in labels if plain(label) not in given]
    if len({*kept, *given.values()}) < len(kept) + len(set(given.values())):
        raise ModelError(f"{model}: two of its labels have one name: {', '.join(found)}")
    return found


def categories_of(labels: Sequence[str], extra: Mapping[str, str], model: str) -> tuple[Category, ...]:
    """Return one category for each label, in the checkpoint's order. Raises ModelError where a label is unknown,
    `extra` explains a label that is not there, two labels mean one category and `extra` does not say so, or no label
    means neutral, or none is NSFW."""
    there = {plain(label) for label in labels}
    unmatched = [given for given in extra if plain(given) not in there]
    if unmatched:
        raise ModelError(f"{model}: --label explains {unmatched[0]!r}, but its labels are {', '.join(labels)}")
    found = [category_of(label, extra) for label in labels]
    unknown = [label for label, category in zip(labels, found, strict=True) if category is None]
    if unknown:
        options = " ".join(f"--label '{label}=CATEGORY'" for label in unknown)
        raise ModelError(
            f"{model}: unknown label {', '.join(map(repr, unknown))}; say what it means with {options} (one of "
            f"{', '.join(Category)}; several labels may mean one category, and their probabilities are added)"
        )
    categories = tuple(category for category in found if category is not None)
    _check_shared(labels, categories, {plain(label) for label in extra}, model)
    if Category.NEUTRAL not in categories:
        raise ModelError(f"{model}: none of its labels means neutral: {', '.join(labels)}")
    if NSFW_CATEGORIES.isdisjoint(categories):
        raise ModelError(f"{model}: none of its labels is an NSFW one: {', '.join(labels)}")
    return categories


def _check_shared(labels: Sequence[str], categories: Sequence[Category], said: Collection[str], model: str) -> None:
    """Raise ModelError where two labels mean one category by the alias table alone: the checkpoint tells them apart,
    and only the user, who has `said` what some labels mean (as `plain` returns them), knows whether that matters."""
    for category in dict.fromkeys(categories):
        same = [label for label, one in zip(labels, categories, strict=True) if one == category]
        unsaid = [label for label in same if plain(label) not in said]
        if len(same) > 1 and len(unsaid) > 1:
            options = " ".join(f"--label '{label}={category}'" for label in unsaid)
            raise ModelError(
                f"{model}: two of its labels mean the same category: "
                f"{dict(zip(labels, map(str, categories), strict=True))}; to add their probabilities say so with "
                f"{options}, or give one of them another category"
            )
