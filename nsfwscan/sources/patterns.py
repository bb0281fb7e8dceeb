"""Choose the objects that `--include` and `--exclude` want, and the folders that need not be looked into.

At the end it warns: how many objects `--include` left out and how their names end, and which patterns matched nothing.
A pattern with too many alternatives is a `ConfigError`.

`*` crosses `/`, so `*.jpg` matches at any depth; case counts. `{a,b}` is either; `folder/` is all that lies below it;
`**/` is any folders, or none. A pattern also matches the name that is written exactly so: `[2024] trip/*` finds the
folder of that name.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from fnmatch import translate

from nsfwscan.config import SourceConfig
from nsfwscan.errors import ConfigError
from nsfwscan.warning import WarningKind, Warnings

_MOST_ALTERNATIVES = 1000
_MOST_ENDINGS = 1000
"""Endings that are counted apart: names of strangers may have as many as there are names."""
_SHOWN = 5
_WILD = re.compile(r"[*?\[{]")
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


class Pattern:
    """One glob, and whether it has matched yet."""

    def __init__(self, written: str) -> None:
        self.written = written
        self.has_matched = False
        whole = f"{written}*" if written.endswith("/") else written
        globs = [glob for one in _expanded(whole) for glob in (one, one.replace("**/", ""))]
        readings = list(dict.fromkeys(reading for one in globs for reading in (one, one.replace("[", "[[]"))))
        self._matches = _any_of(readings)
        self._covers = _any_of([reading for reading in readings if reading.endswith("*")])

    def matches(self, name: str) -> bool:
        """Return whether an object's place within its source matches."""
        found = self._matches.match(name) is not None
        self.has_matched |= found
        return found

    def covers(self, folder: str) -> bool:
        """Return whether all that can lie below a folder, written with `/` at its end, matches: what ends in `*` and
        matches `folder/` matches it with anything behind it, too."""
        found = self._covers.match(folder) is not None
        self.has_matched |= found
        return found

    def may_match_below(self, folder: str) -> bool:
        """Return False where nothing below a folder, written as for `covers`, can match, by how the glob begins."""
        begin = _WILD.split(self.written, maxsplit=1)[0]
        return folder.startswith(begin) or begin.startswith(folder)


def _any_of(globs: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(translate(glob) for glob in globs) or r"(?!)")


def _expanded(glob: str) -> list[str]:
    """Return the globs that its braces stand for, and itself: a name may have braces, too."""
    found, left = [], [glob]
    while left:
        one = left.pop()
        braces = _BRACES.search(one)
        if braces is None:
            found.append(one)
        else:
            left += [one[: braces.start()] + choice + one[braces.end() :] for choice in braces[1].split(",")]
        if len(found) + len(left) > _MOST_ALTERNATIVES:
            raise ConfigError(f"the pattern {glob!r} stands for more than {_MOST_ALTERNATIVES:,} others: divide it")
    return [*found, glob]


def _any(patterns: list[Pattern], name: str) -> bool:
    """Return whether one matches; all are asked, so that each knows whether it ever does."""
    return sum(pattern.matches(name) for pattern in patterns) > 0


@dataclass
class Choice:
    """Objects that a configuration wants, of all that are listed."""

    source: SourceConfig
    warnings: Warnings
    _endings: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Read the patterns. Raises ConfigError."""
        self._include = [Pattern(text) for text in self.source.include]
        self._exclude = [Pattern(text) for text in self.source.exclude]

    def wants(self, name: str, uri: str) -> bool:
        """Return whether an object is wanted; count it where `--include` leaves it out.

        Args:
            name: its place within the source.
            uri: for the example.
        """
        if _any(self._exclude, name):
            return False
        if not self._include or _any(self._include, name):
            return True
        self.warnings.add(WarningKind.NOT_INCLUDED, uri)
        ending = _ending(name)
        if ending in self._endings or len(self._endings) < _MOST_ENDINGS:
            self._endings[ending] += 1
        return False

    def leaves_out(self, folder: str) -> bool:
        """Return whether nothing below a folder is wanted, so that it need not be looked into. In its name surrogates
        stand for bytes that are no UTF-8."""
        place = f"{folder.rstrip('/')}/"
        if not any(pattern.covers(place) for pattern in self._exclude):
            return False
        for pattern in (*self._include, *self._exclude):
            pattern.has_matched |= pattern.may_match_below(place)  # nobody will know
        return True

    def may_want(self, folder: str) -> bool:
        """Return False where no `--include` can match below a folder, by how its patterns begin."""
        return not self._include or any(pattern.may_match_below(f"{folder}/") for pattern in self._include)

    def conclude(self, *, listed_all: bool) -> None:
        """Count what only the end of a listing shows; where a limit ended it, a pattern may have matched what came
        behind."""
        if self._endings:
            common = ", ".join(f"{ending} {count:,}" for ending, count in self._endings.most_common(_SHOWN))
            self.warnings.add(WarningKind.NOT_INCLUDED, "", count=0, detail=f"their endings: {common}")
        idle = [pattern.written for pattern in (*self._include, *self._exclude) if not pattern.has_matched]
        if idle and listed_all:
            names = ", ".join(idle[:_SHOWN]) if len(idle) > 1 else None
            self.warnings.add(WarningKind.IDLE_PATTERN, idle[0], count=len(idle), detail=names)


def _ending(name: str) -> str:
    """Return how a name ends, as it is written: `.JPG`; `no ending` where it has none."""
    stem, dot, ending = name.rsplit("/", 1)[-1].rpartition(".")
    return f".{ending}" if dot and stem and 0 < len(ending) <= 10 else "no ending"
