"""Checkpoint labels to categories, by name and never by index: public checkpoints disagree on the order.

In: the labels of a checkpoint. Out: a `Category` for each; several labels have one category where the user says so. An
unknown label stops the run and names itself.
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
"""Spellings seen in public checkpoints and class folders, in the form that `plain` gives them."""


def plain(label: str) -> str:
    """A label without case, underscores, hyphens and doubled spaces."""
    return re.sub(r"[\s_\-]+", " ", label).strip().lower()


def category_of(label: str, extra: Mapping[str, str] | None = None) -> Category | None:
    """The category that a label means; None where neither `extra` nor the alias table knows it."""
    for known, category in (extra or {}).items():
        if plain(known) == plain(label):
            return Category(category) if category in set(Category) else None
    return ALIASES.get(plain(label))


def renamed(labels: Sequence[str], names: Mapping[str, str], model: str) -> tuple[str, ...]:
    """The labels under the names that they are given, in the checkpoint's order.

    Raises:
        ModelError: a name is for a label that is not there, or two labels have one name.
    """
    given = {plain(label): name for label, name in names.items()}
    if unmatched := given.keys() - {plain(label) for label in labels}:
        there = ", ".join(labels)
        raise ModelError(f"{model}: a name is given for {sorted(unmatched)[0]!r}, but its labels are {there}")
    found = tuple(given.get(plain(label), label) for label in labels)
    if len(set(found)) < len(found):
        raise ModelError(f"{model}: two of its labels have one name: {', '.join(found)}")
    return found


def categories_of(labels: Sequence[str], extra: Mapping[str, str], model: str) -> tuple[Category, ...]:
    """One category for each label, in the checkpoint's order.

    Raises:
        ModelError: a label is unknown, `extra` explains one that is not there, two mean the same category and `extra`
            does not say so, or none means neutral, or none NSFW.
    """
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
    """Raises ModelError where two labels mean one category by the alias table alone: the checkpoint tells them apart,
    and only the user knows whether that matters.

    Args:
        said: labels that the user has explained, in the form that `plain` gives them.
    """
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
