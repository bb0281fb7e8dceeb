"""Search text for patterns that a specialist owns: lists in YAML, one for each language and region.

A topic (`solicitation`, `extortion`, …) has groups of patterns. Each group may be weak by itself: an age asked for, a
move to another platform. `combine` says what a text scores in which one, two, three … different groups are found.

Patterns are RE2's regular expressions (https://github.com/google/re2/wiki/Syntax), whose time grows with the text's
length alone: no pattern can hang a night. A list that is none, or a pattern that RE2 does not take or that is true of
an empty text, raises `ConfigError` with the file and the line. The signals:

    <detector>.<topic>              the highest score of the lists; 0 where none of their patterns is found
    <detector>.<topic>.<group>      1 where a pattern of the group is found
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from nsfwscan.config import Frozen, StorageConfig
from nsfwscan.documents import load_yaml
from nsfwscan.errors import ConfigError
from nsfwscan.storage.text_files import read_text
from nsfwscan.texts.folding import pattern_of, plain, unmasked

EXAMPLES = Path(__file__).with_name("examples")
_NAME = r"^[a-z][a-z0-9-]{0,39}$"
_TAKEN = frozenset({"chars", "lines", "profanity"})
_MOST_BYTES = 2**20
_MERGE = "<<"
Name = Annotated[str, Field(pattern=_NAME)]
Share = Annotated[float, Field(ge=0, le=1)]


class Topic(Frozen):
    """Groups of patterns that mean one thing together."""

    combine: Annotated[tuple[Share, ...], Field(min_length=1)]
    """The score of one group, of two different ones, …; the last one counts for more."""
    groups: Annotated[dict[Name, Annotated[tuple[str, ...], Field(min_length=1)]], Field(min_length=1)]

    @model_validator(mode="after")
    def _rises(self) -> Topic:
        if list(self.combine) != sorted(self.combine):
            raise ValueError("combine falls: more groups cannot mean less")
        if len(self.combine) > len(self.groups):
            raise ValueError(f"combine has {len(self.combine)} scores for {len(self.groups)} groups")
        return self


class ListContent(Frozen):
    """The content of a list of patterns."""

    name: Name
    version: Annotated[str, Field(min_length=1, max_length=40, coerce_numbers_to_str=True)]
    language: Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]
    region: Annotated[str, Field(pattern=r"^[A-Z]{2}$")] | None = None
    owner: Annotated[str, Field(min_length=1)]
    """Who answers for it."""
    about: str = ""
    topics: Annotated[dict[Name, Topic], Field(min_length=1)]


@dataclass(frozen=True)
class PatternList:
    """A list of patterns.

    Attributes:
        uri: where it is.
        text: its YAML.
        content: the same, read.
    """

    uri: str
    text: str
    content: ListContent

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of its YAML."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def patterns(self) -> list[str]:
        """Return the patterns of all topics."""
        groups = [group for topic in self.content.topics.values() for group in topic.groups.values()]
        return [pattern for group in groups for pattern in group]

    def as_json(self) -> dict[str, Any]:
        """Return where it comes from, for `run.json`."""
        said = self.content.model_dump(mode="json", include={"name", "version", "language", "region", "owner"})
        return {**said, "uri": self.uri, "sha256": self.sha256, "topics": sorted(self.content.topics)}


def read_list(uri: str, storage: StorageConfig) -> PatternList:
    """Read a list: a file, any fsspec URI, or `example:NAME` of those that come with nsfwscan. Raises ConfigError."""
    text = _text_of(uri, storage)
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"the patterns {uri} have more than {_MOST_BYTES:,} bytes")
    try:
        loaded = load_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"the patterns {uri} are not YAML: {error}") from None
    if not isinstance(loaded, dict):
        raise ConfigError(f"the patterns {uri} must be a mapping with name, version, language, owner and topics")
    found = PatternList(uri, text, ListContent.of(_with_text_version(loaded), uri))
    if taken := sorted(_TAKEN & found.content.topics.keys()):
        raise ConfigError(f"the patterns {uri}: a topic must not be called {taken[0]!r}, as a signal of the reader is")
    Search([found])
    return found


def _with_text_version(loaded: dict[str, Any]) -> dict[str, Any]:
    """Return the mapping with its version as text: YAML takes 2026-11-27 for a date."""
    version = loaded.get("version")
    return loaded if version is None else {**loaded, "version": str(version)}


def _text_of(uri: str, storage: StorageConfig) -> str:
    if not uri.startswith("example:"):
        try:
            return read_text(uri, storage, "the patterns")
        except UnicodeDecodeError as error:
            raise ConfigError(f"the patterns {uri} are not UTF-8: {error}") from None
    there = {path.stem: path for path in EXAMPLES.glob("*.yaml")}
    path = there.get(uri.removeprefix("example:"))
    if path is None:
        raise ConfigError(f"there is no {uri}; there are {', '.join(f'example:{name}' for name in sorted(there))}")
    return path.read_text(encoding="utf-8")


class Search:
    """Some lists, ready to search with."""

    def __init__(self, lists: Sequence[PatternList]) -> None:
        self._groups = [
            (one.content.topics[topic], topic, group, patterns)
            for one in lists
            for topic in one.content.topics
            for group, patterns in _compiled(one, topic)
        ]

    def __call__(self, text: str) -> dict[str, float]:
        """Return the score of each topic, and 1 for each group that is found, by their names."""
        forms = {plain(text), unmasked(text)} if text.strip() else set()
        found: dict[str, float] = {}
        counts: dict[int, tuple[Topic, str, int]] = {}
        for topic, name, group, patterns in self._groups:
            hit = any(pattern.search(form) is not None for form in forms for pattern in patterns)
            _, _, count = counts.get(id(topic), (topic, name, 0))
            counts[id(topic)] = topic, name, count + hit
            if hit:
                found[f"{name}.{group}"] = 1.0
        for topic, name, count in counts.values():
            score = topic.combine[min(count, len(topic.combine)) - 1] if count else 0.0
            found[name] = max(score, found.get(name, 0.0))
        return found

    @cached_property
    def topics(self) -> list[str]:
        """Return the names of all topics."""
        return sorted({name for _, name, _, _ in self._groups})


def _compiled(one: PatternList, topic: str) -> Iterator[tuple[str, list[Any]]]:
    """Yield each group of a topic, compiled. Raises ConfigError where re2 is missing, or does not take a pattern."""
    try:
        import re2
    except ImportError:
        raise ConfigError("patterns need the package google-re2: pip install 'nsfwscan[text]'") from None
    options = re2.Options()
    options.log_errors = False
    for group, patterns in one.content.topics[topic].groups.items():
        compiled = []
        for pattern in patterns:
            try:
                compiled.append(re2.compile(pattern_of(pattern), options=options))
            except re2.error as error:
                said = error.args[0]
                _refuse(one, topic, group, pattern, said.decode() if isinstance(said, bytes) else str(said))
            if compiled[-1].search("") is not None:
                _refuse(one, topic, group, pattern, "it is true of an empty text, and so of every text")
        yield group, compiled


def _refuse(one: PatternList, topic: str, group: str, pattern: str, why: str) -> None:
    at = _line_of(one.text, ("topics", topic, "groups", group), pattern)
    raise ConfigError(f"{one.uri}, line {at}: the pattern {pattern!r} of {topic}.{group} cannot be used: {why}")


def _line_of(text: str, keys: Sequence[str], pattern: str) -> int:
    """Return the line of a pattern below some keys of a YAML text, from 1; that of its group where it is not found."""
    node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for key in keys:
        node = next(value for name, value in _entries(node) if name == key)
    found = next((item for item in node.value if item.value == pattern), node)
    return int(found.start_mark.line) + 1


def _entries(mapping: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys and the nodes of a mapping, then those of the mappings that it merges (`<<`)."""
    yield from ((name.value, value) for name, value in mapping.value if name.value != _MERGE)
    for name, value in mapping.value:
        if name.value == _MERGE:
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from _entries(merged)
