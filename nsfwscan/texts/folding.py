"""Undo what people do to words so that a filter does not find them.

A text is searched in two forms. `plain` keeps what it says: compatibility forms (full width, ligatures, mathematical
letters) become letters, invisible characters and accents go, all is in lower case. `unmasked` goes further, and may
also spoil a harmless text: letters of other scripts become the Latin ones that they look like, digits and signs the
letters that they stand for, letters with spaces or dots between them a word, and four equal letters two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise

_INVISIBLE = frozenset({"Cf", "Cc", "Mn", "Me"})
_SPACED = re.compile(r"(?<!\w)\w(?:[\s.\-_*]\w){2,}(?!\w)")
_LONG = re.compile(r"(.)\1{2,}")
_SYNTAX = re.compile(r"\\(?:[pP]\{[^}]*\}|x\{[^}]*\}|x..|[pP]?.)|\(\?P?<[^>]*>|\(\?[imsU-]+[:)]|\[:\^?\w+:\]", re.S)
"""Parts of RE2's regular expressions in which letters do not mean themselves: escapes, names, flags, classes."""
_CLASS = re.compile(r"\[(.[^\]]*)\]", re.S)
_MEANS_OTHERS = "\0"
"""Stands for a part of the syntax."""
_LEET = str.maketrans("013457@$!|€", "oieastasiie")


def plain(text: str) -> str:
    """Return the text in lower case, without what is invisible and without accents; line breaks become spaces."""
    return re.sub(r"\s+", " ", _visible(text)).strip()


def unmasked(text: str) -> str:
    """Return the text as `plain`, without what masks its words."""
    shown = _visible(text).translate(_look_alikes()).translate(_LEET)
    shown = _SPACED.sub(lambda found: re.sub(r"[\W_]", "", found[0]), shown)  # two spaces end a word
    return re.sub(r"\s+", " ", _LONG.sub(r"\1\1", shown)).strip().casefold()


def pattern_of(expression: str) -> str:
    """Return a regular expression (RE2's) with its letters as `plain` has those of a text, which it would not find
    otherwise: `Für` finds `fur`."""
    return "".join(syntax + letters for syntax, letters in _split(expression))


def lacking_in(expression: str, known: frozenset[str]) -> frozenset[str]:
    """Return the letters, digits and signs without which a regular expression (RE2's) finds nothing, and that are not
    among those known. Of a class, one known member is enough: `[аa]` with a Cyrillic and a Latin letter lacks neither.

    Args:
        known: letters as `plain` has them.
    """
    text = "".join(_MEANS_OTHERS + letters for _, letters in _split(expression))
    classes = [set(inside) - {"-"} for inside in _CLASS.findall(text)]
    lacking = [members for members in classes if not members & {*known, _MEANS_OTHERS, "^"}]
    alone = set(_CLASS.sub("", text)) - {_MEANS_OTHERS}
    return frozenset(letter for letter in alone.union(*lacking) - known if not letter.isspace())


def _split(expression: str) -> Iterator[tuple[str, str]]:
    """Yield each part in which letters do not mean themselves, and the folded text behind it."""
    found = [(0, 0), *(syntax.span() for syntax in _SYNTAX.finditer(expression)), (len(expression), len(expression))]
    for (begin, end), (following, _) in pairwise(found):
        yield expression[begin:end], _visible(expression[end:following])


@cache
def _look_alikes() -> dict[int, str]:
    """Return the Latin letter that a letter of another script looks like, by Unicode's confusables."""
    from confusable_homoglyphs import confusables

    found = {}
    for letter, others in confusables.confusables_data.items():
        latin = [one["c"] for one in others if len(one["c"]) == 1 and one["c"].isascii() and one["c"].isalpha()]
        if len(letter) == 1 and not letter.isascii() and latin:
            found[ord(letter)] = latin[0]
    return found


def _visible(text: str) -> str:
    spread = unicodedata.normalize("NFKD", text)
    kept = "".join(c for c in spread if c.isspace() or unicodedata.category(c) not in _INVISIBLE)
    return unicodedata.normalize("NFC", kept.casefold())
