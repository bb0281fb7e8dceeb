"""Read a roster: who reviews today, how much each may open, and what is mixed among the items.

A file that is no roster is a `ConfigError`, which names the key.
"""

from __future__ import annotations

from typing import Annotated

import yaml
from pydantic import AfterValidator, Field

from nsfwscan.config import Frozen, StorageConfig, Uri
from nsfwscan.documents import load_yaml
from nsfwscan.errors import ConfigError
from nsfwscan.storage.text_files import read_text

LEAD = "lead"
"""Skill of those who decide where two people disagree."""
Share = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/\\\x7f]+$")]


class Reviewer(Frozen):
    """A person who reviews."""

    name: Name
    opens: float = Field(ge=0)
    """Originals that the person may be expected to open in a day."""
    skills: tuple[str, ...] = ()
    severity: int = Field(4, ge=0, le=4)
    """The most severe items that the person is given."""


def _named_once(reviewers: tuple[Reviewer, ...]) -> tuple[Reviewer, ...]:
    names = [one.name.casefold() for one in reviewers]
    if twice := next((one.name for one in reviewers if names.count(one.name.casefold()) > 1), None):
        raise ValueError(f"two reviewers are called {twice!r}")
    return reviewers


class Roster(Frozen):
    """The people who review, and what is mixed among their items."""

    reviewers: Annotated[tuple[Reviewer, ...], Field(min_length=1), AfterValidator(_named_once)]
    second_review: Share = 0.05
    """Share of the items that also go to a second person, who does not know it."""
    golden: Uri | None = None
    """A table with the columns `uri` and `verdict`: objects of the report whose answer is known."""
    golden_share: Share = 0.03
    """Golden items for each other item."""
    harmless_share: Share = 0.1
    """Harmless items for each other item, beside those that part heavy ones."""
    open_rate: Share = 0.3
    """Share of the items that are opened, as long as too few verdicts are known to say."""
    seed: int = 0
    """Another seed draws other second reviews, golden and harmless items."""


def read_roster(uri: str, storage: StorageConfig) -> Roster:
    """Return the roster of a YAML file, here or in a store. Raises ConfigError."""
    try:
        loaded = load_yaml(read_text(uri, storage, "the roster"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"the roster {uri} is not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"the roster {uri} must be a mapping with `reviewers`")
    return Roster.of(loaded, uri)
