"""Labels mean what their names say, never what their place suggests; an unknown one stops the run."""

from __future__ import annotations

import pytest

from nsfwscan.errors import ModelError
from nsfwscan.models.labels import ALIASES, categories_of, category_of, plain
from nsfwscan.schema import Category

FIVE = ("drawings", "hentai", "neutral", "porn", "sexy")


def test_every_category_means_itself() -> None:
    """The six categories' own names need no alias."""
    assert [category_of(str(category)) for category in Category] == list(Category)


@pytest.mark.parametrize(
    ("label", "category"),
    [
        ("Normal or Safe", Category.NEUTRAL),
        ("normal_or_safe", Category.NEUTRAL),
        ("NORMAL-or  Safe ", Category.NEUTRAL),
        ("SFW", Category.NEUTRAL),
        ("NSFW", Category.NSFW),
        ("Anime Picture", Category.DRAWINGS),
        ("Enticing or Sensual", Category.SEXY),
        ("Pornography", Category.PORN),
        ("Hentai", Category.HENTAI),
    ],
)
def test_spellings_of_public_checkpoints_are_known(label: str, category: Category) -> None:
    """Case, underscores, hyphens and blanks do not matter."""
    assert category_of(label) is category


def test_aliases_are_written_as_they_are_looked_up() -> None:
    """An alias in another form than `plain` gives would never be found."""
    assert [alias for alias in ALIASES if plain(alias) != alias] == []


@pytest.mark.parametrize("label", ["", "cat", "LABEL_0", "neutrality", "nsf w", "0"])
def test_what_is_not_known_is_not_guessed(label: str) -> None:
    """No prefix, no likeness, no default."""
    assert category_of(label) is None


def test_the_order_of_labels_is_the_checkpoints() -> None:
    """The same labels in another order are the same categories in that order."""
    for labels in (FIVE, FIVE[::-1], ("NSFW", "SFW"), ("normal", "nsfw")):
        assert [str(c) for c in categories_of(labels, {}, "m")] == [
            {"SFW": "neutral", "NSFW": "nsfw", "normal": "neutral"}.get(label, label) for label in labels
        ]


def test_unknown_labels_name_themselves() -> None:
    """The message has the model, every unknown label, and the option that says what one means."""
    with pytest.raises(ModelError, match=r"m: unknown label 'cat', 'LABEL_7'; .*--label 'cat=CATEGORY'"):
        categories_of(("neutral", "cat", "nsfw", "LABEL_7"), {}, "m")


def test_a_label_may_be_mapped_and_mapped_otherwise() -> None:
    """`--label` adds what the table lacks and overrides what it says, with the same tolerance for spelling."""
    assert categories_of(("Fine", "Bad_Stuff"), {"fine": "neutral", "bad stuff": "nsfw"}, "m") == (
        Category.NEUTRAL,
        Category.NSFW,
    )
    assert category_of("explicit") is Category.PORN
    assert category_of("explicit", {"Explicit": "nsfw"}) is Category.NSFW


def test_a_map_to_what_is_no_category_is_refused() -> None:
    """`--label cat=feline` does not fall back to the alias table: the label stays unknown, and is named."""
    with pytest.raises(ModelError, match="unknown label 'normal'"):
        categories_of(("normal", "nsfw"), {"normal": "feline"}, "m")


def test_two_labels_of_one_meaning_are_refused() -> None:
    """Their probabilities would have to be added, and which would be `label`? The message has the whole map."""
    with pytest.raises(ModelError, match=r"two of its labels mean the same category: .*'safe'.*'sfw'"):
        categories_of(("safe", "sfw", "nsfw"), {}, "m")
    with pytest.raises(ModelError, match=r"say so with --label 'safe=neutral' --label 'sfw=neutral'"):
        categories_of(("safe", "sfw", "nsfw"), {}, "m")


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"low": "nsfw", "medium": "nsfw", "high": "nsfw"}, "neutral nsfw nsfw nsfw"),
        ({"LOW": "neutral", "Medium": "nsfw", "high": "nsfw"}, "neutral neutral nsfw nsfw"),
        ({"low": "sexy", "medium": "porn", "high": "porn"}, "neutral sexy porn porn"),
    ],
)
def test_several_labels_may_mean_one_category_where_it_is_said(extra: dict[str, str], expected: str) -> None:
    """Levels are no categories: `--label` puts several onto one, beside the one that the table knows."""
    found = categories_of(("neutral", "low", "medium", "high"), extra, "m")
    assert " ".join(map(str, found)) == expected
    with pytest.raises(ModelError, match=r"--label 'low=CATEGORY' --label 'medium=CATEGORY' --label 'high=CATEGORY'"):
        categories_of(("neutral", "low", "medium", "high"), {}, "m")


def test_a_model_without_a_neutral_label_is_refused() -> None:
    """Something must say that an image is fine, or nothing ever is."""
    with pytest.raises(ModelError, match="none of its labels means neutral: porn, hentai"):
        categories_of(("porn", "hentai"), {}, "m")


def test_a_model_without_an_nsfw_label_is_refused() -> None:
    """A model that can say nothing bad would allow everything."""
    with pytest.raises(ModelError, match="none of its labels is an NSFW one: neutral, drawings"):
        categories_of(("neutral", "drawings"), {}, "m")
